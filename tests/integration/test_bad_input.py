"""Entries that are wrong in every way: kept with a reason that a person understands, and in nobody's way."""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Message
from tests.running import Letter, Watched, everything_logged, on_all_servers, working

CANARY = "SW-CANARY-4111111111111111"
C = CANARY.encode()
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2028\r\nforged=line"


class Order(msgspec.Struct):
    id: int
    note: str = ""
    at: Any = None


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    id: int

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError(f"{CANARY} says {self.id}")


class Model(pydantic.BaseModel, extra="forbid"):
    id: int
    note: str = ""

    @pydantic.field_validator("note")
    @classmethod
    def short(cls, note: str) -> str:
        if len(note) > 3:
            raise ValueError(f"{note} is too long")
        return note


class Person(TypedDict):
    id: int
    name: str


@dataclass
class Point:
    id: int
    x: float


@pytest.fixture
def server_kind() -> str:
    """Decoding is the worker's; ``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
async def group(redis: Redis, stream: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Watched]:
    """The group ``app``; nothing may be left of it, and nothing of a payload in the log."""
    caplog.set_level(logging.DEBUG, "streamworker")
    group = Watched(redis, stream, "app")
    yield group
    await group.check_nothing_is_left()
    check_no_payload_is_told(await group.letters(), caplog)
    # What these tests write would be in the way of nobody, but they write megabytes.
    await group.do("DEL", group.keys.stream, group.keys.dead)


def check_no_payload_is_told(letters: list[Letter], caplog: pytest.LogCaptureFixture) -> None:
    told = everything_logged(caplog)
    assert CANARY not in told
    for letter in letters:
        for fact, value in letter.facts.items():
            assert CANARY not in value, fact
            assert value.isprintable() or fact == "sw-traceback", fact
    assert not {"\x1b", "\r", "\u202e", "\u2028", "\x9b", "\x07"} & set(told)


async def given_between_good_ones(url: str, group: Watched, annotation: Any, *fields: str | bytes) -> list[Letter]:
    """Handle a good entry, the one with ``fields`` and another good one; the good ones must be handled.

    Returns the dead letters: none if the entry was handled as well.
    """
    app = App("app")
    handled: list[str] = []

    async def handle(body: Any, message: Message) -> None:
        handled.append(message.id)

    handle.__annotations__["body"] = annotation
    app.on(group.keys.stream.decode(), concurrency=1)(handle)
    good = '{"id":1,"name":"","x":1}' if annotation in (Person, Point) else '{"id":1}'
    before = await group.add("data", good)
    bad = await group.add(*fields)
    after = await group.add("data", good)
    async with working(app, url=url):
        await group.rests()
    letters = await group.letters()
    assert handled == ([before, after] if letters else [before, bad, after])
    for letter in letters:
        assert letter.facts["sw-id"] == bad
        assert letter.facts["sw-deliveries"] == "1"
        assert letter.fields == [field.encode() if isinstance(field, str) else field for field in fields]
    return letters


CASES: dict[str, tuple[Any, bytes, str]] = {
    "broken JSON": (Order, b'{"id":1,"note":"' + C + b'"', "truncated"),
    "JSON with something behind it": (Order, b'{"id":1} ' + C, "trailing"),
    "no JSON at all": (Order, C, "JSON is malformed"),
    "empty": (Order, b"", "the body is empty"),
    "a NUL": (Order, b"\x00" + C, "JSON is malformed"),
    "a byte order mark": (Order, b"\xef\xbb\xbf" + b'{"id":1,"note":"' + C + b'"}', "byte order mark"),
    "UTF-16": (Order, ('{"id":1,"note":"' + CANARY + '"}').encode("utf-16"), "JSON is malformed"),
    "a wrong type": (Order, b'{"id":"' + C + b'"}', r"Expected `int`, got `str` - at `\$\.id`$"),
    "a wrong type at the top": (Order, b'["' + C + b'"]', "Expected `object`, got `array`"),
    "a missing field": (Order, b'{"note":"' + C + b'"}', "missing required field `id`"),
    "an unknown field": (Strict, b'{"id":1,"' + C + b'":1}', "field that the type does not have"),
    "a check of the type's own": (Strict, b'{"id":-1}', "ValueError raised by the body's type"),
    "text that is not UTF-8": (Order, b'{"id":1,"note":"\xff\xfe' + C + b'"}', "not UTF-8"),
    "a lone surrogate in UTF-8": (Order, b'{"id":1,"note":"\xed\xa0\x80' + C + b'"}', "not UTF-8"),
    "a lone surrogate": (Order, b'{"id":1,"note":"' + C + b'\\ud800"}', "JSON is malformed|truncated"),
    "not a number": (Order, b'{"id":1,"at":NaN,"note":"' + C + b'"}', "JSON is malformed"),
    "a number of 5,000 digits": (Order, b'{"id":' + b"7" * 5000 + b"}", "out of range"),
    "100,000 levels": (Order, b'{"id":1,"at":' + b"[" * 100_000 + C, "nested too deeply"),
    "100,000 levels of objects": (Any, b'{"a":' * 100_000, "nested too deeply"),
    "an escape sequence": (Order, b'{"id":"' + ESCAPES.encode() + C + b'"}', "JSON is malformed|invalid|Expected"),
    "a pickle": (Order, pickle.dumps({"id": CANARY}), "JSON is malformed"),
    "a dataclass without its field": (Point, b'{"id":1,"y":"' + C + b'"}', "missing required field `x`"),
    "a TypedDict without its field": (Person, b'{"id":1,"y":"' + C + b'"}', "missing required field `name`"),
    "a dict of something else": (dict[str, int], b'{"' + C + b'":"' + C + b'"}', "Expected `int`"),
    "a model of wrong types": (Model, b'{"id":"' + C + b'"}', "valid integer.* - at `[$].id`"),
    "a model without its field": (Model, b'{"note":"' + C + b'"}', "Field required - at `[$].id`"),
    "a model with a field too many": (Model, b'{"id":1,"' + C + b'":1}', r"\[\.\.\.\]"),
    "a model with a check of its own": (Model, b'{"id":1,"note":"' + C + b'"}', "value_error - at `[$].note`"),
    "a model that is no JSON": (Model, b"{" + C, "JSON"),
    "a model with 100,000 levels": (Model, b"[" * 100_000 + C, "recursion|nested|deep"),
    "a str that is not UTF-8": (str, b"\xff" + C, "not UTF-8"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_body_that_does_not_decode_is_kept_at_once_with_a_reason_a_person_understands(
    case: str, redis_url: str, group: Watched
) -> None:
    annotation, body, reason = CASES[case]
    (letter,) = await given_between_good_ones(redis_url, group, annotation, "data", body, "trace", "t")
    assert letter.reason.startswith("undecodable: ")
    assert len(letter.reason) < 200
    assert re.search(reason, letter.reason), letter.reason


@on_all_servers
async def test_all_that_is_wrong_at_once_takes_nothing_good_along(redis_url: str, group: Watched) -> None:
    app = App("app")
    handled: list[int] = []

    @app.on(group.keys.stream.decode())
    async def handle(body: Order) -> None:
        handled.append(body.id)

    bodies = [body for annotation, body, _ in CASES.values() if annotation is Order]
    good = 0
    for body in bodies:
        for number in range(good, good + 3):
            await group.add("data", json.dumps({"id": number}))
        good += 3
        await group.add("data", body)
    async with working(app, url=redis_url):
        await group.rests()
    assert sorted(handled) == list(range(good))
    assert sorted(letter.fields[1] for letter in await group.letters()) == sorted(bodies)


@on_all_servers
async def test_a_body_over_max_body_is_kept_byte_for_byte_without_being_parsed(redis_url: str, group: Watched) -> None:
    # Valid, so it would be handled if it were parsed.
    body = b'{"id":1,"note":"' + C * (10_000_000 // len(C)) + b'"}'
    (letter,) = await given_between_good_ones(redis_url, group, Order, "data", body, "x", "1", "x", "2")
    assert f"the body has {len(body)} bytes, more than the {8 * 2**20} of max_body" in letter.reason


async def test_max_body_counts_the_values_of_a_flat_record(redis_url: str, group: Watched) -> None:
    app = App("app", max_body=100)
    handled: list[int] = []

    @app.on(group.keys.stream.decode())
    async def handle(body: Order) -> None:
        handled.append(body.id)

    await group.add("id", "1", "note", "x" * 99)
    await group.add("id", "2", "note", "x" * 100)
    await group.add("data", '{"id":3}', "header", "x" * 100)  # headers are not the body
    async with working(app, url=redis_url):
        await group.rests()
    assert sorted(handled) == [1, 3]
    (letter,) = await group.letters()
    assert "the body has 101 bytes" in letter.reason


async def test_no_reply_is_asked_for_that_is_much_larger_than_16_mib(redis_url: str, group: Watched) -> None:
    app = App("app")
    size, handled, held = 4 * 2**20, 0, 0

    @app.on(group.keys.stream.decode(), concurrency=1, prefetch=100)
    async def handle(body: bytes) -> None:
        nonlocal handled, held
        if not handled:
            held = await group.pending()  # the first reply, and perhaps the next one
        handled += 1

    for _ in range(16):
        await group.add("data", b"x" * size)
    async with working(app, url=redis_url):
        await group.rests(30)
    assert handled == 16
    assert held * size <= 2 * 16 * 2**20


@on_all_servers
async def test_an_entry_of_10000_fields_is_a_record_like_any_other(redis_url: str, group: Watched) -> None:
    many: list[str | bytes] = [part for number in range(9_999) for part in (f"{CANARY}-{number}", CANARY)]
    assert await given_between_good_ones(redis_url, group, Order, "id", "7", *many) == []


@on_all_servers
async def test_an_entry_of_10000_fields_that_is_no_such_record_is_kept_byte_for_byte(
    redis_url: str, group: Watched
) -> None:
    many: list[str | bytes] = [part for number in range(10_000) for part in (f"{CANARY}-{number % 50}", C + b"\xff")]
    (letter,) = await given_between_good_ones(redis_url, group, Order, *many)
    assert "no field `data`" in letter.reason
    assert "missing required field `id`" in letter.reason


async def test_a_flat_record_of_wrong_types_is_kept_with_a_reason(redis_url: str, group: Watched) -> None:
    (letter,) = await given_between_good_ones(redis_url, group, Order, "id", CANARY, "note", "x")
    assert "Expected `int`" in letter.reason
    assert "$.id" in letter.reason


async def test_a_field_that_is_not_utf8_is_told_by_its_name(redis_url: str, group: Watched) -> None:
    (letter,) = await given_between_good_ones(redis_url, group, Order, "id", "1", "note", b"\xff" + C)
    assert "$.note" in letter.reason


async def test_a_field_data_that_stands_twice_counts_once_and_is_kept_twice(redis_url: str, group: Watched) -> None:
    (letter,) = await given_between_good_ones(redis_url, group, Order, "data", C, "data", '{"id":1}')
    assert letter.fields[1] == C


async def test_a_type_that_could_fool_a_terminal_is_told_harmlessly(
    redis_url: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    stream = group.keys.stream.decode()

    @app.on(stream, type="good")
    async def handle(body: Order) -> None: ...

    types = [ESCAPES.encode(), b"\xff\xfe", b"x" * 100_000, b"", "\ud800".encode(errors="surrogatepass")]
    for kind in types:
        await group.add("data", C, "type", kind)
    async with working(app, url=redis_url):
        await group.rests()
    letters = await group.letters()
    assert sorted(letter.fields[3] for letter in letters) == sorted(types)
    for letter in letters:
        assert letter.reason.startswith("unrouted")
        assert len(letter.reason) <= 1000
    assert all(len(record.getMessage()) < 5000 for record in caplog.records)


async def test_headers_and_field_names_of_any_bytes_reach_the_handler_as_text(redis_url: str, group: Watched) -> None:
    app = App("app")
    headers: list[dict[str, str]] = []

    @app.on(group.keys.stream.decode())
    async def handle(body: Order, message: Message) -> None:
        headers.append(message.headers)

    await group.add("data", '{"id":1}', b"\xff", b"\xfe", ESCAPES, CANARY, "sw-fields", "not ours")
    async with working(app, url=redis_url):
        await group.rests()
    assert headers == [{"\ufffd": "\ufffd", ESCAPES: CANARY}]


@on_all_servers
@pytest.mark.parametrize(
    "ids",
    [("1-1", "1-2", "1-3"), ("99999999999999-0", "99999999999999-1", "18446744073709551614-18446744073709551615")],
    ids=["as low as can be", "from the far future"],
)
async def test_entries_with_ids_made_by_hand_are_handled_and_kept_like_others(
    ids: tuple[str, str, str], redis_url: str, group: Watched
) -> None:
    app = App("app")
    handled: list[Message] = []

    @app.on(group.keys.stream.decode(), max_deliveries=2, retry=Backoff(0.01, 1, jitter=0))
    async def handle(body: Order, message: Message) -> None:
        handled.append(message)
        if message.deliveries == 1:
            raise ValueError

    await group.add("data", '{"id":1}', id=ids[0])
    await group.add("data", C, id=ids[1])
    await group.add("data", '{"id":3}', id=ids[2])
    async with working(app, url=redis_url):
        await group.rests()
    (letter,) = await group.letters()
    assert letter.facts["sw-id"] == ids[1]
    assert letter.facts["sw-published"]
    assert sorted((message.id, message.deliveries) for message in handled) == [
        (id, deliveries) for id in sorted([ids[0], ids[2]]) for deliveries in (1, 2)
    ]
    for message in handled:
        assert message.published == int(message.id.partition("-")[0]) / 1000


@pytest.mark.parametrize(
    ("id", "kept"), [("1-1", True), ("99999999999999-0", False)], ids=["as low as can be", "from the far future"]
)
async def test_max_age_goes_by_the_id_and_none_is_younger_than_new(
    id: str, kept: bool, redis_url: str, group: Watched
) -> None:
    app = App("app")
    handled: list[str] = []

    @app.on(group.keys.stream.decode(), max_age=60)
    async def handle(message: Message) -> None:
        handled.append(message.id)

    await group.add("data", "x", id=id)
    async with working(app, url=redis_url):
        await group.rests()
    letters = await group.letters()
    assert (handled, len(letters)) == (([], 1) if kept else ([id], 0))
    if kept:
        assert abs(int(letters[0].reason.partition(" s old")[0]) - time.time()) < 60


async def test_a_handler_that_quotes_its_payload_puts_it_into_the_error_but_not_into_reason_or_log(
    redis_url: str, stream: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamworker")  # who asks for debug gets the texts of exceptions
    group = Watched(redis, stream, "app")
    app = App("app")

    @app.on(stream, max_deliveries=2, retry=Backoff(0.01, 1, jitter=0), timeout=10)
    async def handle(body: dict[str, str]) -> None:
        raise ValueError(f"cannot charge {body['card']}")

    await group.add("card", CANARY)
    async with working(app, url=redis_url):
        await group.rests()
    (letter,) = await group.letters()
    assert letter.facts["sw-error"] == f"ValueError: cannot charge {CANARY}"
    assert CANARY not in letter.reason
    assert CANARY not in everything_logged(caplog)
