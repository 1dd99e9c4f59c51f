"""Replies that are lost while a worker starts, takes over, beats, broadcasts and leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from streamworker import App, Message
from tests.faults.handling import Handling, drained
from tests.faults.proxy import FaultProxy
from tests.running import Watched, working
from tests.waiting import wait_until

DEAD = "host-1-dead.sw"


async def left_by_a_dead_worker(watched: Watched, *bodies: str, deliveries: int) -> None:
    """Entries that a consumer had when it died, ``deliveries`` times delivered."""
    await watched.do("XGROUP", "CREATE", watched.keys.stream, "group", "0", "MKSTREAM")
    for body in bodies:
        id_ = await watched.add("data", body)
        await watched.do("XREADGROUP", "GROUP", "group", DEAD, "STREAMS", watched.keys.stream, ">")
        await watched.do(
            "XCLAIM", watched.keys.stream, "group", DEAD, 0, id_, "RETRYCOUNT", deliveries, "JUSTID"
        )  # fmt: skip
    await watched.do("HSET", watched.keys.consumers, DEAD, "dead")


@pytest.mark.parametrize("command", ["PING", "BEAT", "XINFO", "XGROUP", "XPENDING", "TURN"])
async def test_a_worker_starts_although_replies_are_lost(
    command: str, proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    handling = Handling(stream, lease=2.0)
    lost = proxy.lose_reply(command)
    await watched.add("data", "first")
    async with working(handling.app, url=proxy.url, patient=True):
        await handling.got("first")
        await wait_until(lambda: lost.hits == 1)
        await watched.rests()
    assert handling.counts == {"first": 1}
    await watched.check_nothing_is_left()


async def test_what_a_lost_turn_took_over_from_the_dead_is_handled_once(
    proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream, lease=30.0)
    bodies = [f"message {number}" for number in range(10)]
    await left_by_a_dead_worker(watched, *bodies, deliveries=1)
    lost = proxy.lose_reply("TURN")
    async with working(handling.app, url=proxy.url, patient=True):
        await handling.got(*bodies)
        await watched.rests()
    assert lost.hits == 1
    assert handling.counts == dict.fromkeys(bodies, 1)
    assert {run.deliveries for run in handling.runs} == {2}, "adopting counts nothing"
    counts = drained(caplog)
    assert counts["adopted"] > 0
    assert (counts["adopted"] + counts["claimed"], counts["acked"]) == (10, 10)
    await watched.check_nothing_is_left()


async def test_retries_that_a_lost_turn_brought_are_handled_once(
    proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    handling = Handling(stream, lease=30.0)
    bodies = [f"fail {number}" for number in range(5)]
    for body in bodies:
        await watched.add("data", body)
    async with working(handling.app, url=proxy.url, patient=True):
        await wait_until(lambda: len(handling.runs) == len(bodies))
        # The retries are due in 0.05 s; each loss costs a pause, so one of these turns brings them.
        lost = proxy.lose_reply("TURN", times=3)
        await wait_until(lambda: len(handling.runs) == 2 * len(bodies))
        await watched.rests()
    assert lost.hits
    assert handling.counts == dict.fromkeys(bodies, 2)
    assert {run.deliveries for run in handling.runs[len(bodies) :]} == {2}
    await watched.check_nothing_is_left()


async def test_a_suspect_whose_claim_is_lost_is_handled_once(proxy: FaultProxy, watched: Watched, stream: str) -> None:
    handling = Handling(stream, lease=30.0)
    await left_by_a_dead_worker(watched, "suspect", "suspect too", deliveries=2)
    lost = proxy.lose_reply("CLAIM_ALONE")
    async with working(handling.app, url=proxy.url, patient=True):
        await handling.got("suspect", "suspect too")
        await watched.rests()
    assert lost.hits == 1
    assert handling.counts == {"suspect": 1, "suspect too": 1}
    assert {run.deliveries for run in handling.runs} == {3}
    await watched.check_nothing_is_left()


async def test_what_was_released_over_a_lost_connection_is_free_at_once_and_not_counted(
    proxy: FaultProxy, watched: Watched, stream: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    leaving, other = Handling(stream, lease=30.0, concurrency=1, prefetch=10), Handling(stream, lease=30.0)
    waiting = [f"message {number}" for number in range(5)]
    for body in ("hold", *waiting):
        await watched.add("data", body)
    lost = proxy.lose_reply("RELEASE")
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(_until_told(leaving, proxy.url))
        await leaving.got("hold")
        await wait_until(lambda: _pending(watched, 6))
        await stack.enter_async_context(working(other.app, url=redis_url, patient=True))
        worker.set()
        await other.got(*waiting, timeout=5)
        await wait_until(lambda: _pending(watched, 1))
        leaving.go_on.set()
        await watched.rests()
    assert lost.hits == 1
    assert (leaving.counts, other.counts) == ({"hold": 1}, dict.fromkeys(waiting, 1))
    assert {run.deliveries for run in other.runs} == {1}, "handing back takes the delivery back"
    assert drained(caplog)["lost"] == 0
    await watched.check_nothing_is_left()


async def _pending(watched: Watched, entries: int) -> bool:
    return await watched.pending() == entries


@asynccontextmanager
async def _until_told(handling: Handling, url: str) -> AsyncIterator[asyncio.Event]:
    """A worker that drains once the event is set, while the block goes on."""
    stop = asyncio.Event()

    async def work() -> None:
        async with working(handling.app, url=url, patient=True):
            await stop.wait()

    task = asyncio.create_task(work())
    try:
        yield stop
    finally:
        stop.set()
        await task


async def test_beats_whose_replies_are_lost_are_signs_of_life_to_the_others(
    proxy: FaultProxy, watched: Watched, stream: str, redis_url: str
) -> None:
    """The worker starts nothing new without a heartbeat of its own that was taken, but nobody takes what it has."""
    held, other = Handling(stream, lease=1.0), Handling(stream, lease=1.0)
    await watched.add("data", "hold")
    async with working(held.app, url=proxy.url, patient=True):
        await held.got("hold")
        async with working(other.app, url=redis_url, patient=True):
            with proxy.lose_reply("BEAT", times=None) as lost:
                await wait_until(lambda: lost.hits >= 12, 20)  # a lease is six beats
            held.go_on.set()
            await watched.rests()
            await watched.add("data", "afterwards")
            await wait_until(lambda: held.counts["afterwards"] + other.counts["afterwards"] == 1)
            await watched.rests()
    assert held.counts["hold"] == 1
    assert other.counts["hold"] == 0
    await watched.check_nothing_is_left()


async def test_leaving_although_the_reply_is_lost(proxy: FaultProxy, watched: Watched, stream: str) -> None:
    handling = Handling(stream, lease=30.0)
    lost = proxy.lose_reply("LEAVE")
    await watched.add("data", "first")
    async with working(handling.app, url=proxy.url, patient=True):
        await handling.got("first")
        await watched.rests()
    assert lost.hits == 1
    await watched.check_nothing_is_left()


async def test_a_broadcast_reads_again_what_a_lost_reply_brought(
    proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    app, seen = App("group"), list[str]()

    @app.on(stream, broadcast=True, start="beginning")
    async def note(body: str, message: Message) -> None:
        seen.append(body)

    lost = proxy.lose_reply("XREAD", skip=1)
    async with working(app, url=proxy.url, patient=True):
        for number in range(6):
            await watched.add("data", str(number))
            await wait_until(lambda number=number: str(number) in seen)  # type: ignore[misc]
    assert lost.hits == 1
    assert seen == [str(number) for number in range(6)]
