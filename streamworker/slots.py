"""Slots: the long-lived tasks that run one handler's messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from typing import Final, Literal

from streamworker.body import size_of
from streamworker.coroutine import in_context, uncancel, users_part
from streamworker.decide import too_old
from streamworker.errors import UndecodableBody
from streamworker.failing import Failing
from streamworker.invocation import Invocation
from streamworker.logs import current, log
from streamworker.message import Delivery
from streamworker.state import InHand, State
from streamworker.verdicts import FailureKind

_GRACE: Final = 5.0  # seconds a handler has to end after its timeout, before it is reported stuck
_SPELL: Final = 0.05  # seconds a slot works before it lets the event loop go round
_LONG: Final = 60.0  # seconds of running after which a handler is mentioned in the log


class Slot:
    """One place in which a handler runs; the fields are about the message in it."""

    __slots__ = ("delivery", "inside", "mentioned", "settled", "started", "stopped_at", "stopped_by", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.delivery: Delivery | None = None
        self.begin(None, 0.0)

    def begin(self, delivery: Delivery | None, now: float) -> None:
        self.delivery = delivery
        self.started = now
        self.inside = False  # the handler itself is at work: only then may it be cancelled
        self.stopped_by: Literal["", "timeout", "lost", "drain"] = ""  # who cancelled the handler, and why
        self.stopped_at = now
        self.settled = False  # it ran on past timeout and grace: the sweeper has settled the message
        self.mentioned = False


class Slots:
    """A buffer and ``concurrency`` tasks that empty it.

    A task per message costs a third of the throughput, and so does a timer per message: tasks live long,
    and one sweeper looks for handlers that have run too long. The tasks stand outside any task group,
    whose cancellation would spin for ever on a handler that swallows it.
    """

    def __init__(self, invocation: Invocation, state: State, failing: Failing) -> None:
        self.invocation = invocation
        self.buffer: deque[Delivery] = deque()
        self._handler = invocation.handler
        self._state = state
        self._failing = failing
        self._slots = [Slot() for _ in range(self._handler.concurrency)]
        self._extra: list[Slot] = []  # runs a suspect while all others wait
        self._parked: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._closed = False
        state.gate.when_opened(self.wake)

    def start(self) -> list[asyncio.Task[None]]:
        """Start the tasks and return them; they must not end by themselves."""
        for slot in self._slots:
            slot.task = asyncio.create_task(self._slot_loop(slot), name=f"slot-{self._handler.name}")
        self._sweeper = asyncio.create_task(self._sweep_loop(), name=f"sweeper-{self._handler.name}")
        return [self._sweeper, *(slot.task for slot in self._slots if slot.task is not None)]

    def add(self, delivery: Delivery) -> None:
        """Buffer a delivery; ``wake`` is called after the last of a batch."""
        self.buffer.append(delivery)

    def wake(self) -> None:
        """Let parked slots look again whether they may start something."""
        for _ in range(min(len(self.buffer), len(self._parked))):
            parked = self._parked.popleft()
            if not parked.done():
                parked.set_result(None)

    def run_alone(self, delivery: Delivery, over: Callable[[], None]) -> None:
        """Run a suspect; the gate is closed and nothing else runs. ``over`` is called when it has ended.

        ``delivery.alone`` tells the same, and also when it is reported stuck.
        """
        if self._closed:  # claimed as the drain began: to be handed back with what was never started
            delivery.alone = False
            self.buffer.append(delivery)
            return over()
        slot = Slot()
        self._extra.append(slot)
        slot.task = asyncio.create_task(self._run_alone(slot, delivery, over), name=f"alone-{self._handler.name}")
        return None

    @property
    def running(self) -> list[Slot]:
        """The slots in which a handler runs, stuck ones included."""
        return [slot for slot in (*self._slots, *self._extra) if slot.delivery is not None]

    def lose(self, delivery: Delivery, to: str | None) -> None:
        """Another consumer owns the entry, or nobody: it must not be started, and is not settled here.

        What runs is cancelled only if another consumer owns it; what has vanished runs on.
        """
        if delivery in self.buffer:
            self.buffer.remove(delivery)
            self._state.flight.remove(delivery)
            self._state.counts.lost += 1
        elif to is not None:
            for slot in self.running:
                if slot.delivery is delivery:
                    log.warning("lease.lost", handler=self._handler.name, message_id=delivery.origin.decode(), to=to)
                    self._stop(slot, "lost")

    def close(self) -> list[Delivery]:
        """Start nothing more; returns what was never started, and what the drain cancelled meanwhile."""
        self._closed = True
        unstarted = list(self.buffer)
        self.buffer.clear()
        return unstarted

    def cancel_running(self) -> None:
        """The drain's limit: what can be cancelled is, and is handed back."""
        for slot in self.running:
            self._stop(slot, "drain")

    def end(self, crashed: bool = False) -> None:
        """Cancel the tasks; stuck ones are left behind, unless the worker crashed."""
        self._closed = True
        for slot in (*self._slots, *self._extra):
            if slot.task is not None and (crashed or slot.delivery is None):
                slot.task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _slot_loop(self, slot: Slot) -> None:
        buffer, gate, lease = self.buffer, self._state.gate, self._state.lease
        waited = monotonic()
        while not self._closed:
            now = monotonic()
            if not buffer or gate.closed or not lease.holds(now):
                parked = asyncio.get_running_loop().create_future()
                self._parked.append(parked)
                await parked
                waited = monotonic()
                continue
            if now - waited > _SPELL:  # handlers that never wait would keep the loop for the whole buffer
                await asyncio.sleep(0)
                waited = monotonic()
                continue
            slot.begin(buffer.popleft(), now)
            gate.running += 1
            await self._occupy(slot)

    async def _run_alone(self, slot: Slot, delivery: Delivery, over: Callable[[], None]) -> None:
        slot.begin(delivery, monotonic())
        self._state.gate.running += 1
        try:
            await self._occupy(slot)
        finally:
            delivery.alone = False
            self._extra.remove(slot)
            over()

    async def _occupy(self, slot: Slot) -> None:
        """Handle the slot's message, whatever happens."""
        delivery = slot.delivery
        assert delivery is not None
        try:
            await self._handle(slot, delivery)
        finally:
            if slot.settled:
                log.warning("handler.unstuck", handler=self._handler.name, seconds=round(monotonic() - slot.started))
            else:
                self._state.gate.leave()
            slot.delivery = None

    async def _handle(self, slot: Slot, delivery: Delivery) -> None:
        invocation, handler, state = self.invocation, self._handler, self._state
        fields = delivery.fields
        size = len(fields[1]) if len(fields) == 2 else size_of(fields, handler.body)
        if size > state.group.max_body:
            error = UndecodableBody(f"the body has {size} bytes, more than the {state.group.max_body} of max_body")
            return await self._failing.failed(handler, delivery, "undecodable", error)
        if handler.max_age is not None and (outcome := too_old(handler, state.age(delivery))) is not None:
            return self._failing.carry_out(handler, delivery, outcome)
        body: object = None
        if invocation.decode is not None:
            try:
                body = invocation.decode(fields)
            except UndecodableBody as exc:
                return await self._failing.failed(handler, delivery, "undecodable", exc)
        settling = state.settling
        if handler.ack == "before" and settling is not None:
            if not await settling.ack_first(delivery):
                return None
            slot.started = monotonic()  # the wait for the ack is not the handler's
        message = state.message(handler, delivery) if invocation.wants_message else None
        context = copy_context()
        context.run(current.set, InHand(handler.name, state.group.stream, state.group.name, delivery))
        failed: tuple[FailureKind, BaseException] | None = None
        slot.inside = True
        try:
            await in_context(context, invocation.call(body, message))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            ending = self._closed and not slot.stopped_by and slot.task is not None and slot.task.cancelling()
            if ending and isinstance(exc, asyncio.CancelledError):
                raise  # the end of the worker, not the handler's
            failed = ("error", exc.with_traceback(users_part(exc.__traceback__)))
        finally:
            slot.inside = False
        return await self._over(slot, delivery, failed)

    async def _over(self, slot: Slot, delivery: Delivery, failed: tuple[FailureKind, BaseException] | None) -> None:
        """The handler ended: see who ended it, and have it settled."""
        if slot.task is not None and slot.task.cancelling():
            await uncancel(slot.task)
        if slot.settled:  # the sweeper was faster
            return
        if slot.stopped_by == "timeout":
            error = TimeoutError(f"ran longer than {self._handler.timeout:g} s")
            if failed is not None and not isinstance(failed[1], asyncio.CancelledError):
                error.__cause__ = failed[1]
            failed = ("timeout", error)
        elif slot.stopped_by and failed is not None:
            if slot.stopped_by == "lost":
                self._forget(delivery)
            else:
                self.buffer.append(delivery)  # drain: to be handed back with what was never started
            return
        if failed is not None:
            await self._failing.failed(self._handler, delivery, *failed)
        elif self._state.settling is None or self._handler.ack == "before":
            self._state.flight.remove(delivery)
            self._state.counts.acked += 1
        else:
            self._state.settling.done(delivery)

    def _stop(self, slot: Slot, by: Literal["timeout", "lost", "drain"]) -> None:
        """Cancel the handler in a slot once. A thread cannot be stopped: it is left to end by itself."""
        if slot.inside and not slot.stopped_by and self.invocation.is_async and slot.task is not None:
            slot.stopped_by = by
            slot.stopped_at = monotonic()
            slot.task.cancel()

    async def _sweep_loop(self) -> None:
        """Look for handlers that have run too long."""
        timeout = self._handler.timeout
        pause = 1.0 if timeout is None else min(1.0, max(0.02, timeout / 20))
        while True:
            await asyncio.sleep(pause)
            now = monotonic()
            for slot in self.running:
                if not slot.inside:  # on_failure is asked, or an ack comes first
                    continue
                age = now - slot.started
                if timeout is not None and age >= timeout:
                    self._stop(slot, "timeout")
                    if age >= timeout + _GRACE and not slot.settled and slot.stopped_by != "lost":
                        self._settle_stuck(slot, age)
                elif slot.stopped_by == "lost" and now - slot.stopped_at >= _GRACE and not slot.settled:
                    self._report_stuck(slot, age)
                    self._forget(slot.delivery)
                elif age >= _LONG and not slot.mentioned:
                    slot.mentioned = True
                    self._state.counts.slow += 1
                    log.warning("handler.slow", handler=self._handler.name, seconds=round(age))

    def _report_stuck(self, slot: Slot, age: float) -> None:
        """It does not end: the others go on without its slot, and isolation does not wait for it."""
        slot.settled = True
        if slot.delivery is not None:
            slot.delivery.alone = False
        self._state.gate.leave()
        self._state.counts.stuck += 1
        log.error("handler.stuck", handler=self._handler.name, seconds=round(age), stream=self._state.group.stream)

    def _forget(self, delivery: Delivery | None) -> None:
        """Somebody else owns it."""
        if delivery is not None:
            self._state.flight.remove(delivery)
            self._state.counts.lost += 1

    def _settle_stuck(self, slot: Slot, age: float) -> None:
        """It runs on past timeout and grace: its message is settled as failed."""
        delivery = slot.delivery
        assert delivery is not None
        self._report_stuck(slot, age)
        why = "did not end when it was cancelled" if self.invocation.is_async else "a thread cannot be stopped"
        error = TimeoutError(f"ran longer than {self._handler.timeout:g} s, and {why}")
        # Beside the sweeper: on_failure may take its time, and other handlers run out of theirs meanwhile.
        aside = asyncio.create_task(self._failing.failed(self._handler, delivery, "timeout", error))
        self._asides.add(aside)
        aside.add_done_callback(self._asides.discard)
