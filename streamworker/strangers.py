"""Strangers: entries of the group that consumers of other programs have let lie, which are taken over."""

from __future__ import annotations

from time import monotonic
from typing import Final

from streamworker.broker import Abandoned, Dead, GroupReader, Suspect
from streamworker.message import Delivery
from streamworker.state import State

_LEAST_IDLE: Final = 60.0  # seconds; nobody knows how long another program's handlers run


class Strangers:
    """Other programs have no heartbeat that we know, so their entries are watched one by one.

    An entry is taken over when its owner and count have not changed for a lease of this worker's own clock
    *and* the server says that it was delivered long ago. The idle time alone would be wrong: it is wall-clock
    time, so a step of the server's clock makes everything look old.
    """

    def __init__(self, state: State, reader: GroupReader, suspect_from: int) -> None:
        self._suspects: list[Suspect] = []
        self._state = state
        self._reader = reader
        self._suspect_from = suspect_from
        self._seen: dict[Abandoned, float] = {}

    def restart(self) -> None:
        """Forget since when: nobody has looked, so nobody knows what happened meanwhile."""
        self._seen.clear()
        self._suspects.clear()

    def suspect(self, tried: Suspect | None) -> Suspect | None:
        """The next one to be run alone; not ``tried`` again, of which the next look will tell."""
        if self._suspects and self._suspects[0] == tried:
            del self._suspects[0]
        return self._suspects[0] if self._suspects else None

    async def step(self, room: int) -> list[Delivery]:
        """Look; returns what was taken over, at most ``room``."""
        lease = self._state.lease.seconds
        now = monotonic()
        idle = max(lease, _LEAST_IDLE)
        found = await self._reader.abandoned(idle)
        self._seen = {one: self._seen.get(one, now) for one in found}
        ripe = [one for one, since in self._seen.items() if now - since >= lease]
        self._suspects = [
            Suspect(one.entry, Dead(one.owner, b""), (one.count, idle))
            for one in ripe
            if one.count + 1 >= self._suspect_from
        ]
        wanted = [one for one in ripe if one.count + 1 < self._suspect_from][:room]
        if not wanted:
            return []
        claimed, trimmed = await self._reader.claim_abandoned(wanted)
        self._state.trimmed.count(pending=trimmed)
        self._state.counts.claimed += len(claimed)
        return claimed
