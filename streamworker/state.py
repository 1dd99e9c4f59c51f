"""What the parts of one consumer share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

import msgspec

from streamworker.body import size_of
from streamworker.flight import Counts, Flight
from streamworker.gate import Gate
from streamworker.handler import Group, Handler
from streamworker.lease import Lease
from streamworker.logs import log
from streamworker.message import Delivery, Message, headers_of, published_at
from streamworker.message import field as field_of
from streamworker.meter import GroupMeter
from streamworker.settling import Settling

if TYPE_CHECKING:
    from streamworker.tracing import GroupTracing

_TELL: Final = 2.0  # seconds between two lines about trimmed entries


class ServerClock:
    """The server's time, Unix time in seconds; this machine's until the server has told its own."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def set(self, now: float) -> None:
        self._ahead = now - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._ahead


class Trimmed:
    """Counts entries that were trimmed away before the group was through with them; tells so now and then."""

    def __init__(self, group: Group, counts: Counts) -> None:
        self._group = group
        self._counts = counts
        self._untold = [0, 0]
        self._told = -inf

    def count(self, *, pending: int = 0, unread: int = 0, last: bool = False) -> None:
        """So many more are lost; ``last`` tells at once what was not told yet."""
        self._counts.trimmed += pending
        self._counts.skipped += unread
        self._untold[0] += pending
        self._untold[1] += unread
        now = time.monotonic()
        if any(self._untold) and (last or now - self._told >= _TELL):
            pending, unread = self._untold
            log.error("entries.trimmed", stream=self._group.stream, group=self._group.name, pending=pending,
                      unread=unread)  # fmt: skip
            self._untold = [0, 0]
            self._told = now


@dataclass(slots=True)
class Progress:
    """When a loop that reads last got on, on the monotonic clock, and when the server last answered it.

    None before the first time.
    """

    stepped: float | None = None
    answered: float | None = None


@dataclass(slots=True)
class State:
    """One consumer: a member of ``group``, called ``me``; ``settling`` is None for a broadcast, which acks nothing."""

    group: Group
    me: str
    lease: Lease
    gate: Gate
    flight: Flight
    settling: Settling | None
    counts: Counts
    tracing: GroupTracing | None = None
    clock: ServerClock = field(default_factory=ServerClock)
    meter: GroupMeter | None = None
    trimmed: Trimmed = field(init=False)

    def __post_init__(self) -> None:
        self.trimmed = Trimmed(self.group, self.counts)

    def message(self, handler: Handler, delivery: Delivery) -> Message:
        """The delivery as a handler sees it."""
        kind = field_of(delivery.fields, b"type")
        return Message(
            id=delivery.origin.decode(errors="replace"),
            stream=self.group.stream,
            group=self.group.name,
            handler=handler.name,
            type=None if kind is None else kind.decode(errors="replace"),
            headers=headers_of(delivery.fields, handler.body),
            deliveries=delivery.deliveries,
            published=published_at(delivery.origin),
            consumer=self.me,
            size=size_of(delivery.fields, handler.body),
        )

    def where(self, handler: Handler) -> dict[str, str]:
        """What a log line about a handler begins with."""
        return {"stream": self.group.stream, "group": self.group.name, "handler": handler.name}

    def age(self, delivery: Delivery) -> float:
        """Seconds since it was published; never below 0, since an id may lie in the future."""
        return max(0.0, self.clock.now() - published_at(delivery.origin))


class InHand(msgspec.Struct, frozen=True, gc=False):
    """The message being handled, for the log: its attributes are read only when something is logged."""

    handler: str
    stream: str
    group: str
    delivery: Delivery

    @property
    def id(self) -> str:
        return self.delivery.origin.decode(errors="replace")

    @property
    def deliveries(self) -> int:
        return self.delivery.deliveries
