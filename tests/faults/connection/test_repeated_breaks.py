"""Connections that break again and again: no hot loop while it lasts, nothing lost or repeated, back at once after."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.handling import Handling, drained
from tests.faults.patience import within
from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.running import Watched, events, everything_logged, working
from tests.servers import Server
from tests.waiting import wait_until

FIRST = 5.0  # seconds after it healed in which the first message must be handled


@pytest.mark.parametrize(
    ("server_kind", "command"),
    [("valkey-9.1", "XREADGROUP"), ("redis-8.2", "TURN")],
)
async def test_a_reader_whose_connection_breaks_at_every_try_keeps_quiet(
    command: str, proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream)
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        with proxy.lose_request(command, times=None) as lost:
            proxy.break_all(on="reading")
            await wait_until(lambda: lost.hits)
            await watched.add("data", "meanwhile")
            await keep_quiet(proxy, caplog)
        await watched.add("data", "afterwards")
        await handling.got("meanwhile", "afterwards", timeout=FIRST)
        await watched.rests()
    assert max(handling.counts.values()) == 1
    await watched.check_nothing_is_left()


async def test_connections_that_are_killed_again_and_again_lose_and_repeat_nothing(
    own_server: Server, own_proxy: FaultProxy, own_watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """CLIENT KILL TYPE normal, every few messages: reads, acks and retries are cut at any place."""
    handling = Handling(stream, lease=30.0)
    bodies = [f"{'fail' if number % 5 == 0 else 'message'} {number}" for number in range(200)]
    async with working(handling.app, url=own_proxy.url, patient=True):
        for number, body in enumerate(bodies):
            await own_watched.add("data", body)
            if number % 10 == 9:
                await own_watched.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(0.05)
        await wait_until(lambda: len(handling.counts) == len(bodies), 20)
        await own_watched.rests(20)
    assert handling.counts == {body: 2 if body.startswith("fail") else 1 for body in bodies}
    assert drained(caplog)["lost"] == 0
    await own_watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["redis-6.2"])
async def test_a_server_that_closes_idle_clients_is_come_back_to(
    own_server: Server, own_proxy: FaultProxy, own_watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Publishing and settling connections idle longest; the reading one is never idle for a second."""
    await own_watched.do("CONFIG", "SET", "timeout", "1")
    handling = Handling(stream, lease=30.0)
    async with working(handling.app, url=own_proxy.url, patient=True):
        for number in range(3):
            await handling.app.publish(stream, f"message {number}")
            await handling.got(f"message {number}")
            await own_watched.rests()
            await wait_until(lambda: not own_proxy.connected("settling") and not own_proxy.connected("publishing"))
    assert handling.counts == {f"message {number}": 1 for number in range(3)}
    assert not events(caplog, "redis.unavailable"), "an idle connection that was closed is opened again without a word"
    await own_watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["redis-6.2"])
async def test_too_many_clients_are_waited_for_quietly(
    own_server: Server, own_proxy: FaultProxy, own_watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream, lease=6.0)
    async with working(handling.app, url=own_proxy.url, patient=True):
        await own_watched.add("data", "before")
        await handling.got("before")
        await own_watched.do("CONFIG", "SET", "maxclients", "1")  # which is this test
        own_proxy.break_all()
        await wait_until(lambda: events(caplog, "redis.unavailable"))
        await own_watched.add("data", "meanwhile")
        await wait_until(lambda: "max number of clients" in everything_logged(caplog))
        await keep_quiet(own_proxy, caplog)
        await own_watched.do("CONFIG", "SET", "maxclients", "1000")
        await own_watched.add("data", "afterwards")
        await handling.got("meanwhile", "afterwards", timeout=FIRST)
        await own_watched.rests()
    assert max(handling.counts.values()) == 1
    await own_watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_fleet_comes_back_spread_over_time(
    own_proxy: FaultProxy, own_watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Many groups of one process, so as many connections, are reset and refused for a while."""
    handlings = [Handling(f"{stream}-{number}", lease=30.0) for number in range(32)]
    async with working(*(handling.app for handling in handlings), url=own_proxy.url, patient=True):
        await wait_until(lambda: own_proxy.connected("reading") == 32, 30)
        with own_proxy.reset_new():
            own_proxy.break_all()
            begin = len(own_proxy.opened)
            await wait_until(lambda: len(own_proxy.opened) - begin > 32 * 5, 60)
        last = own_proxy.opened[-32:]
        assert max(last) - min(last) > 0.5, "jitter spreads what began at the same moment"
        for number in range(32):
            await own_watched.do("XADD", f"{stream}-{number}", "*", "data", "afterwards")
        await within(FIRST, lambda: all(handling.counts["afterwards"] for handling in handlings))
    assert len(events(caplog, "redis.unavailable")) <= 2, "one outage of the process, not of each stream"


@pytest.mark.parametrize(
    ("server_kind", "command", "body"),
    [("valkey-9.1", "XACK", "message"), ("redis-8.2", "RETRY", "fail")],
)
async def test_a_settlement_whose_connection_breaks_at_every_try_keeps_quiet(
    command: str, body: str, proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream)
    async with working(handling.app, url=proxy.url, patient=True):
        with proxy.lose_request(command, times=None) as lost:
            await watched.add("data", body)
            await wait_until(lambda: lost.hits)
            await keep_quiet(proxy, caplog, healthy=True)
        await watched.rests()
    assert handling.counts == {body: 2 if body == "fail" else 1}
    assert drained(caplog)["lost"] == 0
    await watched.check_nothing_is_left()
