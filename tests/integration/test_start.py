"""Where a new group begins, and what is logged about it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from redis.asyncio import Redis

from streamworker import App, Message
from tests.running import Watched, events, on_all_servers, working
from tests.waiting import wait_until

FIRST = 1_700_000_000_000
IDS = [f"{FIRST + number}-{sequence}" for number in range(5) for sequence in (0, 7)]
TIME = datetime.fromtimestamp((FIRST + 3) / 1000, timezone(timedelta(hours=-5)))


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
async def group(redis: Redis, stream: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Watched]:
    caplog.set_level(logging.INFO, "streamworker")
    group = Watched(redis, stream, "app")
    yield group
    await group.check_nothing_is_left()


def starting(stream: str, start: str | datetime | None) -> tuple[App, list[str]]:
    app = App("app")
    seen: list[str] = []

    @app.on(stream, start=start, concurrency=1)
    async def handle(message: Message) -> None:
        seen.append(message.id)

    return app, seen


@on_all_servers
@pytest.mark.parametrize(
    ("start", "first"),
    [("beginning", 0), ("new", 10), (IDS[3], 3), (f"{FIRST + 100}-0", 10), (TIME, 6)],
    ids=["the beginning", "new", "an id", "an id to come", "a time"],
)
async def test_a_new_group_begins_where_it_is_told_and_says_how_many_entries_wait(
    start: str | datetime, first: int, redis_url: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await check_that_it_begins(start, first, redis_url, group, caplog)


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (None, 0),
        ("0", 0),
        (IDS[0], 0),
        (f"{FIRST + 1}", 2),
        (f"{FIRST + 1}-5", 3),
        (TIME + timedelta(microseconds=-500), 4),  # ids know milliseconds alone: rather one too many than one too few
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
    ],
    ids=[
        "the default", "0", "the first id", "an id without sequence", "an id that is not there", "within a millisecond",
        "long ago",
    ],
)  # fmt: skip
async def test_a_start_of_any_form_means_from_there_on(
    start: str | datetime | None, first: int, redis_url: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await check_that_it_begins(start, first, redis_url, group, caplog)


async def check_that_it_begins(
    start: str | datetime | None, first: int, redis_url: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    stream = group.keys.stream.decode()
    for id in IDS:
        await group.add("data", "x", id=id)
    app, seen = starting(stream, start)
    async with working(app, url=redis_url):
        await wait_until(lambda: events(caplog, "group.created"))
        later = await group.add("data", "x")
        await wait_until(lambda: later in seen)
        await group.rests()
        info = await group.info()
    assert seen == [*IDS[first:], later]
    assert info is not None
    if b"lag" in info:  # 6.2 has none
        assert info[b"lag"] == 0
    (line,) = events(caplog, "group.created")
    assert line["waiting"] == len(IDS) - first
    assert (line["stream"], line["group"]) == (stream, "app")
    assert line["at"] == str(start or "beginning")


async def test_a_group_that_starts_in_the_future_is_given_nothing_before(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = starting(stream, datetime(2100, 1, 1, tzinfo=UTC))
    async with working(app, url=redis_url):
        await wait_until(lambda: events(caplog, "group.created"))
        await group.add("data", "too early")
        id = await group.add("data", "x", id="4102444800000-0")
        await wait_until(lambda: seen)
        await group.rests()
    assert seen == [id]


@on_all_servers
async def test_a_group_that_is_there_already_goes_on_where_it_was(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for id in IDS:
        await group.add("data", "x", id=id)
    app, seen = starting(stream, "new")
    await group.do("XGROUP", "CREATE", stream, "app", IDS[7])
    async with working(app, url=redis_url):
        await group.rests()
    assert seen == IDS[8:]
    again, seen = starting(stream, "beginning")
    async with working(again, url=redis_url):
        await group.add("data", "x")
        await wait_until(lambda: seen)
        await group.rests()
    assert len(seen) == 1
    assert events(caplog, "group.created") == []


@on_all_servers
@pytest.mark.parametrize("start", ["beginning", "new", IDS[3], TIME], ids=["beginning", "new", "an id", "a time"])
async def test_a_stream_that_is_not_there_yet_is_made_with_its_group(
    start: str | datetime, redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = starting(stream, start)
    async with working(app, url=redis_url):
        await wait_until(lambda: events(caplog, "group.created"))
        id = await group.add("data", "x")
        await wait_until(lambda: seen)
        await group.rests()
    assert seen == [id]
    (line,) = events(caplog, "group.created")
    assert line["waiting"] == 0


@on_all_servers
async def test_what_is_published_between_two_workers_waits_for_a_group_that_began_new(
    redis_url: str, stream: str, group: Watched
) -> None:
    await group.add("data", "before the group")
    app, _ = starting(stream, "new")
    async with working(app, url=redis_url):
        await wait_until(lambda: _exists(group))
    ids = [await group.add("data", "between") for _ in range(3)]
    again, later = starting(stream, "new")
    async with working(again, url=redis_url):
        await wait_until(lambda: len(later) == 3)
    assert later == ids


async def _exists(group: Watched) -> bool:
    return await group.info() is not None


async def test_only_the_first_of_many_workers_that_start_together_makes_the_group(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for id in IDS:
        await group.add("data", "x", id=id)
    made = [starting(stream, "beginning") for _ in range(4)]
    (one, a), (two, b), (three, c), (four, d) = made
    async with (
        working(one, url=redis_url),
        working(two, url=redis_url),
        working(three, url=redis_url),
        working(four, url=redis_url),
    ):
        await group.rests()
    assert sorted(a + b + c + d) == sorted(IDS)
    assert len(events(caplog, "group.created")) == 1
