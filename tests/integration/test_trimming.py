"""What is trimmed before the group was through with it is counted once, and never given to a handler."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from streamworker import App
from tests.conftest import ServerOf
from tests.running import Watched, events, working
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])  # 6.2 keeps no positions


def _app(stream: str, seen: list[str]) -> App:
    app = App("group")

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    return app


def _unread(caplog: pytest.LogCaptureFixture) -> int:
    return sum(int(one["unread"]) for one in events(caplog, "entries.trimmed"))


async def test_entries_trimmed_unread_while_no_worker_ran_are_counted_once_by_a_fleet(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str] = []
    watched = Watched(redis, stream, "group")
    async with working(_app(stream, seen), url=redis_url):
        await watched.add("data", "read")
        await wait_until(lambda: seen == ["read"])
    for number in range(20):
        await watched.add("data", str(number))
    await watched.do("XTRIM", stream, "MAXLEN", 5)
    await watched.do("HSET", watched.keys.consumers, "paused", "1")  # all look before one reads
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(working(_app(stream, seen), url=redis_url))
        await wait_until(lambda: len(events(caplog, "group.paused")) == 3)
        await watched.do("HDEL", watched.keys.consumers, "paused")
        await wait_until(lambda: sorted(seen) == sorted(["read", "15", "16", "17", "18", "19"]))
        await watched.rests()
    assert _unread(caplog) == 15


async def test_entries_trimmed_between_two_reads_of_a_backlog_are_counted(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, watched, seen = App("group"), Watched(redis, stream, "group"), list[str]()

    @app.on(stream, concurrency=1, prefetch=1)
    async def trims(body: str) -> None:
        seen.append(body)
        for number in range(3 if len(seen) <= 20 else 0):  # each run pushes two out that nobody has read
            await watched.do("XADD", stream, "MAXLEN", 5, "*", "data", f"{len(seen)}-{number}")

    for number in range(5):
        await watched.add("data", str(number))
    async with working(app, url=redis_url, patient=True):
        await wait_until(lambda: len(seen) >= 20)
        await watched.rests()
    assert len(seen) + _unread(caplog) == 5 + 20 * 3
    assert _unread(caplog) > 30, "a turn alone, every half second, would see few of these"


async def test_what_was_trimmed_before_the_group_was_made_is_no_loss(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str] = []
    watched = Watched(redis, stream, "group")
    for number in range(10):
        await watched.add("data", str(number))
    await watched.do("XTRIM", stream, "MAXLEN", 5)
    async with working(_app(stream, seen), url=redis_url):
        await wait_until(lambda: len(seen) == 5)
        await watched.rests()
    assert events(caplog, "group.created")
    assert _unread(caplog) == 0


async def test_deleting_what_was_read_is_no_loss(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    watched = Watched(redis, stream, "group")
    async with working(_app(stream, seen), url=redis_url):
        for number in range(10):
            await watched.add("data", str(number))
        await wait_until(lambda: len(seen) == 10)
        await watched.rests()
        ids = [id for id, _ in await watched.do("XRANGE", stream, "-", "+")]
        await watched.do("XDEL", stream, ids[3], ids[4])
        await watched.do("XTRIM", stream, "MAXLEN", 2)
        await watched.add("data", "after")
        await wait_until(lambda: "after" in seen)
        await watched.rests()
    assert _unread(caplog) == 0


async def test_a_flushed_stream_begins_a_new_count(
    make_server: ServerOf, server_kind: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server(server_kind)
    seen: list[str] = []
    async with Redis.from_url(server.url, protocol=2) as redis:
        watched = Watched(redis, stream, "group")
        async with working(_app(stream, seen), url=server.url):
            for number in range(10):
                await watched.add("data", str(number))
            await wait_until(lambda: len(seen) == 10)
            await watched.do("FLUSHALL")
            await watched.add("data", "after")
            await wait_until(lambda: "after" in seen)
            await watched.rests()
    assert _unread(caplog) == 0
