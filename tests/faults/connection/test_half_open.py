"""Connections that are dead without saying so: nothing comes through, and nobody is told."""

from __future__ import annotations

import pytest

from tests.faults.handling import Handling, drained
from tests.faults.patience import within
from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.faults.rules import Side
from tests.running import Watched, events, working
from tests.waiting import wait_until

NOTICED = 0.5 + 3.0  # seconds: a read's BLOCK, and what a round trip may take besides
FIRST = 5.0  # seconds after it healed in which the first message must be handled
SLACK = 0.5
valkey_only = pytest.mark.parametrize("server_kind", ["valkey-9.1"])  # what the server is makes no difference here
redis_only = pytest.mark.parametrize("server_kind", ["redis-8.2"])


@pytest.mark.parametrize(
    ("server_kind", "towards"),
    [("valkey-9.1", None), ("redis-8.2", "client")],
)
async def test_a_dead_line_is_noticed_in_time_and_left_quietly_and_work_goes_on_once_it_is_healed(
    towards: Side | None,
    proxy: FaultProxy,
    watched: Watched,
    stream: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handling = Handling(stream, lease=6.0)
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        await watched.rests()
        with proxy.black_hole(towards=towards):
            await watched.add("data", "meanwhile")
            await within(NOTICED + SLACK, lambda: events(caplog, "redis.unavailable"))
            await keep_quiet(proxy, caplog)
        await watched.add("data", "afterwards")
        await handling.got("meanwhile", "afterwards", timeout=FIRST)
        await watched.rests()
    assert max(handling.counts.values()) == 1
    await watched.check_nothing_is_left()


async def test_an_outage_longer_than_the_lease_makes_nobody_dead_and_runs_nothing_twice(
    proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [Handling(stream, lease=2.0, concurrency=2) for _ in range(2)]
    bodies = [f"hold {number}" for number in range(4)]
    first, second = (working(worker.app, url=proxy.url, patient=True) for worker in workers)
    async with first, second:
        for body in bodies:
            await watched.add("data", body)
        await wait_until(lambda: sum(len(worker.runs) for worker in workers) == 4)
        beats = proxy.totals["BEAT"]
        with proxy.black_hole():
            await wait_until(lambda: events(caplog, "redis.unavailable"), 20)
            await keep_quiet(proxy, caplog, workers=2)
        await wait_until(lambda: proxy.totals["BEAT"] > beats + 16, 30)  # a lease and more goes by
        for worker in workers:
            worker.go_on.set()
        await watched.add("data", "afterwards")
        await watched.rests()
    assert workers[0].counts + workers[1].counts == dict.fromkeys([*bodies, "afterwards"], 1)
    counts = drained(caplog)
    assert (counts["claimed"], counts["lost"]) == (0, 0)
    await watched.check_nothing_is_left()


@valkey_only
async def test_a_reading_connection_that_is_dead_alone_costs_no_lease(
    proxy: FaultProxy, watched: Watched, stream: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cut, other = Handling(stream, lease=3.0), Handling(stream, lease=3.0)
    await watched.add("data", "hold")
    async with working(cut.app, url=proxy.url, patient=True):
        await cut.got("hold")
        async with working(other.app, url=redis_url, patient=True):
            with proxy.black_hole(on="reading"):
                await wait_until(lambda: events(caplog, "redis.unavailable"), 20)
                await keep_quiet(proxy, caplog)
                await watched.add("data", "meanwhile")
                await other.got("meanwhile")
                cut.go_on.set()  # its ack goes over another connection, once an audit came through
                await watched.rests()
            await within(FIRST, lambda: events(caplog, "redis.available"))
    assert (cut.counts, other.counts) == ({"hold": 1}, {"meanwhile": 1})
    assert drained(caplog)["lost"] == 0
    await watched.check_nothing_is_left()


@redis_only
async def test_replies_that_only_the_reader_does_not_get_are_found_by_its_audits(
    proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    handling = Handling(stream, lease=30.0)
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        with proxy.black_hole(on="reading", towards="client"):
            await watched.add("data", "meanwhile")
            await handling.got("meanwhile", timeout=NOTICED + SLACK + 1.0)
        await watched.rests()
    assert handling.counts == {"before": 1, "meanwhile": 1}
    await watched.check_nothing_is_left()


@redis_only
async def test_a_settling_connection_that_is_dead_alone_repeats_nothing(
    proxy: FaultProxy, watched: Watched, stream: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cut, other = Handling(stream, prefetch=16), Handling(stream)
    bodies = [f"message {number}" for number in range(40)]
    async with working(cut.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await cut.got("before")
        await watched.rests()
        with proxy.black_hole(on="settling"):
            for body in bodies:
                await watched.add("data", body)
            await wait_until(lambda: events(caplog, "redis.unavailable"), 20)
            await keep_quiet(proxy, caplog, healthy=True)
            assert len(cut.runs) <= 1 + 16, "what is not settled is in flight, and limits what is read"
            assert await watched.pending() == len(cut.runs) - 1
        async with working(other.app, url=redis_url, patient=True):
            await watched.rests()
    assert cut.counts + other.counts == dict.fromkeys(["before", *bodies], 1)
    counts = drained(caplog)
    assert (counts["acked"], counts["lost"]) == (41, 0)
    await watched.check_nothing_is_left()


@pytest.mark.parametrize(("server_kind", "ending"), [("valkey-9.1", "succeeds"), ("redis-8.2", "fails")])
async def test_who_alone_cannot_beat_loses_what_it_holds_and_settles_nothing_of_it(
    ending: str, proxy: FaultProxy, watched: Watched, stream: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """To the others it is dead. It learns that they have its message, and may start nothing until it beats again."""
    cut, other = Handling(stream, lease=3.0, max_deliveries=2), Handling(stream, lease=3.0)
    cut.stubborn = ending == "fails"
    await watched.add("data", "hold")
    async with working(cut.app, url=proxy.url, patient=True):
        await cut.got("hold")
        with proxy.black_hole(on="beating"):
            async with working(other.app, url=redis_url, patient=True):
                await other.got("hold", timeout=20)
                await wait_until(lambda: cut.cancelled == 1)
                await wait_until(lambda: events(caplog, "heartbeat.refused"))
                assert [run.deliveries for run in other.runs] == [2]
                await watched.add("data", "meanwhile")
                await other.got("meanwhile")
                await wait_until(lambda: _pending(watched, 1))
                other.go_on.set()
                await watched.rests()
                assert await watched.letters() == []
        await watched.add("data", "afterwards")
        await cut.got("afterwards", timeout=FIRST)
        await watched.rests()
    assert (cut.counts, other.counts) == ({"hold": 1, "afterwards": 1}, {"hold": 1, "meanwhile": 1})
    assert await watched.letters() == []
    assert drained(caplog)["lost"] == 1
    await watched.check_nothing_is_left()


async def _pending(watched: Watched, entries: int) -> bool:
    return await watched.pending() == entries
