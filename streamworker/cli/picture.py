"""What ``streamworker top`` shows: lines that fit into a terminal of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamworker.cli.looking import drained_cell, headline, lag_cell, rate
from streamworker.cli.roster import longest_of
from streamworker.monitoring.facts import ServerFacts
from streamworker.monitoring.fleet import WorkerStatus, workers_of
from streamworker.monitoring.remarks import remarks
from streamworker.monitoring.status import GroupStatus, Status
from streamworker.monitoring.words import cut, label, name, number, pad, span, width

LEVELS: Final = "▁▂▃▄▅▆▇█"
LOOKS: Final = 20
ORDERS: Final = ("lag", "name", "dead")
_COLUMNS: Final = ("GROUP", "LAG", "", "IN/s", "ACK/s", "PENDING", "DEAD", "DRAINED")
_BARS: Final = 2  # its place among them
_SPARED: Final = (_BARS, 7, 3, 5, 4)  # the columns that go first where the terminal is too narrow
_NARROWEST: Final = 12  # of the names
_KEYS: Final = "q quit   s sort   p freeze"

Lags = Sequence[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to be shown.

    Attributes:
        status: the last look; None if there was none yet.
        history: the lags of the last looks, by stream and group.
        server: what the server says of itself.
        where: which server, without a password.
        order: one of ``ORDERS``.
        frozen: the picture stands still.
        trouble: why nothing newer is to be had.
    """

    status: Status | None
    history: Mapping[tuple[str, str], Lags]
    server: ServerFacts | None
    where: str
    order: str
    frozen: bool = False
    trouble: str | None = None


def picture(view: View, columns: int, rows: int) -> list[str]:
    """At most ``rows`` lines of at most ``columns`` columns."""
    foot = f"{_KEYS}   sorted by {view.order}" + ("   FROZEN: p goes on" if view.frozen else "")
    problems = [f"! {view.trouble}"] if view.trouble is not None else []
    if view.status is None:
        return _fitted([view.where, *problems, foot], columns, rows)
    problems += [f"! {text}" for text in remarks(view.status)]
    workers = workers_of(view.status)
    groups = _groups(view, columns) if view.status.groups else ["no groups"]
    fleet = _fleet(workers)
    room = max(0, rows - 2)  # without the first line and the last
    # A quarter each for workers and remarks, more if the groups leave it; the rest is theirs.
    many = min(len(groups), max(3, room - min(len(fleet), 1 + room // 4) - min(len(problems), 1 + room // 4)))
    told = min(len(problems), max(1 + room // 4, room - many - len(fleet)))
    lines = [headline(view.status, view.server, view.where, columns)]
    lines += _some(groups, many, "groups") + _some(fleet, max(1, room - many - told), "workers at work")
    lines += _some(problems, told, "remarks")
    return _fitted([*lines[: rows - 1], foot], columns, rows)


def bars(lags: Lags) -> str:
    """A bar for each, the highest of them being full; ``·`` where it was unknown."""
    most = max((lag for lag in lags if lag is not None), default=0)
    top = len(LEVELS) - 1
    return "".join("·" if lag is None else LEVELS[-(-lag * top // most) if most else 0] for lag in lags)


def _groups(view: View, columns: int) -> list[str]:
    assert view.status is not None
    streams = {stream.stream: stream for stream in view.status.streams}
    cells = [
        [
            label(group),
            lag_cell(group),
            bars(view.history.get((group.stream, group.group), ())[-LOOKS:]),
            rate(streams[group.stream].added_rate),
            rate(group.ack_rate),
            number(group.pending),
            number(group.dead_letters),
            drained_cell(group),
        ]
        for group in sorted(view.status.groups, key=lambda group: _place(group, view.order))
    ]
    kept = list(range(len(_COLUMNS)))
    for spared in (None, *_SPARED):
        kept = [at for at in kept if at != spared]
        wide = {at: max(width(row[at]) for row in (_COLUMNS, *cells)) for at in kept}
        wide |= {_BARS: LOOKS} if _BARS in kept else {}
        left = columns - sum(wide[at] + 1 for at in kept if at)
        if _BARS in kept and left < wide[0]:  # shorter bars before shorter names
            less = min(LOOKS // 2, wide[0] - left)
            wide[_BARS], left = LOOKS - less, left + less
        if left >= min(wide[0], _NARROWEST):
            break
    wide[0] = max(1, min(wide[0], left))
    return [" ".join(_cell(row[at], at, wide[at]) for at in kept).rstrip() for row in (list(_COLUMNS), *cells)]


def _cell(text: str, at: int, wide: int) -> str:
    if at == _BARS:
        return pad(text[-wide:], wide, right=True)
    return pad(cut(text, wide), wide, right=at > 0)


def _place(group: GroupStatus, order: str) -> tuple[float, str, str]:
    first = 0.0
    if order == "lag":
        first = float("-inf") if group.lag is None else -group.lag  # what nobody knows is to be looked at
    elif order == "dead":
        first = -group.dead_letters
    return first, group.stream, group.group


def _fleet(workers: list[WorkerStatus]) -> list[str]:
    ours = [one for one in workers if one.state != "other"]
    alive = [one for one in ours if one.state == "alive"]
    running = sum(one.running or 0 for one in alive)
    lines = [f"workers {len(alive)} alive of {len(ours)}, {number(running)} handlers run"]
    busy = sorted((one for one in alive if one.longest), key=lambda one: -one.longest[0].seconds)
    lines += [f"  {name(one.worker)}  {number(one.running)} run, longest {longest_of(one.longest)}" for one in busy]
    silent = [one for one in ours if one.state != "alive"]
    return lines + [f"  {name(one.worker)}  silent for {span(one.silent_seconds)}" for one in silent]


def _some(lines: list[str], many: int, what: str) -> list[str]:
    if len(lines) <= many:
        return lines
    return [*lines[: max(0, many - 1)], f"… {len(lines) - max(0, many - 1)} more {what}"] if many > 0 else []


def _fitted(lines: list[str], columns: int, rows: int) -> list[str]:
    return [cut(line, columns) for line in lines][: max(0, rows)]
