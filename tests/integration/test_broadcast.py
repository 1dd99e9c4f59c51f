"""Broadcasts: every worker gets every entry, once, whatever happens to its connection."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import msgspec
import pytest
from redis.asyncio import Redis

from streamworker import App, Message
from tests.running import Watched, burst, events, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until


class Price(msgspec.Struct):
    number: int


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, "none")


@pytest.fixture
def own(own_redis: Redis, stream: str) -> Watched:
    """The stream on a server of the test's own."""
    return Watched(own_redis, stream, "none")


class Listener:
    """An app with one broadcast handler, and the numbers it got in their order."""

    def __init__(self, stream: str, concurrency: int = 1) -> None:
        self.app = App("listener")
        self.numbers: list[int] = []
        self.messages: list[Message] = []

        @self.app.on(stream, broadcast=True, concurrency=concurrency)
        async def handle(body: Price, message: Message) -> None:
            self.numbers.append(body.number)
            self.messages.append(message)

    def since(self, number: int) -> list[int]:
        return [one for one in self.numbers if one >= number]


async def publish(watched: Watched, *numbers: int, type: str | None = None) -> list[str]:
    kind = ("type", type) if type else ()
    return [await watched.add("data", f'{{"number":{number}}}', *kind) for number in numbers]


async def all_listen(watched: Watched, *listeners: Listener) -> None:
    """Publish probes, with negative numbers, until each of them has seen one: from then on nothing may be missed."""
    number = 0

    async def heard() -> bool:
        nonlocal number
        number -= 1
        await publish(watched, number)
        return all(listener.numbers for listener in listeners)

    await wait_until(heard)


@on_all_servers
async def test_every_worker_gets_every_entry_from_now_on_and_no_group_is_made(
    redis_url: str, stream: str, watched: Watched
) -> None:
    first, second = Listener(stream), Listener(stream)
    await publish(watched, 1, 2, 3)  # long ago
    async with working(first.app, url=redis_url), working(second.app, url=redis_url):
        await all_listen(watched, first, second)
        ids = await publish(watched, *range(10, 60))
        await wait_until(lambda: 59 in first.numbers and 59 in second.numbers)
    for listener in first, second:
        assert listener.since(1) == list(range(10, 60))
        (message,) = [message for message in listener.messages if message.id == ids[0]]
        assert (message.group, message.deliveries, message.stream) == ("", 1, stream)
    assert await watched.do("XINFO", "GROUPS", stream) == []
    assert await watched.do("KEYS", f"*{stream}*") == [stream.encode()]


@on_all_servers
async def test_a_broadcast_may_begin_at_the_beginning_at_an_id_or_at_a_time(
    redis_url: str, stream: str, watched: Watched
) -> None:
    seen: dict[str, list[str]] = {}
    ids = [f"{1_700_000_000_000 + number}-0" for number in range(10)]
    for id in ids:
        await watched.add("data", "x", id=id)

    def listen(name: str, start: str | datetime) -> None:
        @app.on(stream, broadcast=True, start=start, concurrency=1)
        async def handle(message: Message) -> None:
            seen.setdefault(name, []).append(message.id)

    app = App("listener")
    listen("beginning", "beginning")
    listen("id", ids[4])
    listen("time", datetime.fromtimestamp(1_700_000_000.007, UTC))
    listen("new", "new")
    await burst(app, url=redis_url)
    assert seen == {"beginning": ids, "id": ids[4:], "time": ids[7:]}


async def test_a_broadcast_from_the_beginning_goes_on_with_what_is_new(
    redis_url: str, stream: str, watched: Watched
) -> None:
    app = App("listener")
    numbers: list[int] = []

    @app.on(stream, broadcast=True, start="beginning", concurrency=1)
    async def handle(body: Price) -> None:
        numbers.append(body.number)

    await publish(watched, *range(100))
    async with working(app, url=redis_url):
        await wait_until(lambda: 99 in numbers)
        await publish(watched, *range(100, 110))
        await wait_until(lambda: 109 in numbers)
    assert numbers == list(range(110))


@on_all_servers
async def test_nothing_is_missed_between_two_reads_however_fast_is_published(
    redis_url: str, stream: str, watched: Watched
) -> None:
    slow, quick = Listener(stream), Listener(stream, concurrency=64)
    publisher = App("publisher", url=redis_url)
    async with working(slow.app, url=redis_url), working(quick.app, url=redis_url), publisher:
        await all_listen(watched, slow, quick)
        for begin in range(0, 5_000, 1_000):
            one_by_one = [publisher.publish(stream, Price(number)) for number in range(begin, begin + 500)]
            await asyncio.gather(*one_by_one)
            await publisher.publish_many(stream, (Price(number) for number in range(begin + 500, begin + 1_000)))
        await wait_until(lambda: len(slow.since(0)) >= 5_000 and len(quick.since(0)) >= 5_000)
    assert slow.since(0) == list(range(5_000))
    assert sorted(quick.since(0)) == list(range(5_000))


@on_all_servers
async def test_nothing_is_missed_or_repeated_over_lost_connections(
    own_server: Server, own: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(stream)
    async with working(listener.app, url=own_server.url):
        await all_listen(own, listener)
        for begin in range(0, 300, 100):
            await publish(own, *range(begin, begin + 50))
            await own.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await publish(own, *range(begin + 50, begin + 100))
            await wait_until(lambda: begin + 99 in listener.numbers)  # noqa: B023  (awaited at once)
    assert listener.since(0) == list(range(300))


@on_all_servers
async def test_nothing_is_missed_or_repeated_over_a_restart_of_the_server(
    own_server: Server, own_redis: Redis, own: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamworker")
    listener = Listener(stream)
    async with working(listener.app, url=own_server.url):
        await all_listen(own, listener)
        await publish(own, *range(50))
        await own_redis.connection_pool.disconnect()
        await asyncio.to_thread(own_server.restart, killed=True)
        await publish(own, *range(50, 100))
        await wait_until(lambda: 99 in listener.numbers)
    assert listener.since(0) == list(range(100))
    assert len(events(caplog, "redis.unavailable")) == 1
    assert len(events(caplog, "redis.available")) == 1


@on_all_servers
async def test_a_stream_that_began_anew_with_lower_ids_is_heard_from_its_beginning(
    own_server: Server, own: Watched, stream: str
) -> None:
    listener = Listener(stream)
    async with working(listener.app, url=own_server.url):
        await all_listen(own, listener)
        await own.do("FLUSHALL")
        for number in range(5):
            await own.add("data", f'{{"number":{number}}}', id=f"{number + 1}-1")
        await wait_until(lambda: 4 in listener.numbers)
        await publish(own, 5)
        await wait_until(lambda: 5 in listener.numbers)
    assert listener.since(0) == [0, 1, 2, 3, 4, 5]


@on_all_servers
async def test_a_replica_that_lags_and_takes_over_repeats_nothing_and_hides_nothing(
    own_server: Server, own: Watched, own_redis: Redis, stream: str
) -> None:
    """What such a replica has is the stream without its last entries; what follows may have lower ids than those."""
    listener = Listener(stream)
    async with working(listener.app, url=own_server.url):
        await all_listen(own, listener)
        for number in range(10):
            await own.add("data", f'{{"number":{number}}}', id=f"9999999999999-{10 * number + 10}")
        await wait_until(lambda: 9 in listener.numbers)
        async with own_redis.pipeline(transaction=True) as step:
            step.delete(stream)
            for number in range(7):
                step.xadd(stream, {"data": f'{{"number":{number}}}'}, id=f"9999999999999-{10 * number + 10}")
            await step.execute()
        await own.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await own.add("data", '{"number":10}', id="9999999999999-75")
        await wait_until(lambda: 10 in listener.numbers)
    assert listener.since(0) == list(range(11))


async def test_a_stream_that_is_not_there_yet_is_heard_from_its_first_entry(
    redis_url: str, stream: str, watched: Watched
) -> None:
    listener = Listener(stream)

    async def readers() -> int:
        return bytes(await watched.do("CLIENT", "LIST")).count(b"cmd=xread ")

    assert await readers() == 0
    async with working(listener.app, url=redis_url):
        await wait_until(readers)
        await publish(watched, 0, 1)
        await wait_until(lambda: 1 in listener.numbers)
    assert listener.numbers == [0, 1]


async def test_a_broadcast_may_take_one_type_alone(redis_url: str, stream: str, watched: Watched) -> None:
    app = App("listener")
    seen: list[tuple[str, int]] = []

    def listen(type: str | None) -> None:
        @app.on(stream, broadcast=True, start="beginning", type=type, concurrency=1)
        async def handle(body: Price, message: Message) -> None:
            seen.append((type or "all", body.number))

    listen("up")
    listen("down")
    listen(None)
    for number, type in enumerate(("up", "down", "sideways", None, "up")):
        await publish(watched, number, type=type)
    await burst(app, url=redis_url)
    assert sorted(seen) == [
        ("all", 0),
        ("all", 1),
        ("all", 2),
        ("all", 3),
        ("all", 4),
        ("down", 1),
        ("up", 0),
        ("up", 4),
    ]


async def test_a_broadcast_that_fails_is_not_repeated_and_the_next_ones_come(
    redis_url: str, stream: str, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("listener")
    numbers: list[int] = []

    @app.on(stream, broadcast=True, start="beginning", concurrency=1, timeout=0.1)
    async def handle(body: Price) -> None:
        numbers.append(body.number)
        if body.number == 0:
            raise ValueError
        if body.number == 1:
            await asyncio.Event().wait()

    await publish(watched, 0, 1)
    await watched.add("data", "no JSON")
    await publish(watched, 3)
    await burst(app, url=redis_url)
    assert numbers == [0, 1, 3]
    assert await watched.do("KEYS", f"*{stream}*") == [stream.encode()]
    reasons = [line["reason"] for line in events(caplog, "message.dropped")]
    assert len(reasons) == 3
    assert any("ValueError" in reason for reason in reasons)
    assert any("timeout" in reason for reason in reasons)
    assert any("undecodable" in reason for reason in reasons)


async def test_a_broadcast_that_is_running_is_finished_when_the_worker_stops(
    redis_url: str, stream: str, watched: Watched
) -> None:
    app = App("listener")
    began, go_on = asyncio.Event(), asyncio.Event()
    numbers: list[int] = []

    @app.on(stream, broadcast=True, start="beginning", concurrency=1)
    async def handle(body: Price) -> None:
        began.set()
        await go_on.wait()
        numbers.append(body.number)

    await publish(watched, 0)
    async with working(app, url=redis_url):
        await asyncio.wait_for(began.wait(), 10)
        asyncio.get_running_loop().call_later(0.1, go_on.set)  # when it is draining
    assert numbers == [0]
