"""A slow network: everything takes longer, and nothing else happens."""

from __future__ import annotations

import asyncio

import pytest

from streamworker import App
from tests.faults.handling import Handling, drained
from tests.faults.proxy import FaultProxy
from tests.running import Watched, events, working
from tests.waiting import wait_until


@pytest.mark.parametrize(("server_kind", "pieces"), [("valkey-9.1", 0), ("redis-8.2", 7)])
async def test_latency_that_varies_repeats_nothing_and_costs_no_lease(
    pieces: int, proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two workers; failures, handlers longer than a lease and fast ones; on one server replies come in pieces."""
    workers = [Handling(stream, lease=3.0, concurrency=8) for _ in range(2)]
    bodies = [f"message {number}" for number in range(40)] + [f"fail {number}" for number in range(10)] + ["hold"]
    proxy.delay(0.2, 0.1)
    if pieces:
        proxy.split(pieces)
    first, second = (working(worker.app, url=proxy.url, patient=True, shutdown_timeout=15) for worker in workers)
    async with first, second:
        for body in bodies:
            await watched.add("data", body)
        await wait_until(lambda: len(workers[0].counts + workers[1].counts) == len(bodies), 30)
        beats = proxy.totals["BEAT"]
        await wait_until(lambda: proxy.totals["BEAT"] > beats + 2 * 8, 30)  # more than a lease for both
        for worker in workers:
            worker.go_on.set()
        await watched.rests(30)
    runs = workers[0].counts + workers[1].counts
    assert runs == {body: 2 if body.startswith("fail") else 1 for body in bodies}
    counts = drained(caplog)
    assert (counts["claimed"], counts["lost"], counts["adopted"]) == (0, 0, 0)
    assert not events(caplog, "redis.unavailable")
    await watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["redis-8.2"])
async def test_two_seconds_of_latency_slow_a_worker_down_and_nothing_else(
    proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream)
    bodies = [f"message {number}" for number in range(10)]
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        with proxy.delay(2.0):
            publishing = asyncio.create_task(handling.app.publish(stream, "published"))
            for body in ("fail", *bodies):
                await watched.add("data", body)
            await handling.got(*bodies, "published", timeout=30)
            await wait_until(lambda: handling.counts["fail"] == 2, 30)
            await publishing
        await watched.rests()
    assert handling.counts == dict.fromkeys(["before", "published", *bodies], 1) | {"fail": 2}
    counts = drained(caplog)
    assert (counts["claimed"], counts["lost"]) == (0, 0)
    assert not events(caplog, "redis.unavailable")
    await watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_connection_is_made_with_two_seconds_of_latency(
    proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    """By a user, which takes a further round trip before it can be used."""
    await watched.do("ACL", "SETUSER", "slow", "on", "nopass", "~*", "+@all")
    with proxy.delay(2.0):
        async with App("app", url=f"redis://slow:any@127.0.0.1:{proxy.port}/0") as app:
            await app.publish(stream, "published")
    assert await watched.do("XLEN", stream) == 1
