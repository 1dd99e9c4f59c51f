"""A lease: whether this worker may still believe that nobody else takes over what it holds."""

from __future__ import annotations

from typing import Final

_BEATS_PER_LEASE: Final = 6


class Lease:
    """Written by the heartbeat thread, read by the event loop; single attributes, so no lock is needed.

    Args:
        seconds: how long heartbeats may be missing before others take this consumer for dead.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.interval = seconds / _BEATS_PER_LEASE
        self._until = 0.0  # on the monotonic clock; nothing is started after it
        self._lapses = 1  # the first beat is one too: what is pending for this consumer is not known yet
        self._audited = 0

    def holds(self, now: float) -> bool:
        """Whether a message may be started.

        After a lapse others may have finished what this worker still holds, so an audit comes first.
        """
        return now < self._until and self._audited == self._lapses

    def over(self, now: float) -> bool:
        """Whether it was held, and no beat was acknowledged for so long that it is not any more."""
        return 0 < self._until <= now

    def renew(self, sent: float) -> None:
        """A beat sent at ``sent`` was acknowledged."""
        if self._until and sent >= self._until:
            self._lapses += 1
        self._until = sent + self.seconds - self.interval

    @property
    def lapses(self) -> int:
        """How often the lease was not renewed in time; to be handed to ``audited``."""
        return self._lapses

    @property
    def lapsed(self) -> bool:
        """Whether an audit must come before anything is started."""
        return self._audited != self._lapses

    def audited(self, lapses: int) -> None:
        """An audit that began after lapse number ``lapses`` is through."""
        self._audited = lapses
