"""What an onlooker sees of one consumer: for metrics and probes, which run in another thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamworker.flight import Counts
from streamworker.handler import Group
from streamworker.heartbeat import Membership
from streamworker.meter import GroupMeter
from streamworker.slots import Slots
from streamworker.state import Progress


@dataclass(frozen=True, slots=True)
class Seen:
    """One consumer or broadcast; nothing in it is to be changed.

    Attributes:
        group: its handlers; the name is empty for a broadcast.
        counts: what became of its deliveries.
        in_flight: how many it holds.
        slots: those of each handler.
        meter: what is measured; None if nothing is.
        progress: when it last got on.
        paused: an operator paused the group.
        joined: whether the group is there, as far as is known.
        membership: its lease; None for a broadcast.
    """

    group: Group
    counts: Counts
    in_flight: int
    slots: Sequence[Slots]
    meter: GroupMeter | None
    progress: Progress
    paused: bool
    joined: bool
    membership: Membership | None

    @property
    def answered(self) -> float | None:
        """When the server last answered, on the monotonic clock; None if it never did."""
        times = [self.progress.answered, self.membership.looked if self.membership is not None else None]
        return max((time for time in times if time is not None), default=None)
