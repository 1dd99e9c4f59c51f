"""Joining a consumer group: making it where it is missing, at the place where nothing is lost."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamworker.broker import Joined
from streamworker.errors import BrokerError, GroupMissing
from streamworker.handler import Start
from streamworker.ids import below, parse_id, written
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import pairs
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link

# A script builds the entries that it counts, and holds up the whole server meanwhile.
_COUNT_PAGE: Final = 100
_MOST_COUNTED: Final = 100_000


async def join(link: Link, keys: Keys, group: str, start: Start, joined_before: bool) -> Joined:
    """Make sure that ``group`` exists.

    A group that was there before and is gone begins again at the floor its heartbeats kept: what was
    pending is repeated, nothing is lost. At the last id seen, what others had pending would be lost;
    at 0 everything kept would be repeated. With no floor, or on a stream that began anew, 0 is right.

    Raises:
        BrokerError: the server refused; making a group needs memory.
    """
    if await _exists(link, keys.stream, group):
        return Joined(None, None)
    info = await _stream_info(link, keys.stream)
    floor: bytes | None = await link.call("HGET", keys.consumers, "floor")
    if floor is not None or joined_before:
        last = parse_id(info.get(b"last-generated-id", b"0-0"))
        known = floor is not None and info and last >= parse_id(floor)
        place = floor.decode() if known and floor is not None else "0"
        how = "again"
    else:
        place = starting_place(start, info.get(b"last-generated-id", b"0-0").decode())
        how = str(start)
    waiting = await _entries_after(link, keys.stream, place, info)
    added = info.get(b"entries-added")  # 6.2 has none
    # A place beyond the last id: the server would count what is skipped as lag for ever.
    ahead = bool(info) and parse_id(place) > parse_id(info[b"last-generated-id"])
    read = () if added is None or waiting is None or ahead else ("ENTRIESREAD", max(0, added - waiting))
    try:
        await _create(link, keys.stream, group, place, read)
    except BrokerError as error:
        if "BUSYGROUP" not in str(error):
            raise
        return Joined(None, None)  # another worker was faster
    if added is not None and read:  # what is trimmed from now on before it is read is lost to this group
        await link.call("HSET", keys.consumers, "skipped", added - int(info[b"length"]))
    return Joined(how, waiting)


def starting_place(start: Start, last: str) -> str:
    """The id behind which a new group reads. XGROUP CREATE is exclusive, ``start`` is not."""
    if start == "beginning":
        return "0"
    if start == "new":
        return last
    if isinstance(start, datetime):
        milliseconds = int(start.timestamp() * 1000)
        return written(below((milliseconds, 0)))
    return written(below(parse_id(start)))


async def _exists(link: Link, stream: bytes, group: str) -> bool:
    try:
        groups = await link.call("XINFO", "GROUPS", stream)
    except GroupMissing:  # no such key
        return False
    return any(pairs(info)[b"name"] == group.encode() for info in groups)


async def _stream_info(link: Link, stream: bytes) -> dict[bytes, Any]:
    try:
        return pairs(await link.call("XINFO", "STREAM", stream))
    except GroupMissing:
        return {}


async def _entries_after(link: Link, stream: bytes, place: str, info: dict[bytes, Any]) -> int | None:
    """How many entries lie behind ``place``; None if they are too many to be counted."""
    if not info:
        return 0
    if place == "0":
        return int(info[b"length"])
    if parse_id(place) >= parse_id(info[b"last-generated-id"]):
        return 0
    total = 0
    while total < _MOST_COUNTED:
        count, place = await link.script(scripts.COUNT, (stream,), (place, "+", _COUNT_PAGE))
        total += int(count)
        if int(count) < _COUNT_PAGE:
            return total
    return None


async def _create(link: Link, stream: bytes, group: str, place: str, read: tuple[str | int, ...]) -> None:
    await link.call("XGROUP", "CREATE", stream, group, place, "MKSTREAM", *read)
