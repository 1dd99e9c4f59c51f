"""RedisBroker: makes the readers, settlers, publishers and heartbeats for one server."""

from __future__ import annotations

from typing import Final

from streamworker.handler import Group
from streamworker.redisbroker.broadcaster import RedisBroadcaster
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link, driver_options
from streamworker.redisbroker.publisher import RedisPublisher
from streamworker.redisbroker.pulse import RedisPulse
from streamworker.redisbroker.reader import RedisGroupReader
from streamworker.redisbroker.settler import RedisSettler, exchange
from streamworker.redisbroker.shared import SharedLink

# A reader's round trip may take this long besides its BLOCK: what is longer is a connection that is dead
# without saying so. Settling and publishing get a little more: their scripts may move megabytes.
_READ_TIMEOUT: Final = 3.0
_WRITE_TIMEOUT: Final = 5.0


class RedisBroker:
    """``broker.Broker`` on a standalone Redis or Valkey server.

    Raises:
        ConfigError: the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._options = driver_options(url)[1]
        self._settling = SharedLink(Link(url, timeout=_WRITE_TIMEOUT), exchange)

    async def ping(self) -> None:
        link = Link(self._url, timeout=_READ_TIMEOUT)
        try:
            await link.call("PING")
        finally:
            await link.close()

    def reader(self, group: Group, consumer: str, max_bytes: int) -> RedisGroupReader:
        keys = Keys.of(group.stream, group.name)
        return RedisGroupReader(Link(self._url, timeout=_READ_TIMEOUT), keys, group.name, consumer, max_bytes)

    def settler(self, group: Group, consumer: str) -> RedisSettler:
        return RedisSettler(self._settling, Keys.of(group.stream, group.name), group.name, consumer)

    def broadcaster(self, group: Group, max_bytes: int) -> RedisBroadcaster:
        return RedisBroadcaster(Link(self._url, timeout=_READ_TIMEOUT), group.stream, max_bytes)

    def pulse(self, consumer: str) -> RedisPulse:
        return RedisPulse(self._url, self._options, consumer)

    def publisher(self) -> RedisPublisher:
        return RedisPublisher(Link(self._url, timeout=_WRITE_TIMEOUT))

    async def close(self) -> None:
        await self._settling.close()
