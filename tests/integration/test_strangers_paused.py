"""Entries that other programs let lie, while the group is paused and where they are suspects."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from redis.asyncio import Redis

from streamworker import App
from streamworker.broker import Suspect
from streamworker.redisbroker.reader import RedisGroupReader
from tests.running import Watched, working
from tests.waiting import wait_until

_LONG_AGO = 120_000  # ms
_OTHER = b"other-program"


async def _held_by_another(watched: Watched, bodies: list[str], deliveries: int) -> list[str]:
    await watched.do("XGROUP", "CREATE", watched.keys.stream, "group", "0", "MKSTREAM")
    ids = [await watched.add("data", body) for body in bodies]
    await watched.do("XREADGROUP", "GROUP", "group", _OTHER, "STREAMS", watched.keys.stream, ">")
    for id in ids:
        await _touch(watched, id, deliveries)
    return ids


async def _touch(watched: Watched, id: str, deliveries: int, idle: int = _LONG_AGO) -> None:
    await watched.do(
        "XCLAIM", watched.keys.stream, "group", _OTHER, 0, id, "IDLE", idle, "RETRYCOUNT", deliveries, "JUSTID"
    )


async def test_a_paused_group_takes_nothing_over_from_other_programs(redis: Redis, redis_url: str, stream: str) -> None:
    app, watched, seen, looks = App("group", lease=0.6), Watched(redis, stream, "group"), list[str](), list[int]()

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisGroupReader.own

    async def own(reader: RedisGroupReader) -> object:  # an audit, of which taking over is a part
        looks.append(1)
        return await really(reader)

    await _held_by_another(watched, ["left", "suspected"], 1)
    await _touch(watched, (await watched.do("XRANGE", stream, "-", "+"))[1][0].decode(), 2)
    await watched.do("HSET", watched.keys.consumers, "paused", "1")
    with patch.object(RedisGroupReader, "own", own):
        async with working(app, url=redis_url):
            await wait_until(lambda: seen or len(looks) > 12)
            assert seen == []
            await watched.do("HDEL", watched.keys.consumers, "paused")
            await wait_until(lambda: sorted(seen) == ["left", "suspected"])
            await watched.rests()


async def test_a_suspect_of_another_program_stops_the_process_for_no_longer_than_it_runs(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen, tries = App("group", lease=6.0), Watched(redis, stream, "group"), list[str](), list[bytes]()

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisGroupReader.claim_alone

    async def claim_alone(reader: RedisGroupReader, suspect: Suspect, highest: int) -> object:
        tries.append(suspect.entry[1])
        return await really(reader, suspect, highest)

    await _held_by_another(watched, ["suspect"], 2)
    with patch.object(RedisGroupReader, "claim_alone", claim_alone):
        async with working(app, url=redis_url):
            await wait_until(lambda: seen == ["suspect"], 30)
            await watched.add("data", "next")
            await wait_until(lambda: "next" in seen)
            await watched.rests()
    assert len(tries) == 1, "it was claimed, and is settled"


async def test_a_suspect_that_another_program_touched_meanwhile_stays_with_it(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, watched, seen = App("group", lease=1.0), Watched(redis, stream, "group"), list[str]()
    held, let_go = asyncio.Event(), asyncio.Event()

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    really = RedisGroupReader.claim_alone

    async def claim_alone(reader: RedisGroupReader, suspect: Suspect, highest: int) -> object:
        held.set()
        await let_go.wait()
        return await really(reader, suspect, highest)

    (id,) = await _held_by_another(watched, ["suspect"], 2)
    with patch.object(RedisGroupReader, "claim_alone", claim_alone):
        async with working(app, url=redis_url):
            await wait_until(held.is_set, 30)
            await _touch(watched, id, 3, idle=0)
            let_go.set()
            await watched.add("data", "next")
            await wait_until(lambda: "next" in seen)
            assert "suspect" not in seen, "it runs in the other program"
            await watched.do("XACK", stream, "group", id)
            await watched.rests()
