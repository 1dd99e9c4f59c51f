"""An app for fault tests: its one handler notes what it gets, and does what the body says."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pytest

from streamworker import App, Backoff, Drop, Message, Reject
from tests.faults.patience import within
from tests.running import events


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the handler, ``at`` on the monotonic clock."""

    body: str
    deliveries: int
    at: float


class Handling:
    """The app, and what its handler has seen.

    The first word of a body says what becomes of it: ``fail`` fails at its first delivery, ``reject`` and
    ``drop`` raise the verdict, ``hold`` waits until ``go_on`` is set; all others succeed at once.
    """

    def __init__(self, stream: str, *, lease: float = 15.0, **options: Any) -> None:
        self.app = App("group", lease=lease)
        self.runs: list[Run] = []
        self.go_on = asyncio.Event()
        self.cancelled = 0
        self.stubborn = False  # what holds fails when it is cancelled
        self.app.on(stream, **{"retry": Backoff(first=0.05, jitter=0.0), **options})(self.handle)

    async def handle(self, body: str, message: Message) -> None:
        self.runs.append(Run(body, message.deliveries, monotonic()))
        match body.partition(" ")[0]:
            case "fail" if message.deliveries == 1:
                raise ValueError(body)
            case "reject":
                raise Reject(body)
            case "drop":
                raise Drop(body)
            case "hold":
                await self._held()

    async def _held(self) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.stubborn:
                raise ValueError("cancelled") from None
            raise

    @property
    def counts(self) -> Counter[str]:
        """How often each body was started."""
        return Counter(run.body for run in self.runs)

    async def got(self, *bodies: str, timeout: float = 10.0) -> None:
        """Wait until the handler was given all of these, for ``timeout`` seconds that this process was given."""
        await within(timeout, lambda: set(bodies) <= self.counts.keys(), lambda: f"{bodies} in {self.counts}")


def drained(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """What became of all deliveries, as all workers that have ended told it."""
    total: Counter[str] = Counter()
    for values in events(caplog, "worker.drained"):
        total.update({name: count for name, count in values.items() if isinstance(count, int)})
    return total
