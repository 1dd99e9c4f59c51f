"""RedisSteering: pausing, replaying, seeking and claiming for one group, each call one step on the server."""

from __future__ import annotations

from typing import Final

from streamworker.ids import EntryId, parse_id, written
from streamworker.operating.steering import Range, Replayed, Sought
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking, decoded, encoded
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.reader import MOVE_BYTES

_LOOKED: Final = 1000  # entries a call


class RedisSteering:
    """``steering.Steering`` on Redis."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def pause(self, stream: str, group: str, note: str) -> str | None:
        keys = Keys.of(stream, group)
        before = await self._asking.script(stream, scripts.PAUSE, (keys.stream, keys.consumers), (group, note))
        return None if before is None else decoded(before)

    async def unfinished(self, stream: str, group: str, wanted: Range) -> str | None:
        place = await self._asking.command(stream, "HGET", Keys.of(stream, group).consumers, _place(wanted))
        return None if place is None else decoded(place).removeprefix("(")

    async def replay(self, stream: str, group: str, wanted: Range, most: int, *, goes_on: bool = False) -> Replayed:
        return await self._replay(stream, group, wanted, written(wanted.first), most, "on" if goes_on else "begin")

    async def forget(self, stream: str, group: str, wanted: Range) -> None:
        await self._asking.command(stream, "HDEL", Keys.of(stream, group).consumers, _place(wanted))

    async def count(self, stream: str, group: str, wanted: Range, at: str | None) -> Replayed:
        return await self._replay(stream, group, wanted, at or written(wanted.first), _LOOKED, "")

    async def _replay(self, stream: str, group: str, wanted: Range, start: str, most: int, how: str) -> Replayed:
        keys = Keys.of(stream, group)
        looked, copied, pending, place = await self._asking.script(
            stream,
            scripts.REPLAY,
            (keys.stream, keys.retry, keys.consumers),
            (
                group, _place(wanted), start, written(wanted.last), _LOOKED, most, MOVE_BYTES,
                "" if wanted.type is None else f"={wanted.type}", how,
            ),
        )  # fmt: skip
        return Replayed(looked, copied, pending, None if place is None else str(place, "ascii"))

    async def seek(
        self, stream: str, group: str, behind: EntryId, position: int | None, *, back: bool
    ) -> Sought | None:
        arguments = (encoded(group), written(behind), "" if position is None else position, int(back))
        reply = await self._asking.script(stream, scripts.SEEK, (encoded(stream),), arguments)
        if not reply:
            return None
        if reply[0] == 1:
            return Sought(before=parse_id(reply[1]))
        if reply[0] == 2:
            return Sought(passed=str(reply[1], "ascii"))
        return Sought(pending=str(reply[1], "ascii"), consumer=decoded(reply[2]))

    async def hand_over(self, stream: str, group: str, consumer: str, most: int) -> int:
        keys = Keys.of(stream, group)
        arguments = (encoded(group), encoded(consumer), most)
        return int(await self._asking.script(stream, scripts.HAND_OVER, (keys.stream, keys.retry), arguments))

    async def mark_dead(self, stream: str, group: str, consumer: str) -> None:
        await self._asking.command(stream, "HSET", Keys.of(stream, group).consumers, consumer, "dead")


def _place(wanted: Range) -> str:
    """Under which name a replay keeps where it is.

    The end is no part of it: "up to what was read" is another entry each time, and whoever goes on to another end has
    been given all up to that place.
    """
    return f"replay {written(wanted.first)} {wanted.type or ''}"
