"""Checks of streams and groups: each a function of what was seen, that yields what is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from streamworker.identity import RELEASED
from streamworker.logs import clean
from streamworker.monitoring.facts import GroupFacts, StreamFacts
from streamworker.monitoring.position import Lag
from streamworker.monitoring.status import ConsumerStatus, GroupStatus, StreamStatus
from streamworker.monitoring.words import counted, entries, few, in_shell, name, number, size, span
from streamworker.operating.findings import Finding, about, note, warning
from streamworker.report import report_of

LEFT_BEHIND: Final = 3600.0  # seconds after which a consumer that asks for nothing will not come back
_LARGE: Final = (10_000, 100_000_000)  # entries, bytes: from here on a stream that is never trimmed is a danger
_AHEAD: Final = 5.0  # seconds


def check_lag(stream: StreamFacts, group: GroupFacts, lag: Lag) -> Iterator[Finding]:
    """Whether the server's own lag is right: KEDA and exporters believe it."""
    if stream.added is None or not group.exists:
        return
    right = lag.kind != "at_least" and group.server_lag == lag.entries
    # Where a group is in the stream, the server goes by its count of what it read.
    counts = group.entries_read is not None or stream.first is None or group.last_delivered < stream.first
    if right and counts:
        return
    truth = f"{'at least ' if lag.kind == 'at_least' else ''}{number(lag.entries)}"
    if right:
        text = "the server does not count what it reads, so it will tell no lag (NULL) once there is one"
    elif group.server_lag is None:
        text = f"the server tells no lag (NULL), but it is {truth}"
    else:
        text = f"the server says its lag is {number(group.server_lag)}, but it is {truth}"
    yield warning(f"{text}: KEDA and exporters go by that", "streamworker doctor --fix", fixable=True)


def check_consumers(group: GroupStatus, consumers: Sequence[ConsumerStatus]) -> Iterator[Finding]:
    """Whether there are consumers that will not come back."""
    gone = [
        one for one in consumers if one.name != RELEASED and not one.alive and (one.idle_seconds or 0.0) > LEFT_BEHIND
    ]
    idle = tuple(one.name for one in gone if not one.pending)
    if idle:
        yield warning(
            f"{_few(idle, 'consumer', 'consumers')} asked for nothing for more than {span(LEFT_BEHIND)}, with nothing "
            "pending",
            "streamworker doctor --fix deletes what is left behind; who comes back is there again",
            consumers=idle,
            fixable=True,
        )
    held = sorted((one for one in gone if one.pending), key=lambda one: -one.pending)
    # Where a worker of ours lives it takes over from those that died.
    if held and not any(one.alive for one in consumers):
        names = tuple(one.name for one in held)
        yield warning(
            f"{_few(names, 'consumer', 'consumers')} asked for nothing for more than {span(LEFT_BEHIND)}, with "
            f"{number(sum(one.pending for one in held))} pending",
            f"start workers, and streamworker claim {in_shell(group.stream, group.group, names[0])}",
            consumers=names,
        )


def check_group(group: GroupStatus, consumers: Sequence[ConsumerStatus]) -> Iterator[Finding]:
    """Whether somebody reads it."""
    words = in_shell(group.stream, group.group)
    if not group.exists:
        if group.dead_letters or group.retries:
            yield warning(
                f"the group is gone, but {counted(group.dead_letters, 'dead letter', 'dead letters')} and "
                f"{counted(group.retries, 'retry', 'retries')} are kept",
                f"its workers make it anew when they start; if nobody needs it: streamworker dead drop {words} --all",
            )
        return
    if group.trimmed:
        yield note(f"{entries(group.trimmed)} were trimmed before it read them", "see docs/retention.md")
    if group.paused:
        yield note(f"paused, since {clean(group.paused_note or '', 100)}", f"streamworker resume {words}")
        return
    pending = group.oldest_pending
    waits = max(group.lag_seconds or 0.0, pending.idle_seconds if pending is not None else 0.0)
    if waits > LEFT_BEHIND and not any(map(_lives, consumers)):
        yield warning(
            f"nobody reads it: {number(group.lag)} unread and {number(group.pending)} pending, for {span(waits)}; "
            "its stream cannot be trimmed",
            f"start its workers; if nobody needs it: redis-cli XGROUP DESTROY {words}",
        )
    elif not group.members and group.lag:
        yield note(f"it has no consumer, and {number(group.lag)} unread", "start its workers")


def check_growth(streams: Iterable[tuple[StreamFacts, StreamStatus]]) -> Iterator[Finding]:
    """Whether something keeps the streams from growing for ever."""
    small = []
    for facts, stream in streams:
        removed = None if facts.added is None else facts.added - facts.length
        if not facts.exists or _trims(facts) or (removed or 0) > (facts.added or 0) / 100:
            continue
        if stream.length < _LARGE[0] and (stream.memory_bytes or 0) < _LARGE[1]:
            small.append(stream.stream)
            continue
        memory = "" if stream.memory_bytes is None else f", {size(stream.memory_bytes)}"
        age = "" if stream.oldest_entry_seconds is None else f", the oldest {span(stream.oldest_entry_seconds)} old"
        # Redis 6.2 does not tell how many entries there ever were.
        said, who = (note, "no worker of ours") if removed is None else (warning, "nothing")
        finding = said(
            f"{who} trims it: {entries(stream.length)}{memory}{age}",
            f"app.stream({name(stream.stream)!r}, max_age=...) lets workers trim it; once: "
            f"streamworker trim {in_shell(stream.stream)} --max-age 7d --dry-run",
        )
        yield from about([finding], stream=stream.stream)
    if small:
        yield note(
            f"nothing trims {_few(small, 'stream', 'streams')}, as far as anybody can tell; small as yet",
            "app.stream(NAME, max_age=...) lets workers trim one",
        )


def check_clock(stream: StreamFacts) -> Iterator[Finding]:
    """Whether ids come from a clock that was ahead."""
    ahead = stream.last_generated[0] / 1000 - stream.now
    if ahead > _AHEAD:
        years = ahead > 365 * 86_400
        yield warning(
            f"its last id lies {'years' if years else span(ahead)} ahead of the server's clock: the times of new "
            "entries are wrong until then, and so are ages and limits by age",
            "keep the server's clock right (NTP), and let the server choose the ids",
        )


def _trims(stream: StreamFacts) -> bool:
    reports = (report_of(value) for group in stream.groups for value in group.beside.values.values())
    return any(report is not None and report.trims for report in reports)


def _lives(one: ConsumerStatus) -> bool:
    """As far as anybody knows: of other programs only when they last asked for something."""
    return one.idle_seconds is not None and one.idle_seconds <= LEFT_BEHIND if one.alive is None else one.alive


def _few(names: Sequence[str], one: str, more: str) -> str:
    return f"{counted(len(names), one, more)} ({few(map(name, names))})"
