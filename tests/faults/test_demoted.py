"""A primary that becomes a replica while its name goes to the new one, as where DNS decides: all move on."""

from __future__ import annotations

from time import monotonic

from redis import Redis

from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.topologies import AT_ONCE
from tests.faults.traffic import SOON, Traffic
from tests.roles import as_role
from tests.running import on_all_servers
from tests.servers import Server
from tests.waiting import wait_until


@on_all_servers
async def test_every_connection_leaves_a_server_that_has_become_a_replica(
    server_kind: str, make_server: ServerOf, stream: str
) -> None:
    old, new = await _replicated(server_kind, make_server)
    traffic = Traffic([stream])
    with FaultProxy(old.port) as proxy, Redis(port=old.port) as redis:
        async with traffic.flowing(as_role(proxy.url)):
            since = monotonic()
            _switch(proxy, old, new)
            traffic.excuse(since - 1, monotonic())
            await traffic.goes_on(monotonic())
            await wait_until(lambda: _users(redis) == [], SOON, lambda: f"all have left: {_users(redis)}")


async def test_a_replica_that_lags_takes_over(server_kind: str, make_server: ServerOf, stream: str) -> None:
    """What it does not have is gone; what was acked and is pending there comes again, and is acked again."""
    old, new = await _replicated(server_kind, make_server)
    traffic = Traffic([stream])
    with FaultProxy(old.port) as proxy:
        async with traffic.flowing(as_role(proxy.url)):
            since = monotonic()
            new.ask("REPLICAOF", "NO", "ONE")  # from now on it hears of nothing
            await traffic.goes_on(since)
            handled = len(traffic.handled)
            await wait_until(lambda: len(traffic.handled) > handled + 20)
            _switch(proxy, old, new)
            traffic.excuse(since - 1, monotonic())
            await traffic.goes_on(monotonic())


async def test_a_replica_that_is_empty_takes_over(server_kind: str, make_server: ServerOf, stream: str) -> None:
    """The group is made again, at the beginning."""
    old, new = make_server(server_kind), make_server(server_kind)
    traffic = Traffic([stream])
    with FaultProxy(old.port) as proxy:
        async with traffic.flowing(as_role(proxy.url)):
            _switch(proxy, old, new)
            traffic.excuse(0, monotonic())
            await traffic.goes_on(monotonic())


async def _replicated(kind: str, make_server: ServerOf) -> tuple[Server, Server]:
    old, new = make_server(kind, *AT_ONCE), make_server(kind)
    new.ask("REPLICAOF", "127.0.0.1", str(old.port))
    await wait_until(lambda: b"master_link_status:up" in new.ask("INFO", "replication"), 20)
    return old, new


def _switch(proxy: FaultProxy, old: Server, new: Server) -> None:
    new.ask("REPLICAOF", "NO", "ONE")
    proxy.target = new.port  # for the connections that follow
    old.ask("REPLICAOF", "127.0.0.1", str(new.port))


def _users(server: Redis) -> list[str]:
    """What the connections that are not for replication, nor this one, did last."""
    clients = [client for client in server.client_list() if not {*"MS"} & {*client["flags"]}]
    return [client["cmd"] for client in clients if not client["cmd"].startswith("client")]
