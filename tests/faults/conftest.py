"""What the fault tests share beyond the fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.topologies import ServerCluster

NEWER = ["valkey-9.1", "redis-8.2"]


@pytest.fixture(params=NEWER)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Most faults are tried on two kinds; those marked ``on_all_servers`` on Redis 6.2 too."""
    return str(request.param)


@pytest.fixture
def cluster(server_kind: str, tmp_path: Path) -> Iterator[ServerCluster]:
    """Three primaries, each with a replica, of this test alone."""
    made = ServerCluster(server_kind, tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()
