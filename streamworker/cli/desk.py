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
from time import time
from typing import IO, Any, Final

import click
import msgspec

from streamworker.cli.printing import agreed, one_line, print_json
from streamworker.errors import BrokerError, ConfigError
from streamworker.ids import EntryId
from streamworker.logs import clean, for_terminal
from streamworker.monitoring.facts import StreamFacts
from streamworker.monitoring.shown import LetterShown, why
from streamworker.monitoring.words import counted, label, moment, name, number, table
from streamworker.operating import Operator
from streamworker.operating.desk import Desk, Done, LetterGroup, Progress, Selection
from streamworker.operating.places import time_of

_AT_A_GLANCE: Final = 10_000  # letters that are looked through in less than a second
_LISTED: Final = 100  # letters, of which a table is still read
_TIME: Final = "%m-%d %H:%M:%S"


class DeskCommand:
    """Carries out one of the desk's commands; each returns the exit code."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._done = Done()
        self._verb = ""

    def interrupted(self) -> None:
        """Tell how far it came."""
        if self._verb:
            click.echo(f"interrupted: {_letters(self._done.done)} {self._verb}; run it again to go on", err=True)

    async def listed(self, stream: str, group: str, chosen: Mapping[str, Any], *, as_json: bool) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        if (total := await self._total(desk)) is None:
            return 1
        rows = [["ID", "DIED", "DLV", "HANDLER", "ENTRY", "WHY"]]
        wanted = selection if selection.limit is not None or as_json else replace(selection, limit=_LISTED)
        async for _, letter in desk.chosen(wanted):
            if as_json:
                print_json(msgspec.to_builtins(letter))
            else:
                rows.append(_row(letter))
        if not as_json:
            click.echo("\n".join(table(rows, {2})) if len(rows) > 1 else _none(desk, selection))
            if selection.limit is None and len(rows) > _LISTED and total > _LISTED:
                click.echo(f"these are the {_LISTED} oldest of up to {number(total)}; --limit shows more", err=True)
        return 0

    async def groups(self, stream: str | None, group: str | None, chosen: Mapping[str, Any], *, as_json: bool) -> int:
        selection = _selection(chosen)
        desks: list[Desk] | None
        if stream is not None and group is not None:
            desks = [self._operator.desk(stream, group)]
            if await self._total(desks[0]) is None:
                return 1
        else:
            desks = await self._desks(stream)
            if stream is not None and desks is None:
                click.echo(f"Error: there is no stream {name(stream)}", err=True)
                return 1
        found: list[LetterGroup] = []
        for desk in desks or ():
            total = await desk.count() or 0
            with self._progress(desk, total if total > _AT_A_GLANCE else 0, "looking") as progress:
                found += await desk.groups(selection, progress)
        if as_json:
            for one in found:
                print_json(msgspec.to_builtins(one))
            return 0
        rows = [["COUNT", "GROUP", "ERROR", "PLACE", "HANDLER", "LAST", "EXAMPLE"]]
        rows += map(_group_row, sorted(found, key=lambda one: -one.count))
        click.echo("\n".join(table(rows, {0})) if len(rows) > 1 else "no dead letters")
        return 0

    async def show(self, stream: str, group: str, id: str, *, as_json: bool) -> int:
        found = await self._operator.desk(stream, group).find(id)
        if not found:
            click.echo(f"Error: {name(stream)}/{name(group)} has no dead letter {clean(id, 50)}", err=True)
            return 1
        for at, (_, letter) in enumerate(found):
            if as_json:
                print_json(msgspec.to_builtins(letter))
            else:
                click.echo(("\n" if at else "") + "\n".join(_text(letter)))
        return 0

    async def redrive(
        self, stream: str, group: str, chosen: Mapping[str, Any], *, rate: float | None, dry_run: bool
    ) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        if (total := await self._total(desk)) is None:
            return 1
        if dry_run:
            return await self._foresee(desk, selection, "redriven")
        self._verb = "redriven"
        with self._progress(desk, total, "redriving") as progress:
            await desk.redrive(selection, rate=rate, done=self._done, progress=progress)
        return self._ended(desk, selection)

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
        if (total := await self._total(desk)) is None:
            return 1
        if dry_run:
            return await self._foresee(desk, selection, "dropped")
        if ask:  # what comes while it asks was not asked about
            selection = replace(selection, last=await desk.last())
            await self._foresee(desk, selection, "dropped")
            if not await agreed("Drop them?"):
                return 1
        self._verb = "dropped"
        with self._progress(desk, total, "dropping") as progress:
            await desk.drop(selection, done=self._done, progress=progress)
        return self._ended(desk, selection)

    async def export(self, stream: str, group: str, chosen: Mapping[str, Any], output: str) -> int:
        desk, selection = self._operator.desk(stream, group), _selection(chosen)
        if await self._total(desk) is None:
            return 1
        try:
            with click.open_file(output, "wb") as file:
                await self._write(desk, selection, file)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has had enough
                raise
            raise click.ClickException(f"the letters cannot be written: {error.strerror}") from None
        return 0

    @staticmethod
    async def _write(desk: Desk, selection: Selection, output: IO[Any]) -> None:
        async for letter, shown in desk.chosen(selection):
            raw = [base64.b64encode(part).decode() for part in letter.fields]
            line = {
                **msgspec.to_builtins(shown),
                "raw": [list(pair) for pair in zip(raw[::2], raw[1::2], strict=False)],
            }
            output.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        output.flush()

    async def _desks(self, stream: str | None) -> list[Desk] | None:
        """Those that have dead letters, of one stream or of all; None if there is no such stream."""
        observer = self._operator.observer
        wanted = await observer.streams()  # also those groups of which only our keys are left
        if stream is not None:
            wanted = {stream: wanted.get(stream, set())}
        found: list[Desk] = []
        for one, facts in (await observer.look(wanted)).items():
            if stream is not None and isinstance(facts, StreamFacts) and not (facts.exists or facts.groups):
                return None
            if isinstance(facts, BrokerError):
                if stream is not None:
                    raise facts
                click.echo(f"{name(one)} cannot be seen: {clean(str(facts))}", err=True)
                continue
            found += self._with_letters(facts)
        return found

    def _with_letters(self, facts: StreamFacts) -> Iterator[Desk]:
        return (self._operator.desk(facts.name, group.name) for group in facts.groups if group.beside.dead)

    async def _total(self, desk: Desk) -> int | None:
        """How many letters there are; None, and said so, if there is no such group."""
        total = await desk.count()
        if total is None:
            click.echo(f"Error: there is no group {name(desk.group)} on stream {name(desk.stream)}", err=True)
        return total

    async def _foresee(self, desk: Desk, selection: Selection, verb: str) -> int:
        many = left = 0
        met: set[EntryId] = set()
        async for letter, shown in desk.chosen(selection):
            met |= selection.met(shown)
            if letter.fields or verb == "dropped":
                many += 1
            else:
                left += 1
        click.echo(f"{_letters(many)} of {label(desk)} would be {verb}{_left(left)}", err=verb == "dropped")
        return self._missed(desk, selection, met) or int(bool(left))

    def _ended(self, desk: Desk, selection: Selection) -> int:
        gone = f"; {number(self._done.gone)} were gone meanwhile" if self._done.gone else ""
        click.echo(f"{_letters(self._done.done)} of {label(desk)} {self._verb}{gone}{_left(self._done.left)}")
        return self._missed(desk, selection, self._done.met) or int(bool(self._done.left))

    @staticmethod
    def _missed(desk: Desk, selection: Selection, met: set[EntryId]) -> int:
        """Tell which of the ids there were not; returns the exit code."""
        missing = selection.missing(met)
        for id in missing:
            click.echo(f"Error: {label(desk)} has no dead letter {clean(id, 50)}", err=True)
        return int(bool(missing))

    @contextmanager
    def _progress(self, desk: Desk, total: int, verb: str) -> Iterator[Progress]:
        """A bar on a terminal, and nothing elsewhere."""
        if not sys.stderr.isatty() or not total:
            yield bool
            return
        with click.progressbar(length=total, label=f"{verb} {label(desk)}", file=sys.stderr) as bar:
            yield lambda looked: bar.update(looked - bar.pos)


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


def _row(letter: LetterShown) -> list[str]:
    return [
        letter.id, moment(letter.time, _TIME), number(letter.deliveries), clean(letter.handler or "-", 30),
        clean(letter.entry.id, 50), why(letter)[:100],
    ]  # fmt: skip


def _group_row(one: LetterGroup) -> list[str]:
    return [
        number(one.count), label(one), clean(one.error, 40), _short(one.place),
        clean(one.handler or "-", 30), moment(one.last, _TIME), one.example.id,
    ]  # fmt: skip


def _text(letter: LetterShown) -> list[str]:
    facts = [
        ["dead letter", letter.id],
        ["died", moment(letter.time)],
        ["why", why(letter)],
        ["place", clean(letter.place or "-")],
        ["handler", clean(letter.handler or "-")],
        ["deliveries", number(letter.deliveries)],
        ["consumer", clean(letter.consumer or "-")],
        ["redriven", number(letter.redriven)],
        ["entry", f"{clean(letter.entry.id, 50)}, published {moment(letter.entry.published)}"],
        ["type", clean(letter.entry.type or "-")],
    ]
    facts += [[f"header {clean(key, 80)}", one_line(value)] for key, value in letter.entry.headers.items()]
    if letter.entry.body is not None:
        facts.append(["body", one_line(letter.entry.body)])
    facts += [[clean(key, 80), one_line(value)] for key, value in (letter.entry.fields or {}).items()]
    if letter.edited is not None:
        facts.append(["edited", clean(letter.edited)])
        facts += [[f"was {clean(key, 80)}", one_line(value)] for key, value in letter.was.items()]
    lines = table(facts, set())
    return [*lines, "", for_terminal(letter.traceback)] if letter.traceback else lines


def _short(place: str | None) -> str:
    """``gateway.py:88 in charge``: the folder is told by ``show``."""
    return "-" if place is None else clean(place.rpartition("/")[2], 50)


def _left(many: int) -> str:
    return f"; {number(many)} left, which hold no copy of an entry" if many else ""


def _letters(many: int) -> str:
    return counted(many, "dead letter", "dead letters")


def _none(desk: Desk, selection: Selection) -> str:
    these = "no dead letters" if selection.everything else "no such dead letters"
    return f"{these} of {label(desk)}"
