"""The stage on which faults of processes and handlers are played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.faults.processes.stage import Stage
from tests.programs import Program
from tests.servers import Server


@pytest.fixture
def server_kind() -> str:
    """One kind, where nothing depends on the server; marks say where something does."""
    return "valkey-9.1"


@pytest.fixture
def stage(redis: Redis, redis_url: str, stream: str, program: Callable[..., Program], tmp_path: Path) -> Stage:
    """A stream of the shared server, and workers of one app, which does what its messages say."""
    return Stage(redis, redis_url, stream, program, tmp_path)


@pytest.fixture
def own_stage(
    own_redis: Redis, own_server: Server, stream: str, program: Callable[..., Program], tmp_path: Path
) -> Stage:
    """As ``stage``, on a server of this test alone."""
    return Stage(own_redis, own_server.url, stream, program, tmp_path)
