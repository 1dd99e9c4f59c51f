"""Lag: how many entries a group has not been given, also where the server's own number is wrong or missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from streamworker.monitoring.facts import GroupFacts, Observer, StreamFacts

MOST_COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a group is.

    Attributes:
        entries: how many it has not been given; None if there is no group.
        kind: ``"exact"``; ``"counted"``, because the server's number is missing or wrong; or ``"at_least"``, because
            there are more than are counted.
    """

    entries: int | None
    kind: Literal["exact", "counted", "at_least"] = "exact"


async def lag_of(observer: Observer, stream: StreamFacts, group: GroupFacts, most: int = MOST_COUNTED) -> Lag:
    """How far behind ``group`` is.

    The server's ``lag`` is NULL for a group that was made at ``$`` or at some id on a stream with entries, or moved
    by SETID, and after XDEL of an unread entry; Redis 6.2 has none. It is too high where entries were trimmed before
    they were read. So it is believed only where nothing better is to be had: at both ends of the stream the length
    tells, and in between it is counted from the group's place, to the end or else from the beginning, ``most``
    entries at most. In the middle of more than that on both sides the server's number stands.

    Args:
        observer: to count with.
        stream: the stream.
        group: the group, of the same look.
        most: how many entries are counted, in each direction; it takes about a millisecond for each 1,000.
    """
    if not group.exists:
        return Lag(None)
    place, said = group.last_delivered, group.server_lag
    if stream.first is None or stream.last is None or place >= stream.last:
        return Lag(0)
    if place < stream.first:
        return Lag(stream.length)
    behind = await observer.count(stream.name, place, stream.last, most)
    if behind is None:
        read = await observer.count(stream.name, (0, 0), place, most)
        behind = None if read is None else stream.length - read
    if behind is not None:
        return Lag(behind, "exact" if behind == said else "counted")
    if said is not None and most < said < stream.length - most:
        return Lag(said)
    return Lag(most, "at_least")


def trimmed_of(stream: StreamFacts, group: GroupFacts) -> int | None:
    """How many entries were trimmed before ``group`` read them; None where nobody can know.

    Our workers count them, and keep the sum. Besides, as long as a group has not read past the gap, it lies between
    the group's position and that of the first entry. Of other programs' groups that is all there is: the server's
    ``entries-read`` leaps over a gap that was passed. Redis 6.2 keeps no positions.
    """
    if stream.added is None or not group.exists:
        return None
    gone = stream.added - stream.length
    if stream.first is not None and group.last_delivered >= stream.first:
        return group.beside.trimmed
    known = [place for place in (group.beside.trimmed_before, group.entries_read) if place is not None]
    if gone and not known:
        return None
    return group.beside.trimmed + max(0, gone - max(known, default=0))
