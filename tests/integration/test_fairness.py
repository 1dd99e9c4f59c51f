"""Nobody waits for ever: retries, strays and suspects beside a backlog, the event loop beside busy handlers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff
from streamworker.redisbroker.packing import pack
from tests.running import Watched, burst, working
from tests.waiting import wait_until


@pytest.fixture
def server_kind() -> str:
    """Nothing here depends on the server."""
    return "valkey-9.1"


async def a_suspect(redis: Redis, watched: Watched) -> None:
    """Publish an entry that was delivered three times, the last time to a worker that is dead now."""
    stream, dead = watched.keys.stream, "host-1-dead.sw"
    if await watched.info() is None:
        await watched.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    pipeline = redis.pipeline(transaction=True)  # a worker may be reading already
    pipeline.xadd(stream, {"data": "suspect"}, id="5-0")
    pipeline.xreadgroup("group", dead, {watched.keys.stream.decode(): ">"}, count=1)
    pipeline.xclaim(stream, "group", dead, 0, ["5-0"], retrycount=3, justid=True)
    pipeline.hset(watched.keys.consumers.decode(), dead, "dead")
    await pipeline.execute()


@pytest.mark.parametrize("prefetch", [1, 4, None])
async def test_a_retry_does_not_wait_for_the_end_of_a_backlog(
    redis: Redis, redis_url: str, stream: str, prefetch: int | None
) -> None:
    app = App("group")
    seen: list[str] = []

    @app.on(stream, concurrency=4 if prefetch is None else prefetch, prefetch=prefetch, retry=Backoff(first=0.2))
    async def handle(body: str) -> None:
        seen.append(body)
        await asyncio.sleep(0.2)  # longer than a turn: there is never room when one is due
        if body == "fails" and seen.count("fails") == 1:
            raise ValueError

    watched = Watched(redis, stream, "group")
    await watched.add("data", "fails")
    for i in range(500):
        await watched.add("data", f"{i}")
    async with working(app, url=redis_url):
        await wait_until(lambda: seen.count("fails") == 2, 8, lambda: f"the retry runs beside {len(seen)} others")


@pytest.mark.parametrize("prefetch", [1, 4, None])
async def test_new_entries_do_not_wait_for_the_end_of_a_backlog_of_retries(
    redis: Redis, redis_url: str, stream: str, prefetch: int | None
) -> None:
    app = App("group")
    seen: list[str] = []

    @app.on(stream, concurrency=4 if prefetch is None else prefetch, prefetch=prefetch)
    async def handle(body: str) -> None:
        seen.append(body)
        await asyncio.sleep(0.05)

    watched = Watched(redis, stream, "group")
    for i in range(600):
        await watched.do("ZADD", watched.keys.delayed, 1, b"1-%d 1 " % i + pack([b"data", b"retry"]))
    await watched.add("data", "new")
    async with working(app, url=redis_url):
        await wait_until(lambda: "new" in seen, 5, lambda: f"it runs beside {len(seen)} retries")


async def test_entries_of_a_lost_reply_are_adopted_beside_a_backlog(redis: Redis, redis_url: str, stream: str) -> None:
    app = App("group", lease=1.0)
    seen: list[str] = []

    @app.on(stream, concurrency=2, prefetch=2)
    async def handle(body: str) -> None:
        seen.append(body)
        await asyncio.sleep(0.3)

    watched = Watched(redis, stream, "group")
    await watched.add("data", "first")
    async with working(app, url=redis_url):
        await wait_until(lambda: seen)
        (consumer,) = await watched.consumers()
        pipeline = redis.pipeline(transaction=True)
        pipeline.xadd(stream, {"data": "stray"})
        pipeline.xreadgroup("group", consumer, {stream: ">"}, count=1)
        for i in range(500):
            pipeline.xadd(stream, {"data": str(i)})
        await pipeline.execute()
        await wait_until(lambda: "stray" in seen, 8)
        assert seen.count("stray") == 1


async def test_a_suspect_that_cannot_run_yet_holds_up_neither_the_loop_nor_its_group(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app = App("group", lease=1.0)
    seen: list[str] = []
    runs = asyncio.Event()

    @app.on(f"{stream}:long")
    async def long(body: str) -> None:
        runs.set()
        await asyncio.sleep(8)

    @app.on(stream, concurrency=1, prefetch=1)
    async def handle(body: str) -> None:
        seen.append(body)

    await redis.xadd(f"{stream}:long", {"data": "x"})
    watched = Watched(redis, stream, "group")
    gaps: list[float] = []
    async with working(app, url=redis_url, shutdown_timeout=10):
        await asyncio.wait_for(runs.wait(), 5)
        await a_suspect(redis, watched)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - begun)
            if len(gaps) % 50 == 0:
                await watched.add("data", "innocent")
        assert seen.count("innocent") > 3, "it works on between its attempts"
        assert "suspect" not in seen
        # A spinning acquirer kept the loop for half a second at a time, again and again.
        assert sorted(gaps)[len(gaps) * 99 // 100] < 0.2, sorted(gaps)[-10:]
    assert "suspect" not in seen or seen.count("suspect") == 1


async def test_what_a_worker_that_waits_for_a_suspect_cannot_start_is_taken_by_another(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app = App("group", lease=4.0)  # for which the one that is on duty waits in vain
    begun: list[float] = []
    runs: list[str] = []

    @app.on(f"{stream}:long", concurrency=1, prefetch=1)
    async def long(body: str) -> None:
        runs.append(body)
        await asyncio.sleep(6)

    @app.on(stream)
    async def handle(body: str) -> None:
        if body == "innocent":
            begun.append(time.monotonic())

    watched = Watched(redis, stream, "group")
    async with working(app, url=redis_url, shutdown_timeout=10), working(app, url=redis_url, shutdown_timeout=10):
        await redis.xadd(f"{stream}:long", {"data": "one"})
        await redis.xadd(f"{stream}:long", {"data": "two"})
        await wait_until(lambda: len(runs) == 2, 8)
        await a_suspect(redis, watched)
        await asyncio.sleep(1.2)  # two turns: it is seen, and waited for
        died: list[float] = []
        for i in range(6):
            pipeline = redis.pipeline(transaction=True)
            pipeline.xadd(stream, {"data": "innocent"})
            pipeline.xreadgroup("group", f"host-2-dead{i}.sw", {stream: ">"}, count=1)
            pipeline.hset(watched.keys.consumers.decode(), f"host-2-dead{i}.sw", "dead")
            await pipeline.execute()
            died.append(time.monotonic())
            await asyncio.sleep(0.4)
        await wait_until(lambda: len(begun) == 6, 12)
        # A turn of theirs, and the heartbeat before it that sees who is dead.
        assert max(begun[i] - died[i] for i in range(6)) < 2.0, (begun, died)


async def test_the_other_streams_go_on_when_the_stream_of_a_suspect_breaks_while_it_runs(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app = App("group", lease=1.0)  # so audits come while it runs
    running, others = asyncio.Event(), []

    @app.on(stream)
    async def handle(body: str) -> None:
        running.set()
        await asyncio.sleep(2)

    @app.on(f"{stream}:other")
    async def other(body: str) -> None:
        others.append(body)

    watched = Watched(redis, stream, "group")
    await a_suspect(redis, watched)
    async with working(app, url=redis_url, drains=False, shutdown_timeout=1):
        await asyncio.wait_for(running.wait(), 5)
        await watched.do("SET", stream, "no stream any more")
        await redis.xadd(f"{stream}:other", {"data": "x"})
        await wait_until(lambda: others, 8)


async def test_handlers_that_never_wait_let_the_event_loop_go_round(redis: Redis, redis_url: str, stream: str) -> None:
    app = App("group")
    handled = 0

    @app.on(stream, concurrency=4, prefetch=400)
    async def handle(body: str) -> None:
        nonlocal handled
        handled += 1
        time.sleep(0.01)

    for _ in range(400):
        await redis.xadd(stream, {"data": "x"})
    longest = 0.0
    async with working(app, url=redis_url, shutdown_timeout=20):
        while handled < 400:
            begun = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - begun)
    assert longest < 1.0, "4 s of work in one buffer is not done in one go"


async def test_a_handler_that_never_waits_starves_neither_acks_nor_another_handler(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app, seen = App("group"), dict[str, int]()
    busy, other = Watched(redis, stream, "group"), Watched(redis, f"{stream}:other", "group")
    handled = 0

    @app.on(stream, concurrency=4, prefetch=1000)
    async def spin(body: str) -> None:
        nonlocal handled
        handled += 1
        time.sleep(0.01)

    @app.on(f"{stream}:other")
    async def note(body: str) -> None:
        seen[body] = handled

    await busy.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    for _ in range(400):
        await busy.add("data", "x")
    await other.add("data", "first")
    async with working(app, url=redis_url, shutdown_timeout=20):
        await wait_until(lambda: handled >= 100)
        await other.add("data", "second")
        await wait_until(lambda: handled >= 300)
        assert await busy.pending() < 200, "what is handled is acked meanwhile"
        await wait_until(lambda: len(seen) == 2)
        await wait_until(lambda: handled == 400)
    assert seen["first"] < 100
    assert seen["second"] < 300, "2 s of work were waiting when it came"


@pytest.mark.parametrize("name", ["LOADING", "READONLY", "x:OOM:y", "a b MOVED 1"])
async def test_a_stream_may_be_called_like_an_error(redis: Redis, redis_url: str, stream: str, name: str) -> None:
    app = App("group")
    seen: list[str] = []

    @app.on(f"{stream}:{name}")
    async def handle(body: str) -> None:
        seen.append(body)

    await redis.xadd(f"{stream}:{name}", {"data": "x"})
    await asyncio.wait_for(burst(app, url=redis_url), 15)
    assert seen == ["x"]


async def test_a_paused_group_starts_no_retries_and_a_stranger_among_them_is_dead_lettered(
    redis: Redis, redis_url: str, stream: str
) -> None:
    app = App("group")
    seen: list[str] = []

    @app.on(stream)
    async def handle(body: str) -> None:
        seen.append(body)

    watched = Watched(redis, stream, "group")
    await watched.do("HSET", watched.keys.consumers, "paused", "1")
    await watched.do("ZADD", watched.keys.delayed, 1, "garbage")
    async with working(app, url=redis_url):
        await asyncio.sleep(0.5)
        assert await watched.delayed() == 1
        await watched.do("HDEL", watched.keys.consumers, "paused")
        await watched.add("data", "x")
        await wait_until(lambda: seen == ["x"])

        async def one_letter() -> bool:
            return len(await watched.letters()) == 1

        await wait_until(one_letter)


async def _cancelled_by_a_scope(app: App, running: Callable[[], bool]) -> None:
    with anyio.CancelScope() as scope:
        async with app.running():
            await wait_until(running)
            scope.cancel()
            await anyio.sleep(100)


async def _cancelled_twice(app: App, running: Callable[[], bool]) -> None:
    async def host() -> None:
        async with app.running():
            await asyncio.sleep(100)

    task = asyncio.create_task(host())
    await wait_until(running)
    task.cancel()
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("host", [_cancelled_by_a_scope, _cancelled_twice])
async def test_a_host_that_is_cancelled_drains_all_the_same(
    redis: Redis, redis_url: str, stream: str, host: Callable[..., object]
) -> None:
    app = App("group", url=redis_url)
    started: list[str] = []
    finished: list[str] = []

    @app.on(stream, concurrency=2, prefetch=10)
    async def handle(body: str) -> None:
        started.append(body)
        await asyncio.sleep(1)
        finished.append(body)

    watched = Watched(redis, stream, "group")
    for i in range(10):
        await watched.add("data", str(i))
    before = asyncio.all_tasks()
    await host(app, lambda: len(started) == 2)  # type: ignore[misc]
    assert finished == started, "what ran has finished"
    assert await watched.pending() == await watched.pending("released") == 8
    assert asyncio.all_tasks() <= before
