"""The sweeper: looks for handlers that have run too long, since a timer for each message would cost too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from streamworker.failing import Failing
from streamworker.invocation import Invocation
from streamworker.logs import log
from streamworker.slot import Slot
from streamworker.state import State

_GRACE: Final = 5.0  # seconds a handler has to end after its timeout, before it is reported stuck
_LONG: Final = 60.0  # seconds of running after which a handler is mentioned in the log


class Sweeper:
    """One task for all slots of a handler.

    Args:
        invocation: of the handler.
        state: of the consumer.
        failing: told of messages whose handler does not end.
        running: gives the slots in which a handler runs.
    """

    def __init__(
        self, invocation: Invocation, state: State, failing: Failing, running: Callable[[], list[Slot]]
    ) -> None:
        self._invocation = invocation
        self._handler = invocation.handler
        self._where = state.where(invocation.handler)
        self._state = state
        self._failing = failing
        self._running = running
        self._task: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()

    def start(self) -> asyncio.Task[None]:
        """Start the task and return it; it must not end by itself."""
        self._task = asyncio.create_task(self._sweep_loop(), name=f"sweeper-{self._handler.name}")
        return self._task

    def end(self) -> None:
        """Cancel the task; what it began to settle is settled."""
        if self._task is not None:
            self._task.cancel()

    async def _sweep_loop(self) -> None:
        timeout = self._handler.timeout
        pause = 1.0 if timeout is None else min(1.0, max(0.02, timeout / 20))
        while True:
            await asyncio.sleep(pause)
            now = monotonic()
            for slot in self._running():
                if slot.inside and not slot.settled:  # otherwise on_failure is asked, or an ack comes first
                    self._look_at(slot, now)

    def _look_at(self, slot: Slot, now: float) -> None:
        timeout, age = self._handler.timeout, now - slot.started
        if timeout is not None and age >= timeout:
            slot.stop("timeout")
            if age >= timeout + _GRACE and slot.stopped_by != "lost":
                self._settle_stuck(slot, age)
        elif slot.stopped_by == "lost" and now - slot.stopped_at >= _GRACE:
            self._report_stuck(slot, age)
            if slot.delivery is not None:  # somebody else owns it
                self._state.flight.remove(slot.delivery)
                self._state.counts.lost += 1
        elif age >= _LONG and not slot.mentioned:
            slot.mentioned = True
            self._state.counts.slow += 1
            log.warning("handler.slow", **self._where, seconds=round(age))

    def _report_stuck(self, slot: Slot, age: float) -> None:
        """It does not end: the others go on without its slot, and isolation does not wait for it."""
        slot.settled = True
        if slot.delivery is not None:
            slot.delivery.alone = False
        self._state.gate.leave()
        self._state.counts.stuck += 1
        log.error("handler.stuck", **self._where, seconds=round(age))

    def _settle_stuck(self, slot: Slot, age: float) -> None:
        """It runs on past timeout and grace: its message is settled as failed."""
        delivery = slot.delivery
        assert delivery is not None
        self._report_stuck(slot, age)
        why = "did not end when it was cancelled" if slot.stoppable else "a thread cannot be stopped"
        error = TimeoutError(f"ran longer than {self._handler.timeout:g} s, and {why}")
        # Beside the sweeper: on_failure may take its time, and other handlers run out of theirs meanwhile.
        aside = asyncio.create_task(self._failing.failed(self._handler, delivery, "timeout", error))
        self._asides.add(aside)
        aside.add_done_callback(self._asides.discard)
