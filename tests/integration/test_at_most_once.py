"""``ack="before"``: whoever acks an entry runs it, and nobody else does."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

from redis.asyncio import Redis

from streamworker import App
from streamworker.redisbroker.settler import RedisSettler
from tests.running import Watched, working
from tests.waiting import wait_until


async def test_an_entry_that_another_worker_took_and_ran_before_our_ack_is_not_run_here(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen = App("group"), Watched(redis, stream, "group"), list[str]()
    held, let_go = asyncio.Event(), asyncio.Event()

    @app.on(stream, ack="before", concurrency=1, prefetch=1)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisSettler.settle

    async def settle(settler: RedisSettler, *what: Any) -> Any:
        held.set()  # as a process is stopped for longer than its lease, just here
        await let_go.wait()
        return await really(settler, *what)

    id = await watched.add("data", "first")
    await watched.add("data", "second")
    with patch.object(RedisSettler, "settle", settle):
        async with working(app, url=redis_url):
            await wait_until(held.is_set)
            await watched.do("XCLAIM", stream, "group", "other.sw", 0, id, "RETRYCOUNT", 2, "JUSTID")
            await watched.do("XACK", stream, "group", id)  # and there it runs
            let_go.set()
            await wait_until(lambda: "second" in seen)
    assert seen == ["second"]


async def test_an_entry_that_another_worker_owns_and_is_about_to_run_is_not_acked_away_here(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen = App("group"), Watched(redis, stream, "group"), list[str]()
    held, let_go = asyncio.Event(), asyncio.Event()

    @app.on(stream, ack="before", concurrency=1, prefetch=1)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisSettler.settle

    async def settle(settler: RedisSettler, *what: Any) -> Any:
        held.set()
        await let_go.wait()
        return await really(settler, *what)

    id = await watched.add("data", "first")
    await watched.add("data", "second")
    with patch.object(RedisSettler, "settle", settle):
        async with working(app, url=redis_url):
            await wait_until(held.is_set)
            await watched.do("XCLAIM", stream, "group", "other", 0, id, "RETRYCOUNT", 2, "JUSTID")
            let_go.set()
            await wait_until(lambda: "second" in seen)
            assert await watched.pending("other") == 1
    assert seen == ["second"]
