"""Isolation: suspects run one at a time while nothing else runs in the process, or are dead-lettered.

A crash counts for everything the process held, so a count alone convicts innocents. What ran alone when
its process died is guilty for certain; only then is it dead-lettered for dead workers.
"""

from __future__ import annotations

from collections.abc import Callable
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
_SPELL: Final = 1.0  # seconds of suspects in a row; 100,000 of them must not stop everything else for hours


def suspect_from(group: Group) -> int:
    """The delivery number from which an entry of a dead consumer is a suspect."""
    return min(_SUSPECT_FROM, *(handler.max_deliveries for handler in group.handlers))


class Isolation:
    """Steps taken by the acquirer, on its connection and in its turn.

    For as long as the gate was closed it stays open before it is closed again. And not every worker closes it:
    who is not on duty takes a suspect only when nothing runs there, so that the group as a whole goes on.

    Args:
        state: of the consumer.
        reader: its connection.
        routes, slots: what runs the suspects.
        failing: carries out the verdict on the guilty.
        on_duty: whether this worker is one of those who wait for silence.
    """

    def __init__(
        self,
        state: State,
        reader: GroupReader,
        routes: Routes,
        slots: dict[str | None, Slots],
        failing: Failing,
        on_duty: Callable[[], bool],
    ) -> None:
        self.suspect: Suspect | None = None
        self.tried: Suspect | None = None  # the last one that was claimed, or was found gone
        self._state = state
        self._gate: Gate = state.gate
        self._reader = reader
        self._routes = routes
        self._slots = slots
        self._failing = failing
        self._on_duty = on_duty
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
        return 1 if self.closed or (self.suspect is not None and self._may_begin(monotonic())) else 0

    @property
    def closed(self) -> bool:
        """Whether the gate is closed for suspects: nothing that is held makes room, and nothing more may start."""
        return self._since is not None

    @property
    def holds_up(self) -> bool:
        """Whether the gate stays closed until some handler has ended; between two suspects it may open at once."""
        return self.closed and (self.suspect is not None or self._alone is not None)

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
                self._patience *= 2
                self.stop()
            return True
        if self._spell is None:
            self._spell = monotonic()
            # The next ones will have to wait about as long.
            self._patience = max(self._state.lease.seconds, 2 * (self._spell - self._since))
        await self._claim(self.suspect)
        return True

    async def _see_it_end(self, alone: Delivery) -> None:
        if alone.alone:
            await self._gate.silence(_STEP)
        if not alone.alone:
            self._alone = None
            self.suspect = None

    def _may_go_on(self, now: float) -> bool:
        if not self._state.lease.holds(now):
            return False
        if self.closed:  # nothing ends now, so the window shrinks; but what was kept for the suspect is still its
            return self._spell is None or now - self._spell < _SPELL
        return self._state.flight.room >= 1 and self._may_begin(now)

    def _may_begin(self, now: float) -> bool:
        return now >= self._not_before and (self._gate.running == 0 or self._on_duty())

    async def unmark(self) -> None:
        """Nothing runs alone any more: others may start only when the server knows, or the last one is held guilty.

        Its ack may still be under way, and a claim whose reply was lost is found by the audit.
        """
        if self._marked and self._alone is None:
            await self._reader.unmark()
            self._marked = False

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
        """Give the gate back; the others have it for as long now."""
        if self._since is not None:
            now = monotonic()
            self._not_before = now + (now - self._since)
        self._since = self._spell = None
        self._gate.open(self)

    async def _claim(self, suspect: Suspect) -> None:
        self.suspect, self.tried = None, suspect
        self._marked = True
        convicted = await self._reader.claim_alone(suspect, self._highest)
        if convicted is None:
            return  # another worker was faster, or it was trimmed
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
            outcome = Outcome("dead-letter" if kept else "drop", reason, cause="worker_died")
            self._failing.carry_out(invocation.handler, delivery, outcome)
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
