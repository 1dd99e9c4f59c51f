"""What the server has done and nobody was told of: nothing is lost by it, and nothing happens twice."""

from __future__ import annotations

import pytest

from tests.faults.handling import Handling, drained
from tests.faults.proxy import FaultProxy
from tests.faults.rules import Rule
from tests.running import Watched, on_all_servers, working
from tests.waiting import wait_until

SOON = 2.0  # seconds
LEASE = 30.0


@pytest.fixture
def handling(stream: str) -> Handling:
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


def _cut(proxy: FaultProxy, how: str) -> Rule:
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
        await watched.add("data", "unseen")
        await handling.got("unseen", timeout=SOON)
    assert handling.counts == {"before": 1, "unseen": 1}


async def _is_blocked(watched: Watched) -> bool:
    return b"blocked_clients:0" not in await watched.do("INFO", "clients")


@on_all_servers
async def test_a_lost_reply_to_an_ack_repeats_nothing(
    proxy: FaultProxy, handling: Handling, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    lost = proxy.lose_reply("XACK", times=2)
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "first")
        await wait_until(lambda: lost.hits == 1)
        await watched.add("data", "second")
        await wait_until(lambda: lost.hits == 2)
        await watched.add("data", "third")
        await handling.got("third")
        await watched.rests()
    assert handling.counts == {"first": 1, "second": 1, "third": 1}
    counts = drained(caplog)
    assert (counts["acked"], counts["lost"]) == (3, 0), "an ack that was carried out is no loss"
    await watched.check_nothing_is_left()


# What a first delivery ends in, and how often each script is then carried out.
SETTLED = {
    "RETRY": ("fail", 2),
    "ACK_RETRIED": ("fail", 2),
    "DEAD_LETTER": ("reject", 1),
    "DROP": ("drop", 1),
}


@pytest.mark.parametrize("lost_to", ["reply", "request"])
@pytest.mark.parametrize("script", list(SETTLED))
async def test_a_settlement_whose_reply_is_lost_has_happened_once(
    script: str,
    lost_to: str,
    proxy: FaultProxy,
    handling: Handling,
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body, runs = SETTLED[script]
    lost = proxy.lose_reply(script) if lost_to == "reply" else proxy.lose_request(script)
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", body)
        await wait_until(lambda: lost.hits == 1)
        await watched.add("data", "neighbour")
        await handling.got("neighbour")
        await watched.rests()
    assert handling.counts == {body: runs, "neighbour": 1}
    assert [run.deliveries for run in handling.runs if run.body == body] == list(range(1, runs + 1))
    assert len(await watched.letters()) == (script == "DEAD_LETTER")
    counts = drained(caplog)
    told = {name: counts[name] for name in ("retried", "dead_lettered", "dropped", "lost")}
    assert told == {"retried": runs - 1, "dead_lettered": 0, "dropped": 0, "lost": 0} | _told(script)
    await watched.check_nothing_is_left()


def _told(script: str) -> dict[str, int]:
    return {"DEAD_LETTER": {"dead_lettered": 1}, "DROP": {"dropped": 1}}.get(script, {})
