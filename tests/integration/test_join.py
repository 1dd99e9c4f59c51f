"""Joining a group: where a new one begins, where one that was lost goes on, and the keys it keeps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from unittest.mock import patch

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.crc import key_slot

from streamworker.broker import Beat, Joined
from streamworker.errors import BrokerError, WrongType
from streamworker.handler import Start
from streamworker.ids import MAX_SEQUENCE, below, parse_id, written
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.join import join, starting_place
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.pulse import RedisPulse
from tests.running import Watched
from tests.servers import Server

GROUP = "group"
ME = "me.sw"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IDS = ["1000-0", "1999-5", "2000-0", "2000-1", "2001-0"]


def at(milliseconds: float) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    link = Link(topology_of(redis_url), timeout=3.0)
    yield link
    await link.close()


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, GROUP)


async def lag(watched: Watched) -> int | None:
    """None where the server does not know it; 6.2 never does."""
    info = await watched.info()
    assert info is not None
    found: int | None = info.get(b"lag")
    return found


async def read(watched: Watched) -> list[str]:
    reply = await watched.do("XREADGROUP", "GROUP", GROUP, ME, "STREAMS", watched.keys.stream, ">")
    return [id.decode() for _, entries in reply or () for id, _ in entries]


async def beat(url: str, stream: str) -> None:
    pulse = RedisPulse(topology_of(url), ME)
    (look,) = await asyncio.to_thread(pulse.beat, [Beat(stream, GROUP, b"1 15000 host")], 5.0)
    await asyncio.to_thread(pulse.close)
    assert not isinstance(look, BrokerError), look


# --- a new group


STARTS = [
    pytest.param("beginning", IDS, id="beginning"),
    pytest.param("new", [], id="new"),
    pytest.param("0", IDS, id="id-0"),
    pytest.param("0-0", IDS, id="id-0-0"),
    pytest.param("1000-0", IDS, id="first-id"),
    pytest.param("1000-1", IDS[1:], id="id-between"),
    pytest.param("2000-0", IDS[2:], id="first-of-a-millisecond"),
    pytest.param("2000", IDS[2:], id="id-without-sequence"),
    pytest.param("2000-1", IDS[3:], id="id-in-the-middle"),
    pytest.param("2001-0", IDS[4:], id="last-id"),
    pytest.param("2001-1", [], id="just-behind-the-last-id"),
    pytest.param(at(2000), IDS[2:], id="datetime"),
    pytest.param(at(2000).astimezone(timezone(timedelta(hours=5, minutes=30))), IDS[2:], id="datetime-of-a-time-zone"),
    pytest.param(at(2000.9), IDS[2:], id="datetime-within-the-millisecond"),
    pytest.param(at(1999), IDS[1:], id="datetime-before"),
    pytest.param(at(2001), IDS[4:], id="datetime-of-the-last"),
    pytest.param(at(0), IDS, id="epoch"),
    pytest.param(at(-5000), IDS, id="before-the-epoch"),
]


@pytest.mark.parametrize(("start", "expected"), STARTS)
async def test_a_new_group_begins_at_its_start_and_its_lag_is_exact(
    link: Link, watched: Watched, server_kind: str, start: Start, expected: list[str]
) -> None:
    for id in IDS:
        await watched.add("data", "x", id=id)
    assert await join(link, watched.keys, GROUP, start, False) == Joined(str(start), len(expected))
    assert await lag(watched) == (None if server_kind == "redis-6.2" else len(expected))
    assert await read(watched) == expected
    await watched.add("data", "x", id="9000-0")
    assert await lag(watched) == (None if server_kind == "redis-6.2" else 1)
    assert await read(watched) == ["9000-0"]


@pytest.mark.parametrize(
    ("start", "expected"), [("beginning", 3), ("new", 0), ("1999-5", 3), ("2000-1", 2), (at(2001), 1)]
)
async def test_the_lag_is_exact_on_a_stream_that_was_trimmed(
    link: Link, watched: Watched, server_kind: str, start: Start, expected: int
) -> None:
    for id in IDS:
        await watched.add("data", "x", id=id)
    await watched.do("XTRIM", watched.keys.stream, "MAXLEN", 3)
    assert (await join(link, watched.keys, GROUP, start, False)).waiting == expected
    assert await lag(watched) == (None if server_kind == "redis-6.2" else expected)
    assert len(await read(watched)) == expected
    assert await lag(watched) == (None if server_kind == "redis-6.2" else 0)


@pytest.mark.parametrize("start", ["5000-7", at(5000)], ids=["id", "datetime"])
async def test_a_start_in_the_future_waits_for_it_and_has_no_false_lag(
    link: Link, watched: Watched, start: Start
) -> None:
    for id in IDS:
        await watched.add("data", "x", id=id)
    assert (await join(link, watched.keys, GROUP, start, False)).waiting == 0
    await watched.add("data", "skipped", id="4999-9")
    assert await read(watched) == []
    assert await lag(watched) in (None, 0)
    await watched.add("data", "x", id="5000-7")
    assert await read(watched) == ["5000-7"]


@pytest.mark.parametrize("start", ["beginning", "new", "5-0", at(5)], ids=["beginning", "new", "id", "datetime"])
async def test_a_group_on_a_stream_that_does_not_exist_yet_misses_nothing(
    link: Link, watched: Watched, start: Start
) -> None:
    assert await join(link, watched.keys, GROUP, start, False) == Joined(str(start), 0)
    await watched.add("data", "x", id="7-0")
    assert await read(watched) == ["7-0"]


async def test_what_is_too_much_to_be_counted_leaves_the_lag_to_the_server(link: Link, watched: Watched) -> None:
    for number in range(1, 41):
        await watched.add("data", "x", id=f"{number}-0")
    with (
        patch("streamworker.redisbroker.join._MOST_COUNTED", 20),
        patch("streamworker.redisbroker.join._COUNT_PAGE", 7),
    ):
        assert await join(link, watched.keys, GROUP, "11-0", False) == Joined("11-0", None)
    assert await lag(watched) in (None, 30)
    assert len(await read(watched)) == 30


async def test_entries_are_counted_over_many_pages(link: Link, watched: Watched, server_kind: str) -> None:
    for number in range(1, 22):
        await watched.add("data", "x", id=f"{number}-0")
    with patch("streamworker.redisbroker.join._COUNT_PAGE", 5):
        assert await join(link, watched.keys, GROUP, "2-0", False) == Joined("2-0", 20)
    assert await lag(watched) == (None if server_kind == "redis-6.2" else 20)


async def test_a_group_that_is_there_is_left_as_it_is(link: Link, watched: Watched) -> None:
    await watched.add("data", "x", id="1-0")
    await watched.do("XGROUP", "CREATE", watched.keys.stream, GROUP, "$")
    assert await join(link, watched.keys, GROUP, "beginning", False) == Joined(None, None)
    assert await read(watched) == []


async def test_two_who_join_at_once_make_one_group_and_get_no_error(redis_url: str, redis: Redis, stream: str) -> None:
    links = [Link(topology_of(redis_url), timeout=3.0) for _ in range(4)]
    for number in range(15):
        watched = Watched(redis, f"{stream}:{number}", GROUP)
        await watched.add("data", "x")
        joined = await asyncio.gather(*(join(link, watched.keys, GROUP, "beginning", False) for link in links))
        assert sorted(joined, key=str) == sorted([Joined("beginning", 1), *[Joined(None, None)] * 3], key=str)
        assert len(await watched.do("XINFO", "GROUPS", watched.keys.stream)) == 1
    await asyncio.gather(*(link.close() for link in links))


async def test_a_key_that_is_no_stream_is_told_as_such(link: Link, watched: Watched) -> None:
    await watched.do("SET", watched.keys.stream, "something else")
    with pytest.raises(WrongType):
        await join(link, watched.keys, GROUP, "beginning", False)


# Milliseconds of datetimes are exact in floating point up to the year 2248, microseconds always round down.
@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)))
@example(datetime(2023, 11, 14, 22, 13, 20, 1000, tzinfo=UTC))
def test_a_datetime_begins_with_the_first_entry_of_its_millisecond(start: datetime) -> None:
    milliseconds = (start - EPOCH) // timedelta(milliseconds=1)
    assert starting_place(start, "0-0") == written(below((milliseconds, 0)))


@given(st.integers(0, 2**60), st.integers(0, MAX_SEQUENCE))
def test_nothing_lies_between_an_id_and_the_one_just_below(milliseconds: int, sequence: int) -> None:
    assume((milliseconds, sequence) > (0, 0))
    lower = parse_id(written(below((milliseconds, sequence))))
    following = (lower[0], lower[1] + 1) if lower[1] < MAX_SEQUENCE else (lower[0] + 1, 0)
    assert following == (milliseconds, sequence)


# --- a group that was lost


@pytest.mark.parametrize("joined_before", [True, False], ids=["its worker", "a worker that starts"])
async def test_a_destroyed_group_goes_on_where_nothing_is_lost_and_only_what_was_pending_is_repeated(
    link: Link, watched: Watched, redis_url: str, server_kind: str, joined_before: bool
) -> None:
    ids = [await watched.add("data", str(number)) for number in range(6)]
    await join(link, watched.keys, GROUP, "beginning", False)
    await watched.do("XREADGROUP", "GROUP", GROUP, ME, "COUNT", 4, "STREAMS", watched.keys.stream, ">")
    await watched.do("XACK", watched.keys.stream, GROUP, *ids[:2])
    await beat(redis_url, watched.keys.stream.decode())
    await watched.do("XGROUP", "DESTROY", watched.keys.stream, GROUP)
    ids.append(await watched.add("data", "published meanwhile"))
    assert await join(link, watched.keys, GROUP, "new", joined_before) == Joined("again", 5)
    assert await lag(watched) == (None if server_kind == "redis-6.2" else 5)
    assert await read(watched) == ids[2:]


async def test_a_destroyed_group_with_nothing_pending_repeats_nothing(
    link: Link, watched: Watched, redis_url: str
) -> None:
    ids = [await watched.add("data", str(number)) for number in range(3)]
    await join(link, watched.keys, GROUP, "beginning", False)
    assert await read(watched) == ids
    await watched.do("XACK", watched.keys.stream, GROUP, *ids)
    await beat(redis_url, watched.keys.stream.decode())
    await watched.do("XGROUP", "DESTROY", watched.keys.stream, GROUP)
    assert await join(link, watched.keys, GROUP, "beginning", True) == Joined("again", 0)
    later = await watched.add("data", "later")
    assert await read(watched) == [later]


async def test_after_a_flush_a_group_begins_with_what_is_there(
    own_server: Server, own_redis: Redis, stream: str
) -> None:
    watched = Watched(own_redis, stream, GROUP)
    link = Link(topology_of(own_server.url), timeout=3.0)
    await watched.add("data", "before")
    await join(link, watched.keys, GROUP, "new", False)
    await beat(own_server.url, stream)
    await watched.do("FLUSHALL")
    after = await watched.add("data", "after")
    assert await join(link, watched.keys, GROUP, "new", True) == Joined("again", 1)
    assert await read(watched) == [after]
    await link.close()


async def test_a_stream_that_began_anew_with_lower_ids_is_read_from_its_beginning(
    link: Link, watched: Watched, redis_url: str
) -> None:
    await watched.add("data", "before", id="5000-0")
    await join(link, watched.keys, GROUP, "beginning", False)
    await read(watched)
    await beat(redis_url, watched.keys.stream.decode())
    await watched.do("DEL", watched.keys.stream)
    await watched.add("data", "after", id="3-0")
    assert await join(link, watched.keys, GROUP, "new", True) == Joined("again", 1)
    assert await read(watched) == ["3-0"]


async def test_a_stream_that_is_gone_is_made_again_so_that_any_id_is_read(
    link: Link, watched: Watched, redis_url: str
) -> None:
    await watched.add("data", "before", id="5000-0")
    await join(link, watched.keys, GROUP, "beginning", False)
    await read(watched)
    await beat(redis_url, watched.keys.stream.decode())
    await watched.do("DEL", watched.keys.stream)
    assert await join(link, watched.keys, GROUP, "new", True) == Joined("again", 0)
    await watched.add("data", "after", id="1-0")
    assert await read(watched) == ["1-0"]


async def test_who_was_there_before_and_finds_no_floor_repeats_rather_than_loses(link: Link, watched: Watched) -> None:
    id = await watched.add("data", "x")
    assert await join(link, watched.keys, GROUP, "new", True) == Joined("again", 1)
    assert await read(watched) == [id]


# --- keys

NAMES = [
    "orders", "{orders}", "or:ders", "{eu}:orders", "{eu}:refunds", "a{b}c", "{}x", "a}b", "}", "{", "a{b",
    "sw:orders", "sw:{eu}", "100%", "%3A", "{a}", "{a}:b", "a}:b", "{a}:b:retry", "ключ",
]  # fmt: skip
GROUPS = ["billing", "b", "b:c", "b%3Ac", "b%c", "c", "x}", "{x}", "retry", "b:retry", ":", "%"]
TEXT = st.text(alphabet="ab{}:%", min_size=1, max_size=6) | st.text(min_size=1, max_size=4)


def made(keys: Keys) -> set[bytes]:
    return {keys.retry, keys.delayed, keys.dead, keys.consumers}


def test_the_keys_of_plain_names_are_those_of_the_documentation() -> None:
    keys = Keys.of("orders", "billing")
    assert keys == Keys(
        b"orders",
        b"{orders}:billing:retry",
        b"{orders}:billing:delayed",
        b"{orders}:billing:dead",
        b"{orders}:billing:consumers",
    )
    assert Keys.of("{eu}:orders", "billing").retry == b"sw:{eu}:orders:billing:retry"
    assert Keys.of("orders", "a:b").retry == b"{orders}:a%3Ab:retry"


def test_no_two_groups_of_strange_names_share_a_key() -> None:
    every = [key for stream, group in product(NAMES, GROUPS) for key in made(Keys.of(stream, group))]
    assert len(every) == len(set(every)) == 4 * len(NAMES) * len(GROUPS)


@given(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
@example(("{a}:b", "c"), ("{a}", "b:c"))
@example(("a", "b:c"), ("a", "b%3Ac"))
@example(("orders", "g"), ("{orders}", "g"))
def test_no_two_groups_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    for pair in (one, other):
        assert len(made(Keys.of(*pair))) == 4
    if one != other:
        assert not made(Keys.of(*one)) & made(Keys.of(*other))


@given(TEXT, TEXT)
@example("{eu}:orders", "{x}")
@example("a{b", "}")
def test_all_keys_of_a_group_lie_in_the_slot_of_its_stream(stream: str, group: str) -> None:
    tagged = re.match(r"[^{]*\{[^}]+\}", stream)
    assume(tagged or "}" not in stream)  # another name cannot be wrapped, and is refused on a cluster
    keys = Keys.of(stream, group)
    assert {key_slot(key) for key in made(keys)} == {key_slot(keys.stream)}
