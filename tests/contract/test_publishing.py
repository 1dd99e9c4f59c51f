"""The contract of publishing: what is written, in which order, and what a lost server makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamworker.errors import BrokerError, PublishError, PublishFailed, Unavailable
from streamworker.message import field, headers_of
from tests.contract.backend import Backend, Party, bodies, group_of
from tests.running import on_all_servers

CANARY = "canary-4111-1111"


@on_all_servers
async def test_an_entry_has_the_id_the_body_the_type_and_the_headers_it_was_published_with(
    party: Party, stream: str
) -> None:
    id = await party.publisher.publish(stream, {"n": 1}, type="placed", headers={"tenant": "a b"})
    member = await party.joined(group_of(stream))
    (delivery,) = await member.read(1)
    assert (delivery.id, delivery.origin, delivery.key) == (id.encode(), id.encode(), member.reader.stream_key)
    assert delivery.deliveries == 1
    assert bodies([delivery]) == [{"n": 1}]
    assert field(delivery.fields, b"type") == b"placed"
    assert headers_of(delivery.fields) == {"tenant": "a b"}


async def test_text_and_bytes_travel_as_they_are(party: Party, stream: str) -> None:
    raw = bytes(range(256))
    await party.publisher.publish(stream, raw)
    await party.publisher.publish(stream, "grüße\n")
    member = await party.joined(group_of(stream))
    first, second = await member.read(2)
    assert field(first.fields, b"data") == raw
    assert field(second.fields, b"data") == "grüße\n".encode()


async def test_what_one_caller_publishes_is_read_in_its_order(party: Party, stream: str) -> None:
    ids = [await party.publisher.publish(stream, n) for n in range(50)]
    member = await party.joined(group_of(stream))
    deliveries = await member.read(50)
    assert [delivery.id.decode() for delivery in deliveries] == ids
    assert bodies(deliveries) == list(range(50))


async def test_many_callers_at_once_get_the_ids_of_their_own_entries(party: Party, stream: str) -> None:
    ids = await asyncio.gather(*(party.publisher.publish(stream, n) for n in range(200)))
    member = await party.joined(group_of(stream))
    read = {delivery.id.decode(): body for delivery in await member.read(200) for body in bodies([delivery])}
    assert read == {id: n for n, id in enumerate(ids)}


async def test_publish_many_takes_any_iterable_keeps_its_order_and_says_how_many(party: Party, stream: str) -> None:
    async def later() -> AsyncIterator[int]:
        for n in range(1200, 1300):
            yield n

    assert await party.publisher.publish_many(stream, range(1200), type="n") == 1200
    assert await party.publisher.publish_many(stream, later()) == 100
    assert await party.publisher.publish_many(stream, []) == 0
    member = await party.joined(group_of(stream))
    deliveries = await member.read(1300)
    assert bodies(deliveries) == list(range(1300))
    assert field(deliveries[0].fields, b"type") == b"n"


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_publishing_without_a_server_fails_soon_and_its_error_quotes_no_body(
    own_backend: Backend, own_party: Party, stream: str
) -> None:
    await own_party.publisher.publish(stream, "before")
    own_backend.stop()
    with pytest.raises(Unavailable):
        await own_party.broker.ping()
    with pytest.raises(PublishError) as one:
        await own_party.publisher.publish(stream, CANARY, headers={"h": CANARY})
    with pytest.raises(PublishFailed) as many:
        await own_party.publisher.publish_many(stream, [CANARY] * 10)
    assert CANARY not in f"{one.value!r}{many.value!r}"
    assert (many.value.published, many.value.unknown) == (0, 0)
    own_backend.start()
    await own_party.broker.ping()
    await own_party.publisher.publish(stream, "after")
    member = await own_party.joined(group_of(stream))
    assert [field(delivery.fields, b"data") for delivery in await member.read(2)] == [b"before", b"after"]


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_nothing_but_errors_of_the_tree_comes_out_of_a_broker_without_its_server(
    own_backend: Backend, own_party: Party, stream: str
) -> None:
    member = await own_party.joined(group_of(stream))
    own_backend.stop()
    for call in (member.join, lambda: member.reader.read(1, 0.01), member.turn, member.reader.own, member.beat):
        with pytest.raises(BrokerError):
            await call()
