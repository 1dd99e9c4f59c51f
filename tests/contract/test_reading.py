"""The contract of reading: groups, members, order, where a new group begins, and broadcasts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from streamworker.broker import Broadcaster, Settlement
from streamworker.errors import GroupMissing
from streamworker.handler import Start
from streamworker.message import field
from tests.contract.backend import LIMIT, Backend, Party, bodies, group_of, located
from tests.running import on_all_servers
from tests.waiting import wait_until


async def test_a_read_brings_no_more_than_its_room_and_the_oldest_first(party: Party, stream: str) -> None:
    await party.publisher.publish_many(stream, range(30))
    member = await party.joined(group_of(stream))
    seen: list[int] = []
    while len(seen) < 30:
        batch = await member.reader.read(7, 0.1)
        assert 1 <= len(batch) <= 7
        seen += bodies(batch)
    assert seen == list(range(30))
    assert await member.reader.read(7, 0.01) == []


async def test_a_read_that_waits_gets_what_is_published_meanwhile(party: Party, stream: str) -> None:
    member = await party.joined(group_of(stream))
    reading = asyncio.create_task(member.reader.read(10, LIMIT))
    looking = await party.joined(group_of(stream))  # round trips, in which the read begins
    assert not reading.done()
    await party.publisher.publish(stream, "now")
    async with asyncio.timeout(LIMIT / 2):
        (delivery,) = await reading
    assert delivery.deliveries == 1
    assert await looking.reader.read(10, 0.01) == []


@on_all_servers
async def test_each_group_gets_every_entry_and_the_members_of_one_share_them(party: Party, stream: str) -> None:
    await party.publisher.publish_many(stream, range(100))
    one, two = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    other = await party.joined(group_of(stream, "other"))
    shared: list[int] = []
    while len(shared) < 100:
        for member in (one, two):
            batch = bodies(await member.reader.read(5, 0.05))
            assert batch == sorted(batch)
            shared += batch
    assert shared == list(range(100))
    assert bodies(await other.read(100)) == list(range(100))


async def test_groups_whose_names_could_be_taken_for_one_another_stay_apart(party: Party, stream: str) -> None:
    names = ("a", "a:b", "a%3Ab", "ä b")
    members = [await party.joined(group_of(stream, name)) for name in names]
    await party.publisher.publish(stream, 1)
    for member in members:
        (delivery,) = await member.read(1)
        assert await member.settle(Settlement(delivery, delay=0.0)) == [True]
        (retry,) = await member.retries(1)
        assert list(await member.reader.own()) == [(retry.key, retry.id)]
    assert [(await member.turn()).retries for member in members] == [[]] * len(names)


@on_all_servers
@pytest.mark.parametrize("start", ["beginning", "new", "id", "time"])
async def test_a_new_group_begins_where_it_is_told(party: Party, stream: str, start: str) -> None:
    first = await party.publisher.publish(stream, 0)
    at = int(first.partition("-")[0])

    async def a_millisecond_later() -> bool:
        return int((await party.publisher.publish(stream, {"at": "between"})).partition("-")[0]) > at

    await wait_until(a_millisecond_later)
    second = await party.publisher.publish(stream, 1)
    starts: dict[str, Start] = {
        "beginning": "beginning",
        "new": "new",
        "id": second,
        "time": datetime.fromtimestamp((at + 1) / 1000, UTC),
    }
    member = party.member(group_of(stream, start=starts[start]))
    joined = await member.join()
    assert joined.created is not None
    assert (await member.join()).created is None
    await member.beat()
    await party.publisher.publish(stream, 2)
    expected = {"beginning": 0, "new": 2, "id": 1, "time": {"at": "between"}}[start]
    assert joined.waiting is not None
    seen = bodies(await member.read(joined.waiting + 1))
    assert seen[0] == expected
    assert seen[-1] == 2
    assert await member.reader.read(10, 0.01) == []


async def test_a_group_on_a_stream_that_is_not_there_yet_misses_nothing(party: Party, stream: str) -> None:
    member = await party.joined(group_of(stream, start="new"))
    await party.publisher.publish(stream, "first")
    (delivery,) = await member.read(1)
    assert field(delivery.fields, b"data") == b"first"


@on_all_servers
async def test_what_is_read_is_pending_for_its_reader_until_it_is_acked(party: Party, stream: str) -> None:
    await party.publisher.publish_many(stream, range(5))
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    deliveries = await member.read(5)
    names = {(delivery.key, delivery.id): 1 for delivery in deliveries}
    assert await member.reader.own() == names
    assert await other.reader.own() == {}
    assert await other.reader.owners(list(names)) == [member.name] * 5
    fetched, trimmed = await member.reader.fetch(names)
    assert [(one.id, one.fields, one.deliveries) for one in fetched] == [
        (one.id, one.fields, one.deliveries) for one in deliveries
    ]
    assert trimmed == 0
    assert await member.ack(deliveries[:3]) is True
    assert list(await member.reader.own()) == [(one.key, one.id) for one in deliveries[3:]]
    assert await other.reader.owners(list(names)) == [None] * 3 + [member.name] * 2


async def test_what_is_left_is_told_apart(party: Party, stream: str) -> None:
    member = await party.joined(group_of(stream))
    assert not await member.reader.left(60)
    await party.publisher.publish(stream, 1)
    (delivery,) = await member.read(1)
    left = await member.reader.left(60)
    assert (left.pending, left.ready, left.waiting) == (1, 0, 0)
    assert await member.ack([delivery]) is True
    assert not await member.reader.left(60)


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
async def test_a_server_that_forgot_everything_says_so_and_the_group_begins_again_before_what_came_since(
    own_backend: Backend, own_party: Party, stream: str
) -> None:
    member = await own_party.joined(group_of(stream, start="new"))
    await own_party.publisher.publish(stream, 0)
    await member.read(1)
    own_backend.wipe()
    await own_party.publisher.publish(stream, 1)
    with pytest.raises(GroupMissing):
        await member.reader.read(10, 0.01)
    assert (await member.join(joined_before=True)).created is not None
    assert bodies(await member.read(1)) == [1]


async def test_a_broadcast_reaches_every_reader_from_its_start_on(party: Party, stream: str) -> None:
    await party.publisher.publish(stream, 0)
    late, early = await located(party.broker, stream, "new"), await located(party.broker, stream, "beginning")
    await party.publisher.publish_many(stream, range(1, 10))
    seen: dict[int, list[int]] = {0: [], 1: []}
    for at, reader in enumerate((late, early)):

        async def all_read(at: int = at, reader: Broadcaster = reader) -> bool:
            batch = await reader.read(4, 0.05)
            assert len(batch) <= 4
            seen[at] += bodies(batch)
            return seen[at][-1:] == [9]

        await wait_until(all_read, LIMIT)
        await reader.close()
    assert seen == {0: list(range(1, 10)), 1: list(range(10))}


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_broadcast_goes_on_after_a_restart_where_it_was(
    own_backend: Backend, own_party: Party, stream: str
) -> None:
    reader = await located(own_party.broker, stream, "new")
    await own_party.publisher.publish_many(stream, range(5))
    assert bodies(await reader.read(1, 1.0)) == [0]
    await asyncio.to_thread(own_backend.restart)
    publisher = own_party.broker.publisher()
    await publisher.publish(stream, 5)
    await publisher.close()
    await reader.close()
    await reader.locate(None)
    seen: list[int] = []

    async def all_read() -> bool:
        seen.extend(bodies(await reader.read(10, 0.05)))
        return seen[-1:] == [5]

    await wait_until(all_read, LIMIT)
    assert seen == [1, 2, 3, 4, 5]
    await reader.close()
