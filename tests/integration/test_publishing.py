"""Publishing: what is written, and what the caller is told when that is not certain."""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, patch

import msgspec
import pytest
from redis.asyncio import Redis

from streamworker import App, ConfigError, PublishError, PublishFailed, PublishUnknown
from streamworker.errors import Refused
from streamworker.redisbroker.publisher import RedisPublisher
from tests.conftest import ServerOf
from tests.running import Watched, on_all_servers
from tests.servers import Server
from tests.waiting import wait_until

CANARY = "SW-CANARY-4111111111111111"


class Order(msgspec.Struct):
    id: int


class Proxy:
    """A TCP proxy in front of a server, which can hold replies back, or swallow one and reset the connection."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.held = 0  # replies that wait
        self.swallowed = 0
        self._upstream = port
        self._swallowing = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._open.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                continue

    def hold(self) -> None:
        """From now on replies wait here."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def swallow(self) -> None:
        """The next reply is lost, with its connection."""
        self._swallowing = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._writers += [writer, below]
        self._start(self._requests(reader, below))
        self._start(self._replies(above, writer))

    def _start(self, pump: Any) -> None:
        self._tasks.add(asyncio.create_task(pump))

    @staticmethod
    async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                if self._swallowing:
                    self._swallowing = False
                    self.swallowed += 1
                    # Lingering for no time: the connection is reset, not closed.
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                self.held += not self._open.is_set()
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        writer.close()


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
def group(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, "app")


@pytest.fixture
async def proxy(server_kind: str, shared_server: ServerOf) -> AsyncIterator[Proxy]:
    async with Proxy(shared_server(server_kind).port) as proxy:
        yield proxy


@pytest.fixture
def own(own_redis: Redis, stream: str) -> Watched:
    """The stream on a server of the test's own."""
    return Watched(own_redis, stream, "app")


def tells_nothing(error: BaseException) -> bool:
    return CANARY not in "".join(traceback.format_exception(error))


def orders(count: int, at: dict[int, Callable[[], None]] | None = None) -> Iterator[Order]:
    """``count`` bodies; before number ``n`` is given out, ``at[n]`` is called."""
    for number in range(count):
        if at and number in at:
            at[number]()
        yield Order(number)


async def ids_in(group: Watched) -> list[int]:
    entries = await group.do("XRANGE", group.keys.stream, "-", "+")
    return [msgspec.json.decode(fields[1], type=Order).id for _, fields in entries]


# --- what is written


@on_all_servers
async def test_publishing_gives_the_id_of_what_it_has_written(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    async with app:
        plain = await app.publish(stream, Order(1))
        full = await app.publish(stream, b"\x00\xff", type="placed", headers={"trace": "é", "b": ""})
        text = await app.publish(stream, "as it is")
    assert [(id.decode(), fields) for id, fields in await group.do("XRANGE", stream, "-", "+")] == [
        (plain, [b"data", b'{"id":1}']),
        (
            full,
            [b"data", b"\x00\xff", b"type", b"placed", b"content-type", b"application/octet-stream",
             b"trace", "é".encode(), b"b", b""],
        ),
        (text, [b"data", b"as it is"]),
    ]  # fmt: skip


async def test_many_who_publish_at_once_each_get_their_own_id(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    async with app:
        ids = await asyncio.gather(*(app.publish(stream, Order(number)) for number in range(3_000)))
    entries = await group.do("XRANGE", stream, "-", "+")
    assert {id.decode(): msgspec.json.decode(fields[1])["id"] for id, fields in entries} == {
        id: number for number, id in enumerate(ids)
    }
    assert await ids_in(group) == list(range(3_000))  # in the order in which they were asked for


@on_all_servers
async def test_publish_many_takes_any_iterable_in_its_order(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)

    async def later() -> AsyncIterator[Order]:
        for number in range(1_200, 2_400):
            await asyncio.sleep(0)
            yield Order(number)

    async with app:
        assert await app.publish_many(stream, orders(1_200), type="placed", headers={"a": "b"}) == 1_200
        assert await app.publish_many(stream, later(), type="placed", headers={"a": "b"}) == 1_200
        assert await app.publish_many(stream, []) == 0
        assert await app.publish_many(stream, [Order(2_400)], type="placed", headers={"a": "b"}) == 1
    assert await ids_in(group) == list(range(2_401))
    assert {tuple(fields[2:]) for _, fields in await group.do("XRANGE", stream, "-", "+")} == {
        (b"type", b"placed", b"a", b"b")
    }


@pytest.mark.parametrize("size", [100, 2**20], ids=["small bodies", "large bodies"])
async def test_publish_many_holds_no_more_than_a_batch(size: int, redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    count = 40 * 2**20 // size // (40 if size == 100 else 1)

    def bodies() -> Iterator[bytes]:
        for _ in range(count):
            yield bytes(size)

    async with app:
        await app.publish(stream, b"to be connected")
        tracemalloc.start()
        try:
            assert await app.publish_many(stream, bodies()) == count
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert await group.do("XLEN", stream) == count + 1
    assert await group.do("DEL", stream) == 1
    assert peak < (1 if size == 100 else 8) * 2**20


async def test_what_waits_is_written_when_the_app_is_left(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    async with app:
        waiting = [asyncio.create_task(app.publish(stream, Order(number))) for number in range(100)]
        await asyncio.sleep(0)  # they have begun, nothing more
    ids = await asyncio.gather(*waiting)
    assert [id.decode() for id, _ in await group.do("XRANGE", stream, "-", "+")] == ids


# --- what is refused


@pytest.mark.parametrize("name", ["data", "type", "content-type", "sw-id", "sw-", ""])
async def test_a_header_with_a_name_of_ours_is_refused_before_anything_is_written(
    name: str, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    async with app:
        with pytest.raises(ConfigError, match="header") as refused:
            await app.publish(stream, CANARY, headers={"fine": "x", name: CANARY})
        with pytest.raises(ConfigError, match="header"):
            await app.publish_many(stream, [CANARY], headers={name: CANARY})
    assert tells_nothing(refused.value)
    assert await group.do("EXISTS", stream) == 0


@on_all_servers
async def test_out_of_memory_raises_and_nothing_is_written(own_server: Server, own: Watched, stream: str) -> None:
    app = App("app", url=own_server.url)
    async with app:
        await own.do("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(PublishError, match="memory") as refused:
            await app.publish(stream, CANARY)
        with pytest.raises(PublishFailed, match="memory") as failed:
            await app.publish_many(stream, [CANARY] * 3)
        await own.do("CONFIG", "SET", "maxmemory", "0")
        assert await app.publish(stream, "afterwards")
    assert type(refused.value) is PublishError
    assert (failed.value.published, failed.value.unknown) == (0, 0)
    assert tells_nothing(refused.value)
    assert tells_nothing(failed.value)
    assert await own.do("XLEN", stream) == 1


async def test_publish_many_says_how_many_were_written_before_memory_ran_out(
    own_server: Server, own: Watched, stream: str
) -> None:
    app = App("app", url=own_server.url)

    def run_out() -> None:
        own_server.ask("CONFIG", "SET", "maxmemory", "1")

    async with app:
        with pytest.raises(PublishFailed) as failed:
            await app.publish_many(stream, orders(1_700, {1_001: run_out}))
        await own.do("CONFIG", "SET", "maxmemory", "0")
    assert (failed.value.published, failed.value.unknown) == (1_000, 0)
    assert await ids_in(own) == list(range(1_000))


@on_all_servers
async def test_what_the_server_refuses_is_told_to_its_caller_alone(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    wrong = f"{stream}:text"
    await group.do("SET", wrong, "no stream")
    async with app:
        results = await asyncio.gather(
            *(app.publish(wrong if number % 3 == 0 else stream, CANARY) for number in range(30)), return_exceptions=True
        )
        with pytest.raises(PublishFailed, match="wrong kind") as failed:
            await app.publish_many(wrong, [CANARY, CANARY])
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 10
    assert {type(error) for error in refused} == {PublishError}
    assert all(wrong in str(error) and tells_nothing(error) for error in refused)
    assert (failed.value.published, failed.value.unknown) == (0, 0)
    assert await group.do("XLEN", stream) == 20


@pytest.mark.parametrize("name", ["\ud800", None], ids=["a lone surrogate", "None"])
async def test_a_stream_name_that_cannot_be_sent_is_the_trouble_of_its_caller_alone(
    name: Any, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    async with app:
        results = await asyncio.wait_for(
            asyncio.gather(
                app.publish(stream, Order(1)),
                app.publish(name, CANARY),
                app.publish(stream, Order(2)),
                return_exceptions=True,
            ),
            5,
        )
        assert isinstance(results[1], ConfigError | PublishError)
        assert not isinstance(results[1], PublishUnknown)
        assert tells_nothing(results[1])
        assert isinstance(results[0], str)
        assert isinstance(results[2], str)
        assert await asyncio.wait_for(app.publish(stream, Order(3)), 5)
    assert await ids_in(group) == [1, 2, 3]


# --- what cannot be reached


@pytest.mark.parametrize("used", [False, True], ids=["never used", "used before"])
async def test_a_server_that_is_gone_before_is_no_doubt_nothing_was_written(
    used: bool, make_server: ServerOf, stream: str
) -> None:
    server = make_server("valkey-9.1")
    app = App("app", url=server.url)
    async with app:
        if used:
            await app.publish(stream, "before")
        await _gone(server)
        with pytest.raises(PublishError) as gone:
            await app.publish(stream, CANARY)
        with pytest.raises(PublishFailed) as failed:
            await app.publish_many(stream, [CANARY] * 700)
        assert type(gone.value) is PublishError
        assert (failed.value.published, failed.value.unknown) == (0, 0)
        assert tells_nothing(gone.value)
        assert tells_nothing(failed.value)
        server.start()

        async def back() -> bool:
            try:
                return bool(await app.publish(stream, "afterwards"))
            except PublishError:
                return False

        await wait_until(back)


async def test_a_connection_that_was_closed_while_nobody_published_costs_no_publish(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    async with app:
        await app.publish(stream, "before")
        (line,) = [
            line for line in (await group.do("CLIENT", "LIST")).splitlines() if b"cmd=xadd" in line
        ]  # its server or something between closes what is idle
        client = dict(part.split(b"=", 1) for part in line.split())
        await group.do("CLIENT", "KILL", "ID", client[b"id"])

        async def closed() -> bool:
            return client[b"addr"] not in await group.do("CLIENT", "LIST")

        await wait_until(closed)
        assert await app.publish(stream, "afterwards")
    assert await group.do("XLEN", stream) == 2


@on_all_servers
async def test_a_connection_lost_on_the_way_leaves_it_unknown_whether_it_was_written(
    proxy: Proxy, stream: str, group: Watched
) -> None:
    app = App("app", url=proxy.url)
    async with app:
        await app.publish(stream, Order(0))
        proxy.swallow()
        with pytest.raises(PublishUnknown, match="may have been written") as unknown:
            await app.publish(stream, CANARY)
        assert proxy.swallowed == 1
        assert await group.do("XLEN", stream) == 2  # this time it was, and once
        assert await app.publish(stream, Order(2))
    assert tells_nothing(unknown.value)
    assert await group.do("XLEN", stream) == 3


async def test_all_that_were_on_the_way_are_unknown_and_those_that_waited_are_written(
    proxy: Proxy, stream: str, group: Watched
) -> None:
    app = App("app", url=proxy.url)
    async with app:
        await app.publish(stream, Order(0))
        proxy.hold()
        first = asyncio.create_task(app.publish(stream, Order(1)))
        await wait_until(lambda: proxy.held == 1)
        together = [asyncio.create_task(app.publish(stream, Order(number))) for number in range(2, 12)]
        await asyncio.sleep(0)  # they wait for the next round trip
        proxy.release()
        await first
        proxy.swallow()
        results = await asyncio.gather(*together, return_exceptions=True)
        assert {type(result) for result in results} == {PublishUnknown}
        assert await app.publish(stream, Order(12))
    assert await ids_in(group) == list(range(13))


async def test_publish_many_says_how_many_are_certain_and_how_many_are_not(
    proxy: Proxy, stream: str, group: Watched
) -> None:
    app = App("app", url=proxy.url)
    async with app:
        with pytest.raises(PublishFailed, match="1000 published, 500 unknown") as failed:
            await app.publish_many(stream, orders(10_000, {1_001: proxy.swallow}))
    assert (failed.value.published, failed.value.unknown, failed.value.leading) == (1_000, 500, 1_000)
    assert await ids_in(group) == list(range(1_500))


async def test_publish_many_says_how_many_were_written_without_a_gap(redis_url: str, stream: str) -> None:
    # When memory gets free between two entries of a batch. No server can be made to do so at a certain entry.
    replies = [b"1-0", b"2-0", Refused("out of memory"), b"3-0"]
    async with App("app", url=redis_url) as app:
        with patch.object(RedisPublisher, "_write", AsyncMock(return_value=replies)), pytest.raises(PublishFailed) as e:
            await app.publish_many(stream, orders(4))
    assert (e.value.reason, e.value.published, e.value.unknown) == (f"publishing to '{stream}': out of memory", 3, 0)
    assert e.value.leading == 2


async def test_cancelling_a_publish_withdraws_nothing_and_is_nobody_elses_trouble(
    proxy: Proxy, stream: str, group: Watched
) -> None:
    app = App("app", url=proxy.url)
    async with app:
        await app.publish(stream, Order(0))
        proxy.hold()
        on_its_way = asyncio.create_task(app.publish(stream, Order(1)))
        await wait_until(lambda: proxy.held == 1)
        others = [asyncio.create_task(app.publish(stream, Order(number))) for number in (2, 3, 4)]
        await asyncio.sleep(0)  # they wait for the next round trip
        on_its_way.cancel()
        others[1].cancel()
        proxy.release()
        results = await asyncio.gather(on_its_way, *others, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False, True, False]
        last = await app.publish(stream, Order(5))
    entries = await group.do("XRANGE", stream, "-", "+")
    assert await ids_in(group) == [0, 1, 2, 3, 4, 5]
    assert [entries[2][0].decode(), entries[4][0].decode(), entries[5][0].decode()] == [results[1], results[3], last]


async def _gone(server: Server) -> None:
    """Stop it, and come back when its end has reached the connections of this process."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    server.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_bodies_that_end_in_an_error_leave_word_of_how_many_were_published(
    redis_url: str, stream: str, group: Watched
) -> None:
    def bodies() -> Iterator[Order]:
        yield from (Order(number) for number in range(1_200))
        raise KeyError(CANARY)

    async with App("app", url=redis_url) as app:
        with pytest.raises(PublishFailed) as failed:
            await app.publish_many(stream, bodies())
        assert isinstance(failed.value.__cause__, KeyError)
        assert CANARY not in str(failed.value)
        assert failed.value.unknown == 0
        assert failed.value.published == await group.do("XLEN", stream) == 1_000
        with pytest.raises(ValueError, match="invalid literal"):
            await app.publish_many(stream, (number / 0 if number else int("x") for number in range(2)))
