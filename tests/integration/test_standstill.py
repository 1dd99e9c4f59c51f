"""A suspect waits for silence in the process; nothing may make that wait last for ever."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from streamworker import App
from tests.running import Watched, working
from tests.waiting import wait_until

_DEAD = "host-1-dead.sw"


async def test_a_suspect_that_waits_for_a_long_handler_beside_a_full_buffer_stops_nothing_for_ever(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen = App("group", lease=1.0), Watched(redis, stream, "group"), set[str]()

    # Fast handlers, so much is held; once the gate is closed nothing ends, so less may be held than is.
    @app.on(stream, concurrency=8)
    async def handle(body: str) -> None:
        if body == "long":
            await watched.do("HSET", watched.keys.consumers, _DEAD, "dead")
            await asyncio.sleep(2.0)
        await asyncio.sleep(0.005)
        seen.add(body)

    await watched.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    suspect = await watched.add("data", "suspect")
    await watched.do("XREADGROUP", "GROUP", "group", _DEAD, "STREAMS", stream, ">")
    await watched.do("XCLAIM", stream, "group", _DEAD, 0, suspect, "RETRYCOUNT", 2, "JUSTID")
    await watched.do("HSET", watched.keys.consumers, _DEAD, "1 600000 still alive")
    bodies = [str(number) for number in range(4000)]
    bodies[1000] = "long"
    for body in bodies:
        await watched.add("data", body)
    async with working(app, url=redis_url, patient=True):
        await wait_until(lambda: len(seen) == len(bodies) + 1, 40, lambda: f"{len(seen)} of {len(bodies) + 1} ran")
        await watched.rests()
