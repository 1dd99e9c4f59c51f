"""What the fault tests share beyond the fixtures of all tests."""

from __future__ import annotations

import pytest

NEWER = ["valkey-9.1", "redis-8.2"]


@pytest.fixture(params=NEWER)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Most faults are tried on two kinds; those marked ``on_all_servers`` on Redis 6.2 too."""
    return str(request.param)
