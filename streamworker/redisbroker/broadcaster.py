"""Reading a stream without a group: every reader gets every entry, from a place it keeps itself."""

from __future__ import annotations

from collections import deque
from typing import Final

from streamworker.errors import BrokerError, GroupMissing
from streamworker.handler import Start
from streamworker.ids import parse_id
from streamworker.message import Delivery
from streamworker.redisbroker.asking import pairs
from streamworker.redisbroker.join import starting_place
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.reader import ReplySize, sized

_REMEMBERED: Final = 10_000  # ids; a replica that lags by more is taken for a stream that began anew
_PAGE: Final = 10


class RedisBroadcaster:
    """``broker.Broadcaster`` on Redis."""

    def __init__(self, link: Link, stream: str, max_bytes: int) -> None:
        self._link = link
        self._stream = stream.encode()
        self._size = ReplySize(max_bytes)
        self._last = b"0-0"
        self._seen: deque[bytes] = deque(maxlen=_REMEMBERED)

    async def locate(self, start: Start | None) -> None:
        """``new`` becomes a concrete id once: `$` in every read would miss what comes between two of them."""
        try:
            flat = await self._link.call("XINFO", "STREAM", self._stream)
            generated: bytes = pairs(flat)[b"last-generated-id"]
        except GroupMissing:  # no such key
            generated = b"0-0"
        if start is not None:
            self._last = starting_place(start, generated.decode()).encode()
        elif parse_id(self._last) > parse_id(generated):
            self._last = await self._still_there()

    async def _still_there(self) -> bytes:
        """The last id seen that the stream still has, or the beginning if it began anew.

        Where a replica that lags took over the last entries are gone, and new ones may have lower ids than those.
        """
        while self._seen:
            page = [self._seen.pop() for _ in range(min(_PAGE, len(self._seen)))]
            replies = await self._link.pipeline([("XRANGE", self._stream, id, id) for id in page])
            for id, reply in zip(page, replies, strict=True):
                if isinstance(reply, BrokerError):
                    raise reply
                if reply:
                    return id
        return b"0-0"

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
        self._seen.extend(id for id, _ in entries)
        return [Delivery(self._stream, id, id, fields, 1) for id, fields in entries]

    async def close(self) -> None:
        await self._link.close()
