"""The contract of settling: every way to settle, and that what is not ours any more is left alone."""

from __future__ import annotations

import asyncio

import pytest

from streamworker.broker import Settlement
from streamworker.errors import Unavailable
from streamworker.message import Delivery
from tests.contract.backend import Backend, Member, Party, bodies, group_of
from tests.running import on_all_servers

LETTER = {"reason": "no such order", "handler": "charge", "error": "two\nlines ü"}


async def first(party: Party, member: Member, body: object = 1) -> Delivery:
    """An entry that was published just now and read by ``member``."""
    await party.publisher.publish(member.group.stream, body, headers={"tenant": "a"})
    (delivery,) = await member.read(1)
    return delivery


@on_all_servers
async def test_a_retry_comes_after_its_delay_with_its_id_fields_and_count_and_to_its_group_alone(
    backend: Backend, party: Party, stream: str
) -> None:
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream, "other"))
    delivery = await first(party, member)
    (theirs,) = await other.read(1)
    assert await other.ack([theirs]) is True
    before = (await member.turn()).now
    assert await member.settle(Settlement(delivery, delay=1.5)) == [True]
    assert await member.reader.own() == {}
    turn = await member.turn()
    assert (turn.retries, turn.waiting) == ([], 1)
    assert not await backend.at_rest(stream, "group")
    (retry,) = await member.retries(1)
    assert (await member.turn()).now - before >= 1.5
    assert (retry.key, retry.origin, retry.fields) == (member.reader.retry_key, delivery.origin, delivery.fields)
    assert retry.deliveries == 2
    assert (await other.turn()).retries == []
    assert await member.ack([retry]) is True
    assert await backend.at_rest(stream, "group")
    assert await backend.at_rest(stream, "other")


async def test_a_retry_of_a_retry_counts_on_and_an_uncounted_one_does_not(party: Party, stream: str) -> None:
    member = await party.joined(group_of(stream))
    delivery = await first(party, member)
    for counted, deliveries in ((True, 2), (True, 3), (False, 3), (True, 4)):
        assert await member.settle(Settlement(delivery, delay=0.0, counted=counted)) == [True]
        (delivery,) = await member.retries(1)
        assert delivery.deliveries == deliveries
        assert list((await member.reader.own()).values()) == [deliveries]


async def test_retries_whose_time_has_come_are_shared_by_the_members(party: Party, stream: str) -> None:
    one, two = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(40))
    assert await one.settle(*(Settlement(delivery, delay=0.0) for delivery in await one.read(40))) == [True] * 40
    seen: list[int] = []
    while len(seen) < 40:
        for member in (one, two):
            turn = await member.turn(room=10)
            assert len(turn.retries) <= 10
            seen += bodies(turn.retries)
    assert sorted(seen) == list(range(40))


@on_all_servers
async def test_a_dead_letter_keeps_the_fields_byte_for_byte_and_the_facts(
    backend: Backend, party: Party, stream: str
) -> None:
    member = await party.joined(group_of(stream))
    delivery = await first(party, member, bytes(range(256)))
    assert await member.settle(Settlement(delivery, letter=LETTER)) == [True]
    (letter,) = await backend.letters(stream, "group")
    assert letter.fields == delivery.fields
    assert {f"sw-{name}": value for name, value in LETTER.items()}.items() <= letter.facts.items()
    assert await backend.at_rest(stream, "group")
    assert await backend.letters(stream, "other") == []


async def test_a_dropped_entry_is_gone(backend: Backend, party: Party, stream: str) -> None:
    member = await party.joined(group_of(stream))
    assert await member.settle(Settlement(await first(party, member))) == [True]
    assert await backend.at_rest(stream, "group")
    assert await backend.letters(stream, "group") == []


async def test_acks_and_settlements_of_one_call_are_answered_each_in_its_place(
    backend: Backend, party: Party, stream: str
) -> None:
    member = await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(6))
    acked, retried, lettered, dropped, gone, also_acked = await member.read(6)
    await member.ack([gone])
    settlements = [
        Settlement(gone, delay=0.0),
        Settlement(retried, delay=0.0),
        Settlement(gone, letter=LETTER),
        Settlement(lettered, letter=LETTER),
        Settlement(gone),
        Settlement(dropped),
    ]
    answers = await member.settler.settle([acked, also_acked, gone], settlements)
    assert answers == [False, True, False, True, False, True, True]
    assert bodies(await member.retries(1)) == [1]
    assert len(await backend.letters(stream, "group")) == 1
    assert await backend.pending(stream, "group") == 1  # the retry


@on_all_servers
@pytest.mark.parametrize("way", ["retry", "dead letter", "drop", "release"])
@pytest.mark.parametrize("whose", ["claimed", "released and taken", "delivered again", "settled"])
async def test_what_is_not_ours_any_more_is_left_alone(
    backend: Backend, party: Party, stream: str, way: str, whose: str
) -> None:
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    delivery = await first(party, member)
    if whose == "settled":
        assert await member.ack([delivery]) is True
        owner = None
    elif whose == "delivered again":  # to the same consumer: this is not the run that failed
        delivery.deliveries += 1
        owner = member.name
    else:
        if whose == "claimed":
            turn = await other.turn(await party.dead(member, other))
        else:  # the count is the same again, so only the owner tells
            assert await member.settler.release([delivery]) == 1
            turn = await other.turn()
        assert [one.id for one in turn.claims] == [delivery.id]
        owner = other.name
    if way == "release":
        assert await member.settler.release([delivery]) == 0
    else:
        how = {"retry": Settlement(delivery, delay=0.0), "dead letter": Settlement(delivery, letter=LETTER)}
        assert await member.settle(how.get(way, Settlement(delivery))) == [False]
    assert await other.reader.owners([(delivery.key, delivery.id)]) == [owner]
    turn = await other.turn()
    assert (turn.waiting, turn.retries, turn.claims) == (0, [], [])
    assert await backend.letters(stream, "group") == []


async def test_a_success_counts_whoever_owns_the_entry_by_now(backend: Backend, party: Party, stream: str) -> None:
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    delivery = await first(party, member)
    await other.turn(await party.dead(member, other))
    assert await member.ack([delivery]) is True
    assert await member.ack([delivery]) is True
    assert await backend.at_rest(stream, "group")


@on_all_servers
async def test_released_entries_go_to_the_next_who_asks_and_their_delivery_is_not_counted(
    party: Party, stream: str
) -> None:
    member, other = await party.joined(group_of(stream)), await party.joined(group_of(stream))
    await party.publisher.publish_many(stream, range(30))
    deliveries = await member.read(30)
    (again,) = deliveries[:1]
    assert await member.settle(Settlement(again, delay=0.0)) == [True]
    (retry,) = await member.retries(1)
    assert await member.settler.release([*deliveries[1:], retry]) == 30
    assert await member.reader.own() == {}
    claims: list[Delivery] = []
    while len(claims) < 30:
        turn = await other.turn(suspect_from=1)  # what was released is nobody's suspect
        assert turn.suspect is None
        assert turn.claims, "released entries are there for everybody at once"
        claims += turn.claims
    assert sorted(bodies(claims)) == list(range(30))
    counts = {body: one.deliveries for one in claims for body in bodies([one])}
    assert counts == {0: 2, **dict.fromkeys(range(1, 30), 1)}
    assert await other.ack(claims) is True


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_settling_without_a_server_says_that_nobody_knows_and_can_be_done_again_after(
    own_backend: Backend, own_party: Party, stream: str
) -> None:
    member = await own_party.joined(group_of(stream))
    await own_party.publisher.publish_many(stream, range(3))
    acked, retried, released = await member.read(3)
    await asyncio.to_thread(own_backend.stop)
    with pytest.raises(Unavailable):
        await member.settler.settle([acked], [Settlement(retried, delay=0.0)])
    with pytest.raises(Unavailable):
        await member.settler.release([released])
    await asyncio.to_thread(own_backend.start)
    assert await member.settler.settle([acked], [Settlement(retried, delay=0.0)]) == [True, True]
    assert await member.settler.release([released]) == 1
    assert bodies(await member.retries(1)) == [1]
