"""A server of the test's own, a proxy in front of it, and workers behind that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from tests.conftest import ProgramOf
from tests.faults.proxy import FaultProxy
from tests.faults.server.fleet import Fleet
from tests.running import Watched
from tests.servers import Server


def patient_client(server: Server) -> Redis:
    """A plain client that connects again by itself: its server is killed and started."""
    return Redis.from_url(server.url, protocol=2, decode_responses=False, retry=Retry(ConstantBackoff(0.1), 5))


@pytest.fixture
async def own_redis(own_server: Server) -> AsyncIterator[Redis]:
    client = patient_client(own_server)
    yield client
    await client.aclose()


@pytest.fixture
def own_proxy(own_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(own_server.port) as proxy:
        yield proxy


@pytest.fixture
def watched(own_redis: Redis, stream: str) -> Watched:
    """The group as ``own_server`` sees it."""
    return Watched(own_redis, stream, "group")


@pytest.fixture
def fleet(watched: Watched, own_proxy: FaultProxy, program: ProgramOf, tmp_path: Path) -> Fleet:
    """Workers of ``own_server``, none yet."""
    return Fleet(watched, own_proxy, program, tmp_path)
