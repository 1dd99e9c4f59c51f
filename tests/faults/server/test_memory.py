"""Servers that are out of memory: what needs a copy waits, everything else goes on."""

from __future__ import annotations

import pytest

from streamworker import App, PublishError
from streamworker.errors import PublishFailed
from tests.faults.server.fleet import Fleet
from tests.running import on_all_servers
from tests.servers import Server
from tests.waiting import wait_until


@on_all_servers
async def test_out_of_memory_reading_and_acking_go_on_and_what_needs_a_copy_stays_pending_uncounted(
    fleet: Fleet, own_server: Server
) -> None:
    watched = fleet.watched
    await fleet.start(concurrency=50)
    await watched.do("HSET", watched.keys.consumers, "paused", "1")
    await wait_until(lambda: fleet.logged("group.paused"))
    fine = [f"fine-{number}" for number in range(300)]
    fails = [f"fails-{number}" for number in range(10)]
    rejects = [f"rejects-{number}" for number in range(10)]
    await fleet.publish(*fails, fail=1)
    await fleet.publish(*rejects, reject=True)
    await fleet.publish(*fine)
    await watched.do("CONFIG", "SET", "maxmemory", "1")
    await watched.do("HDEL", watched.keys.consumers, "paused")
    await wait_until(lambda: set(fine) <= fleet.handled, 20)

    async def only_copies_wait() -> bool:
        return await watched.pending() == 20

    await wait_until(only_copies_wait, 10, lambda: f"only 20 are pending\n{fleet.log}")
    await fleet.noticed("settlement.refused")
    await fleet.keep_quiet(healthy=True)
    async with App("publisher", url=own_server.url) as app:
        with pytest.raises(PublishError, match=r"OOM|used memory"):
            await app.publish(watched.keys.stream.decode(), "x")
        with pytest.raises(PublishFailed, match=r"OOM|used memory") as failed:
            await app.publish_many(watched.keys.stream.decode(), ["x"] * 3)
        assert (failed.value.published, failed.value.unknown) == (0, 0)
    assert await watched.pending() == 20
    assert max(fleet.starts.values()) == 1, "what could not be settled is not run again"
    await watched.do("CONFIG", "SET", "maxmemory", "0")
    await fleet.heals()
    ends = {event.words[1]: event.words[2] for event in fleet.journal if event.words[0] == "end"}
    assert {ends[name] for name in fails} == {"2"}, "it cost no delivery"


@on_all_servers
async def test_out_of_memory_nobody_alive_is_robbed_and_who_dies_is_found(fleet: Fleet) -> None:
    watched = fleet.watched
    held = [f"held-{number}" for number in range(12)]
    await fleet.start(2, lease=1.5, concurrency=12)
    for name in held:  # one by one, so that both workers get some
        await fleet.publish(name, hold=True)
        await fleet.got(name)
    await watched.do("CONFIG", "SET", "maxmemory", "1")
    beats = fleet.proxy.totals["BEAT"]
    await wait_until(lambda: fleet.proxy.totals["BEAT"] > beats + 2 * 6 * 2, 30, "two leases of both go by")
    assert max(fleet.starts.values()) == 1
    assert not fleet.logged("heartbeat.refused")
    victim = fleet.workers.pop()
    his = {event.words[1] for event in fleet.journal if event.pid == victim.pid}
    victim.sigkill()
    await wait_until(lambda: all(fleet.starts[name] == 2 for name in his), 15, lambda: f"{his} are found\n{fleet.log}")
    fleet.go()
    await wait_until(lambda: set(held) <= fleet.handled)
    await watched.do("CONFIG", "SET", "maxmemory", "0")
    await fleet.heals(twice=his)
