"""Isolation: suspects run one at a time while nothing else runs in the process, or are dead-lettered.

A crash counts for everything the process held, so a count alone convicts innocents. What ran alone when
its process died is guilty for certain; only then is it dead-lettered for dead workers.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from streamworker.broker import GroupReader, Suspect
from streamworker.failing import Failing
from streamworker.gate import Gate
from streamworker.handler import Group
from streamworker.invocation import Routes
from streamworker.logs import Suppressor, log
from streamworker.message import Delivery
from streamworker.slots import Slots
from streamworker.state import State
from streamworker.verdicts import Outcome

_SUSPECT_FROM: Final = 3
_STEP: Final = 0.25  # seconds the acquirer waits at most in one step
_SPELL: Final = 1.0  # seconds of suspects in a row, while everything else waits; then it has its turn


def suspect_from(group: Group) -> int:
    """The delivery number from which an entry of a dead consumer is a suspect."""
    return min(_SUSPECT_FROM, *(handler.max_deliveries for handler in group.handlers))


class Isolation:
    """Steps taken by the acquirer, on its connection and in its turn."""

    def __init__(
        self, state: State, reader: GroupReader, routes: Routes, slots: dict[str | None, Slots], failing: Failing
    ):
        self.suspect: Suspect | None = None
        self.tried: Suspect | None = None  # the last one that was claimed, or was found gone
        self._state = state
        self._gate: Gate = state.gate
        self._reader = reader
        self._routes = routes
        self._slots = slots
        self._failing = failing
        self._highest = max(handler.max_deliveries for handler in state.group.handlers)
        self._alone: Delivery | None = None
        self._marked = False  # the server has it that a suspect runs here alone, or may have it
        self._given_up = False
        self._since: float | None = None  # the gate is closed since then
        self._spell: float | None = None  # suspects run since then
        self._quiet = Suppressor()
        self._patience = state.lease.seconds
        self._not_before = 0.0

    @property
    def reserved(self) -> int:
        """Room to be left for the next suspect: behind a closed gate nothing that is held would make any."""
        waiting = self.suspect is not None and monotonic() >= self._not_before
        return 1 if waiting or self.waiting else 0

    @property
    def waiting(self) -> bool:
        """Whether the gate is closed for a suspect that has not been claimed yet: nothing that is held makes room."""
        return self._since is not None

    async def step(self) -> bool:
        """Go on; True says that nothing should be read meanwhile, and that a turn is due for the next suspect."""
        if self._alone is not None:
            await self._see_it_end(self._alone)
            return True
        await self.unmark()
        now = monotonic()
        if self.suspect is None or not self._may_go_on(now):
            self.stop()
            return False
        if not self._gate.close(self):
            return False  # another group of this process has its turn
        if self._since is None:
            self._since = now
        if not await self._gate.silence(_STEP):
            if now - self._since > self._patience:
                # Work on for as long as was waited: a long handler must not hold up everything else.
                self.stop()
                self._not_before = now + self._patience
                self._patience *= 2
            return True
        if self._spell is None:
            self._spell = monotonic()
        await self._claim(self.suspect)
        if self._alone is None:
            self._take_turns()
        return True

    async def _see_it_end(self, alone: Delivery) -> None:
        if alone.alone:
            await self._gate.silence(_STEP)
        if not alone.alone:
            self._alone = None
            self.suspect = None
            self._take_turns()

    def _may_go_on(self, now: float) -> bool:
        # Once the gate is closed nothing ends, so the window shrinks; what was kept for the suspect is still its.
        room = self.waiting or self._state.flight.room >= 1
        return room and now >= self._not_before and self._state.lease.holds(now)

    async def unmark(self) -> None:
        """Nothing runs alone any more: others may start only when the server knows, or the last one is held guilty.

        Its ack may still be under way, and a claim whose reply was lost is found by the audit.
        """
        if self._marked and self._alone is None:
            await self._reader.unmark()
            self._marked = False

    def _take_turns(self) -> None:
        """After a spell of suspects the rest has the process for as long: 100,000 suspects must not stop it for hours.

        The next step opens the gate, once the server knows that nothing runs alone.
        """
        now = monotonic()
        if self._spell is not None and now - self._spell >= _SPELL:
            self._not_before = now + min(now - self._spell, self._state.lease.seconds)
            self._spell = None

    def give_up(self) -> None:
        """The server is in trouble: what this worker holds may go on, once no suspect runs."""
        self.suspect = None
        if self._alone is None:
            self.stop()
        else:
            self._given_up = True

    def _over(self) -> None:
        """The suspect ended; while the server is in trouble no step is taken that would open the gate."""
        if self._given_up:
            self._given_up = False
            self._alone = None
            self.stop()

    def stop(self) -> None:
        """Give the gate back."""
        self._since = self._spell = None
        self._gate.open(self)

    async def _claim(self, suspect: Suspect) -> None:
        self.suspect, self.tried = None, suspect
        self._marked = True
        convicted = await self._reader.claim_alone(suspect, self._highest)
        if convicted is None:
            return  # another worker was faster, or it was trimmed
        self._patience = self._state.lease.seconds
        delivery = convicted.delivery
        if delivery is None:
            return self._state.trimmed.count(pending=1)
        if not self._state.flight.add(delivery):
            return  # an older run of it is not settled yet
        self._state.counts.claimed += 1
        self._state.counts.delivered += 1
        invocation = self._routes.find(delivery.fields)
        if invocation is None:
            self._failing.unrouted(delivery)
        elif convicted.guilty and convicted.count >= invocation.handler.max_deliveries:
            reason = f"its worker died {convicted.count} times, the last time while it ran alone"
            kept = invocation.handler.dead_letter
            self._failing.carry_out(invocation.handler, delivery, Outcome("dead-letter" if kept else "drop", reason))
        else:
            self._tell(delivery)
            delivery.alone = True
            self._alone = delivery
            self._slots[invocation.handler.type].run_alone(delivery, self._over)

    def _tell(self, delivery: Delivery) -> None:
        left_out = self._quiet.left_out(None)
        if left_out is not None:
            log.warning(
                "suspect.runs_alone", stream=self._state.group.stream, group=self._state.group.name,
                message_id=delivery.origin.decode(errors="replace"), deliveries=delivery.deliveries,
                **({"left_out": left_out} if left_out else {}),
            )  # fmt: skip
