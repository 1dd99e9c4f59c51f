"""A consumer: this process as one member of one group, from reading to settling."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from streamworker.acquirer import Acquirer
from streamworker.broker import Broker, Dead
from streamworker.errors import BrokerError, GroupMissing
from streamworker.failing import Failing
from streamworker.flight import Counts, Flight
from streamworker.gate import Gate
from streamworker.handler import Group
from streamworker.heartbeat import Membership
from streamworker.invocation import Routes
from streamworker.isolation import Isolation
from streamworker.lease import Lease
from streamworker.logs import clean, log
from streamworker.message import Delivery
from streamworker.meter import GroupMeter
from streamworker.outage import Outages, pauses
from streamworker.report import MOST_TOLD, Report
from streamworker.seen import Seen
from streamworker.settling import Settling
from streamworker.slots import Slots
from streamworker.state import State

if TYPE_CHECKING:
    from streamworker.tracing import Tracing

MAX_REPLY: Final = 16 * 2**20
_LOOK: Final = 0.02  # seconds between two looks at what still runs, while draining
_RELEASE_PAUSES: Final = (0.4, 2.0)  # seconds between two tries to hand back, with jitter down to half of that
_LAST: Final = 0.5  # seconds for each step after the drain's limit


class Consumer:
    """Puts the parts of one group together, starts them, and drains them.

    Args:
        group: the handlers.
        broker: where the stream is.
        me: the consumer name of this process.
        gate: shared by all consumers of the process.
        outages: likewise.
        process: what heartbeats say about the process.
        tracing: makes the spans; None where there are none.
    """

    def __init__(  # noqa: PLR0913  (most of it is what the consumers of a process share)
        self, group: Group, broker: Broker, me: str, gate: Gate, outages: Outages, process: Report, *,
        tracing: Tracing | None = None,
    ) -> None:  # fmt: skip
        self.group = group
        self.lease = Lease(group.lease)
        self.membership = Membership(group.stream, group.name, me, self.lease, self._report)
        self._process = process
        self.counts = Counts()
        self._reader = broker.reader(group, me, MAX_REPLY)
        self._settler = broker.settler(group, me)
        keys = (self._reader.stream_key, self._reader.retry_key)
        self.flight = Flight(keys, group.concurrency, group.prefetch)
        self._settling = Settling(self._settler, self.flight, self.counts, group, outages)
        spans = None if tracing is None else tracing.of(group, me)
        state = State(group, me, self.lease, gate, self.flight, self._settling, self.counts, spans)
        self._state = state
        self._routes = Routes(group)
        self._failing = Failing(state)
        self._slots = {one.handler.type: Slots(one, state, self._failing) for one in self._routes.invocations}
        isolation = Isolation(
            state, self._reader, self._routes, self._slots, self._failing,
            lambda: self.membership.on_duty(state.clock.now()),
        )  # fmt: skip
        self.acquirer = Acquirer(state, self._reader, isolation, self, outages)
        self._acquiring: asyncio.Task[None] | None = None
        self._settle_task: asyncio.Task[None] | None = None
        self._maybe_released = 0
        self._release_pauses = pauses(*_RELEASE_PAUSES)
        self._release_due = 0.0

    async def replaces(self, name: str) -> None:
        """Mark the consumer ``name`` as certainly dead: its supervisor saw it end."""
        try:
            await self._reader.mark_dead(name)
        except BrokerError:
            return  # its lease will tell, later
        self.membership.marked_dead(name)

    def start(self) -> list[asyncio.Task[None]]:
        """Start working; returns the tasks that must not end by themselves."""
        working = [task for slots in self._slots.values() for task in slots.start()]
        self._acquiring = asyncio.create_task(self.acquirer.acquire_loop(), name=f"acquirer-{self.group}")
        self._settle_task = asyncio.create_task(self._settling.settle_loop(), name=f"settling-{self.group}")
        return [*working, self._acquiring, self._settle_task]

    def wake(self) -> None:
        """The lease was renewed: what waited for it may start."""
        for slots in self._slots.values():
            slots.wake()

    async def drain(self, deadline: float) -> bool:
        """Stop reading, hand back what has not started, finish what runs, settle it, leave the group.

        Args:
            deadline: on the monotonic clock; then what still runs is cancelled and handed back.

        Returns:
            False if the deadline cut something short, or something is left running or unsettled.
        """
        self.acquirer.drain()
        unstarted: list[Delivery] = []
        while True:
            if self._acquiring is not None and self._acquiring.done():
                self.crash()  # the program around us ends and has cancelled our tasks: nothing can be settled
                return False
            await self._release(unstarted, deadline)
            if monotonic() >= deadline or not (self._running() or unstarted or not self.acquirer.drained):
                break
            await asyncio.sleep(_LOOK)
        in_time = not self._running()
        if not in_time:
            await self._cancel()
            self._release_due = 0.0
            await self._release(unstarted, monotonic() + _LAST)
        stuck = self._running()
        await self._flush(max(_LAST, deadline - monotonic()))
        await self._end()
        await self._release(unstarted, monotonic() + _LAST)  # what the last audit brought in
        await self._release_strays()
        if stuck or len(self.flight):
            group = self.group
            log.warning(
                "drain.incomplete", stream=group.stream, group=group.name, running=stuck, unsettled=len(self.flight)
            )
            return False
        return in_time

    def measure(self) -> None:
        """Measure messages from now on, for metrics that are served; heartbeats say so."""
        self._process = replace(self._process, http=True)
        self._state.meter = self._settling.meter = GroupMeter(self._state.clock)
        for slots in self._slots.values():
            slots.measure(self._state.meter)

    def seen(self) -> Seen:
        """What an onlooker sees, from another thread."""
        return Seen(self.group, self.counts, len(self.flight), tuple(self._slots.values()), self._state.meter,
                    self.acquirer.progress, self.acquirer.paused, self.acquirer.joined, self.membership)  # fmt: skip

    def _report(self) -> Report:
        """What heartbeats tell; called in their thread, while the slots go on."""
        now = monotonic()
        running = [
            (slot.started, delivery, slots.invocation.handler.name)
            for slots in self._slots.values()
            for slot in slots.running
            if (delivery := slot.delivery) is not None
        ]
        running.sort(key=itemgetter(0))
        longest = tuple(
            (clean(delivery.origin.decode(errors="replace"), 50), name, round(now - started, 3))
            for started, delivery, name in running[:MOST_TOLD]
        )
        return replace(self._process, at=self._state.clock.now(), running=len(running), longest=longest)

    def _running(self) -> int:
        return sum(len(slots.running) for slots in self._slots.values())

    async def _release(self, unstarted: list[Delivery], deadline: float) -> None:
        """Hand back what is buffered now and what could not be handed back before."""
        for slots in self._slots.values():
            unstarted += slots.close()
        if not unstarted or monotonic() < self._release_due:
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                released = await self._settler.release(unstarted)
        except GroupMissing:
            released = 0  # nothing is pending any more; who makes the group again is given all of it
        except (BrokerError, TimeoutError):
            self._maybe_released = len(unstarted)
            self._release_due = monotonic() + next(self._release_pauses)
            return  # the server is away
        # What is not ours any more was handed back by the last try, if its reply was lost.
        released += min(self._maybe_released, len(unstarted) - released)
        self._maybe_released = 0
        self.counts.released += released
        self.counts.lost += len(unstarted) - released
        for delivery in unstarted:
            self.flight.remove(delivery)
        log.info("messages.released", stream=self.group.stream, group=self.group.name, messages=released)
        unstarted.clear()

    async def _release_strays(self) -> None:
        """Hand back what is pending here and was never seen: a reply was lost, and no audit came after it."""
        if self._acquiring is None or not self._acquiring.done():
            return  # its connection is in use
        with suppress(BrokerError, TimeoutError):  # the server is away: they are claimed when the lease is over
            async with asyncio.timeout(_LAST):
                own = await self._reader.own()
                strays = [Delivery(*name, name[1], [], own[name]) for name in own if self.flight.get(name) is None]
                if strays:
                    self.counts.released += await self._settler.release(strays)

    async def _cancel(self) -> None:
        """At the drain's limit: cancel what can be cancelled, which is then handed back."""
        for slots in self._slots.values():
            slots.cancel_running()
        end = monotonic() + _LAST
        while self._running() and monotonic() < end:
            await asyncio.sleep(_LOOK)

    async def _flush(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._settling.flushed()
        except TimeoutError:
            pass  # what is not settled stays in flight, and is counted below

    async def _end(self) -> None:
        self.acquirer.end()
        for slots in self._slots.values():
            slots.end()
        tasks = [task for task in (self._acquiring, self._settle_task) if task is not None]
        try:
            async with asyncio.timeout(_LAST):
                await asyncio.wait(tasks[:1])
        except TimeoutError:
            pass  # in the middle of a call to a server that does not answer
        for task in tasks:
            task.cancel()

    def crash(self) -> None:
        """Cancel everything; what is in flight stays pending, and others will claim it."""
        for slots in self._slots.values():
            slots.end(crashed=True)
        for task in (self._acquiring, self._settle_task):
            if task is not None:
                task.cancel()

    async def leave(self) -> None:
        """After the last heartbeat: delete the own consumer if nothing is pending, and close."""
        with suppress(BrokerError, TimeoutError):  # the others will see it dead and delete it
            async with asyncio.timeout(2 * _LAST):
                await self._reader.leave()
        await self._reader.close()

    def accept(self, deliveries: list[Delivery]) -> None:
        """Take deliveries that are in flight now, and start what may start."""
        if self._routes.for_all is not None:
            self._slots[self._routes.for_all.handler.type].add(deliveries)
            return self.wake()
        for delivery in deliveries:
            invocation = self._routes.find(delivery.fields)
            if invocation is None:
                self._failing.unrouted(delivery)
            else:
                self._slots[invocation.handler.type].add([delivery])
        return self.wake()

    def buffered(self) -> int:
        """How many deliveries wait for a slot."""
        return sum(len(slots.buffer) for slots in self._slots.values())

    def dead(self) -> tuple[Dead, ...]:
        """The dead consumers of the group, as the heartbeat sees them."""
        return self.membership.dead

    def lose(self, delivery: Delivery, owner: str | None) -> None:
        """A delivery is not pending for us any more; ``owner`` is who has it now."""
        if owner is not None:
            self._settling.taken(delivery)
        for slots in self._slots.values():
            slots.lose(delivery, owner)
