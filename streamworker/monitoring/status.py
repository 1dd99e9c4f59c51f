"""The numbers of streams and groups as values, as people, scripts and charts get them; ``snapshots`` makes them."""

from __future__ import annotations

from typing import Literal

import msgspec


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
        paused_note: since when, and who did it; None if it is not paused.
        members: how many members it has.
        consumers: its members; where they are more than 1,000, those that live or have something pending.
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
    paused_note: str | None
    members: int
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
