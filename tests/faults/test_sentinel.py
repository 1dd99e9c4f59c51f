"""A primary behind sentinels that is killed, frozen, demoted: publishing and consuming go on by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from redis import Redis

from streamworker import App, Reject
from streamworker.errors import BrokerError, ConfigError
from streamworker.launch import RunOptions, run_worker
from tests.faults.topologies import Replicated, is_primary, replicated_since
from tests.faults.traffic import SOON, Traffic
from tests.running import burst
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture
def replicated(server_kind: str, tmp_path: Path) -> Iterator[Replicated]:
    """A primary, two replicas and three sentinels of this test alone."""
    made = Replicated(server_kind, tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


async def failed_over(replicated: Replicated, old: Server) -> float:
    """Wait for the failover's end; returns when that was."""
    await wait_until(lambda: replicated.has_failed_over(old), 30, "the sentinels name another primary")
    return monotonic()


async def test_the_primary_is_killed_and_everything_goes_on(replicated: Replicated, stream: str) -> None:
    traffic = Traffic([stream, f"{stream}-b"])
    old = replicated.primary()
    async with traffic.flowing(replicated.url):
        since = await asyncio.to_thread(replicated_since, old, 2)
        old.kill()
        traffic.excuse(since, monotonic())
        await traffic.goes_on(await failed_over(replicated, old))


async def test_a_primary_that_freezes_and_comes_back_changes_nothing(replicated: Replicated, stream: str) -> None:
    traffic = Traffic([stream])
    old = replicated.primary()
    async with traffic.flowing(replicated.url):
        since = await asyncio.to_thread(replicated_since, old, 2)
        old.pause()
        end = await failed_over(replicated, old)
        traffic.excuse(since, end)  # nothing that is asked for later may go to the old primary
        await traffic.goes_on(end)
        old.resume()
        assert is_primary(old), "for a while it believes so still, and takes what it is given"
        await wait_until(lambda: not is_primary(old), 30, "the sentinels demote it")
        await traffic.goes_on(monotonic())


async def test_a_primary_that_is_demoted_in_good_health_is_left_by_all(replicated: Replicated, stream: str) -> None:
    traffic = Traffic([stream])
    old = replicated.primary()
    async with traffic.flowing(replicated.url):
        with Redis(port=old.port) as redis:
            demoted = monotonic()
            assert replicated.sentinels[0].ask("SENTINEL", "FAILOVER", "main").startswith(b"+OK")
            await failed_over(replicated, old)
            await is_left(redis, traffic, demoted)


async def test_a_primary_that_only_the_sentinels_cannot_reach_is_left_by_all(
    replicated: Replicated, stream: str
) -> None:
    traffic = Traffic([stream])
    old = replicated.primary()
    async with traffic.flowing(replicated.url):
        with Redis(port=old.port, single_connection_client=True) as redis:
            cut_off = monotonic()
            redis.config_set("requirepass", "unknown to the sentinels")  # who is logged in stays so
            for client in redis.client_list():
                if client["name"].startswith("sentinel-"):
                    redis.client_kill(client["addr"])
            await failed_over(replicated, old)
            await is_left(redis, traffic, cut_off)
            assert redis.info("replication")["role"] == "master", "nobody has told it"


async def is_left(old: Redis, traffic: Traffic, since: float) -> None:
    """Soon nobody uses the old primary, and nothing is lost from then on."""

    def users() -> list[str]:
        return [client["cmd"] for client in old.client_list() if client["cmd"] in ("xreadgroup", "xadd", "evalsha")]

    await wait_until(lambda: not users(), SOON, "all have left the old primary")
    left = monotonic()
    traffic.excuse(since - 1, left)
    await traffic.goes_on(left)


async def test_one_sentinel_that_is_alive_is_enough_and_a_burst_ends(replicated: Replicated, stream: str) -> None:
    url, primary = replicated.url, replicated.primary()
    replicated.sentinels[0].kill()
    replicated.sentinels[1].pause()
    app = App("group")
    got: list[str] = []

    @app.on(stream)
    async def handle(body: str) -> None:
        got.append(body)
        if body == "bad":
            raise Reject("bad")

    primary.ask("XADD", stream, "*", "data", "good")
    primary.ask("XADD", stream, "*", "data", "bad")
    await burst(app, url=url)
    assert got == ["good", "bad"]
    assert primary.ask("XLEN", f"{{{stream}}}:group:dead") == b":1\r\n"


async def test_what_a_sentinel_url_gets_wrong_is_told_at_the_start(replicated: Replicated, stream: str) -> None:
    app = App("group")
    app.on(stream)(print)
    sentinel = replicated.sentinels[0].port

    async def told(url: str) -> str:
        with pytest.raises((ConfigError, BrokerError)) as caught:
            await run_worker([app], url, RunOptions(connect_timeout=0), asyncio.Event(), lambda: None)
        return str(caught.value)

    assert "knows the service 'other'" in await told(f"sentinel://127.0.0.1:{sentinel}/other")
    assert "the server does not take this URL" in await told(f"sentinel://127.0.0.1:{replicated.servers[0].port}/main")
    replicated.sentinels[0].ask("ACL", "SETUSER", "default", "resetpass", ">open-sesame")
    text = await told(f"sentinel://127.0.0.1:{sentinel}/main?sentinel_password=SW-CANARY")
    assert "sentinel_password" in text
    assert "CANARY" not in text
    assert "sentinel_password" in await told(f"sentinel://127.0.0.1:{sentinel}/main")
    await burst(app, url=f"sentinel://127.0.0.1:{sentinel}/main?sentinel_password=open-sesame")
