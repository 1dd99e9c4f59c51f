"""The acquirer: one task per consumer that brings everything in, one call at a time on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Final, Protocol

from streamworker.audits import Audits
from streamworker.broker import Dead, GroupReader, Left, Turn
from streamworker.errors import AuthFailed, BrokerError, GroupMissing, Unavailable, WrongType
from streamworker.isolation import Isolation, suspect_from
from streamworker.logs import Outage, log
from streamworker.message import Delivery
from streamworker.outage import Outages, pauses
from streamworker.state import Progress, State
from streamworker.strangers import Strangers

_TURN: Final = 0.5  # seconds between turns; pauses, released entries and marked deaths take effect within two
_AT_REST: Final = 0.75  # seconds between turns where nothing is going on, unless the lease is short
_MAX_WAITING: Final = 100_000  # retries; a failing dependency must not turn the whole backlog into copies
_LONGEST_REST: Final = 2.0  # seconds, in trouble while draining
_WRONG_TYPE_PAUSE: Final = 4.0  # seconds; it is looked at again now and then, since somebody may put it right
_AUTH_PAUSE: Final = (5.0, 30.0)
BURST_HORIZON: Final = 60.0  # seconds; a burst waits for retries that are due within


class Desk(Protocol):
    """The rest of the consumer, as the acquirer knows it."""

    def accept(self, deliveries: list[Delivery]) -> None:
        """Take deliveries that are in flight now, and start what may start."""

    def buffered(self) -> int:
        """How many deliveries wait for a slot."""

    def lose(self, delivery: Delivery, owner: str | None) -> None:
        """A delivery is not pending for us any more; ``owner`` is who has it now."""

    def dead(self) -> tuple[Dead, ...]:
        """The dead consumers of the group, as the heartbeat sees them."""


class Acquirer:
    """Turn, read, audit: strictly one after the other.

    Args:
        state: of the consumer.
        reader: its connection.
        isolation: what is done about suspects.
        desk: who takes what is brought in.
        outages: where trouble with the server is told.
    """

    def __init__(
        self,
        state: State,
        reader: GroupReader,
        isolation: Isolation,
        desk: Desk,
        outages: Outages,
    ) -> None:
        assert state.settling is not None
        self._state = state
        self._settling = state.settling
        self._reader = reader
        self._isolation = isolation
        self._desk = desk
        self._outages = outages
        self._failing = Outage("stream.failing", "stream.recovered", stream=state.group.stream, group=state.group.name)
        self._suspect_from = suspect_from(state.group)
        self._audits = Audits(state, reader)
        self._strangers = Strangers(state, reader, self._suspect_from)
        self._strangers_due = 0.0  # not at every reconnect: nothing is ripe before a lease has gone by
        self.progress = Progress()
        self._joined = False
        self._joined_before = False
        self._turn_due = 0.0
        self._pace = _TURN  # seconds between turns now
        self._turn_broken = False
        self._more = False  # another turn would bring more at once
        self._owes_read = False  # the last turn took room: the next belongs to new entries
        self.paused = False
        self._waiting = 0
        self._draining = False
        self._ending = False
        self._stop = asyncio.Event()
        self._drained = False
        self._counted = False  # entries that were trimmed unread, for the last time
        self.burst = False
        self.look: tuple[float, Left] | None = None

    def drain(self) -> None:
        """Bring in nothing more; go on auditing, on which acks may wait. Takes effect when the read is over."""
        self._draining = True
        self._stop.set()

    @property
    def joined(self) -> bool:
        """Whether the group is there, as far as is known."""
        return self._joined

    @property
    def drained(self) -> bool:
        """Whether nothing more can come in: the last read is over, or the server is away."""
        return self._drained or not self._joined

    def end(self) -> None:
        """Let the loop return after the step under way."""
        self._ending = True
        self._stop.set()

    async def acquire_loop(self) -> None:
        """Runs until ``end``; no trouble of the server's ends it."""
        waits: Iterator[float] = pauses()
        while not self._ending:
            self.progress.stepped = monotonic()
            try:
                await self._step()
            except BrokerError as error:
                await self._rest(await self._trouble(error, waits), draining=_LONGEST_REST)
            else:
                waits = pauses()
                if not self._draining:  # which reads nothing, so it tells nothing
                    self._outages.ended(self)
                    self._failing.ended()
        self._isolation.stop()

    async def _step(self) -> None:
        if not self._joined:
            await self._join()
        now = monotonic()
        if self._audits.due(now):
            await self._audit()
        if self._draining:
            return await self._bring_in_nothing()
        if now >= self._turn_due and not self._owes_read and self._state.lease.holds(now):
            if self._state.flight.room or self._isolation.closed:
                await self._turn()
            else:  # the next room is for the turn: reading would leave none for ever
                return await self._state.flight.wait_for_room(1, _TURN)
        if await self._isolation.step():
            self._owes_read = False
            self._turn_due = 0.0 if self._isolation.suspect is None else self._turn_due
            return None
        if self.paused or self._waiting > _MAX_WAITING or not self._state.lease.holds(monotonic()):
            return await self._rest(self._until_turn())  # what may not be started is not brought in either
        return await self._read()

    async def _bring_in_nothing(self) -> None:
        """A step of the drain: the last read is over, and only audits go on."""
        self._isolation.stop()
        self._drained = True
        if not self._counted:
            try:
                self._state.trimmed.count(unread=await self._reader.skipped(), last=True)
            except BrokerError:  # no more than a number: no reason to look for another server
                return await self._rest(_LONGEST_REST, draining=_LONGEST_REST)
            self._counted = True
        return await self._rest(0.05)

    async def _join(self) -> None:
        joined = await self._reader.join(self._state.group.start, self._joined_before)
        if joined.created is not None:
            group = self._state.group
            log.info("group.created", stream=group.stream, group=group.name, at=joined.created, waiting=joined.waiting)
        await self._isolation.unmark()
        self._joined = True
        if self._joined_before:  # the server may not have heard yet that the last connection is gone
            self._audits.again(monotonic() + 2 * _TURN)
        self._joined_before = True
        self._settling.doubt()

    async def _turn(self) -> None:
        state = self._state
        try:
            # What would not start soon may be had by other workers.
            room = 0 if self._isolation.holds_up else self._room()
            turn = await self._reader.turn(room, self._desk.dead(), self._suspect_from)
        except WrongType as error:  # one of our own keys: reading the stream goes on
            if not self._turn_broken:
                log.error("turn.wrong_type", stream=state.group.stream, group=state.group.name, reason=str(error))
            self._turn_broken = True
            self._turn_due = monotonic() + _WRONG_TYPE_PAUSE
            return
        self._turn_broken = False
        self.progress.answered = monotonic()
        state.clock.set(turn.now)
        self._owes_read = bool(turn.retries or turn.claims)
        self._more = turn.more and self._owes_read
        self._pace = max(_TURN, min(_AT_REST, state.lease.seconds / 20)) if self._at_rest(turn) else _TURN
        self._turn_due = 0.0 if self._more else monotonic() + self._pace
        self._take_turn(turn)

    def _at_rest(self, turn: Turn) -> bool:
        """Whether nothing runs here, and nothing waits for the next turn."""
        return not (len(self._state.flight) or turn.waiting or turn.suspect or self._desk.dead() or self.burst)

    def _take_turn(self, turn: Turn) -> None:
        state = self._state
        if turn.paused != self.paused:
            log.info(
                "group.paused" if turn.paused else "group.resumed", stream=state.group.stream, group=state.group.name
            )
        if turn.waiting > _MAX_WAITING >= self._waiting:
            log.warning("retries.too_many", stream=state.group.stream, group=state.group.name, waiting=turn.waiting)
        state.trimmed.count(pending=turn.trimmed)
        self.paused = turn.paused
        self._waiting = turn.waiting
        state.counts.claimed += len(turn.claims)
        if turn.paused:
            self._strangers.restart()
        # What was claimed starts before anything is run alone.
        suspect = turn.suspect or self._strangers.suspect(self._isolation.tried)
        self._isolation.suspect = None if turn.claims else suspect
        self._bring_in(turn.retries + turn.claims)

    async def _read(self) -> None:
        flight = self._state.flight
        # Reading one entry for each that ends would make a round trip per message: a quarter must be free,
        # unless all that is in flight runs: then a message that arrives can start at once.
        least = max(1, flight.window // 4) if self._desk.buffered() or self._settling.acking else 1
        if self._room() < least:
            await flight.wait_for_room(least + self._kept, self._until_turn())
        room = self._room()
        turn_is_next = monotonic() >= self._turn_due and not self._owes_read
        if room == 0 or self._draining or turn_is_next:
            return
        # It waits until then and no longer: reads are never cancelled, which would lose the reply.
        block = 0.0 if self._more else self._until_turn()
        deliveries = await self._reader.read(room, block)
        self.progress.answered = monotonic()
        self._owes_read = False
        self._bring_in(deliveries)
        if self.burst:
            await self._look(nothing=not deliveries)

    def _bring_in(self, deliveries: list[Delivery]) -> None:
        if not deliveries:
            return
        new = self._state.flight.add_all(deliveries)
        self._state.counts.delivered += len(new)
        if self._state.meter is not None:
            self._state.meter.received(new)
        self._desk.accept(new)

    async def _audit(self) -> None:
        adopted = await self._audits.run(self._desk.lose, self._isolation.reserved)
        self._bring_in(adopted)
        self._desk.accept([])  # what was held back may start
        if not self._draining:
            self._state.trimmed.count(unread=await self._reader.skipped())
            if self.paused or not self._state.lease.holds(monotonic()):
                return self._strangers.restart()
            if monotonic() >= self._strangers_due:
                self._strangers_due = monotonic() + self._state.lease.seconds / 2
                self._bring_in(await self._strangers.step(self._room()))

    async def _look(self, nothing: bool) -> None:
        """For a burst: whether anything is left for this group."""
        if not nothing or len(self._state.flight) or self._isolation.suspect is not None:
            self.look = None
        else:
            self.look = (monotonic(), await self._reader.left(BURST_HORIZON))

    @property
    def _kept(self) -> int:
        """Room that nothing new may take: for the next suspect, and for strays that did not fit."""
        return self._isolation.reserved + self._audits.strays

    def _room(self) -> int:
        return max(0, self._state.flight.room - self._kept)

    def _until_turn(self) -> float:
        if self._owes_read or not self._state.lease.holds(monotonic()):
            return _TURN
        return max(0.001, min(self._pace, self._turn_due - monotonic()))

    async def _trouble(self, error: BrokerError, waits: Iterator[float]) -> float:
        """What an error means for this consumer; returns the seconds to wait before the next step."""
        group = self._state.group
        self._state.counts.errors[error.kind] += 1
        self.look = None
        self._joined = False
        self._audits.strays = False
        self._strangers.restart()
        self._settling.doubt()
        self._isolation.give_up()
        if isinstance(error, GroupMissing):  # deleted, flushed, destroyed: join again at the floor
            log.warning("group.missing", stream=group.stream, group=group.name)
            return next(waits)
        if isinstance(error, Unavailable):
            self._outages.began(self, f"{group}: {error}")
        else:  # the server is well, but this stream is not
            self._failing.began(str(error))
        # A server that answers with such an error may have been demoted: look for it anew.
        await self._reader.close()
        if isinstance(error, WrongType):
            return _WRONG_TYPE_PAUSE
        if isinstance(error, AuthFailed):
            return max(_AUTH_PAUSE[0], min(_AUTH_PAUSE[1], next(waits) * 10))
        return next(waits)

    async def _rest(self, seconds: float, draining: float = 0.2) -> None:
        """Wait, or go on at once when told to stop; the first wait after that is cut short, not all."""
        if self._draining or self._ending:
            return await asyncio.sleep(min(seconds, draining))
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass
        return None
