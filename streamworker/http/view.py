"""What the HTTP server knows of the worker beside it, and what that says about its health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from streamworker.broker import Publisher
from streamworker.seen import Seen
from streamworker.trimmer import TrimCounts

_STALLED: Final = 60.0  # seconds; a reading loop rests for half of that at most
_AWAY: Final = 10.0  # seconds without an answer after which a worker is not ready


class Working(Protocol):
    """A worker."""

    name: str
    draining: bool

    @property
    def loop_late(self) -> float: ...

    def measure(self) -> None: ...

    def seen(self) -> list[Seen]: ...

    @property
    def trimmed(self) -> TrimCounts: ...


@dataclass(frozen=True, slots=True)
class View:
    """A worker as its HTTP server sees it, from another thread.

    Attributes:
        worker: the worker.
        publishers: what its apps publish through.
        stuck_after: seconds the event loop may stand still.
    """

    worker: Working
    publishers: Sequence[Publisher]
    stuck_after: float

    def stalled(self) -> list[str]:
        """What makes no progress, so that only a restart helps. Redis being away is not that."""
        late = self.worker.loop_late
        if late > self.stuck_after:
            return [f"the event loop stands still for {late:.0f} s"]
        if self.worker.draining:
            return []
        now = monotonic() - max(0.0, late)  # while the loop stands still nobody gets on
        return [
            f"{one.group} has not got on for {now - stepped:.0f} s"
            for one in self.worker.seen()
            if (stepped := one.progress.stepped) is not None and now - stepped > _STALLED
        ]

    def not_ready(self) -> list[str]:
        """Why messages are not taken in now."""
        if self.worker.draining:
            return ["the worker is draining"]
        now, found = monotonic(), []
        for one in self.worker.seen():
            answered = one.answered
            if answered is None or now - answered > _AWAY:
                found.append(f"{one.group}: Redis does not answer")
            elif not one.joined:
                found.append(f"{one.group}: there is no connection, or no group")
            elif one.membership is not None and one.membership.lease.over(now):
                found.append(f"{one.group}: the lease is over")
        return found
