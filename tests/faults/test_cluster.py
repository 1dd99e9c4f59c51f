"""A cluster whose nodes die and hang, whose slots move and vanish: every stream goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic

import pytest
from redis.crc import key_slot

from streamworker import App, Backoff, Message, Reject
from streamworker.broker import Beat, Look
from streamworker.errors import BrokerError, ConfigError
from streamworker.launch import RunOptions, run_worker
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.pulse import RedisPulse
from tests.faults.topologies import Migration, ServerCluster, replicated_since, stream_names
from tests.faults.traffic import Traffic
from tests.running import burst
from tests.servers import Server
from tests.waiting import wait_until


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_primary_is_lost_and_only_its_streams_wait_for_the_failover(
    cluster: ServerCluster, stream: str, how: str
) -> None:
    names = stream_names(stream, cluster.nodes[:3], cluster, 2)
    traffic = Traffic(names)
    old = cluster.of(names[0])
    async with traffic.flowing(cluster.url):
        since = await asyncio.to_thread(replicated_since, old, 1, f"{{{names[0]}}}:probe")
        lost = monotonic()
        if how == "killed":
            old.kill()
        else:
            old.pause()
        others = [name for name in names if name not in names[:2]]
        await traffic.goes_on(lost, streams=others)
        await wait_until(lambda: cluster.has_failed_over(names[0], old), 30, "a replica takes over")
        end = monotonic()
        traffic.excuse(since, end)
        await traffic.goes_on(end)
        if how == "frozen":
            old.resume()
            await wait_until(lambda: cluster.is_replica(old), 20, "the old primary follows the new one")
            await traffic.goes_on(monotonic())


async def test_a_node_that_hangs_holds_up_no_heartbeat_of_the_others(cluster: ServerCluster, stream: str) -> None:
    names = stream_names(stream, cluster.nodes[:3], cluster, 1)
    pulse = RedisPulse(topology_of(cluster.url), "me.sw")

    async def beat() -> list[Look | BrokerError]:
        return await asyncio.to_thread(pulse.beat, [Beat(name, "group", b"1 15000 host") for name in names], 6.0)

    assert all(isinstance(look, Look) for look in await beat())
    hanging = cluster.of(names[0])
    hanging.pause()
    try:
        for _ in range(4):  # known to hang or not: each round
            began = monotonic()
            _, *others = await beat()
            assert monotonic() - began < 5.0, "about half the time, since a round must not delay the next"
            assert all(isinstance(look, Look) for look in others)
        await wait_until(lambda: cluster.has_failed_over(names[0], hanging), 30, "a replica takes over")
        await wait_until(partial(_beats_everywhere, beat), 10)
    finally:
        hanging.resume()
        await asyncio.to_thread(pulse.close)


async def _beats_everywhere(beat: Callable[[], Awaitable[list[Look | BrokerError]]]) -> bool:
    return all(isinstance(look, Look) for look in await beat())


async def test_a_slot_moves_under_its_readers_and_publishers(cluster: ServerCluster, stream: str) -> None:
    names = stream_names(stream, cluster.nodes[:3], cluster, 1)
    traffic = Traffic(names)
    source, target = cluster.of(names[0]), cluster.of(names[1])
    async with traffic.flowing(cluster.url):
        migration = Migration(cluster, key_slot(names[0].encode()), source, target)
        migration.begin()
        migration.move_keys()
        moved = monotonic()
        await traffic.goes_on(moved, streams=names[1:])
        await traffic.publishes(names[0], moved)  # ASK
        migration.end()
        end = monotonic()
        await traffic.goes_on(end)
    assert not traffic.errors, "publishing followed the slot"


async def test_a_slot_that_nobody_serves_comes_back(cluster: ServerCluster, stream: str) -> None:
    names = stream_names(stream, cluster.nodes[:3], cluster, 1)
    traffic = Traffic(names)
    owner = cluster.of(names[0])
    slot = str(key_slot(names[0].encode()))
    async with traffic.flowing(cluster.url):
        assert owner.ask("CLUSTER", "DELSLOTS", slot).startswith(b"+OK")
        await wait_until(lambda: any("CLUSTERDOWN" in str(error) for error in traffic.errors), 10)
        for node in cluster.nodes[:3]:  # some have heard of it by now, others have not
            node.ask("CLUSTER", "DELSLOTS", slot)
        assert owner.ask("CLUSTER", "ADDSLOTS", slot).startswith(b"+OK")
        await wait_until(cluster.is_content, 20, "the cluster serves again")
        await traffic.goes_on(monotonic())


async def test_a_burst_over_all_nodes_retries_dead_letters_and_ends(cluster: ServerCluster, stream: str) -> None:
    names = stream_names(stream, cluster.nodes[:3], cluster, 2)
    app = App("group")
    done: list[tuple[str, str]] = []

    async def handle(body: str, message: Message) -> None:
        if body == "bad":
            raise Reject("bad")
        if body == "late" and message.deliveries == 1:
            raise ValueError("once")
        done.append((message.stream, body))

    for name in names:
        app.on(name, retry=Backoff(first=0.05))(handle)
        for body in ("good", "late", "bad"):
            cluster.of(name).ask("XADD", name, "*", "data", body)
    await burst(app, url=cluster.url)
    assert sorted(done) == sorted((name, body) for name in names for body in ("good", "late"))
    for name in names:
        assert cluster.of(name).ask("XLEN", f"{{{name}}}:group:dead") == b":1\r\n"


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_what_a_cluster_cannot_do_is_told_at_the_start(cluster: ServerCluster, own_server: Server) -> None:
    async def told(stream: str, url: str) -> str:
        app = App("group")
        app.on(stream)(print)
        with pytest.raises(ConfigError) as caught:
            await run_worker([app], url, RunOptions(connect_timeout=0), asyncio.Event(), lambda: None)
        return str(caught.value)

    for name in ("a}b", "{}x", "a{}b"):
        assert repr(name) in await told(name, cluster.url)
    assert "cluster support disabled" in await told("orders", own_server.url.replace("redis://", "cluster://")[:-2])
