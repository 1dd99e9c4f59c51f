"""A broadcast: a handler that gets every entry of a stream, in every worker, at most once."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from streamworker.broker import Broker
from streamworker.consumer import MAX_REPLY
from streamworker.errors import BrokerError
from streamworker.failing import Failing
from streamworker.flight import Counts, Flight
from streamworker.gate import Gate
from streamworker.handler import Group, Start
from streamworker.invocation import Routes
from streamworker.lease import Lease
from streamworker.meter import GroupMeter
from streamworker.outage import Outages, pauses
from streamworker.seen import Seen
from streamworker.slots import Slots
from streamworker.state import Progress, State

if TYPE_CHECKING:
    from streamworker.tracing import Tracing

_BLOCK: Final = 0.5
_CHECK: Final = 2.0  # seconds between two looks whether the stream began anew
_LOOK: Final = 0.02
_LAST: Final = 0.5


class Broadcast:
    """Reads on from the last id it saw, which it keeps over reconnects; nothing is acked or retried."""

    def __init__(
        self, group: Group, broker: Broker, me: str, gate: Gate, outages: Outages, tracing: Tracing | None = None
    ) -> None:
        self.group = group
        self.counts = Counts()
        self.progress = Progress()
        self.idle_since: float | None = None
        self._reader = broker.broadcaster(group, MAX_REPLY)
        self.flight = Flight((group.stream.encode(),), group.concurrency, None)
        lease = Lease(group.lease)
        lease.renew(float("inf"))  # nobody else takes over what is everybody's
        lease.audited(lease.lapses)
        spans = None if tracing is None else tracing.of(group, me)
        self.state = state = State(group, me, lease, gate, self.flight, None, self.counts, spans)
        (invocation,) = Routes(group).invocations
        self._kind = group.handlers[0].type
        self._slots = Slots(invocation, state, Failing(state))
        self._outages = outages
        self._start: Start | None = group.start
        self._located = False
        self._check_due = 0.0
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> list[asyncio.Task[None]]:
        """Start working; returns the tasks that must not end by themselves."""
        working = self._slots.start()
        self._reading = asyncio.create_task(self._read_loop(), name=f"broadcast-{self.group.stream}")
        return [*working, self._reading]

    async def drain(self, deadline: float) -> bool:
        """Stop reading and finish what runs and what is buffered; at the deadline cancel it."""
        self._stopping = True
        while len(self.flight) and monotonic() < deadline:
            await asyncio.sleep(_LOOK)
        in_time = not len(self.flight)
        self.counts.dropped += len(self._slots.close())
        self._slots.cancel_running()
        end = monotonic() + _LAST
        while self._slots.running and monotonic() < end:
            await asyncio.sleep(_LOOK)
        self._slots.end()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=2 * _BLOCK)
            self._reading.cancel()
        await self._reader.close()
        return in_time

    def measure(self) -> None:
        """Measure messages from now on."""
        self.state.meter = GroupMeter(self.state.clock)
        self._slots.measure(self.state.meter)

    def seen(self) -> Seen:
        """What an onlooker sees, from another thread."""
        return Seen(self.group, self.counts, len(self.flight), (self._slots,), self.state.meter, self.progress,
                    False, self._located, None)  # fmt: skip

    def crash(self) -> None:
        """Cancel everything."""
        self._slots.end(crashed=True)
        if self._reading is not None:
            self._reading.cancel()

    async def _read_loop(self) -> None:
        waits = pauses()
        while not self._stopping:
            self.progress.stepped = monotonic()
            try:
                await self._step()
            except BrokerError as error:
                self.counts.errors[error.kind] += 1
                self._located = False
                self.idle_since = None
                self._outages.began(self, f"{self.group.stream} (broadcast): {error}")
                await self._reader.close()
                await asyncio.sleep(next(waits))
            else:
                waits = pauses()
                self.progress.answered = monotonic()
                self._outages.ended(self)

    async def _step(self) -> None:
        if not self._located or monotonic() >= self._check_due:
            await self._reader.locate(self._start)
            self._start = None  # from now on from the last id seen
            self._located = True
            self._check_due = monotonic() + _CHECK
        await self.flight.wait_for_room(1, _BLOCK)
        room = self.flight.room
        if not room or self._stopping:
            return
        deliveries = await self._reader.read(room, _BLOCK)
        if deliveries:
            self._check_due = monotonic() + _CHECK
            self.idle_since = None
        elif self.idle_since is None and not len(self.flight):
            self.idle_since = monotonic()
        taken = [delivery for delivery in deliveries if self._takes(delivery.fields)]
        for delivery in taken:
            self.flight.add(delivery)
        self.counts.delivered += len(taken)
        if self.state.meter is not None:
            self.state.meter.received(taken)
        self._slots.add(taken)
        self._slots.wake()

    def _takes(self, fields: list[bytes]) -> bool:
        if self._kind is None:
            return True
        return any(fields[at] == b"type" and fields[at + 1] == self._kind.encode() for at in range(0, len(fields), 2))
