"""Reading a stream without a group: every reader gets every entry, from a place it keeps itself."""

from __future__ import annotations

from streamworker.errors import GroupMissing
from streamworker.handler import Start
from streamworker.message import Delivery
from streamworker.redisbroker.join import starting_place
from streamworker.redisbroker.keys import parse_id
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.reader import ReplySize, sized


class RedisBroadcaster:
    """``broker.Broadcaster`` on Redis."""

    def __init__(self, link: Link, stream: str, max_bytes: int) -> None:
        self._link = link
        self._stream = stream.encode()
        self._size = ReplySize(max_bytes)
        self._last = b"0-0"

    async def locate(self, start: Start | None) -> None:
        """``new`` becomes a concrete id once: `$` in every read would miss what comes between two of them."""
        try:
            flat = await self._link.call("XINFO", "STREAM", self._stream)
            generated: bytes = dict(zip(flat[::2], flat[1::2], strict=True))[b"last-generated-id"]
        except GroupMissing:  # no such key
            generated = b"0-0"
        if start is not None:
            self._last = starting_place(start, generated.decode()).encode()
        elif parse_id(self._last) > parse_id(generated):
            self._last = b"0-0"  # the stream began anew

    async def read(self, room: int, block: float) -> list[Delivery]:
        reply = await self._link.call(
            "XREAD", "COUNT", self._size.count(room), "BLOCK", max(1, int(block * 1000)),
            "STREAMS", self._stream, self._last, block=block,
        )  # fmt: skip
        if not reply:
            return []
        entries = reply[0][1]
        sized(entries, self._size)
        self._last = entries[-1][0]
        return [Delivery(self._stream, id, id, fields, 1) for id, fields in entries]

    async def close(self) -> None:
        await self._link.close()
