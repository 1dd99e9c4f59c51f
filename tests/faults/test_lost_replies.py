"""What the server has done and nobody was told of: nothing is lost by it, and nothing happens twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from time import monotonic

import pytest
from redis.asyncio import Redis

from streamworker import App, PublishError, PublishUnknown
from tests.conftest import ServerOf
from tests.faults.handling import Handling, drained
from tests.faults.proxy import FaultProxy
from tests.faults.rules import How
from tests.running import Watched, on_all_servers, working
from tests.waiting import wait_until

SOON = 3.0  # seconds: "within two", on a busy machine; far from the lease, which is ten times as long
LEASE = 30.0


@pytest.fixture
def proxy(shared_server: ServerOf, server_kind: str) -> Iterator[FaultProxy]:
    with FaultProxy(shared_server(server_kind).port) as proxy:
        yield proxy


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, "group")


@pytest.fixture
def handling(stream: str, caplog: pytest.LogCaptureFixture) -> Handling:
    caplog.set_level(logging.INFO, "streamworker")
    return Handling(stream, lease=LEASE)


@on_all_servers
@pytest.mark.parametrize("how", ["reset", "cut", "cut-reset"])
async def test_entries_of_a_read_whose_reply_is_lost_are_adopted_at_once(
    how: str, proxy: FaultProxy, handling: Handling, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        lost = proxy.lose_reply("XREADGROUP") if how == "reset" else _cut(proxy, how)
        bodies = {f"message {number}" for number in range(20)}
        for body in sorted(bodies):
            await watched.add("data", body)
        await wait_until(lambda: lost.hits == 1)
        await handling.got(*bodies, timeout=SOON)
        await watched.rests()
    assert max(handling.counts.values()) == 1
    assert {run.deliveries for run in handling.runs} == {1}, "what nobody saw was no delivery"
    assert drained(caplog)["adopted"] >= 1
    await watched.check_nothing_is_left()


def _cut(proxy: FaultProxy, how: str) -> object:
    return proxy.cut_reply("XREADGROUP", how="reset" if how == "cut-reset" else "close")


@on_all_servers
async def test_entries_that_go_to_the_read_of_a_lost_connection_are_adopted_soon(
    proxy: FaultProxy, handling: Handling, watched: Watched
) -> None:
    """The reader has come back and has audited before the server gives its old, still blocked read something."""
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        await wait_until(lambda: _is_blocked(watched))
        audits = proxy.totals["XPENDING"]
        assert proxy.orphan(on="reading") == 1
        await wait_until(lambda: proxy.totals["XPENDING"] > audits + 1)
        begin = monotonic()
        await watched.add("data", "unseen")
        await handling.got("unseen", timeout=SOON)
        assert monotonic() - begin < SOON
    assert handling.counts == {"before": 1, "unseen": 1}


async def _is_blocked(watched: Watched) -> bool:
    return b"blocked_clients:0" not in await watched.do("INFO", "clients")
