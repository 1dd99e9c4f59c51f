"""A primary that becomes a replica while its name goes to the new one, as where DNS decides: all move on."""

from __future__ import annotations

from time import monotonic

from redis import Redis

from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.traffic import SOON, Traffic
from tests.running import on_all_servers
from tests.waiting import wait_until


@on_all_servers
async def test_every_connection_leaves_a_server_that_has_become_a_replica(
    server_kind: str, make_server: ServerOf, stream: str
) -> None:
    old, new = make_server(server_kind), make_server(server_kind, "--repl-diskless-sync-delay", "0")
    new.ask("REPLICAOF", "127.0.0.1", str(old.port))
    await wait_until(lambda: b"master_link_status:up" in new.ask("INFO", "replication"), 20)
    traffic = Traffic([stream])
    with FaultProxy(old.port) as proxy, Redis(port=old.port) as redis:
        async with traffic.flowing(proxy.url):
            since = monotonic()
            new.ask("REPLICAOF", "NO", "ONE")
            proxy.target = new.port  # for the connections that follow
            old.ask("REPLICAOF", "127.0.0.1", str(new.port))
            traffic.excuse(since - 1, monotonic())
            await traffic.goes_on(monotonic())
            await wait_until(lambda: _users(redis) == [], SOON, lambda: f"all have left: {_users(redis)}")


def _users(server: Redis) -> list[str]:
    """What the connections that are not for replication, nor this one, did last."""
    clients = [client for client in server.client_list() if not {*"MS"} & {*client["flags"]}]
    return [client["cmd"] for client in clients if not client["cmd"].startswith("client")]
