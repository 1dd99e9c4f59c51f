"""What the runtime wants from a backend, as Protocols and the values they speak in; nothing here knows Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from streamworker.errors import BrokerError
from streamworker.handler import Group, Start
from streamworker.message import Delivery
from streamworker.retention import Forced, Limits, Trim

_MOST_STREAMS: Final = 1000

EntryName: TypeAlias = tuple[bytes, bytes]
"""A stream's key and an entry's id in it."""


class Dead(msgspec.Struct, frozen=True):
    """A consumer taken for dead, and the value of its heartbeat on which that rests."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """The group exists. ``created`` says how, if it was made just now; ``waiting`` is what it begins with."""

    created: str | None
    waiting: int | None


@dataclass(frozen=True, slots=True)
class Suspect:
    """An entry that may have killed its worker: it is run alone, or dead-lettered.

    Attributes:
        entry: its name.
        dead: who has it, and the heartbeat on which the verdict rests.
        untouched: of another program's, which has no heartbeat: the count it must have, and since when in seconds.
    """

    entry: EntryName
    dead: Dead
    untouched: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn brought besides new entries.

    Attributes:
        now: the server's time, Unix time in seconds.
        paused: an operator paused the group.
        waiting: how many retries wait for their time.
        more: another turn at once would bring more.
        retries: due retries and redriven letters.
        claims: entries that were released, or whose worker died.
        trimmed: entries that were trimmed away while they were pending.
        suspect: the first suspect found, if any.
    """

    now: float
    paused: bool
    waiting: int
    more: bool
    retries: list[Delivery]
    claims: list[Delivery]
    trimmed: int
    suspect: Suspect | None


@dataclass(frozen=True, slots=True)
class Convicted:
    """A suspect that was claimed.

    ``guilty``: its last worker died while this entry ran alone. ``count`` is how often it had been delivered.
    ``delivery`` is None if it had been trimmed away, which settled it.
    """

    delivery: Delivery | None
    guilty: bool
    count: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An entry that the consumer ``owner`` of another program lets lie, after ``count`` deliveries."""

    entry: EntryName
    owner: str
    count: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a group has not finished: pending with anyone, retries ready, retries due soon, seconds until the first."""

    pending: int
    ready: int
    waiting: int
    next_in: float

    def __bool__(self) -> bool:
        return bool(self.pending or self.ready or self.waiting)


class GroupReader(Protocol):
    """The acquirer's own connection to one group on one stream; strictly one call at a time."""

    retry_key: bytes
    stream_key: bytes

    async def join(self, start: Start, joined_before: bool) -> Joined:
        """Connect, and make the group if it is not there."""
        ...

    async def mark_dead(self, name: str) -> None:
        """Write down that the consumer ``name`` is certainly dead."""
        ...

    async def turn(self, room: int, dead: Sequence[Dead], suspect_from: int) -> Turn: ...

    async def read(self, room: int, block: float) -> list[Delivery]:
        """New entries, at most ``room``, waiting up to ``block`` seconds for the first."""
        ...

    async def own(self) -> dict[EntryName, int]:
        """All entries pending for this consumer, with their delivery counts."""
        ...

    async def fetch(self, names: Mapping[EntryName, int]) -> tuple[list[Delivery], int]:
        """The payloads of pending entries; the second number counts those trimmed away, which are acked."""
        ...

    async def owners(self, names: Sequence[EntryName]) -> list[str | None]:
        """Whom each entry is pending for; None where it is pending for nobody."""
        ...

    async def claim_alone(self, suspect: Suspect, highest: int) -> Convicted | None: ...

    async def unmark(self) -> None:
        """This consumer runs no suspect alone any more."""
        ...

    async def abandoned(self, idle: float) -> list[Abandoned]:
        """The first entries of other programs' consumers, those delivered more than ``idle`` seconds ago."""
        ...

    async def claim_abandoned(self, found: Sequence[Abandoned]) -> tuple[list[Delivery], int]:
        """Take over those that nobody has touched meanwhile; the second number counts those trimmed away."""
        ...

    async def skipped(self) -> int:
        """How many entries were trimmed before this group read them, as found now and since this was last asked."""
        ...

    async def left(self, horizon: float) -> Left: ...

    async def leave(self) -> None:
        """Delete this consumer if nothing is pending for it."""
        ...

    async def close(self) -> None: ...


class Settlement(msgspec.Struct):
    """How one failed delivery is settled: a copy with its due time, a dead letter, or nothing but the end."""

    delivery: Delivery
    delay: float | None = None
    counted: bool = True
    letter: dict[str, str] | None = None
    cause: str = ""  # of the letter, in one word
    refused: bool = False  # the server did not take it when it was last asked
    over: Callable[[bool], object] = bool  # told when it is done (True), or is another's (False); bool: nobody asks


class Settler(Protocol):
    """Settles deliveries of one group; many may be asked at once."""

    async def settle(self, acks: Sequence[Delivery], settlements: Sequence[Settlement]) -> list[bool | BrokerError]:
        """Ack and settle in one round trip; an answer per settlement, and one for all acks at the end.

        True: done. False: it was not ours any more, and nothing was done.

        Raises:
            Unavailable: nobody knows what was done.
        """
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        """Hand back what was not started, uncounted; returns how many were handed back."""
        ...


class Broadcaster(Protocol):
    """Reads a stream without a group."""

    async def locate(self, start: Start | None) -> None:
        """Connect; fix the place to read from, or find it again after a reconnect (``start`` None)."""
        ...

    async def read(self, room: int, block: float) -> list[Delivery]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life in one group: whose, and what it says."""

    stream: str
    group: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What a heartbeat saw: each consumer's value, and who has pending entries."""

    values: dict[str, bytes] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()


class Pulse(Protocol):
    """The heartbeat thread's own connection; calls block."""

    def beat(self, beats: Sequence[Beat], timeout: float) -> list[Look | BrokerError]:
        """Beat and look in one step for each.

        Raises:
            Unavailable: nobody knows what was done.
        """
        ...

    def close(self) -> None: ...


class Written:
    """What a publisher has appended, by stream; those beyond the first thousand streams are counted together."""

    OTHERS: Final = "(others)"

    def __init__(self) -> None:
        self.entries: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def add(self, stream: str, entries: int, size: int) -> None:
        """So many more entries, with so many bytes of fields and values."""
        if stream not in self.entries and len(self.entries) >= _MOST_STREAMS:
            stream = self.OTHERS
        self.entries[stream] += entries
        self.bytes[stream] += size


class Publisher(Protocol):
    """Appends entries; see ``App.publish`` and ``App.publish_many`` for arguments and errors."""

    @property
    def written(self) -> Written: ...

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str: ...

    async def publish_many(
        self,
        stream: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int: ...

    async def close(self) -> None: ...


class Trimming(Protocol):
    """Makes streams shorter, a bounded step at a time."""

    async def look(self, stream: str, limits: Limits) -> Trim:
        """As ``trim``, but nothing is removed."""
        ...

    async def trim(
        self, stream: str, limits: Limits, *, without_groups: bool = False, tell_memory: bool = False
    ) -> Trim:
        """Remove what the limits ask and all groups have finished; of a stream without groups nothing, by default."""
        ...

    async def force(self, stream: str, limits: Limits, groups: Sequence[str] = ()) -> Forced:
        """Remove what the limits ask, whoever has not finished it.

        What ``groups`` lose unread counts as told: their workers will not count it once more.
        """
        ...

    async def foresee(self, stream: str, limits: Limits, after: str | None = None, counted: int = 0) -> Forced:
        """What ``force`` would do behind the entry ``after``, with which ``counted`` have been seen."""
        ...

    async def expire(self, stream: str, group: str, limits: Limits) -> tuple[int, bool]:
        """Remove dead letters of a group; how many, and whether there are more to remove."""
        ...


class Broker(Protocol):
    """Makes the parts above for one server."""

    async def ping(self) -> None:
        """Raises Unavailable or AuthFailed if the server does not serve."""
        ...

    def reader(self, group: Group, consumer: str, max_bytes: int) -> GroupReader: ...

    def settler(self, group: Group, consumer: str) -> Settler: ...

    def broadcaster(self, group: Group, max_bytes: int) -> Broadcaster: ...

    def pulse(self, consumer: str) -> Pulse: ...

    def publisher(self) -> Publisher: ...

    def trimming(self) -> Trimming: ...

    async def close(self) -> None: ...
