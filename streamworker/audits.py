"""Audits: what the server lists as pending for this consumer, compared with what is in flight here."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from streamworker.broker import EntryName, GroupReader
from streamworker.message import Delivery
from streamworker.state import State


class Audits:
    """A step of the acquirer, between two reads on its connection.

    A reply that was lost leaves entries pending here that nobody has seen; our own heartbeat protects
    them from everybody else. Only the acquirer brings anything in, so what was in flight before the
    question and what is pending after it can be compared.
    """

    def __init__(self, state: State, reader: GroupReader) -> None:
        assert state.settling is not None
        self.strays = False  # some did not fit: they come first when there is room
        self._state = state
        self._settling = state.settling
        self._reader = reader
        self._due = 0.0
        self._again = 0.0

    def again(self, at: float) -> None:
        """Audit once more when it is ``at``: until then a read of a lost connection may still be served."""
        self._again = at

    def due(self, now: float) -> bool:
        """Whether to audit: every half lease, where something is in doubt, and when strays fit."""
        strays_fit = self.strays and self._state.flight.room > 0
        return now >= self._due or strays_fit or self._settling.in_doubt or self._state.lease.lapsed

    async def run(self, lose: Callable[[Delivery, str | None], None], kept: int) -> list[Delivery]:
        """Audit; ``lose`` is told what is not ours any more, and who owns it.

        Returns strays, to be taken in, which leave ``kept`` of the room free.
        """
        flight, lease = self._state.flight, self._state.lease
        lapses, doubts, began = lease.lapses, self._settling.doubts, monotonic()
        before = flight.names()
        own = await self._reader.own()
        missing = [name for name in before if name not in own and flight.get(name) is not None]
        if missing:
            for name, owner in zip(missing, await self._reader.owners(missing), strict=True):
                delivery = flight.get(name)
                # What has vanished (group destroyed, failover) runs on, unless our lease was over: then
                # another worker may have finished it.
                if delivery is not None and owner != self._state.me and (owner is not None or lease.lapsed):
                    lose(delivery, owner)
        adopted = await self._adopt({name: count for name, count in own.items() if name not in before}, kept)
        self._settling.audited(own, doubts)
        lease.audited(lapses)
        self._due = monotonic() + lease.seconds / 2
        if began < self._again:
            self._due = min(self._due, self._again)
        return adopted

    async def _adopt(self, strays: dict[EntryName, int], kept: int) -> list[Delivery]:
        room = max(0, self._state.flight.room - kept)
        self.strays = len(strays) > room
        if not strays or not room:
            return []
        found, trimmed = await self._reader.fetch(dict(list(strays.items())[:room]))
        self._state.trimmed.count(pending=trimmed)
        self._state.counts.adopted += len(found)
        return found
