"""Slots: the long-lived tasks that run one handler's messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import copy_context
from time import monotonic
from typing import Any, Final, TypeAlias

from streamworker.body import size_of
from streamworker.coroutine import ENDED, first_step, further_steps, uncancel, users_part
from streamworker.decide import too_old
from streamworker.errors import UndecodableBody
from streamworker.failing import Failing
from streamworker.invocation import Invocation
from streamworker.logs import current, log
from streamworker.message import Delivery
from streamworker.meter import GroupMeter, HandlerMeter
from streamworker.slot import Slot
from streamworker.state import InHand, State
from streamworker.sweeper import Sweeper
from streamworker.verdicts import FailureKind

_SPELL: Final = 0.002  # seconds a slot works before it lets the event loop go round

Rest: TypeAlias = Coroutine[Any, Any, None]


class Slots:
    """A buffer and ``concurrency`` tasks that empty it.

    A task per message costs a third of the throughput, and so does a timer per message: tasks live long,
    and one sweeper looks for handlers that have run too long. The tasks stand outside any task group,
    whose cancellation would spin for ever on a handler that swallows it.
    """

    def __init__(self, invocation: Invocation, state: State, failing: Failing) -> None:
        if state.tracing is not None:
            invocation = state.tracing.traced(invocation, self._slot_of)
        self.invocation = invocation
        self.buffer: deque[Delivery] = deque()
        self.succeeded = 0
        self.meter: HandlerMeter | None = None
        self._handler = invocation.handler
        self._where = state.where(invocation.handler)
        self._state = state
        self._failing = failing
        self._acks_first = self._handler.ack == "before" and state.settling is not None
        self._slots = [Slot(invocation.is_async) for _ in range(self._handler.concurrency)]
        self._extra: list[Slot] = []  # runs a suspect while all others wait
        self._parked: deque[asyncio.Future[None]] = deque()
        self._sweeper = Sweeper(invocation, state, failing, lambda: self.running)
        self._closed = False
        state.gate.when_opened(self.wake)

    def measure(self, group: GroupMeter) -> None:
        """Measure the runs from now on."""
        self.meter = HandlerMeter(group)

    def start(self) -> list[asyncio.Task[None]]:
        """Start the tasks and return them; they must not end by themselves."""
        for slot in self._slots:
            slot.task = asyncio.create_task(self._slot_loop(slot), name=f"slot-{self._handler.name}")
        return [self._sweeper.start(), *(slot.task for slot in self._slots if slot.task is not None)]

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Buffer deliveries; ``wake`` is called after the last of a batch."""
        self.buffer.extend(deliveries)

    def wake(self) -> None:
        """Let parked slots look again whether they may start something."""
        # One is enough as long as its handlers do not wait; when one does, the slot calls the others.
        self._wake(1)

    def run_alone(self, delivery: Delivery, over: Callable[[], None]) -> None:
        """Run a suspect; the gate is closed and nothing else runs. ``over`` is called when it has ended.

        ``delivery.alone`` tells the same, and also when it is reported stuck.
        """
        if self._closed:  # claimed as the drain began: to be handed back with what was never started
            delivery.alone = False
            self.buffer.append(delivery)
            return over()
        slot = Slot(self.invocation.is_async)
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
            self._forget(delivery)
        elif to is not None:
            for slot in self.running:
                if slot.delivery is delivery:
                    log.warning("lease.lost", **self._where, message_id=delivery.origin.decode(errors="replace"), to=to)
                    slot.stop("lost")

    def close(self) -> list[Delivery]:
        """Start nothing more; returns what was never started, and what the drain cancelled meanwhile."""
        self._closed = True
        unstarted = list(self.buffer)
        self.buffer.clear()
        return unstarted

    def cancel_running(self) -> None:
        """The drain's limit: what can be cancelled is, and is handed back."""
        for slot in self.running:
            slot.stop("drain")

    def end(self, crashed: bool = False) -> None:
        """Cancel the tasks; stuck ones are left behind, unless the worker crashed."""
        self._closed = True
        for slot in (*self._slots, *self._extra):
            if slot.task is not None and (crashed or slot.delivery is None):
                slot.task.cancel()
        self._sweeper.end()

    def _slot_of(self, delivery: Delivery) -> Slot | None:
        return next((slot for slot in self.running if slot.delivery is delivery), None)

    def _wake(self, most: int) -> None:
        for _ in range(min(most, len(self.buffer), len(self._parked))):
            parked = self._parked.popleft()
            if not parked.done():
                parked.set_result(None)

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
            delivery = buffer.popleft()
            slot.begin(delivery, now)
            gate.running += 1
            try:
                rest = self._handle(slot, delivery)
                if rest is not None:
                    self._wake(len(self._slots))
                    await rest
                    waited = monotonic()
            finally:
                self._vacate(slot)

    async def _run_alone(self, slot: Slot, delivery: Delivery, over: Callable[[], None]) -> None:
        slot.begin(delivery, monotonic())
        self._state.gate.running += 1
        try:
            rest = self._handle(slot, delivery)
            if rest is not None:
                await rest
        finally:
            self._vacate(slot)
            delivery.alone = False
            self._extra.remove(slot)
            over()

    def _vacate(self, slot: Slot) -> None:
        if slot.settled:
            log.warning("handler.unstuck", **self._where, seconds=round(monotonic() - slot.started))
        else:
            self._state.gate.leave()
        slot.delivery = None

    # Most handlers of small messages end without waiting for anything, and a coroutine costs as much as they do.
    # So the steps that follow are plain functions, which give what is left to be awaited.

    def _handle(self, slot: Slot, delivery: Delivery) -> Rest | None:
        handler, fields = self._handler, delivery.fields
        size = len(fields[1]) if len(fields) == 2 else size_of(fields, handler.body)
        if size > self._state.group.max_body:
            error = UndecodableBody(
                f"the body has {size} bytes, more than the {self._state.group.max_body} of max_body"
            )
            return self._failing.failed(handler, delivery, "undecodable", error)
        if handler.max_age is not None and (outcome := too_old(handler, self._state.age(delivery))) is not None:
            self._failing.carry_out(handler, delivery, outcome)
            return None
        decode = self.invocation.decode
        try:
            body = None if decode is None else decode(fields)
        except UndecodableBody as exc:
            return self._failing.failed(handler, delivery, "undecodable", exc)
        if self._acks_first:
            return self._call_once_acked(slot, delivery, body)
        return self._call(slot, delivery, body)

    async def _call_once_acked(self, slot: Slot, delivery: Delivery, body: object) -> None:
        settling = self._state.settling
        assert settling is not None
        if await settling.ack_first(delivery):
            slot.started = monotonic()  # the wait for the ack is not the handler's
            rest = self._call(slot, delivery, body)
            if rest is not None:
                await rest

    def _call(self, slot: Slot, delivery: Delivery, body: object) -> Rest | None:
        """Begin the handler."""
        invocation, state = self.invocation, self._state
        message = state.message(self._handler, delivery) if invocation.wants_message else None
        context = copy_context()
        context.run(current.set, InHand(self._handler.name, state.group.stream, state.group.name, delivery))
        slot.inside = True
        try:
            coroutine = invocation.call(body, message)
            awaited = first_step(context, coroutine)
        except BaseException as exc:  # noqa: BLE001  (see _failure)
            return self._over(slot, delivery, self._failure(slot, exc))
        if awaited is not ENDED:
            return self._go_on(slot, delivery, further_steps(context, coroutine, awaited))
        if slot.task is not None and slot.task.cancelling():  # by itself
            return self._over(slot, delivery, None)
        slot.inside = False
        if self.meter is not None:
            self.meter.ended(delivery, slot.started)
        self._succeeded(delivery)
        return None

    async def _go_on(self, slot: Slot, delivery: Delivery, steps: Awaitable[object]) -> None:
        """The handler waits for something: see it to its end."""
        failed = None
        try:
            await steps
        except BaseException as exc:  # noqa: BLE001  (see _failure)
            failed = self._failure(slot, exc)
        await self._over(slot, delivery, failed)

    def _failure(self, slot: Slot, exc: BaseException) -> tuple[FailureKind, BaseException]:
        """What the handler has raised; the end of the worker is not the handler's, and is raised again."""
        ending = self._closed and not slot.stopped_by and slot.task is not None and slot.task.cancelling()
        if isinstance(exc, KeyboardInterrupt) or (ending and isinstance(exc, asyncio.CancelledError)):
            raise exc
        return "error", exc.with_traceback(users_part(exc.__traceback__))

    async def _over(self, slot: Slot, delivery: Delivery, failed: tuple[FailureKind, BaseException] | None) -> None:
        """The handler ended: see who ended it, and have it settled."""
        slot.inside = False
        if self.meter is not None:
            self.meter.ended(delivery, slot.started)
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
        else:
            self._succeeded(delivery)

    def _succeeded(self, delivery: Delivery) -> None:
        self.succeeded += 1
        settling = self._state.settling
        if settling is None or self._acks_first:
            self._state.flight.remove(delivery)
            self._state.counts.acked += 1
        else:
            settling.done(delivery)

    def _forget(self, delivery: Delivery) -> None:
        """Somebody else owns it."""
        self._state.flight.remove(delivery)
        self._state.counts.lost += 1
