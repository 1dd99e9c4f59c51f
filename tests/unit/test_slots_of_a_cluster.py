"""Which names go into one slot, and what a cluster's map makes of what the nodes say."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from streamworker.errors import ConfigError, Unavailable
from streamworker.handler import Group
from streamworker.redisbroker.broker import RedisBroker
from streamworker.redisbroker.cluster import Cluster, in_one_slot
from streamworker.redisbroker.driver import Driver, Place
from streamworker.redisbroker.faults import Moved
from streamworker.redisbroker.keys import Keys
from streamworker.url import read_url

HERE, THERE = Place("here", 1), Place("there", 2)
SLOT = key_slot(b"orders")


def cluster_of_two() -> Cluster:
    """All slots are here, until told otherwise."""
    url = read_url("cluster://nowhere")
    cluster = Cluster(Driver(url), [HERE])
    for slot in (SLOT, key_slot(b"refunds")):
        cluster.failed(HERE, Moved("MOVED", slot, *HERE))
    return cluster


@pytest.mark.parametrize("stream", ["orders", "{eu}:orders", "orders-{eu}", "a{b", "größe", "a:b", "{a}{b}"])
@pytest.mark.parametrize("group", ["billing", "a:b", "{x}", "a}b"])
def test_the_keys_of_a_stream_go_into_its_slot(stream: str, group: str) -> None:
    assert in_one_slot(Keys.of(stream, group))


@pytest.mark.parametrize("stream", ["a}b", "{}x", "a{}b", "}"])
def test_a_name_that_cannot_be_wrapped_is_refused_on_a_cluster_alone(stream: str) -> None:
    assert not in_one_slot(Keys.of(stream, "group"))
    group = Group(stream, "group", (), "dead-letter", 0)
    with pytest.raises(ConfigError, match="cannot be consumed on a cluster"):
        RedisBroker("cluster://nowhere").reader(group, "me", 1)
    RedisBroker("redis://nowhere").reader(group, "me", 1)


def test_a_slot_that_has_moved_is_looked_for_where_the_node_says() -> None:
    cluster = cluster_of_two()
    assert cluster.knows(b"orders")
    assert cluster.holds(b"orders", HERE)
    cluster.failed(HERE, Moved("MOVED", SLOT, *THERE))
    assert not cluster.holds(b"orders", HERE)
    assert cluster.holds(b"orders", THERE)
    assert cluster.holds(b"refunds", HERE)


def test_what_a_lost_node_had_is_not_known_for_certain_any_more() -> None:
    cluster = cluster_of_two()
    cluster.failed(HERE, Moved("MOVED", SLOT, *THERE))
    cluster.failed(THERE, Unavailable("gone"))
    assert not cluster.knows(b"orders")
    assert cluster.knows(b"refunds")
    assert cluster.holds(b"orders", THERE), "whoever is connected there will see for himself"


async def test_connections_that_are_shared_go_by_the_node() -> None:
    cluster = cluster_of_two()
    part = await cluster.part(b"orders")
    assert part == await cluster.part(b"refunds")
    assert part.serves
    for key in (b"orders", b"refunds"):
        cluster.failed(HERE, Moved("MOVED", key_slot(key), *THERE))
    assert await cluster.part(b"orders") == cluster.at(THERE) != part
    assert not part.serves, "its connection can be closed"
