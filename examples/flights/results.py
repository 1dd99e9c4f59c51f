"""Where the results lie in Redis, and how handlers put them there."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

DEPARTED = "flights:departed"  # hash: id of the flight's entry -> "carrier delay"
LATE = "flights:late"  # the same, of those that departed 60 minutes late or more


class Results:
    """A hash that many handlers write to at once: what is put during one round trip shares the next.

    Without it, 26,483 round trips of their own would take most of the run. A handler still returns only
    after its value is in Redis, so nothing is acknowledged before it is there.
    """

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis = redis
        self._key = key
        self._waiting: dict[Any, str] = {}
        self._write: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def put(self, field: str, value: str) -> None:
        self._waiting[field] = value
        if self._write is None:
            self._write = asyncio.create_task(self._write_waiting())
        # Shielded: one handler's timeout must not take the others' write along.
        await asyncio.shield(self._write)

    async def _write_waiting(self) -> None:
        async with self._turn:
            values, self._waiting, self._write = self._waiting, {}, None
            await self._redis.hset(self._key, mapping=values)
