"""What ``streamworker status`` and ``lag`` do once their options are read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click
import msgspec

from streamworker.cli.printing import columns, print_json
from streamworker.errors import BrokerError, Unavailable
from streamworker.logs import clean
from streamworker.monitoring.facts import Observer, ServerFacts, StreamFacts
from streamworker.monitoring.missing import no_group, no_stream
from streamworker.monitoring.position import MOST_COUNTED, lag_of
from streamworker.monitoring.remarks import Limits, exceeded, remarks
from streamworker.monitoring.snapshots import Snapshot, of_snapshots, take_snapshot
from streamworker.monitoring.status import GroupStatus, Status
from streamworker.monitoring.words import moment, name, number, size, span, table, width

_CLEAR = "\x1b[H\x1b[2J"
_MOST_LAG = 100_000
_PACE = 1.0  # seconds between looks that measure no rates
_COLUMNS = (
    "STREAM",
    "LENGTH",
    "MEMORY",
    "ADD/s",
    "GROUP",
    "LAG",
    "AGE",
    "PENDING",
    "RETRY",
    "ACK/s",
    "DRAINED",
    "DEAD",
)
_RIGHT = {1, 2, 3, 5, 6, 7, 8, 9, 10, 11}
_SPARED = (2, 1, 3, 8)  # the columns that go first where the terminal is too narrow


class Looking:
    """Shows the status of ``streams``, or of all, measuring rates over ``interval`` seconds."""

    def __init__(self, observer: Observer, where: str, streams: Sequence[str], interval: float) -> None:
        self._observer = observer
        self._where = where
        self._streams = streams
        self._interval = interval

    async def show(self, *, as_json: bool, watch: bool) -> int:
        """Print it, once or again and again; returns the exit code."""
        server = await server_of(self._observer)
        before = await self._look() if self._interval else None
        while True:
            await asyncio.sleep(self._interval)
            now = await self._look()
            status = await of_snapshots(self._observer, before, now)
            if as_json:
                _print_json(status)
            else:
                if watch and sys.stdout.isatty():
                    click.echo(_CLEAR, nl=False)
                click.echo("\n".join(self._text(status, server)))
            if not watch:
                return 1 if status.errors else 0
            if self._interval:
                before = now
            else:
                await asyncio.sleep(_PACE)

    async def check(self, limits: Limits) -> int:
        """Print to stderr which limits are exceeded; returns the exit code."""
        now = await self._look(limits.lag or 0)
        problems = exceeded(await of_snapshots(self._observer, None, now), limits)
        for problem in problems:
            click.echo(problem, err=True)
        return 1 if problems else 0

    async def _look(self, most: int = 0) -> Snapshot:
        wanted = dict.fromkeys(self._streams, ()) if self._streams else await self._observer.streams()
        return await take_snapshot(self._observer, wanted, max(MOST_COUNTED, most + 1))

    def _text(self, status: Status, server: ServerFacts | None) -> list[str]:
        lines = [headline(status, server, self._where)]
        lines += status_table(status) if status.streams else ["no streams"]
        return lines + [f"! {text}" for text in remarks(status)]


def headline(status: Status, server: ServerFacts | None, where: str, width: int | None = None) -> str:
    """Which server, how many workers, when; what comes last is left out where it does not fit into ``width``."""
    workers = {one.name for group in status.groups for one in group.consumers if one.alive}
    words = [where, f"{len(workers)} worker{'' if len(workers) == 1 else 's'}"]
    if status.at is not None:
        words.append(moment(status.at, "%H:%M:%S UTC"))
    if server is not None:
        words.insert(0, f"{server.name} {server.version}")
        if server.append_only is not None:
            words.append("aof on" if server.append_only else "aof off")
        words += [server.eviction] if server.eviction else []
    width = width or columns()
    while len(words) > 1 and len(" · ".join(words)) > width:
        words.pop()
    return clean(" · ".join(words))


def status_table(status: Status, most: int | None = None) -> list[str]:
    """A line for each group, at most ``most`` columns wide if that is possible; the terminal's by default."""
    rows = [list(_COLUMNS)]
    for stream in status.streams:
        first = [name(stream.stream), number(stream.length), size(stream.memory_bytes), rate(stream.added_rate)]
        rows += [first + [""] * 8] if not stream.groups else []
        for at, group in enumerate(stream.groups):
            rows.append((["", "", "", ""] if at else first) + _cells(group))
    most = most or columns()
    shown = list(range(len(_COLUMNS)))
    for spared in (None, *_SPARED):
        shown = [column for column in shown if column != spared]
        right = {at for at, column in enumerate(shown) if column in _RIGHT}
        lines = table([[row[column] for column in shown] for row in rows], right)
        if max(map(width, lines)) <= most:
            break
    return lines


def _cells(group: GroupStatus) -> list[str]:
    often = group.oldest_pending.deliveries if group.oldest_pending is not None else 0
    deliveries = f" ({often})" if often else ""
    return [
        name(group.group),
        lag_cell(group),
        span(group.lag_seconds),
        number(group.pending) + deliveries,
        number(group.retries),
        rate(group.ack_rate),
        drained_cell(group),
        number(group.dead_letters),
    ]


def lag_cell(group: GroupStatus) -> str:
    """The lag, with ``*`` if it was counted, ``+`` if it is at least that."""
    if not group.exists:
        return "gone"
    return number(group.lag) + {"exact": "", "counted": "*", "at_least": "+"}[group.lag_kind]


def drained_cell(group: GroupStatus) -> str:
    """When the lag is gone."""
    if group.paused:
        return "paused"
    return "never" if group.falls_behind else span(group.drain_seconds)


def rate(value: float | None) -> str:
    """Of things in a second; ``-`` where it was not measured."""
    return "-" if value is None else number(value)


def _print_json(status: Status) -> None:
    for stream in status.streams:
        print_json({"at": status.at, "over_seconds": status.seconds, **msgspec.to_builtins(stream)})
    for stream_name, text in status.errors.items():
        print_json({"stream": stream_name, "error": text})
    sys.stdout.flush()


async def lag_now(observer: Observer, stream: str, group: str) -> int:
    """Print the lag of one group; returns the exit code."""
    seen = (await observer.look({stream: ()}))[stream]
    if not isinstance(seen, StreamFacts):
        raise seen
    facts = next((one for one in seen.groups if one.name == group), None)
    if facts is None:
        raise no_group(stream, group) if seen.exists else no_stream(stream)
    found = await lag_of(observer, seen, facts, _MOST_LAG)
    if found.kind == "at_least":
        click.echo(f"at least {found.entries}: the server cannot tell, and more are not counted", err=True)
    click.echo(found.entries)
    return 0


async def server_of(observer: Observer) -> ServerFacts | None:
    """What the server says of itself; None to whom may not ask."""
    try:
        return await observer.server()
    except Unavailable:
        raise
    except BrokerError:
        return None
