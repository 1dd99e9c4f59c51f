"""The fleet: the worker processes that the heartbeats of all groups tell of, each of them once."""

from __future__ import annotations

from typing import Literal

import msgspec

from streamworker.identity import RELEASED, SUFFIX
from streamworker.monitoring.status import ConsumerStatus, GroupStatus, Running, Status
from streamworker.report import MOST_TOLD


class MemberOf(msgspec.Struct, frozen=True, kw_only=True):
    """A group that a process is in.

    Attributes:
        stream, group: their names.
        pending: entries of the stream that it holds.
        running: how many of its handlers run for this group; None for other programs.
    """

    stream: str
    group: str
    pending: int
    running: int | None


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process. Of one without readable heartbeats, what they would tell is None.

    Attributes:
        worker: its name, the same in all groups.
        state: ``"alive"``; ``"silent"``: no heartbeat for longer than its lease; ``"unknown"``: a worker of ours that
            keeps none, or in words of another version; ``"other"``: another program's.
        host, pid, version: of the process.
        started: Unix time in seconds, by the worker's clock.
        uptime_seconds: since then, up to its last heartbeat.
        silent_seconds: since its last heartbeat, or of another program since it last asked for something.
        pending: entries of all its streams that it holds.
        running: how many of its handlers run.
        longest: of those, the ones that have been running for longest, as of its last heartbeat.
        groups: the groups it is in.
    """

    worker: str
    state: Literal["alive", "silent", "unknown", "other"]
    host: str | None
    pid: int | None
    version: str | None
    started: float | None
    uptime_seconds: float | None
    silent_seconds: float | None
    pending: int
    running: int | None
    longest: tuple[Running, ...]
    groups: tuple[MemberOf, ...]


def workers_of(status: Status) -> list[WorkerStatus]:
    """All processes by name: first those that live, then those that have fallen silent, then other programs."""
    members: dict[str, list[tuple[GroupStatus, ConsumerStatus]]] = {}
    for group in status.groups:
        for one in group.consumers:
            # Another program's name may be the same in two groups without being one process.
            key = one.name if one.name.endswith(SUFFIX) else f"{group.stream}\n{group.group}\n{one.name}"
            if one.name != RELEASED:
                members.setdefault(key, []).append((group, one))
    found = [_worker(each, status.at or 0.0) for each in members.values()]
    order = ("alive", "silent", "unknown", "other")
    return sorted(found, key=lambda one: (order.index(one.state), one.worker))


def _worker(members: list[tuple[GroupStatus, ConsumerStatus]], now: float) -> WorkerStatus:
    ours = members[0][1].name.endswith(SUFFIX)
    told = [one for _, one in members if one.beat_seconds is not None]
    # Each group has its own heartbeat; the youngest one knows best.
    last = min(told, key=lambda one: one.beat_seconds or 0.0) if told else members[0][1]
    silent = last.beat_seconds if ours else members[0][1].idle_seconds
    uptime = None
    if last.started is not None and last.beat_seconds is not None:
        uptime = max(0.0, now - last.beat_seconds - last.started)
    return WorkerStatus(
        worker=last.name,
        state=_state(ours, last),
        host=last.host,
        pid=last.pid,
        version=last.version,
        started=last.started,
        uptime_seconds=uptime,
        silent_seconds=silent,
        pending=sum(one.pending for _, one in members),
        running=sum(one.running or 0 for one in told) if told else None,
        longest=_longest(told),
        groups=tuple(
            MemberOf(stream=group.stream, group=group.group, pending=one.pending, running=one.running)
            for group, one in members
        ),
    )


def _state(ours: bool, last: ConsumerStatus) -> Literal["alive", "silent", "unknown", "other"]:
    if not ours:
        return "other"
    if last.alive is None:
        return "unknown"
    return "alive" if last.alive else "silent"


def _longest(consumers: list[ConsumerStatus]) -> tuple[Running, ...]:
    running = [run for one in consumers for run in one.longest]
    return tuple(sorted(running, key=lambda run: -run.seconds)[:MOST_TOLD])
