"""RedisOperator: the parts of the broker that operators use, over one set of connections."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.asking import Asking
from streamworker.redisbroker.examining import RedisExamining
from streamworker.redisbroker.letters import RedisLetters
from streamworker.redisbroker.observer import RedisObserver
from streamworker.redisbroker.settler import exchange
from streamworker.redisbroker.shared import SharedLinks
from streamworker.redisbroker.steering import RedisSteering
from streamworker.redisbroker.topology import Topology
from streamworker.redisbroker.trimming import RedisTrimming

_TIMEOUT: Final = 10.0  # seconds that a server may say nothing; what an operator asks for may move megabytes


class RedisOperator:
    """``operator.Backend`` on Redis."""

    def __init__(self, topology: Topology) -> None:
        self._links = SharedLinks(topology, exchange, timeout=_TIMEOUT)
        self._asking = Asking(self._links)
        self.observer = RedisObserver(topology)
        self.letters = RedisLetters(self._asking)
        self.steering = RedisSteering(self._asking)
        self.examining = RedisExamining(topology, self._asking)
        self.trimming = RedisTrimming(self._asking)

    async def close(self) -> None:
        await self.observer.close()
        await self._links.close()
