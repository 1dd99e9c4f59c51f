"""Servers that take over from each other: a primary with replicas and sentinels, and a cluster."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from redis import Redis
from redis.crc import key_slot

from tests.roles import as_role
from tests.servers import Server, stop_all
from tests.waiting import wait_until_sync

SERVICE = "main"
_SLOTS = 16_384
AT_ONCE = ("--repl-diskless-sync-delay", "0")  # a primary waits 5 s for more replicas before it begins

# A failover begins after half a second; a sentinel that lost the vote asks again after three.
_SENTINEL = """
sentinel monitor main 127.0.0.1 {port} 2
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 3000
"""
# On a machine with much to do a process may stand still for seconds, which a sentinel takes for a clock that
# jumped: it does nothing for half a minute. The rest is so that they hear of each other sooner.
_SWIFT = ("TILT-TRIGGER", "60000", "TILT-PERIOD", "1000", "PUBLISH-PERIOD", "500", "INFO-PERIOD", "1000")
_NODE = ("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")  # a slot fails alone


def replicated_since(primary: Server, replicas: int, probe: str = "probe") -> float:
    """Wait until its replicas have all that it has acknowledged up to now; returns when that was asked.

    Args:
        primary: the server.
        replicas: how many there are.
        probe: a key that is its own, since WAIT goes by what its connection has written.
    """
    asked = monotonic()
    with Redis(port=primary.port, socket_timeout=30.0) as redis:
        redis.set(probe, "")
        assert redis.wait(replicas, 20_000) == replicas
        redis.delete(probe)
    return asked


class Replicated:
    """A primary, two replicas, and three sentinels that watch them."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.servers = [Server(kind, _new(folder / f"server-{number}"), *AT_ONCE) for number in range(3)]
        self.sentinels: list[Server] = []
        self._kind = kind
        self._folder = folder

    @property
    def url(self) -> str:
        seeds = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return as_role(f"sentinel://{seeds}/{SERVICE}/0")

    def start(self) -> Replicated:
        """Start all and wait until everybody knows of everybody."""
        first = self.servers[0].start()
        for replica in self.servers[1:]:
            replica.start()
            replica.ask("REPLICAOF", "127.0.0.1", str(first.port))
        # A replica that a sentinel finds in the middle of its first synchronisation is asked again 10 s later.
        wait_until_sync(lambda: all(_synced(replica) for replica in self.servers[1:]), 20, "replicas are in sync")
        for number in range(3):
            config = _SENTINEL.format(port=first.port)
            sentinel = Server(self._kind, _new(self._folder / f"sentinel-{number}"), "--sentinel", config=config)
            self.sentinels.append(sentinel.start())
            _ok(sentinel.ask("SENTINEL", "DEBUG", *_SWIFT))
        wait_until_sync(lambda: all(map(_complete, self.sentinels)), 30, "sentinels know replicas and each other")
        return self

    def stop(self) -> None:
        stop_all(*self.sentinels, *self.servers)

    def primary(self) -> Server:
        """The server that all sentinels name; LookupError while they do not agree."""
        named = {self._named_by(sentinel) for sentinel in self.sentinels if sentinel.process is not None}
        if len(named) != 1:
            raise LookupError("the sentinels do not agree")
        return named.pop()

    def has_failed_over(self, old: Server) -> bool:
        """Whether all sentinels name a primary other than ``old``, and it says it is one."""
        try:
            new = self.primary()
        except LookupError:
            return False
        return new is not old and is_primary(new)

    def _named_by(self, sentinel: Server) -> Server:
        reply = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if b"\r\n%d\r\n" % server.port in reply)


class ServerCluster:
    """Three primaries, each with a replica and a third of the slots."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.nodes: list[Server] = []
        self._kind = kind
        self._folder = folder

    @property
    def url(self) -> str:
        return as_role("cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3]))

    def start(self) -> ServerCluster:
        """Start all, give out the slots, and wait until every node is content."""
        buses = [bus_port() for _ in range(6)]
        for number, bus in enumerate(buses):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), *_NODE)
            node = Server(self._kind, _new(self._folder / f"node-{number}"), *options, *AT_ONCE)
            self.nodes.append(node.start())
            _ok(node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)))
        for number, node in enumerate(self.nodes[:3]):
            first, last = number * _SLOTS // 3, (number + 1) * _SLOTS // 3 - 1
            _ok(node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)))
        for node, bus in list(zip(self.nodes, buses, strict=True))[1:]:
            _ok(self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(bus)))
        wait_until_sync(lambda: all(_fact(node, "cluster_known_nodes") == "6" for node in self.nodes), 30)
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            _ok(replica.ask("CLUSTER", "REPLICATE", node_name(primary)))
        wait_until_sync(self.is_content, 30, "the cluster serves and its replicas are in sync")
        return self

    def stop(self) -> None:
        stop_all(*self.nodes)

    def of(self, stream: str, apart: Server | None = None) -> Server:
        """The primary that has ``stream``, as all nodes but ``apart`` see it; LookupError while they do not agree."""
        slot = key_slot(stream.encode())
        found = {_owner(node, slot) for node in self.nodes if node is not apart}
        if len(found) != 1:
            raise LookupError(f"the nodes do not agree on slot {slot}: {found}")
        port = found.pop()
        return next(node for node in self.nodes if node.port == port)

    def has_failed_over(self, stream: str, old: Server) -> bool:
        """Whether all other nodes name another primary for ``stream`` than ``old``."""
        try:
            new = self.of(stream, apart=old)
        except LookupError:
            return False
        return new is not old and _fact(new, "cluster_state") == "ok"

    def is_replica(self, node: Server) -> bool:
        return all(_role(one, node_name(node)) == "slave" for one in self.nodes if one.process is not None)

    def is_content(self) -> bool:
        """Whether all nodes serve, and all replicas are in sync."""
        states = all(_fact(node, "cluster_state") == "ok" for node in self.nodes)
        return states and all(_synced(replica) for replica in self.nodes[3:])


class Migration:
    """A slot on its way from one node to another, a step at a time, as a resharding does it."""

    def __init__(self, cluster: ServerCluster, slot: int, source: Server, target: Server) -> None:
        self._cluster = cluster
        self._slot = str(slot)
        self._source = source
        self._target = target

    def begin(self) -> None:
        """What the source does not have is asked of the target."""
        _ok(self._target.ask("CLUSTER", "SETSLOT", self._slot, "IMPORTING", node_name(self._source)))
        _ok(self._source.ask("CLUSTER", "SETSLOT", self._slot, "MIGRATING", node_name(self._target)))

    def move_keys(self) -> None:
        """One key after the other."""
        place = ("127.0.0.1", str(self._target.port))
        while keys := self._source.ask("CLUSTER", "GETKEYSINSLOT", self._slot, "1").split(b"\r\n")[2:3]:
            _ok(self._source.ask("MIGRATE", *place, keys[0], "0", "5000"))

    def end(self) -> None:
        """The slot is the target's."""
        for node in (self._target, self._source, *self._cluster.nodes[:3]):
            _ok(node.ask("CLUSTER", "SETSLOT", self._slot, "NODE", node_name(self._target)))


def is_primary(server: Server) -> bool:
    return b"\r\nmaster\r\n" in server.ask("ROLE")


def node_name(node: Server) -> str:
    """What the nodes of a cluster call it."""
    return node.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()


def stream_names(prefix: str, nodes: Sequence[Server], cluster: ServerCluster, each: int) -> list[str]:
    """Names of streams: ``each`` on each of ``nodes``."""
    found: dict[int, list[str]] = {node.port: [] for node in nodes}
    number = 0
    while any(len(names) < each for names in found.values()):
        name = f"{prefix}-{number}"
        names = found.get(cluster.of(name).port)
        if names is not None and len(names) < each:
            names.append(name)
        number += 1
    return [name for names in found.values() for name in names]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def bus_port() -> int:
    """A free port for what the nodes tell each other, apart from those that the system gives to anybody."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _ok(reply: bytes) -> None:
    assert reply.startswith(b"+OK"), reply


def _synced(replica: Server) -> bool:
    return b"master_link_status:up" in replica.ask("INFO", "replication")


def _complete(sentinel: Server) -> bool:
    reply = sentinel.ask("SENTINEL", "MASTER", SERVICE)
    return b"num-slaves\r\n$1\r\n2\r\n" in reply and b"num-other-sentinels\r\n$1\r\n2\r\n" in reply


def _fact(node: Server, name: str) -> str:
    lines = node.ask("CLUSTER", "INFO").decode().split("\r\n")
    return next((line.partition(":")[2] for line in lines if line.startswith(f"{name}:")), "")


def _role(node: Server, name: str) -> str:
    """What ``node`` takes the node ``name`` for."""
    lines = node.ask("CLUSTER", "NODES").decode().split("\n")
    flags = next(line.split()[2] for line in lines if name in line.split(" ")[:1])
    return "slave" if "slave" in flags else "master"


def _owner(node: Server, slot: int) -> int:
    """The port of the primary that has ``slot``, as ``node`` sees it; 0 for none."""
    for line in node.ask("CLUSTER", "NODES").decode().split("\n"):
        words = line.split()
        if len(words) < 8 or "master" not in words[2]:
            continue
        for part in words[8:]:
            first, _, last = part.partition("-")
            if first.isdigit() and int(first) <= slot <= int(last or first):
                return int(words[1].partition("@")[0].rpartition(":")[2])
    return 0
