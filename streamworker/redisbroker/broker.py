"""RedisBroker: makes the readers, settlers, publishers and heartbeats of one process."""

from __future__ import annotations

from typing import Final

from streamworker.errors import ConfigError
from streamworker.handler import Group
from streamworker.redisbroker.asking import Asking
from streamworker.redisbroker.broadcaster import RedisBroadcaster
from streamworker.redisbroker.cluster import Cluster, in_one_slot
from streamworker.redisbroker.driver import Driver, Place
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.observer import RedisObserver
from streamworker.redisbroker.operator import RedisOperator
from streamworker.redisbroker.publisher import RedisPublisher
from streamworker.redisbroker.pulse import RedisPulse
from streamworker.redisbroker.reader import RedisGroupReader
from streamworker.redisbroker.sentinel import Sentinels
from streamworker.redisbroker.settler import RedisSettler, exchange
from streamworker.redisbroker.shared import SharedLinks
from streamworker.redisbroker.topology import Server, Topology
from streamworker.redisbroker.trimming import RedisTrimming
from streamworker.url import Kind, read_url

# A reader's round trip may take this long besides its BLOCK: what is longer is a connection that is dead
# without saying so. Settling and publishing get a little more: their scripts may move megabytes.
_READ_TIMEOUT: Final = 3.0
_WRITE_TIMEOUT: Final = 5.0


class RedisBroker:
    """``broker.Broker`` on Redis or Valkey: one server, the primary behind sentinels, or a cluster.

    Raises:
        ConfigError: the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        self._topology = topology_of(url)
        self._settling = SharedLinks(self._topology, exchange, timeout=_WRITE_TIMEOUT)

    async def ping(self) -> None:
        link = Link(self._topology, timeout=_READ_TIMEOUT)
        try:
            await link.call("PING")
        finally:
            await link.close()

    def reader(self, group: Group, consumer: str, max_bytes: int) -> RedisGroupReader:
        keys = self._keys(group)
        return RedisGroupReader(self._link(keys.stream), keys, group.name, consumer, max_bytes)

    def settler(self, group: Group, consumer: str) -> RedisSettler:
        return RedisSettler(self._settling, self._keys(group), group.name, consumer)

    def broadcaster(self, group: Group, max_bytes: int) -> RedisBroadcaster:
        return RedisBroadcaster(self._link(group.stream.encode()), group.stream, max_bytes)

    def pulse(self, consumer: str) -> RedisPulse:
        return RedisPulse(self._topology, consumer)

    def publisher(self) -> RedisPublisher:
        return RedisPublisher(self._topology, _WRITE_TIMEOUT)

    def observer(self) -> RedisObserver:
        return RedisObserver(self._topology)

    def trimming(self) -> RedisTrimming:
        return RedisTrimming(Asking(self._settling))

    def operator(self) -> RedisOperator:
        return RedisOperator(self._topology)

    async def close(self) -> None:
        await self._settling.close()

    def _link(self, key: bytes) -> Link:
        return Link(self._topology, key, timeout=_READ_TIMEOUT)

    def _keys(self, group: Group) -> Keys:
        keys = Keys.of(group.stream, group.name)
        if isinstance(self._topology, Cluster) and not in_one_slot(keys):
            raise ConfigError(
                f"stream {group.stream!r} cannot be consumed on a cluster: its name does not go into braces, "
                "so the keys kept beside it would lie in other slots; name it without braces, or with one pair of them"
            )
        return keys


def topology_of(url: str) -> Topology:
    """What ``url`` leads to.

    Raises:
        ConfigError: the URL is wrong.
    """
    said = read_url(url)
    driver = Driver(said)
    seeds = [Place(*seed) for seed in said.seeds]
    if said.kind is Kind.SENTINEL:
        return Sentinels(driver, Driver(said, for_sentinels=True), seeds, said.service)
    if said.kind is Kind.CLUSTER:
        return Cluster(driver, seeds)
    return Server(driver)
