"""Settling: everything that is over goes to the server here, gathered, and leaves the flight once it is there."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Final

from streamworker.broker import EntryName, Settlement, Settler
from streamworker.errors import BrokerError, GroupMissing, Unavailable
from streamworker.flight import Counts, Flight
from streamworker.handler import Group
from streamworker.logs import Outage, Suppressor, log
from streamworker.message import Delivery
from streamworker.meter import GroupMeter
from streamworker.outage import Outages, pauses

_MOST_ACKS: Final = 1000
_MOST_SETTLEMENTS: Final = 200
_MOST_BYTES: Final = 2**20
_REFUSED_PAUSES: Final = (1.0, 30.0)
_TELL: Final = 5.0  # seconds between two lines about what is refused; a right that is missing may be missing for days


class Settling:
    """What finished while the last round trip was under way goes in the next one.

    A message is in flight until it is settled: a settlement that is refused is tried again, and what
    fills up the flight meanwhile is the back-pressure.

    Acks are plain, since a success is a success. But while there is a doubt (a connection was lost, the
    group was made again) another worker may own the entry, so acks wait until an audit has listed what is
    still pending here: that is acked, the rest is not.
    """

    def __init__(self, settler: Settler, flight: Flight, counts: Counts, group: Group, outages: Outages) -> None:
        self._settler = settler
        self._outages = outages
        self._flight = flight
        self._counts = counts
        self._group = group
        self._acks_refused = Outage("ack.refused", "ack.accepted", stream=group.stream, group=group.name)
        self._done: deque[Delivery] = deque()
        self._acking = 0
        self._first: dict[EntryName, asyncio.Future[bool]] = {}
        self._failed: deque[Settlement] = deque()
        self._unknown: set[EntryName] = set()  # the reply was lost: settled already, or not
        self._refused: list[Settlement] = []
        self._refused_until = 0.0
        self._refused_pause = 0.0
        self._told = Suppressor(_TELL)
        self._wake = asyncio.Event()
        self._sure = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.meter: GroupMeter | None = None
        self.doubts = 1  # the first audit, right after joining, is one like any other
        self._resolved = 0

    def done(self, delivery: Delivery) -> None:
        """Its handler returned: ack it."""
        self._done.append(delivery)
        self._wake.set()

    async def ack_first(self, delivery: Delivery) -> bool:
        """Ack before the handler runs; False if it is not ours any more. It stays in flight until it is forgotten.

        Fenced, unlike the acks of what was handled: whoever took it over acks it as well, and only one may run it.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._first[delivery.key, delivery.id] = answer
        self.settle(Settlement(delivery))
        return await answer

    def settle(self, settlement: Settlement) -> None:
        """Its handler failed: retry it, dead-letter it or drop it, if it is still ours."""
        self._failed.append(settlement)
        self._wake.set()

    def doubt(self) -> None:
        """Somebody else may own by now what is pending here; the acquirer is to audit."""
        self.doubts += 1
        self._sure.clear()

    def taken(self, delivery: Delivery) -> None:
        """Another consumer has it now, so nothing that was under way about it was carried out."""
        self._unknown.discard((delivery.key, delivery.id))

    @property
    def in_doubt(self) -> bool:
        return self._resolved != self.doubts

    @property
    def acking(self) -> bool:
        """Whether acks are on their way, so that there will be more room in a moment."""
        return bool(self._acking or self._done)

    def audited(self, own: dict[EntryName, int], doubts: int) -> None:
        """An audit that began after doubt number ``doubts`` lists what is pending here."""
        for delivery in [delivery for delivery in self._done if (delivery.key, delivery.id) not in own]:
            self._done.remove(delivery)
            self._flight.remove(delivery)
            if self._was_unknown(delivery):
                self._counts.acked += 1
            else:
                self._counts.lost += 1
        self._resolved = doubts
        if not self.in_doubt:
            self._sure.set()

    async def flushed(self) -> None:
        """Wait until everything that is over is settled."""
        while self._done or self._failed or not self._idle.is_set():
            self._idle.clear()
            self._wake.set()
            await self._idle.wait()

    async def settle_loop(self) -> None:
        """Runs until it is cancelled."""
        waits = pauses()
        while True:
            await self._something()
            await self._sure.wait()
            acks = self._next_acks()
            failed = self._next_failed()
            self._acking = len(acks)
            try:
                answers = await self._settler.settle(acks, failed)
            except Unavailable as error:  # done or not: the audit will tell
                self._counts.errors[error.kind] += 1
                self._outages.began(self, f"{self._group}: {error}")
                self._done.extendleft(reversed(acks))
                self._failed.extendleft(reversed(failed))
                self._unknown.update((one.key, one.id) for one in (*acks, *(one.delivery for one in failed)))
                self.doubt()
                await asyncio.sleep(next(waits))  # audits may go on where writing is refused: they must not pace this
                continue
            finally:
                self._acking = 0
            self._outages.ended(self)
            *results, acked = answers
            for settlement, result in zip(failed, results, strict=True):
                self._take_result(settlement, result)
            if self._take_acked(acks, acked):
                waits = pauses()
            else:
                await asyncio.sleep(next(waits))

    async def _something(self) -> None:
        """Wait until there is something to settle."""
        while True:
            pause = self._refused_until - monotonic() if self._refused else None
            if pause is not None and pause <= 0:
                self._probe()
            if self._done or self._failed:
                break
            if pause is None:
                self._idle.set()
            self._wake.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue
        self._idle.clear()

    def _probe(self) -> None:
        """Try one retry and one dead letter again: a whole flight of them would be refused as well, again and again."""
        for wanted in (False, True):
            found = next((one for one in self._refused if _is_letter(one) is wanted), None)
            if found is not None:
                self._refused.remove(found)
                self._failed.append(found)

    def _next_acks(self) -> list[Delivery]:
        batch = [self._done.popleft() for _ in range(min(_MOST_ACKS, len(self._done)))]
        current = [delivery for delivery in batch if not delivery.superseded]
        self._counts.lost += len(batch) - len(current)
        return current

    def _next_failed(self) -> list[Settlement]:
        batch: list[Settlement] = []
        size = 0
        while self._failed and len(batch) < _MOST_SETTLEMENTS and size < _MOST_BYTES:
            settlement = self._failed.popleft()
            if settlement.delivery.superseded:
                self._take_result(settlement, False)
                continue
            batch.append(settlement)
            size += sum(map(len, settlement.delivery.fields))
        return batch

    def _take_acked(self, acks: list[Delivery], answer: bool | BrokerError) -> bool:
        if not acks:
            return True
        if answer is True or isinstance(answer, GroupMissing):
            self._acks_refused.ended()
            if self._unknown:
                self._unknown.difference_update((delivery.key, delivery.id) for delivery in acks)
            self._flight.remove_all(acks)
            self._counts.acked += len(acks)
            if self.meter is not None:
                self.meter.acked(acks)
            return True
        self._acks_refused.began(str(answer))
        self._done.extend(acks)
        self.doubt()  # some may have been taken: the audit that follows says what is still pending
        return False

    def _take_result(self, settlement: Settlement, result: bool | BrokerError) -> None:
        if isinstance(result, BrokerError) and not isinstance(result, GroupMissing):
            first, longest = _REFUSED_PAUSES
            if monotonic() >= self._refused_until:
                self._refused_pause = min(longest, self._refused_pause * 2 or first)
                self._refused_until = monotonic() + self._refused_pause
                self._tell(result, settlement.delivery)
            settlement.refused = True
            self._refused.append(settlement)
            return
        self._refused_pause = 0.0
        if settlement.refused:  # what it was refused for is over, so the others follow
            self._failed.extend(one for one in self._refused if _is_letter(one) == _is_letter(settlement))
            self._refused = [one for one in self._refused if _is_letter(one) != _is_letter(settlement)]
        delivery = settlement.delivery
        unknown = self._was_unknown(delivery)
        waiting = self._first.pop((delivery.key, delivery.id), None)
        if waiting is not None and result is True:
            delivery.acked = True
            if not waiting.done():
                waiting.set_result(True)
            return  # the handler is about to run
        if waiting is not None and not waiting.done():
            waiting.set_result(False)
        self._flight.remove(delivery)
        lost = result is not True and (waiting is not None or not unknown)
        settlement.over(not lost)
        if lost:
            self._counts.lost += 1
        elif settlement.delay is not None:
            self._counts.retried += 1
        elif settlement.letter is not None:
            self._counts.dead_lettered += 1
            self._counts.causes[settlement.cause] += 1
        else:
            self._counts.dropped += 1

    def _tell(self, reason: object, delivery: Delivery) -> None:
        left_out = self._told.left_out(None)
        if left_out is not None:
            log.error(
                "settlement.refused", stream=self._group.stream, group=self._group.name,
                message_id=delivery.origin.decode(errors="replace"), reason=str(reason),
                **({"left_out": left_out} if left_out else {}),
            )  # fmt: skip

    def _was_unknown(self, delivery: Delivery) -> bool:
        """Whether its settlement was under way when a connection was lost: that it is gone says it was carried out."""
        if not self._unknown:  # as for nearly every message there is
            return False
        name = (delivery.key, delivery.id)
        unknown = name in self._unknown
        self._unknown.discard(name)
        return unknown


def _is_letter(settlement: Settlement) -> bool:
    return settlement.letter is not None
