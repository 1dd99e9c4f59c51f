"""What a server says about a stream and its groups at one moment, and the Protocol of who asks it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from streamworker.errors import BrokerError
from streamworker.ids import EntryId

if TYPE_CHECKING:
    from streamworker.monitoring.entries import Page, Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Oldest:
    """The pending entry with the lowest id.

    Attributes:
        id: its id, as text; in the user's stream also where it is a retry.
        consumer: who holds it.
        idle: seconds since it was delivered.
        deliveries: how often it was.
    """

    id: str
    consumer: str
    idle: float
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerFacts:
    """One consumer of a group.

    Attributes:
        name: its name.
        pending: entries of the user's stream that it holds.
        idle: seconds since it last asked for something; None where nobody knows.
        inactive: seconds since it was last given something; None where the server does not know (before 7.2).
    """

    name: str
    pending: int
    idle: float | None
    inactive: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What our own keys beside a stream say about one group; nothing of it for a group of other programs.

    Attributes:
        ours: whether there are any.
        delayed: retries that wait for their time.
        ready: retries and redriven letters that can be read.
        retried: of them, how many are pending.
        oldest_retried: the first one of those.
        next_due: seconds until the first of the delayed; None without any.
        dead: dead letters.
        oldest_dead, newest_dead: when, Unix time in seconds.
        paused: an operator paused the group.
        paused_note: since when, and who did it.
        trimmed: how many entries workers have counted that were trimmed before the group read them.
        trimmed_before: up to which position they have counted; None if they never did.
        values: each consumer's heartbeat.
    """

    ours: bool = False
    delayed: int = 0
    ready: int = 0
    retried: int = 0
    oldest_retried: Oldest | None = None
    next_due: float | None = None
    dead: int = 0
    oldest_dead: float | None = None
    newest_dead: float | None = None
    paused: bool = False
    paused_note: str = ""
    trimmed: int = 0
    trimmed_before: int | None = None
    values: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A group, at the same moment as its stream.

    Attributes:
        name: its name.
        exists: False if only our keys beside the stream are left of it.
        pending: entries delivered and not acknowledged.
        last_delivered: up to where it has read.
        entries_read: the server's count of what it has read; None if it has none.
        server_lag: what the server calls lag, right or wrong; None where it says nothing.
        next_id: the first entry it has not been given; None if there is none.
        oldest: the first pending one.
        members: how many members it has.
        consumers: its members; where they are more than 1,000, those that have something pending.
        beside: what our keys say.
    """

    name: str
    exists: bool = True
    pending: int = 0
    last_delivered: EntryId = (0, 0)
    entries_read: int | None = None
    server_lag: int | None = None
    next_id: EntryId | None = None
    oldest: Oldest | None = None
    members: int = 0
    consumers: tuple[ConsumerFacts, ...] = ()
    beside: Beside = Beside()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """A stream.

    Attributes:
        name: its name.
        now: the server's time, Unix time in seconds.
        exists: False if only our keys beside it are left.
        length: entries in it.
        memory: bytes it takes on the server, as that estimates it; None if the server does not tell.
        first, last: the ids of its first and last entry; None if it is empty.
        last_generated: the highest id it ever had.
        added: how many entries were ever added; None before Redis 7.
        old_size, new_size: mean bytes of fields and values of its first and its last entries; None if it is empty.
        groups: its groups.
    """

    name: str
    now: float
    exists: bool = True
    length: int = 0
    memory: int | None = None
    first: EntryId | None = None
    last: EntryId | None = None
    last_generated: EntryId = (0, 0)
    added: int | None = None
    old_size: float | None = None
    new_size: float | None = None
    groups: tuple[GroupFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server itself, or one node of a cluster.

    Attributes:
        name: what it calls itself: ``redis`` or ``valkey``.
        version: its own version.
        append_only: whether it keeps an append-only file; None if it does not tell.
        eviction: its ``maxmemory-policy``; None if it does not tell.
    """

    name: str
    version: str
    append_only: bool | None
    eviction: str | None


class Observer(Protocol):
    """Looks at a server and changes nothing there."""

    async def server(self) -> ServerFacts:
        """The server, or one node of a cluster."""
        ...

    async def streams(self) -> dict[str, set[str]]:
        """All streams of the server by name, each with the groups that our own keys beside it tell of."""
        ...

    async def look(self, streams: Mapping[str, Collection[str]]) -> dict[str, StreamFacts | BrokerError]:
        """The facts of each stream, of one moment each; an error stands in the place of what could not be had.

        Args:
            streams: the names, each with groups to tell of even if only our keys are left of them.

        Raises:
            Unavailable: the server cannot be reached.
        """
        ...

    async def count(self, stream: str, after: EntryId, upto: EntryId, most: int) -> int | None:
        """How many entries lie behind ``after`` and up to ``upto``; None if they are more than ``most``."""
        ...

    async def before_last(self, stream: str, count: int, dead_of: str | None = None) -> EntryId:
        """The id behind which the last ``count`` entries lie; the smallest one if there are no more of them.

        Args:
            stream: the stream.
            count: how many.
            dead_of: not of the stream, but of this group's dead letters.
        """
        ...

    async def page(self, stream: str, after: EntryId, most: int, dead_of: str | None = None) -> Page:
        """Some of the entries behind ``after``: ``most`` or less, but one at least if there are any."""
        ...

    async def find(self, stream: str, id: EntryId, also: Collection[str] = ()) -> Sighting:
        """Where the entry ``id`` is, and what each group has of it.

        Args:
            stream: the stream.
            id: the entry's, in the stream.
            also: groups to look for even if only our keys are left of them.
        """
        ...

    async def close(self) -> None: ...
