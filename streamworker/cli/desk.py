"""What ``streamworker dead`` does once its options are read."""

from __future__ import annotations

import base64
import errno
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, time
from typing import IO, Any, Final

import click
import msgspec

from streamworker.cli.letters import causes_table, letter_text, letters, letters_table
from streamworker.cli.printing import agreed, print_json, print_unattended
from streamworker.errors import BrokerError, ConfigError
from streamworker.logs import clean
from streamworker.monitoring.facts import StreamFacts
from streamworker.monitoring.missing import no_group, no_letter, no_stream
from streamworker.monitoring.shown import LetterShown
from streamworker.monitoring.words import label, name, number
from streamworker.operating import Operator
from streamworker.operating.desk import Desk, Done, LetterGroup, Progress, Selection
from streamworker.operating.places import time_of

_AT_A_GLANCE: Final = 10_000  # letters that are looked through in less than a second
_LISTED: Final = 100  # letters, of which a table is still read
_DRAWN: Final = 0.1  # seconds between two pictures of a bar


class DeskCommand:
    """Carries out one of the desk's commands; each returns the exit code."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._done = Done()
        self._verb = ""

    def interrupted(self) -> None:
        """Tell how far it came."""
        if self._verb:
            click.echo(f"interrupted: {letters(self._done.done)} {self._verb}; run it again to go on", err=True)

    async def listed(self, stream: str, group: str, chosen: Mapping[str, Any], *, as_json: bool) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        total = await _total(desk)
        found: list[LetterShown] = []
        wanted = selection if selection.limit is not None or as_json else replace(selection, limit=_LISTED)
        async for _, letter in desk.chosen(wanted):
            if as_json:
                print_json(msgspec.to_builtins(letter))
            else:
                found.append(letter)
        if not as_json:
            click.echo(letters_table(found) if found else _none(desk, selection, total))
            if selection.limit is None and len(found) == _LISTED < total:
                click.echo(f"these are the {_LISTED} oldest of up to {number(total)}; --limit shows more", err=True)
        return 0

    async def groups(self, stream: str | None, group: str | None, chosen: Mapping[str, Any], *, as_json: bool) -> int:
        selection = _selection(chosen)
        if stream is not None and group is not None:
            desk = self._operator.desk(stream, group)
            desks = [(desk, await _total(desk))]
        else:
            desks = await self._desks(stream)
        found: list[LetterGroup] = []
        for desk, total in desks:
            with self._progress(desk, total if total > _AT_A_GLANCE else 0, "looking") as progress:
                found += await desk.groups(selection, progress)
        if as_json:
            for one in found:
                print_json(msgspec.to_builtins(one))
            return 0
        click.echo(causes_table(found) if found else "no dead letters")
        return 0

    async def show(self, stream: str, group: str, id: str, *, as_json: bool) -> int:
        found = await self._operator.desk(stream, group).find(id)
        if not found:
            raise no_letter(stream, group, id)
        for at, (_, letter) in enumerate(found):
            if as_json:
                print_json(msgspec.to_builtins(letter))
            else:
                click.echo(("\n" if at else "") + letter_text(letter))
        return 0

    async def redrive(
        self, stream: str, group: str, chosen: Mapping[str, Any], *, rate: float | None, dry_run: bool
    ) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        total = await _total(desk)
        if dry_run:
            return _ended(desk, selection, await _foresee(desk, selection, copies=True), "would be redriven")
        self._verb = "redriven"
        with self._progress(desk, total, "redriving") as progress:
            await desk.redrive(selection, rate=rate, done=self._done, progress=progress)
        code = _ended(desk, selection, self._done, self._verb)
        if self._done.done:
            print_unattended(await self._operator.group(stream, group).unattended())
        return code

    async def edit(
        self, stream: str, group: str, id: str, values: Mapping[str, bytes], unset: Sequence[str], *,
        by: str | None, as_json: bool,
    ) -> int:  # fmt: skip
        letter = await self._operator.desk(stream, group).edit(id, values, unset, by=by or whoami())
        if as_json:
            print_json(msgspec.to_builtins(letter))
        else:
            click.echo(letter.id)
        return 0

    async def drop(self, stream: str, group: str, chosen: Mapping[str, Any], *, dry_run: bool, ask: bool) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        total = await _total(desk)
        if dry_run:
            return _ended(desk, selection, await _foresee(desk, selection), "would be dropped")
        if ask:  # what comes while it asks was not asked about
            selection = replace(selection, last=await desk.last())
            if many := (await _foresee(desk, selection)).done:
                click.echo(f"{letters(many)} of {label(desk)} would be dropped", err=True)
                if not await agreed("Drop them?"):
                    return 1
        self._verb = "dropped"
        with self._progress(desk, total, "dropping") as progress:
            await desk.drop(selection, done=self._done, progress=progress)
        return _ended(desk, selection, self._done, self._verb)

    async def export(self, stream: str, group: str, chosen: Mapping[str, Any], output: str) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        await _total(desk)
        try:
            with click.open_file(output, "wb") as file:
                many = await self._write(desk, selection, file)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has had enough
                raise
            raise click.ClickException(f"the letters cannot be written: {error.strerror}") from None
        if output != "-":
            click.echo(f"{letters(many)} of {label(desk)} written to {clean(output)}", err=True)
        return 0

    @staticmethod
    async def _write(desk: Desk, selection: Selection, output: IO[Any]) -> int:
        many = 0
        async for letter, shown in desk.chosen(selection):
            many += 1
            raw = [base64.b64encode(part).decode() for part in letter.fields]
            line = {
                **msgspec.to_builtins(shown),
                "raw": [list(pair) for pair in zip(raw[::2], raw[1::2], strict=False)],
            }
            output.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        output.flush()
        return many

    async def _desks(self, stream: str | None) -> list[tuple[Desk, int]]:
        """Those that have dead letters, of one stream or of all, each with how many."""
        observer = self._operator.observer
        wanted = await observer.streams()  # also those groups of which only our keys are left
        if stream is not None:
            wanted = {stream: wanted.get(stream, set())}
        found: list[tuple[Desk, int]] = []
        for one, facts in (await observer.look(wanted)).items():
            if stream is not None and isinstance(facts, StreamFacts) and not (facts.exists or facts.groups):
                raise no_stream(stream)
            if isinstance(facts, BrokerError):
                if stream is not None:
                    raise facts
                click.echo(f"{name(one)} cannot be seen: {clean(str(facts))}", err=True)
                continue
            found += (
                (self._operator.desk(one, group.name), group.beside.dead) for group in facts.groups if group.beside.dead
            )
        return found

    @contextmanager
    def _progress(self, desk: Desk, total: int, verb: str) -> Iterator[Progress]:
        """A bar on a terminal, and nothing elsewhere."""
        if not sys.stderr.isatty() or not total:
            yield bool
            return
        drawn = 0.0

        def draw(looked: int) -> None:
            nonlocal drawn
            if monotonic() - drawn >= _DRAWN:
                drawn = monotonic()
                bar.update(looked - bar.pos)

        with click.progressbar(length=total, label=f"{verb} {label(desk)}", show_pos=True, file=sys.stderr) as bar:
            yield draw
            bar.update(total - bar.pos)


async def _foresee(desk: Desk, selection: Selection, *, copies: bool = False) -> Done:
    """What would be done; with ``copies`` to those alone that hold a copy of an entry."""
    found = Done()
    async for letter, shown in desk.chosen(selection):
        found.met |= selection.met(shown)
        if letter.fields or not copies:
            found.done += 1
        else:
            found.left += 1
    return found


def _ended(desk: Desk, selection: Selection, done: Done, verb: str) -> int:
    """Tell what became of the letters, and which of the ids there were not; returns the exit code."""
    gone = f"; {number(done.gone)} were gone meanwhile" if done.gone else ""
    left = f"; {number(done.left)} left, which hold no copy of an entry" if done.left else ""
    click.echo(f"{letters(done.done)} of {label(desk)} {verb}{gone}{left}")
    missing = selection.missing(done.met)
    for id in missing:
        click.echo(f"Error: {no_letter(desk.stream, desk.group, id)}", err=True)
    return int(bool(missing or done.left))


async def _total(desk: Desk) -> int:
    """How many letters there are."""
    total = await desk.count()
    if total is None:
        raise no_group(desk.stream, desk.group)
    return total


def whoami() -> str:
    """Who runs this command, for what is written down about it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _selection(chosen: Mapping[str, Any]) -> Selection:
    values = dict(chosen)
    for which in ("since", "until"):
        text = values.get(which)
        values[which] = None if text is None else time_of(text, time())
        if text is not None and values[which] is None:
            raise ConfigError(f"--{which} {text!r} is no time: write 2h (ago), or 2026-11-23T14:00 (UTC)")
    return Selection(**values)


def _none(desk: Desk, selection: Selection, total: int) -> str:
    if selection.everything or not total:
        return f"no dead letters of {label(desk)}"
    return f"none of the {letters(total)} of {label(desk)} is meant by this"
