"""What ``streamworker tail`` does once its options are read."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final

import click
import msgspec

from streamworker.cli.printing import body_of, one_line, print_json, print_line
from streamworker.errors import Unavailable
from streamworker.ids import EntryId
from streamworker.logs import clean
from streamworker.monitoring.entries import Page
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.shown import EntryShown, LetterShown, entry_id, letter_shown, shown, why
from streamworker.monitoring.words import moment, name

_PAUSES: Final = (0.1, 1.5, 1.0)  # seconds between two looks where nothing comes: the first, its growth, the longest
_REMEMBERED: Final = 1000  # ids: where to go on when a replica that lags takes over
_TIME: Final = "%m-%d %H:%M:%S"


class Tail:
    """Prints the entries of ``stream``, or the dead letters of the group ``dead``."""

    def __init__(self, observer: Observer, stream: str, dead: str | None, *, as_json: bool, full: bool) -> None:
        self._observer = observer
        self._stream = stream
        self._dead = dead
        self._json = as_json
        self._full = full
        self._place: EntryId | None = None
        self._printed: deque[EntryId] = deque(maxlen=_REMEMBERED)
        self._troubled = False

    async def show(self, last: int, *, follow: bool) -> int:
        """Print the ``last`` ones, and go on with new ones; returns the exit code."""
        shown_so_far, pause, missing = 0, _PAUSES[0], False
        while follow or shown_so_far < last:
            try:
                page = await self._next(last, sys.maxsize if follow else last - shown_so_far)
            except Unavailable as error:
                if not follow:
                    raise
                self._tell(error)
                await asyncio.sleep(_PAUSES[-1])
                continue
            self._troubled = False
            if not page.exists and not missing:
                click.echo(f"{'' if follow else 'Error: '}there {self._nothing()}{' yet' if follow else ''}", err=True)
                missing = True
            many = self._print(page)
            shown_so_far += many
            if not many and not follow:
                break
            pause = _PAUSES[0] if many else min(_PAUSES[2], pause * _PAUSES[1])
            if not many:
                await asyncio.sleep(pause)
        return 1 if missing and not follow else 0

    async def _next(self, last: int, most: int) -> Page:
        if self._place is None:
            self._place = await self._observer.before_last(self._stream, last, self._dead)
        page = await self._observer.page(self._stream, self._place, most, self._dead)
        if not page.exists:
            self._place = (0, 0)
        elif page.last_generated < self._place:  # a replica that lags has taken over
            still_there = (id for id in self._printed if id <= page.last_generated)
            self._place = max(still_there, default=page.last_generated)
        return page

    def _print(self, page: Page) -> int:
        found: list[EntryShown | LetterShown] = [letter_shown(letter) for letter in page.letters]
        found += [shown(entry.id, entry.fields) for entry in page.entries]
        for one in found:
            if self._json:
                print_json(msgspec.to_builtins(one))
            elif isinstance(one, LetterShown):
                print_line(self._letter_line(one), full=self._full)
            else:
                print_line(self._entry_line(one), full=self._full)
            place = self._place = entry_id(one.id)
            if place is not None:
                self._printed.append(place)
        sys.stdout.flush()
        return len(found)

    def _entry_line(self, entry: EntryShown) -> str:
        words = [entry.id, moment(entry.published, _TIME), *self._said(entry)]
        return "  ".join(words)

    def _letter_line(self, letter: LetterShown) -> str:
        words = [letter.id, moment(letter.time, _TIME), why(letter), clean(letter.entry.id, 50)]
        return "  ".join(words + self._said(letter.entry))

    def _said(self, entry: EntryShown) -> list[str]:
        words = [one_line(entry.type or "-", full=self._full)]
        if entry.headers:
            words.append(" ".join(one_line(f"{key}={value}", full=self._full) for key, value in entry.headers.items()))
        return [*words, one_line(body_of(entry), full=self._full)]

    def _nothing(self) -> str:
        if self._dead is None:
            return f"is no stream {name(self._stream)}"
        return f"are no dead letters of {name(self._stream)}/{name(self._dead)}"

    def _tell(self, error: Unavailable) -> None:
        if not self._troubled:
            click.echo(f"Redis cannot be reached: {clean(str(error))}; it is tried again", err=True)
        self._troubled = True
