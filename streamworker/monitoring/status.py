"""The numbers of streams and groups, as people, scripts and charts get them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from streamworker.errors import BrokerError
from streamworker.identity import SUFFIX
from streamworker.monitoring.facts import ConsumerFacts, EntryId, GroupFacts, Observer, Oldest, StreamFacts
from streamworker.monitoring.position import MOST_COUNTED, Lag, lag_of, trimmed_of
from streamworker.report import lease_of, report_of

_YEAR_2000: Final = 946_684_800  # an id that says an earlier time was not made by a clock


class OldestPending(msgspec.Struct, frozen=True, kw_only=True):
    """The pending entry with the lowest id.

    Attributes:
        id: its id.
        consumer: who holds it.
        deliveries: how often it was delivered.
        idle_seconds: since the last delivery.
        age_seconds: since it was published; None if its id is no time.
    """

    id: str
    consumer: str
    deliveries: int
    idle_seconds: float
    age_seconds: float | None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a handler, as of the worker's last heartbeat.

    Attributes:
        id: the entry's.
        handler: the handler's name.
        seconds: for how long it has been running.
    """

    id: str
    handler: str
    seconds: float


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group.

    Attributes:
        name: its name.
        pending: entries of the stream that it holds.
        idle_seconds: since it last asked for something; None of a worker that has not been given anything (6.2).
        inactive_seconds: since it was last given something; None where the server does not know (before 7.2).
        beat_seconds: of our workers, since the last heartbeat; None for other programs.
        alive: of our workers, whether that is less than the lease; None for other programs.
        host, pid, version, started: of our workers; the last is Unix time in seconds.
        http: of our workers, whether it serves metrics.
        running: of our workers, how many handlers run.
        longest: of those, the ones that have been running for longest.
    """

    name: str
    pending: int
    idle_seconds: float | None
    inactive_seconds: float | None
    beat_seconds: float | None = None
    alive: bool | None = None
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    started: float | None = None
    http: bool | None = None
    running: int | None = None
    longest: tuple[Running, ...] = ()


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A group on a stream. None always means that nobody knows, never nothing.

    Attributes:
        stream, group: their names.
        exists: False if the group is gone and only our keys beside the stream are left.
        lag: entries that it has not been given yet.
        lag_kind: ``"exact"``, ``"counted"`` or ``"at_least"``; see ``position.Lag``.
        server_lag: what the server says, right or wrong.
        lag_seconds: age of the first entry that it has not been given; 0 if there is none, None if its id is no time.
        pending: entries delivered and not acknowledged, retries included.
        oldest_pending: the first of those.
        retries: retries that wait for their time or for a worker.
        next_retry_seconds: until the first is due.
        backlog: lag, pending and retries together.
        dead_letters: how many are kept.
        oldest_dead_letter, newest_dead_letter: when they came, Unix time in seconds.
        trimmed: entries that were trimmed before it was given them; see ``position.trimmed_of``.
        read_rate: entries it was given in a second.
        ack_rate: entries of the stream that stopped being pending in a second, however they were settled.
        drain_seconds: until the lag is gone, at these rates; None also if that is never.
        falls_behind: whether it is never.
        paused: an operator paused it.
        consumers: its members.
    """

    stream: str
    group: str
    exists: bool
    lag: int | None
    lag_kind: Literal["exact", "counted", "at_least"]
    server_lag: int | None
    lag_seconds: float | None
    pending: int
    oldest_pending: OldestPending | None
    retries: int
    next_retry_seconds: float | None
    backlog: int | None
    dead_letters: int
    oldest_dead_letter: float | None
    newest_dead_letter: float | None
    trimmed: int | None
    read_rate: float | None
    ack_rate: float | None
    drain_seconds: float | None
    falls_behind: bool | None
    paused: bool
    consumers: tuple[ConsumerStatus, ...]


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A stream.

    Attributes:
        stream: its name.
        length: entries in it.
        memory_bytes: what it takes on the server, as the server estimates it.
        entry_bytes: that by the number of entries.
        oldest_entry_bytes, newest_entry_bytes: mean size of fields and values of the first and the last entries
            (20 at most); apart, where the payload has grown.
        added: entries ever added; None before Redis 7.
        added_rate: entries added in a second.
        oldest_entry_seconds: age of the first entry; None if its id is no time.
        groups: its groups.
    """

    stream: str
    length: int
    memory_bytes: int | None
    entry_bytes: float | None
    oldest_entry_bytes: float | None
    newest_entry_bytes: float | None
    added: int | None
    added_rate: float | None
    oldest_entry_seconds: float | None
    groups: tuple[GroupStatus, ...]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Streams and groups at one moment.

    Attributes:
        at: the server's time, Unix time in seconds; None if nothing was seen.
        seconds: over how long the rates were measured; 0 if they were not.
        streams: the streams.
        errors: what could not be seen, and why, by the stream's name.
    """

    at: float | None
    seconds: float
    streams: tuple[StreamStatus, ...]
    errors: dict[str, str]

    @property
    def groups(self) -> tuple[GroupStatus, ...]:
        """All groups of all streams."""
        return tuple(group for stream in self.streams for group in stream.groups)


class Look(msgspec.Struct, frozen=True):
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
        before = await take_look(observer, wanted)
        await asyncio.sleep(over)
    return await of_looks(observer, before, await take_look(observer, wanted))


async def take_look(observer: Observer, streams: Mapping[str, Collection[str]], most: int = MOST_COUNTED) -> Look:
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
    return Look(facts, {(s.name, g.name): lag for (s, g), lag in zip(pairs, lags, strict=True)}, errors)


async def of_looks(observer: Observer, before: Look | None, now: Look) -> Status:
    """The numbers as of ``now``, with the rates since ``before``."""
    streams = await asyncio.gather(*(_stream(observer, before, now, stream) for stream in now.facts.values()))
    at = max((stream.now for stream in now.facts.values()), default=None)
    then = max((stream.now for stream in before.facts.values()), default=None) if before is not None else None
    seconds = at - then if at is not None and then is not None else 0.0
    return Status(at=at, seconds=max(0.0, seconds), streams=tuple(streams), errors=dict(now.errors))


async def _stream(observer: Observer, before: Look | None, now: Look, stream: StreamFacts) -> StreamStatus:
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
    yield from (_consumer(one, values.get(one.name), now) for one in group.consumers)
    if sum(one.pending for one in group.consumers) != group.pending:
        return  # not all members are told
    # Redis 6.2 knows a worker only once it has been given something; its heartbeat tells that it is there.
    for name in sorted(values.keys() - {one.name for one in group.consumers}):
        found = _consumer(ConsumerFacts(name=name, pending=0, idle=None, inactive=None), values[name], now)
        if found.alive:
            yield found


def _consumer(facts: ConsumerFacts, value: bytes | None, now: float) -> ConsumerStatus:
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
