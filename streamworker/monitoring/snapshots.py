"""Snapshots: all facts of one moment; two of them give the numbers, with their rates."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from streamworker.errors import BrokerError
from streamworker.identity import SUFFIX
from streamworker.ids import EntryId
from streamworker.monitoring.facts import ConsumerFacts, GroupFacts, Observer, Oldest, StreamFacts
from streamworker.monitoring.position import MOST_COUNTED, Lag, lag_of, trimmed_of
from streamworker.monitoring.status import (
    ConsumerStatus,
    GroupStatus,
    OldestPending,
    Running,
    Status,
    StreamStatus,
)
from streamworker.report import lease_of, report_of

_YEAR_2000: Final = 946_684_800  # an id that says an earlier time was not made by a clock


class Snapshot(msgspec.Struct, frozen=True):
    """All facts of one moment, and the lags that follow from them."""

    facts: Mapping[str, StreamFacts]
    lags: Mapping[tuple[str, str], Lag]
    errors: Mapping[str, str]


async def status(observer: Observer, streams: Iterable[str] | None = None, *, over: float = 1.0) -> Status:
    """The numbers of ``streams``, by default of all streams of the server.

    Args:
        observer: the server.
        streams: names.
        over: seconds to look twice within, for the rates; 0 leaves them out.

    Raises:
        Unavailable: the server cannot be reached.
    """
    wanted = await observer.streams() if streams is None else dict.fromkeys(streams, ())
    before = None
    if over > 0:
        before = await take_snapshot(observer, wanted)
        await asyncio.sleep(over)
    return await of_snapshots(observer, before, await take_snapshot(observer, wanted))


async def take_snapshot(
    observer: Observer, streams: Mapping[str, Collection[str]], most: int = MOST_COUNTED
) -> Snapshot:
    """The facts of ``streams`` and the lags of their groups.

    Args:
        observer: the server.
        streams: names, each with groups to tell of even if they are gone.
        most: as for ``lag_of``.
    """
    seen = await observer.look(streams)
    facts = {name: one for name, one in seen.items() if isinstance(one, StreamFacts)}
    pairs = [(stream, group) for stream in facts.values() for group in stream.groups]
    lags = await asyncio.gather(*(lag_of(observer, stream, group, most) for stream, group in pairs))
    errors = {name: str(one) for name, one in seen.items() if isinstance(one, BrokerError)}
    return Snapshot(facts, {(s.name, g.name): lag for (s, g), lag in zip(pairs, lags, strict=True)}, errors)


async def of_snapshots(observer: Observer, before: Snapshot | None, now: Snapshot) -> Status:
    """The numbers as of ``now``, with the rates since ``before``."""
    streams = await asyncio.gather(*(_stream(observer, before, now, stream) for stream in now.facts.values()))
    at = max((stream.now for stream in now.facts.values()), default=None)
    then = max((stream.now for stream in before.facts.values()), default=None) if before is not None else None
    seconds = at - then if at is not None and then is not None else 0.0
    return Status(at=at, seconds=max(0.0, seconds), streams=tuple(streams), errors=dict(now.errors))


async def _stream(observer: Observer, before: Snapshot | None, now: Snapshot, stream: StreamFacts) -> StreamStatus:
    earlier = before.facts.get(stream.name) if before is not None else None
    seconds = stream.now - earlier.now if earlier is not None else 0.0
    added = await _added(observer, earlier, stream) if earlier is not None and seconds > 0 else None
    added_rate = added / seconds if added is not None else None
    groups = []
    for group in stream.groups:
        lag = now.lags[stream.name, group.name]
        read = acked = None
        past = _find(earlier, group.name)
        if before is not None and earlier is not None and past is not None and group.exists and seconds > 0:
            read = await _read(observer, (earlier, past, before.lags[stream.name, group.name]), (stream, group, lag))
            acked = max(0, read - (group.pending - past.pending)) if read is not None else None
        rates = [None if many is None else many / seconds for many in (read, acked)]
        groups.append(_group(stream, group, lag, rates[0], rates[1], added_rate))
    memory, length = stream.memory, stream.length
    return StreamStatus(
        stream=stream.name,
        length=length,
        memory_bytes=memory,
        entry_bytes=memory / length if memory is not None and length else None,
        oldest_entry_bytes=stream.old_size,
        newest_entry_bytes=stream.new_size,
        added=stream.added,
        added_rate=added_rate,
        oldest_entry_seconds=age(stream.first, stream.now) if stream.first is not None else None,
        groups=tuple(groups),
    )


async def _added(observer: Observer, before: StreamFacts, now: StreamFacts) -> int | None:
    if before.added is not None and now.added is not None:
        return max(0, now.added - before.added)
    return await observer.count(now.name, before.last_generated, now.last_generated, 10_000)


async def _read(
    observer: Observer, before: tuple[StreamFacts, GroupFacts, Lag], now: tuple[StreamFacts, GroupFacts, Lag]
) -> int | None:
    """How many entries a group was given between two looks."""
    (earlier, past, lag_before), (stream, group, lag) = before, now
    if None not in (earlier.added, stream.added) and "at_least" not in (lag_before.kind, lag.kind):
        place_before = (earlier.added or 0) - (lag_before.entries or 0)
        return max(0, (stream.added or 0) - (lag.entries or 0) - place_before)
    return await observer.count(stream.name, past.last_delivered, group.last_delivered, 10_000)


def _group(
    stream: StreamFacts, group: GroupFacts, lag: Lag, read_rate: float | None, ack_rate: float | None,
    added_rate: float | None,
) -> GroupStatus:  # fmt: skip
    beside = group.beside
    pending, retries = group.pending + beside.retried, beside.delayed + beside.ready
    drain, never = _drain(lag, read_rate, added_rate)
    waits = 0.0 if lag.entries == 0 else None
    if lag.entries and group.next_id is not None:
        waits = age(group.next_id, stream.now)
    return GroupStatus(
        stream=stream.name,
        group=group.name,
        exists=group.exists,
        lag=lag.entries,
        lag_kind=lag.kind,
        server_lag=group.server_lag,
        lag_seconds=waits,
        pending=pending,
        oldest_pending=_oldest(group.oldest or beside.oldest_retried, stream.now),
        retries=retries,
        next_retry_seconds=0.0 if beside.ready else beside.next_due,
        backlog=None if lag.entries is None else lag.entries + pending + retries,
        dead_letters=beside.dead,
        oldest_dead_letter=beside.oldest_dead,
        newest_dead_letter=beside.newest_dead,
        trimmed=trimmed_of(stream, group),
        read_rate=read_rate,
        ack_rate=ack_rate,
        drain_seconds=drain,
        falls_behind=never,
        paused=beside.paused,
        paused_note=beside.paused_note or None,
        members=group.members,
        consumers=tuple(_consumers(group, stream.now)),
    )


def _drain(lag: Lag, read_rate: float | None, added_rate: float | None) -> tuple[float | None, bool | None]:
    """Seconds until the lag is gone, and whether it never is."""
    if lag.entries == 0:
        return 0.0, False
    if lag.entries is None or read_rate is None or added_rate is None:
        return None, None
    if lag.kind != "at_least" and lag.entries <= read_rate:  # what is read within a second is on its way, no arrears
        return lag.entries / read_rate, False
    faster = read_rate - added_rate
    if faster <= 0:
        return None, True
    return (None if lag.kind == "at_least" else lag.entries / faster), False


def _oldest(oldest: Oldest | None, now: float) -> OldestPending | None:
    if oldest is None:
        return None
    milliseconds, _, sequence = oldest.id.partition("-")
    return OldestPending(
        id=oldest.id,
        consumer=oldest.consumer,
        deliveries=oldest.deliveries,
        idle_seconds=oldest.idle,
        age_seconds=age((int(milliseconds), int(sequence)), now),
    )


def _consumers(group: GroupFacts, now: float) -> Iterator[ConsumerStatus]:
    values = group.beside.values
    yield from (consumer_status(one, values.get(one.name), now) for one in group.consumers)
    if sum(one.pending for one in group.consumers) != group.pending:
        return  # not all members are told
    # Redis 6.2 knows a worker only once it has been given something; its heartbeat tells that it is there.
    for name in sorted(values.keys() - {one.name for one in group.consumers}):
        found = consumer_status(ConsumerFacts(name=name, pending=0, idle=None, inactive=None), values[name], now)
        if found.alive:
            yield found


def consumer_status(facts: ConsumerFacts, value: bytes | None, now: float) -> ConsumerStatus:
    """A member of a group, with what its heartbeat tells; ``now`` is the server's time."""
    more: dict[str, Any] = {}
    report = report_of(value) if value is not None and facts.name.endswith(SUFFIX) else None
    if value is not None and report is not None:
        silent = max(0.0, now - report.at)
        more = {
            "beat_seconds": silent, "alive": silent < (lease_of(value) or 0.0),
            "host": report.host, "pid": report.pid, "version": report.version, "started": report.started,
            "http": report.http,
            "running": report.running,
            "longest": tuple(Running(id=id, handler=name, seconds=long) for id, name, long in report.longest),
        }  # fmt: skip
    return ConsumerStatus(
        name=facts.name,
        pending=facts.pending,
        idle_seconds=facts.idle,
        inactive_seconds=facts.inactive,
        **more,
    )


def age(id: EntryId, now: float) -> float | None:
    """Seconds since the time in an id; None if it is none: ids may be chosen by whoever publishes."""
    made = id[0] / 1000
    return max(0.0, now - made) if _YEAR_2000 < made < now + 86_400 else None


def _find(stream: StreamFacts | None, group: str) -> GroupFacts | None:
    found = stream.groups if stream is not None else ()
    return next((one for one in found if one.name == group and one.exists), None)
