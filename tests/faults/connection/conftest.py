"""A server behind a fault proxy, for the tests of broken connections."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.running import Watched
from tests.servers import Server


@pytest.fixture
def proxy(shared_server: ServerOf, server_kind: str) -> Iterator[FaultProxy]:
    """Between the worker and the server that all tests share."""
    with FaultProxy(shared_server(server_kind).port) as proxy:
        yield proxy


@pytest.fixture
def own_proxy(own_server: Server) -> Iterator[FaultProxy]:
    """Between the worker and ``own_server``."""
    with FaultProxy(own_server.port) as proxy:
        yield proxy


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    """The group as the shared server sees it, not through the proxy."""
    return Watched(redis, stream, "group")


@pytest.fixture
def own_watched(own_redis: Redis, stream: str) -> Watched:
    """The group as ``own_server`` sees it."""
    return Watched(own_redis, stream, "group")


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamworker")
