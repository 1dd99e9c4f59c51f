"""Meters: how long messages waited and ran, and how large they were; only where somebody wants to know."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol

from streamworker.message import Delivery, published_at

SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
)  # fmt: skip
BYTES: Final = (64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
DELIVERIES: Final = (1, 2, 3, 5, 8, 13, 21)

_A_SECOND: Final = 1000.0  # messages of a handler that are measured one by one
_OF_A_BATCH: Final = 10
_ADAPTS: Final = 0.1  # seconds


class Clock(Protocol):
    """The server's time."""

    def now(self) -> float: ...


class Histogram:
    """How many values lie up to each bound, and their sum. Written by one thread, read by another."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class GroupMeter:
    """What is measured of one group's messages.

    Of a batch only some are measured, and counted as often as is needed for the count to be right.

    Attributes:
        wait: seconds from publishing to the handler's start.
        whole: seconds from publishing to the ack.
        deliveries: which delivery it was.
        size: bytes of fields and values.
    """

    def __init__(self, clock: Clock) -> None:
        self.wait = Histogram(SECONDS)
        self.whole = Histogram(SECONDS)
        self.deliveries = Histogram(DELIVERIES)
        self.size = Histogram(BYTES)
        self._clock = clock

    def received(self, deliveries: Sequence[Delivery]) -> None:
        """A batch came in."""
        for delivery, times in _some(deliveries):
            self.deliveries.observe(delivery.deliveries, times)
            self.size.observe(sum(map(len, delivery.fields)), times)

    def started(self, delivery: Delivery, ago: float, times: int) -> None:
        """Its handler started ``ago`` seconds ago."""
        self.wait.observe(max(0.0, self._clock.now() - ago - published_at(delivery.origin)), times)

    def acked(self, deliveries: Sequence[Delivery]) -> None:
        """A batch was acknowledged."""
        now = self._clock.now()
        for delivery, times in _some(deliveries):
            self.whole.observe(max(0.0, now - published_at(delivery.origin)), times)


class HandlerMeter:
    """What is measured of one handler's runs: each up to a thousand a second, one of several above.

    Attributes:
        ran: seconds that the handler ran.
    """

    def __init__(self, group: GroupMeter) -> None:
        self.ran = Histogram(SECONDS)
        self._group = group
        self._every = 1
        self._left = 1
        self._since = monotonic()
        self._runs = 0

    def ended(self, delivery: Delivery, started: float) -> None:
        """A run is over; ``started`` is on the monotonic clock."""
        self._left -= 1
        if self._left:
            return
        now, times = monotonic(), self._every
        self.ran.observe(now - started, times)
        self._group.started(delivery, now - started, times)
        self._runs += times
        if now - self._since >= _ADAPTS:
            self._every = max(1, int(self._runs / (now - self._since) / _A_SECOND))
            self._since, self._runs = now, 0
        self._left = self._every


def _some(deliveries: Sequence[Delivery]) -> list[tuple[Delivery, int]]:
    """Some of a batch, each with how many it stands for."""
    step = max(1, len(deliveries) // _OF_A_BATCH)
    chosen = [(delivery, step) for delivery in deliveries[::step]]
    rest = len(deliveries) - step * (len(chosen) - 1)
    return [*chosen[:-1], (chosen[-1][0], rest)] if chosen else []
