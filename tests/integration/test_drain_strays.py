"""A drain hands back what the server lists for this worker, also what the worker never saw."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from redis.asyncio import Redis

from streamworker import App
from streamworker.broker import Suspect
from streamworker.errors import Unavailable
from streamworker.launch import RunOptions, run_worker
from streamworker.message import Delivery
from streamworker.redisbroker.reader import RedisGroupReader
from tests.running import Watched


async def test_entries_of_a_reply_that_was_lost_as_the_drain_began_go_back_uncounted(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, stop = App("group"), Watched(redis, stream, "group"), asyncio.Event()

    @app.on(stream)
    async def handle(body: str) -> None:
        raise AssertionError("nothing was to be started")

    really = RedisGroupReader.read

    async def read(reader: RedisGroupReader, room: int, block: float) -> list[Delivery]:
        found = await really(reader, room, block)
        if not found:
            return []
        stop.set()  # told to stop at the moment in which the connection is reset
        await asyncio.sleep(0)
        await reader.close()
        raise Unavailable("Connection reset by peer")

    await watched.add("data", "one")
    await watched.add("data", "two")
    with patch.object(RedisGroupReader, "read", read):
        async with asyncio.timeout(20):
            assert await run_worker([app], redis_url, RunOptions(), stop, lambda: None)
    owners = [(owner, count) for _, owner, _, count in await watched.do("XPENDING", stream, "group", "-", "+", 10)]
    read_at_all = len(owners)
    assert read_at_all
    assert owners == [(b"released", 0)] * read_at_all
    assert await watched.consumers() == ["released"]


async def test_a_suspect_that_was_claimed_as_the_drain_began_is_not_started(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, stop = App("group"), Watched(redis, stream, "group"), asyncio.Event()

    @app.on(stream)
    async def handle(body: str) -> None:
        raise AssertionError("nothing was to be started")

    really = RedisGroupReader.claim_alone

    async def claim_alone(reader: RedisGroupReader, suspect: Suspect, highest: int) -> object:
        found = await really(reader, suspect, highest)
        stop.set()
        await asyncio.sleep(0.1)  # the drain has begun
        return found

    dead = "host-1-dead.sw"
    await watched.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    id = await watched.add("data", "suspect")
    await watched.do("XREADGROUP", "GROUP", "group", dead, "STREAMS", stream, ">")
    await watched.do("XCLAIM", stream, "group", dead, 0, id, "RETRYCOUNT", 2, "JUSTID")
    await watched.do("HSET", watched.keys.consumers, dead, "dead")
    with patch.object(RedisGroupReader, "claim_alone", claim_alone):
        async with asyncio.timeout(20):
            assert await run_worker([app], redis_url, RunOptions(), stop, lambda: None)
    owners = [(owner, count) for _, owner, _, count in await watched.do("XPENDING", stream, "group", "-", "+", 10)]
    assert owners == [(b"released", 2)]
