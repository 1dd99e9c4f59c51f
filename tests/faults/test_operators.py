"""The operators' commands on a cluster: each asks the node that has the stream."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from streamworker.redisbroker.keys import Keys
from tests.commands import Said, call
from tests.faults.topologies import ServerCluster, stream_names


@pytest.fixture
def server_kind() -> str:
    return "valkey-9.1"


def ask(cluster: ServerCluster, *words: str) -> Said:
    said = call(*words, url=cluster.url.replace("role-worker", "role-reader"))
    assert (said.code, said.err) == (0, ""), said
    return said


def steer(cluster: ServerCluster, *words: str) -> Said:
    said = call(*words, url=cluster.url.replace("role-worker", "role-operator"))
    assert (said.code, said.err) == (0, ""), said
    return said


async def test_every_command_finds_the_streams_of_all_nodes(cluster: ServerCluster, stream: str) -> None:
    await asyncio.to_thread(_look_at_all, cluster, stream)


def _look_at_all(cluster: ServerCluster, stream: str) -> None:
    names = sorted(stream_names(stream, cluster.nodes[:3], cluster, 1))
    ids = {}
    for number, name in enumerate(names):
        with Redis(port=cluster.of(name).port, protocol=2) as node:
            node.xgroup_create(name, "billing", "0", mkstream=True)
            for _ in range(3 + number):
                ids[name] = node.xadd(name, {"data": name}).decode()
            node.xreadgroup("billing", f"web-{number}-ab.sw", {name: ">"}, count=2)
            keys = Keys.of(name, "billing")
            node.xadd(keys.dead, {"sw-id": ids[name], "sw-reason": "no"})
            node.zadd(keys.delayed, {f"{ids[name]} 2 ": 1})
    seen = {one["stream"]: one["groups"][0] for one in ask(cluster, "status", "--json").objects}
    assert sorted(seen) == names
    assert [seen[name]["lag"] for name in names] == [1, 2, 3]
    assert [one["worker"] for one in ask(cluster, "workers", "--json").objects] == [
        f"web-{number}-ab.sw" for number in range(3)
    ]
    for name in names:
        (last,) = ask(cluster, "tail", name, "-n", "1", "--no-follow", "--json").objects
        assert (last["id"], last["body"]) == (ids[name], name)
        (letter,) = ask(cluster, "tail", name, "--dead", "billing", "--no-follow", "--json").objects
        assert letter["reason"] == "no"
        (trimmed,) = steer(cluster, "trim", name, "--max-length", "2", "--force", "--yes", "--json").objects
        assert (trimmed["length"], trimmed["kept"]) == (2, True)
        (found,) = ask(cluster, "inspect", name, ids[name], "--json").objects
        assert (found["groups"][0]["state"], len(found["groups"][0]["dead_letters"])) == ("waiting", 1)


async def test_the_doctor_looks_at_every_node_and_says_which_names_will_not_do(
    cluster: ServerCluster, stream: str
) -> None:
    await asyncio.to_thread(_examine_all, cluster, stream)


def _examine_all(cluster: ServerCluster, stream: str) -> None:
    names = sorted(stream_names(stream, cluster.nodes[:3], cluster, 1))
    for name in names:
        with Redis(port=cluster.of(name).port, protocol=2) as node:
            node.xadd(name, {"data": "x"})
            node.xgroup_create(name, "billing", "$")
            node.xadd(name, {"data": "x"})
    seen = steer(cluster, "doctor", "--fix", "--json").objects
    nodes = {one["node"] for one in seen if one["check"] == "eviction"}
    assert nodes == {f"127.0.0.1:{node.port}" for node in cluster.nodes[:3]}
    assert sorted(one["stream"] for one in seen if one["check"] == "lag" and one["fixed"]) == names
    for name in names:
        with Redis(port=cluster.of(name).port, protocol=2) as node:
            (group,) = node.xinfo_groups(name)
            assert group["lag"] == 1
    # What is kept beside these would lie in the slot of what stands before the brace, on whichever node that is.
    for number in range(4):
        split = f"{stream}}}{number}"
        with Redis(port=cluster.of(split).port, protocol=2) as node:
            node.xgroup_create(split, "billing", "0", mkstream=True)
        said = call("doctor", split, "--json", url=cluster.url.replace("role-worker", "role-operator"))
        assert [one["level"] for one in said.objects if one["check"] == "keys"] == ["problem"], said
        assert (said.code, said.err) == (1, "")
        said = call("pause", split, "billing", url=cluster.url.replace("role-worker", "role-operator"))
        assert (said.code, "will not do on a Cluster" in said.err) == (1, True)
