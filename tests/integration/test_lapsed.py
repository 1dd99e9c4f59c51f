"""A worker whose heartbeats do not arrive takes nothing: it may start nothing, and others take it for dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis

from streamworker import App
from streamworker.broker import Beat
from streamworker.errors import Unavailable
from streamworker.redisbroker.pulse import RedisPulse
from streamworker.redisbroker.reader import RedisGroupReader
from tests.running import Watched, events, working
from tests.waiting import wait_until


async def test_a_worker_that_cannot_beat_takes_no_released_entries(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, watched = App("group", lease=0.6), Watched(redis, stream, "group")
    seen, looks, broken = list[str](), list[int](), [False]

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    beats, audits = RedisPulse.beat, RedisGroupReader.own

    def beat(pulse: RedisPulse, due: Sequence[Beat], timeout: float) -> Any:
        if broken[0]:
            raise Unavailable("this connection only is half-open")
        return beats(pulse, due, timeout)

    async def own(reader: RedisGroupReader) -> Any:
        looks.append(1)
        return await audits(reader)

    with patch.object(RedisPulse, "beat", beat), patch.object(RedisGroupReader, "own", own):
        async with working(app, url=redis_url):
            await watched.add("data", "first")
            await watched.rests()
            broken[0] = True
            await wait_until(lambda: events(caplog, "heartbeat.refused"))
            id = await watched.add("data", "second")
            await watched.do("XGROUP", "SETID", stream, "group", "$")
            await watched.do("XCLAIM", stream, "group", "released", 0, id, "FORCE", "RETRYCOUNT", 0, "JUSTID")
            before = len(looks)
            await wait_until(lambda: len(looks) >= before + 3)
            assert await watched.pending("released") == 1, "left to a worker that may start it"
            broken[0] = False
            await wait_until(lambda: seen == ["first", "second"])
            await watched.rests()
