"""The fixtures of the integration tests; a module that says otherwise has its own."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests.running import Watched


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    """The group ``billing`` on ``stream``."""
    return Watched(redis, stream, "billing")
