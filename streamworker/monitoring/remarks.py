"""Remarks: what in a status an operator should look at, in sentences; and whether limits are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from streamworker.logs import clean
from streamworker.monitoring.status import GroupStatus, Status, StreamStatus
from streamworker.monitoring.words import counted, in_shell, label, name, number, size, span

_GREW = 1.5
_ABOUT_ONE = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ``status --check`` was told; None is no limit."""

    lag: int | None = None
    lag_seconds: float | None = None
    dead: int | None = None


def remarks(status: Status) -> list[str]:
    """Sentences about what is not as it should be."""
    found: list[str] = []
    for stream in status.streams:
        found += _of_stream(stream)
        for group in stream.groups:
            found += (f"{label(group)} {text}" for text in _of_group(group, stream))
    found += (f"{name(stream)}: {text}" for stream, text in status.errors.items())
    return found


def unattended(group: GroupStatus) -> str | None:
    """Why nobody handles what the group is given, and what to do; None if somebody does."""
    if group.paused:
        return f"{label(group)} is paused; streamworker resume {in_shell(group.stream, group.group)}"
    return None if any(one.alive for one in group.consumers) else f"{label(group)} has no living worker; start one"


def exceeded(status: Status, limits: Limits) -> list[str]:
    """A sentence for each limit that is not kept, or of which nobody can say that it is."""
    found = [f"{name(stream)} cannot be seen: {text}" for stream, text in status.errors.items()]
    for group in status.groups:
        found += (f"{label(group)}: {text}" for text in _exceeded(group, limits))
    return found


def _of_stream(stream: StreamStatus) -> Iterator[str]:
    old, new = stream.oldest_entry_bytes, stream.newest_entry_bytes
    if old and new and new > _GREW * old and new - old > 100:
        yield f"{name(stream.stream)}: entries have grown from {size(old)} to {size(new)}"


def _of_group(group: GroupStatus, stream: StreamStatus) -> Iterator[str]:
    if not group.exists:
        yield f"is gone, but {number(group.dead_letters)} dead letters and {number(group.retries)} retries are kept"
        return
    if group.paused:
        since = f", since {clean(group.paused_note or '', 100)}" if " by " in (group.paused_note or "") else ""
        yield f"is paused{since}"
    elif group.falls_behind and group.read_rate:
        needed = (stream.added_rate or 0.0) / group.read_rate
        if needed < _ABOUT_ONE:
            yield "does not catch up: as much is added as it reads"
        else:
            rate = (stream.added_rate or 0.0) - group.read_rate
            yield f"falls behind by {number(rate)}/s: it needs about {needed:.2f} times the workers"
    elif group.falls_behind:
        yield "stands still: nothing is read" + (
            "" if group.members else ", it has no consumer: start a worker, or remove the group"
        )
    ours = [one for one in group.consumers if one.alive is not None]
    if not any(one.alive for one in ours):
        if ours and group.backlog:
            silent = min(one.beat_seconds or 0.0 for one in ours)
            yield f"has no living worker: none has shown a sign of life for {span(silent)}"
        elif group.retries:  # which no other program reads
            yield f"has no living worker, and {counted(group.retries, 'retry waits', 'retries wait')} for one"
    if group.trimmed:
        yield f"lost {number(group.trimmed)} entries that were trimmed before it read them"


def _exceeded(group: GroupStatus, limits: Limits) -> Iterator[str]:
    if not group.exists:
        if limits.lag is not None or limits.lag_seconds is not None:
            yield "the group is gone"
    elif limits.lag is not None and (group.lag is None or group.lag > limits.lag):
        least = "at least " if group.lag_kind == "at_least" else ""
        yield f"lag is {least}{number(group.lag)}, more than {number(limits.lag)}"
    if limits.lag_seconds is not None and group.exists:
        if group.lag_seconds is None:
            yield "nobody knows how old the first unread entry is: its id is no time"
        elif group.lag_seconds > limits.lag_seconds:
            yield f"the first unread entry is {span(group.lag_seconds)} old, more than {span(limits.lag_seconds)}"
    if limits.dead is not None and group.dead_letters > limits.dead:
        yield f"{number(group.dead_letters)} dead letters, more than {number(limits.dead)}"
