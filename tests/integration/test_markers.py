"""The marker says which suspect runs alone: it must say so of no entry that runs in company, or has run."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

from redis.asyncio import Redis

from streamworker import App
from streamworker.broker import Suspect
from streamworker.errors import Unavailable
from streamworker.redisbroker.reader import RedisGroupReader
from streamworker.redisbroker.settler import RedisSettler
from tests.running import Watched, working
from tests.waiting import wait_until

_DEAD = "host-1-dead.sw"


async def test_a_suspect_whose_claim_lost_its_reply_is_not_held_guilty_of_what_runs_beside_it(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, running = App("group", lease=1.0), Watched(redis, stream, "group"), list[str]()
    over, tries = asyncio.Event(), list[Suspect]()

    @app.on(stream)
    async def handle(body: str) -> None:
        running.append(body)
        await over.wait()

    really = RedisGroupReader.claim_alone

    async def claim_alone(reader: RedisGroupReader, suspect: Suspect, highest: int) -> object:
        found = await really(reader, suspect, highest)
        tries.append(suspect)
        if len(tries) == 1:
            await reader.close()
            raise Unavailable("Connection reset by peer")
        return found

    await _suspected(watched)
    with patch.object(RedisGroupReader, "claim_alone", claim_alone):
        async with working(app, url=redis_url):
            try:
                await wait_until(lambda: "suspect" in running)
                await watched.add("data", "beside")
                await wait_until(lambda: "beside" in running)
                assert await _marker(watched) is None, "it does not run alone, and is said to"
            finally:
                over.set()
            await watched.rests()


async def test_a_suspect_that_ran_alone_and_waits_for_its_ack_is_not_held_guilty_of_what_runs_next(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen = App("group", lease=1.0), Watched(redis, stream, "group"), list[str]()
    acking = asyncio.Event()

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisSettler.settle

    async def settle(settler: RedisSettler, *what: Any) -> Any:
        await acking.wait()
        return await really(settler, *what)

    await _suspected(watched)
    with patch.object(RedisSettler, "settle", settle):
        async with working(app, url=redis_url):
            try:
                await wait_until(lambda: seen == ["suspect"])
                await watched.add("data", "next")
                await wait_until(lambda: "next" in seen)
                assert await _marker(watched) is None
            finally:
                acking.set()
            await watched.rests()


async def _suspected(watched: Watched) -> None:
    """An entry that a dead worker held, delivered four times."""
    stream = watched.keys.stream
    await watched.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    id = await watched.add("data", "suspect")
    await watched.do("XREADGROUP", "GROUP", "group", _DEAD, "STREAMS", stream, ">")
    await watched.do("XCLAIM", stream, "group", _DEAD, 0, id, "RETRYCOUNT", 4, "JUSTID")
    await watched.do("HSET", watched.keys.consumers, _DEAD, "dead")


async def _marker(watched: Watched) -> bytes | None:
    """What the only living member of the group is said to run alone."""
    (me,) = [name for name in await watched.consumers() if name not in (_DEAD, "released")]
    found: bytes | None = await watched.do("HGET", watched.keys.consumers, f"{me}!")
    return found
