"""What real servers say when something is wrong, and what that means to a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker.broker import Beat, Settlement
from streamworker.errors import (
    AuthFailed,
    BrokerError,
    GroupMissing,
    NotPermitted,
    Refused,
    Unavailable,
    WrongType,
)
from streamworker.handler import Group
from streamworker.message import Delivery
from streamworker.redisbroker.broker import RedisBroker, topology_of
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link, Script
from streamworker.redisbroker.reader import RedisGroupReader
from streamworker.redisbroker.settler import RedisSettler
from tests.conftest import ServerOf
from tests.running import Watched
from tests.servers import Server
from tests.waiting import wait_until

GROUP = "group"
ME = "me.sw"
CANARY = "SW-CANARY-4111"
ADD = Script("return redis.call('XADD', KEYS[1], '*', 'data', ARGV[1])")


@pytest.fixture
def redis_url(admin_url: str) -> str:
    """These tests send commands of their own over a worker's connections."""
    return admin_url


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[Link]:
    link = Link(topology_of(url), timeout=5.0)
    try:
        yield link
    finally:
        await link.close()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    async with linked(redis_url) as link:
        yield link


@pytest.fixture
async def own_link(own_server: Server) -> AsyncIterator[Link]:
    async with linked(own_server.url) as link:
        yield link


async def told(link: Link, *command: str) -> str:
    """The text of the error that a command is answered with."""
    with pytest.raises(BrokerError) as caught:
        await link.call(*command)
    return str(caught.value)


class Member:
    """A consumer's reader and settler."""

    def __init__(self, url: str, stream: str) -> None:
        self.keys = Keys.of(stream, GROUP)
        self._broker = RedisBroker(url)
        group = Group(stream, GROUP, (), "dead-letter", 0)
        self.reader: RedisGroupReader = self._broker.reader(group, ME, 2**20)
        self.settler: RedisSettler = self._broker.settler(group, ME)

    async def close(self) -> None:
        await self.reader.close()
        await self._broker.close()


@asynccontextmanager
async def member(url: str, stream: str) -> AsyncIterator[Member]:
    one = Member(url, stream)
    try:
        await one.reader.join("beginning", False)
        yield one
    finally:
        await one.close()


async def blocked_read(redis: Redis, one: Member, block: float) -> asyncio.Task[list[Delivery]]:
    reading = asyncio.create_task(one.reader.read(10, block))

    await wait_until(lambda: blocked(redis), what="the read waits on the server")
    return reading


async def blocked(redis: Redis) -> list[str]:
    """The ids of connections whose read waits."""
    found: list[dict[str, str]] = await redis.client_list()
    return [client["id"] for client in found if client["cmd"] == "xreadgroup" and "b" in client["flags"]]


# --- the wrong type, a missing group


@pytest.mark.parametrize("command", [("XADD", "*", "data", CANARY), ("XINFO", "GROUPS"), ("XPENDING", GROUP)])
async def test_a_key_that_holds_something_else_is_the_wrong_type(
    link: Link, redis: Redis, stream: str, command: tuple[str, ...]
) -> None:
    await redis.set(stream, "something else")
    at = 2 if command[0] == "XINFO" else 1
    with pytest.raises(WrongType) as caught:
        await link.call(*command[:at], stream, *command[at:])
    assert CANARY not in str(caught.value)
    with pytest.raises(WrongType) as caught:
        await link.script(ADD, (stream.encode(),), (CANARY,))
    assert CANARY not in str(caught.value)


async def test_whatever_needs_a_group_says_that_it_is_missing(link: Link, redis: Redis, stream: str) -> None:
    read = ("XREADGROUP", "GROUP", GROUP, ME, "STREAMS", stream, ">")
    pending = ("XPENDING", stream, GROUP, "-", "+", "10")
    claim = ("XCLAIM", stream, GROUP, ME, "0", "1-1")
    for command in (read, pending, claim, ("XINFO", "GROUPS", stream), ("XGROUP", "CREATE", stream, GROUP, "0")):
        with pytest.raises(GroupMissing):
            await link.call(*command)
    await redis.xadd(stream, {"data": "x"})
    for command in (read, pending, claim):
        with pytest.raises(GroupMissing):
            await link.call(*command)


@pytest.mark.parametrize("name", ["OOM", "READONLY", "it's WRONGTYPE"])
async def test_a_missing_stream_may_be_called_like_a_code(link: Link, name: str) -> None:
    with pytest.raises(GroupMissing):
        await link.call("XREADGROUP", "GROUP", name, ME, "STREAMS", f"{name} nowhere", ">")


async def test_one_error_in_a_round_trip_leaves_the_answers_beside_it_alone(
    link: Link, redis: Redis, stream: str
) -> None:
    await redis.set(stream, "7")
    replies = await link.pipeline([("GET", stream), ("XLEN", stream), ("INCR", stream)])
    assert [replies[0], type(replies[1]), replies[2]] == [b"7", WrongType, 8]
    assert link.connected


# --- blocked, and then


@pytest.mark.parametrize("how", ["DEL", "RENAME", "XGROUP DESTROY"])
async def test_a_read_that_waits_while_its_group_goes_away_tells_of_it_at_the_latest_when_it_ends(
    redis: Redis, redis_url: str, stream: str, how: str
) -> None:
    async with member(redis_url, stream) as one:
        reading = await blocked_read(redis, one, 0.5)
        if how == "DEL":
            await redis.delete(stream)
        elif how == "RENAME":
            await redis.rename(stream, f"{stream}:renamed")
        else:
            await redis.xgroup_destroy(stream, GROUP)
        with suppress(GroupMissing):
            assert await reading == []  # 6.2 says nothing, or later
        with pytest.raises(GroupMissing):
            await one.reader.read(10, 0)
        assert (await one.reader.join("beginning", True)).created == "again"
        await redis.xadd(stream, {"data": "x"})
        assert [delivery.fields for delivery in await one.reader.read(10, 0)] == [[b"data", b"x"]]


async def test_a_read_that_waits_while_something_else_is_put_over_the_key_tells_of_it_at_the_latest_when_it_ends(
    redis: Redis, redis_url: str, stream: str
) -> None:
    async with member(redis_url, stream) as one:
        reading = await blocked_read(redis, one, 0.5)
        await redis.set(stream, "something else")
        with suppress(GroupMissing, WrongType):
            assert await reading == []
        with pytest.raises(WrongType):
            await one.reader.read(10, 0)


async def test_a_read_that_waits_while_its_server_becomes_a_replica_finds_it_unavailable(
    own_server: Server, own_redis: Redis, stream: str
) -> None:
    async with member(own_server.url, stream) as one:
        reading = await blocked_read(own_redis, one, 20.0)
        await own_redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
        with pytest.raises(Unavailable, match="instance state changed"):
            await reading


# --- the server does not serve, or does not write


async def delivered(one: Member, watched: Watched) -> Delivery:
    await watched.add("data", CANARY)
    (delivery,) = await one.reader.read(10, 0)
    return delivery


async def beaten(url: str, stream: str) -> Any:
    """The outcome of a heartbeat."""
    pulse = RedisBroker(url).pulse(ME)
    try:
        (look,) = await asyncio.to_thread(pulse.beat, [Beat(stream, GROUP, b"1 15000 host")], 5.0)
    finally:
        await asyncio.to_thread(pulse.close)
    return look


async def test_a_replica_does_not_write(own_server: Server, own_redis: Redis, stream: str) -> None:
    watched = Watched(own_redis, stream, GROUP)
    async with member(own_server.url, stream) as one, linked(own_server.url) as link:
        delivery = await delivered(one, watched)
        await watched.do("REPLICAOF", "127.0.0.1", "1")
        for call in (
            link.call("XADD", stream, "*", "data", CANARY),
            link.script(ADD, (stream.encode(),), (CANARY,)),
            one.settler.settle([delivery], []),
            one.settler.settle([], [Settlement(delivery, delay=1.0)]),
            one.reader.read(10, 0),
            one.reader.turn(10, [], 3),
        ):
            with pytest.raises(Unavailable, match="READONLY") as caught:
                await call
            assert CANARY not in str(caught.value)
        look = await beaten(own_server.url, stream)
        assert isinstance(look, Unavailable), "a look does not count where beats are refused"
        await watched.do("CONFIG", "SET", "replica-serve-stale-data", "no")
        assert (await told(link, "GET", stream)).startswith("MASTERDOWN")
        with pytest.raises(Unavailable):
            await one.reader.own()
        await watched.do("REPLICAOF", "NO", "ONE")
        assert await one.settler.settle([delivery], []) == [True]


async def test_too_few_replicas_are_an_outage(own_server: Server, own_redis: Redis, stream: str) -> None:
    watched = Watched(own_redis, stream, GROUP)
    async with member(own_server.url, stream) as one, linked(own_server.url) as link:
        delivery = await delivered(one, watched)
        await watched.do("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            await link.call("XADD", stream, "*", "data", CANARY)
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            await one.settler.settle([], [Settlement(delivery, delay=1.0)])
        assert isinstance(await beaten(own_server.url, stream), Unavailable)


async def test_out_of_memory_writing_is_refused(own_server: Server, own_redis: Redis, stream: str) -> None:
    watched = Watched(own_redis, stream, GROUP)
    async with member(own_server.url, stream) as one, linked(own_server.url) as link:
        delivery = await delivered(one, watched)
        await watched.do("CONFIG", "SET", "maxmemory", "1")
        for call in (link.call("XADD", stream, "*", "data", CANARY), link.script(ADD, (stream.encode(),), (CANARY,))):
            with pytest.raises(Refused) as caught:
                await call
            assert CANARY not in str(caught.value)
        results = await one.settler.settle([], [Settlement(delivery, delay=1.0), Settlement(delivery, letter={})])
        assert [type(result) for result in results[:2]] == [Refused, Refused]
        assert results[2:] == [True]
        with pytest.raises(Refused):
            await link.call("XGROUP", "CREATE", f"{stream}:new", GROUP, "0", "MKSTREAM")
        assert await one.reader.read(10, 0) == []
        assert await one.settler.settle([delivery], []) == [True]


async def test_a_server_that_is_busy_with_a_script_is_an_outage(own_server: Server, own_redis: Redis) -> None:
    await own_redis.config_set("lua-time-limit", "1")
    async with linked(own_server.url) as link, linked(own_server.url) as other:
        await link.open()
        await other.open()
        for_ever = asyncio.create_task(link.call("EVAL", "while true do end", "0"))

        async def is_busy() -> bool:
            try:
                await other.call("GET", "x")
            except Unavailable as error:
                return str(error).startswith("BUSY")
            return False

        await wait_until(is_busy)
        await own_redis.script_kill()
        with pytest.raises(BrokerError):
            await for_ever
        assert await other.call("GET", "x") is None


async def test_too_many_clients_are_an_outage(own_server: Server, own_redis: Redis) -> None:
    await own_redis.config_set("maxclients", "1")
    async with linked(own_server.url) as link:
        with pytest.raises(Unavailable):  # in the words of the server or the driver, whoever is faster
            await link.call("PING")


async def test_a_connection_that_is_killed_under_a_read_is_an_outage_and_the_next_call_connects_again(
    redis: Redis, redis_url: str, stream: str
) -> None:
    async with member(redis_url, stream) as one:
        reading = await blocked_read(redis, one, 20.0)
        (mine,) = await blocked(redis)
        await redis.client_kill_filter(_id=mine)
        with pytest.raises(Unavailable):
            await reading
        assert await one.reader.read(10, 0) == []


async def test_a_server_that_does_not_answer_is_an_outage_after_the_timeout(own_server: Server) -> None:
    link = Link(topology_of(own_server.url), timeout=0.1)
    await link.call("PING")
    own_server.pause()
    with pytest.raises(Unavailable):
        await link.call("PING")
    assert not link.connected, "a late reply must not answer another question"
    own_server.resume()
    await wait_until(lambda: _answers(own_server))
    assert await link.call("PING") == b"PONG"
    await link.close()


def _answers(server: Server) -> bool:
    return server.ask("PING").startswith(b"+PONG")


async def test_a_server_that_is_not_there_is_unavailable(own_server: Server) -> None:
    own_server.kill()
    async with linked(own_server.url) as link:
        with pytest.raises(Unavailable):
            await link.call("PING")


async def test_scripts_that_the_server_forgot_are_given_to_it_again(link: Link, redis: Redis, stream: str) -> None:
    key = (stream.encode(),)
    await link.script(ADD, key, ("1",))
    await redis.script_flush()
    replies = await link.scripts([(ADD, key, ("2",)), (ADD, key, ("3",))])
    assert not [reply for reply in replies if isinstance(reply, Exception)]
    entries = await link.call("XRANGE", stream, "-", "+")
    assert [fields for _, fields in entries] == [[b"data", b"1"], [b"data", b"2"], [b"data", b"3"]]


async def test_scripts_of_one_round_trip_run_in_their_order_whichever_the_server_knows(
    link: Link, redis_url: str, redis: Redis, stream: str
) -> None:
    key = (stream.encode(),)
    await link.script(ADD, key, ("0",))
    unknown = Script(ADD.source.decode() + f"-- {stream}")
    async with linked(redis_url) as other:
        await other.scripts([(unknown, key, ("1",)), (ADD, key, ("2",)), (unknown, key, ("3",))])
    entries = await link.call("XRANGE", stream, "-", "+")
    assert [fields[1] for _, fields in entries] == [b"0", b"1", b"2", b"3"]


# --- log-in and rights


async def test_wrong_and_missing_credentials_are_told_apart_from_outages(
    make_server: ServerOf, server_kind: str
) -> None:
    server = make_server(server_kind, "--requirepass", "secret-word")
    address = f"127.0.0.1:{server.port}"
    for login in ("", ":wrong-word@", "default:wrong-word@", "nobody:secret-word@"):
        async with linked(f"redis://{login}{address}") as link:
            with pytest.raises(AuthFailed) as caught:
                await link.call("GET", "x")
            assert "-word" not in str(caught.value)
    async with linked(f"redis://:secret-word@{address}") as link:
        assert await link.call("GET", "x") is None
        await link.call("CONFIG", "SET", "requirepass", "another-word")
        await link.close()
        with pytest.raises(AuthFailed):
            await link.call("GET", "x")


async def test_a_password_for_a_server_that_has_none_is_told_as_such(own_server: Server) -> None:
    async with linked(f"redis://:secret-word@127.0.0.1:{own_server.port}") as link:
        with pytest.raises(AuthFailed):
            await link.call("GET", "x")


@asynccontextmanager
async def as_user(server: Server, redis: Redis, *rules: str) -> AsyncIterator[Link]:
    await redis.execute_command("ACL", "SETUSER", "worker", "on", ">word", *rules)  # type: ignore[no-untyped-call]
    async with linked(f"redis://worker:word@127.0.0.1:{server.port}") as link:
        yield link


async def test_a_command_that_the_acl_lacks_is_named(own_server: Server, own_redis: Redis, stream: str) -> None:
    async with as_user(own_server, own_redis, "~*", "+@all", "-xadd") as link:
        with pytest.raises(NotPermitted, match="xadd"):
            await link.call("XADD", stream, "*", "data", CANARY)
        with pytest.raises(NotPermitted) as caught:
            await link.script(ADD, (stream.encode(),), (CANARY,))
        assert CANARY not in str(caught.value)
        await link.call("XLEN", stream)


async def test_a_key_that_the_acl_lacks_is_a_right_that_is_missing(
    own_server: Server, own_redis: Redis, stream: str
) -> None:
    async with as_user(own_server, own_redis, "~other", "+@all") as link:
        for call in (
            link.call("XADD", stream, "*", "data", CANARY),
            link.script(ADD, (stream.encode(),), (CANARY,)),
            link.call("EVAL", "return redis.call('XLEN', ARGV[1])", "1", "other", stream),
        ):
            with pytest.raises(NotPermitted) as caught:
                await call
            assert CANARY not in str(caught.value)


async def test_a_user_who_may_not_run_scripts_is_told_so(own_server: Server, own_redis: Redis, stream: str) -> None:
    async with as_user(own_server, own_redis, "~*", "+@all", "-evalsha", "-eval") as link:
        with pytest.raises(NotPermitted, match="eval"):
            await link.script(ADD, (stream.encode(),), (CANARY,))


async def test_a_server_whose_commands_were_taken_away_tells_no_payload(
    make_server: ServerOf, server_kind: str, stream: str
) -> None:
    server = make_server(server_kind, "--rename-command", "XADD", "")
    async with linked(server.url) as link:
        text = await told(link, "XADD", stream, "*", "data", CANARY)
    assert "unknown command" in text
    assert "XADD" in text
    assert CANARY not in text
