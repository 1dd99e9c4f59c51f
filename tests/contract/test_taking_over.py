"""The contract of dying: signs of life, claims from the dead, suspects, and the end of a consumer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamworker.broker import Dead, Settlement
from streamworker.report import Report, heartbeat_value
from streamworker.watch import MARKED_DEAD
from tests.contract.backend import Backend, Party, bodies, group_of
from tests.running import on_all_servers


@on_all_servers
async def test_a_beat_shows_every_members_last_value_and_who_has_something_pending(party: Party, stream: str) -> None:
    one, two = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    stranger = await party.joined(group_of(stream, "other"))
    await party.publisher.publish(stream, 1)
    await one.read(1)
    look = await two.beat()
    assert look.values[one.name] == heartbeat_value(1, one.group.lease, Report())
    assert look.values[two.name] == heartbeat_value(2, two.group.lease, Report())
    assert stranger.name not in look.values
    assert look.pending == {one.name}
    await one.beat()
    assert (await two.beat()).values[one.name] == heartbeat_value(2, one.group.lease, Report())


@on_all_servers
async def test_the_entries_of_a_dead_consumer_are_claimed_as_far_as_there_is_room_and_counted(
    party: Party, stream: str
) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(20))
    await victim.read(20)
    dead = await party.dead(victim, heir)
    seen: list[int] = []
    while len(seen) < 20:
        turn = await heir.turn(dead, room=8)
        assert 1 <= len(turn.claims) <= 8
        assert {claim.deliveries for claim in turn.claims} == {2}
        seen += bodies(turn.claims)
    assert seen == list(range(20))
    await heir.turn(dead)
    look = await heir.beat()
    assert victim.name not in look.values  # emptied, so nothing is kept of it
    assert look.pending == {heir.name}


@on_all_servers
@pytest.mark.parametrize(
    ("times", "mine", "others"), [(12, 250, 25), (40, 1, 20)], ids=["side by side", "far from each other"]
)
async def test_what_a_dead_consumer_leaves_is_claimed_in_order_with_more_told_until_the_last(
    party: Party, stream: str, times: int, mine: int, others: int
) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(times * (mine + others)))
    read: list[int] = []
    for _ in range(times):
        read += bodies(await victim.read(mine))
        await heir.read(others)
    dead = await party.dead(victim, heir)
    seen: list[int] = []
    while len(seen) < len(read):
        turn = await heir.turn(dead, room=700)
        seen += bodies(turn.claims)
        assert turn.more is (len(seen) < len(read)), f"after {len(seen)} of {len(read)}"
    assert seen == read


async def test_a_verdict_on_a_consumer_that_has_beaten_since_takes_nothing(party: Party, stream: str) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish(stream, 1)
    await victim.read(1)
    dead = await party.dead(victim, heir)
    await victim.beat()
    assert (await heir.turn(dead, suspect_from=2)).claims == []
    turn = await heir.turn(dead, suspect_from=1)
    assert turn.suspect is None
    assert list((await victim.reader.own()).values()) == [1]


async def test_a_consumer_that_never_beat_can_be_taken_for_dead_by_that(party: Party, stream: str) -> None:
    heir, silent = await party.joined(group_of(stream)), party.member(group_of(stream))
    await silent.join()
    await party.publisher.publish(stream, 1)
    await silent.read(1)
    look = await heir.beat()
    assert silent.name in look.pending
    assert silent.name not in look.values
    assert bodies((await heir.turn(Dead(silent.name, b""))).claims) == [1]


async def test_who_is_marked_dead_is_seen_so_by_everybody(party: Party, stream: str) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish(stream, 1)
    await victim.read(1)
    await heir.reader.mark_dead(victim.name)
    assert (await heir.beat()).values[victim.name] == MARKED_DEAD
    assert bodies((await heir.turn(Dead(victim.name, MARKED_DEAD))).claims) == [1]


@on_all_servers
async def test_a_suspect_stays_where_it_is_until_it_is_claimed_alone(party: Party, stream: str) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(3))
    entries = await victim.read(3)
    dead = await party.dead(victim, heir)
    turn = await heir.turn(dead, suspect_from=2)
    assert turn.claims == []
    suspect = turn.suspect
    assert suspect is not None
    assert suspect.entry == (entries[0].key, entries[0].id)
    convicted = await heir.reader.claim_alone(suspect, 5)
    assert convicted is not None
    assert convicted.delivery is not None
    assert (convicted.guilty, convicted.count, convicted.delivery.deliveries) == (False, 1, 2)
    assert convicted.delivery.fields == entries[0].fields
    assert await heir.reader.own() == {suspect.entry: 2}
    assert await heir.reader.claim_alone(suspect, 5) is None  # it is ours already


@on_all_servers
async def test_guilty_is_who_ran_alone_when_its_worker_died_and_nobody_else(party: Party, stream: str) -> None:
    first, second, third = [await party.joined(group_of(stream)) for _ in range(3)]
    await party.publisher.publish_many(stream, range(2))
    killer, _ = await first.read(2)
    suspect = (await second.turn(await party.dead(first, second), suspect_from=2)).suspect
    assert suspect is not None
    alone = await second.reader.claim_alone(suspect, 3)
    assert alone is not None
    assert not alone.guilty
    verdicts = {}
    dead = (await party.dead(first, third), await party.dead(second, third))
    for one in dead:
        suspect = (await third.turn(one, suspect_from=2)).suspect
        assert suspect is not None
        convicted = await third.reader.claim_alone(suspect, 3)
        assert convicted is not None
        assert convicted.delivery is not None
        verdicts[suspect.entry[1] == killer.id] = (convicted.guilty, convicted.count, convicted.delivery.deliveries)
    assert verdicts == {False: (False, 1, 2), True: (True, 2, 3)}


async def test_the_count_of_a_suspect_does_not_grow_beyond_the_highest(party: Party, stream: str) -> None:
    members = [await party.joined(group_of(stream)) for _ in range(4)]
    await party.publisher.publish(stream, 1)
    await members[0].read(1)
    counts = []
    for victim, heir in pairwise(members):
        suspect = (await heir.turn(await party.dead(victim, heir), suspect_from=2)).suspect
        assert suspect is not None
        convicted = await heir.reader.claim_alone(suspect, 2)
        assert convicted is not None
        assert convicted.delivery is not None
        counts.append((convicted.count, convicted.delivery.deliveries))
    assert counts == [(1, 2), (2, 2), (2, 2)]


async def test_the_retries_of_a_dead_consumer_are_claimed_too(backend: Backend, party: Party, stream: str) -> None:
    victim, heir = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish(stream, 1)
    (delivery,) = await victim.read(1)
    assert await victim.settle(Settlement(delivery, delay=0.0)) == [True]
    await victim.retries(1)
    (claim,) = (await heir.turn(await party.dead(victim, heir))).claims
    assert (claim.origin, claim.fields, claim.deliveries) == (delivery.origin, delivery.fields, 3)
    assert await heir.ack([claim]) is True
    assert await backend.at_rest(stream, "group")


@pytest.mark.parametrize("holds", [False, True])
async def test_a_consumer_that_leaves_is_forgotten_unless_it_holds_something(
    party: Party, stream: str, holds: bool
) -> None:
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish(stream, 1)
    (delivery,) = await member.read(1)
    if not holds:
        assert await member.ack([delivery]) is True
    await member.reader.leave()
    look = await other.beat()
    assert (member.name in look.values) is holds
    if holds:
        assert bodies((await other.turn(await party.dead(member, other))).claims) == [1]
