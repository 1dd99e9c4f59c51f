"""Steering: what a server does to groups for an operator, each call in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamworker.ids import EntryId


@dataclass(frozen=True, slots=True)
class Range:
    """Entries from ``first`` to ``last``, both included; of one type, if ``type`` is not None."""

    first: EntryId
    last: EntryId
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one call of a replay did.

    Attributes:
        looked: entries it looked at.
        copied: entries it gave to the group again.
        pending: entries it left out, since the group has them.
        rest: from where to go on; None at the end.
    """

    looked: int
    copied: int
    pending: int
    rest: str | None


@dataclass(frozen=True, slots=True)
class Sought:
    """``before``: up to where it had read. Or it stays: ``consumer`` has ``pending``, or it ``passed`` the place."""

    before: EntryId | None = None
    passed: str | None = None
    pending: str | None = None
    consumer: str | None = None


class Steering(Protocol):
    """What a server does to groups; each call is one step."""

    async def pause(self, stream: str, group: str, note: str) -> str | None:
        """Pause with a note, which stays if there is one already, or resume with an empty one.

        Returns:
            The note that stood there, ``""`` for none; None if there is no such group, and nothing was done.
        """
        ...

    async def unfinished(self, stream: str, group: str, wanted: Range) -> str | None:
        """The entry behind which an earlier replay from there was interrupted; None if there was none."""
        ...

    async def forget(self, stream: str, group: str, wanted: Range) -> None:
        """Let the next replay of this range begin at its beginning."""
        ...

    async def replay(self, stream: str, group: str, wanted: Range, most: int, *, goes_on: bool = False) -> Replayed:
        """Give the next entries of the range to the group again, ``most`` at most.

        ``goes_on``: this is not the first call, so where no place is kept another one has come to the end.
        """
        ...

    async def count(self, stream: str, group: str, wanted: Range, at: str | None) -> Replayed:
        """The same without doing it, from ``at`` on."""
        ...

    async def seek(
        self, stream: str, group: str, behind: EntryId, position: int | None, *, back: bool
    ) -> Sought | None:
        """Let the group read on behind an id, but not back over what is pending; None if there is no such group.

        Args:
            stream: the stream.
            group: the group.
            behind: the id.
            position: how many entries were ever added up to there; None if nobody knows.
            back: whether it may go back at all.
        """
        ...

    async def hand_over(self, stream: str, group: str, consumer: str, most: int) -> int:
        """Release what ``consumer`` holds, about ``most`` of it; how many that were."""
        ...

    async def mark_dead(self, stream: str, group: str, consumer: str) -> None:
        """Let the workers know that one of them is dead."""
        ...
