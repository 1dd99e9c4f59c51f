"""Lag, also where the server's own is wrong: each case with what the server says beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker.monitoring.facts import GroupFacts, StreamFacts
from streamworker.monitoring.position import Lag, lag_of, trimmed_of
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.observer import RedisObserver
from tests.roles import as_role

GROUP = "readers"


class Scene:
    """A stream with a group of another program's, and how to bring it into a state."""

    def __init__(self, redis: Redis, stream: str) -> None:
        redis.response_callbacks.clear()
        self._redis = redis
        self.stream = stream

    async def do(self, *command: str | int) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def add(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.do("XADD", self.stream, f"{number}-0", "data", "x" * 10)

    async def group(self, at: str = "0") -> None:
        await self.do("XGROUP", "CREATE", self.stream, GROUP, at, "MKSTREAM")

    async def read(self, count: int) -> None:
        await self.do("XREADGROUP", "GROUP", GROUP, "me", "COUNT", count, "STREAMS", self.stream, ">")


@dataclass(frozen=True)
class Case:
    """What is done; the true lag; what Valkey 9.1 and Redis 8.2 say (6.2 says nothing); what is known to be trimmed."""

    name: str
    do: Callable[[Scene], Awaitable[None]]
    lag: int
    valkey: int | None
    redis: int | None
    trimmed: int | None = 0

    def said(self, kind: str) -> int | None:
        return {"valkey-9.1": self.valkey, "redis-8.2": self.redis, "redis-6.2": None}[kind]


async def from_the_beginning(scene: Scene) -> None:
    await scene.add(1, 10)
    await scene.group()


async def some_read(scene: Scene) -> None:
    await from_the_beginning(scene)
    await scene.read(4)


async def all_read(scene: Scene) -> None:
    await from_the_beginning(scene)
    await scene.read(10)


async def at_the_end_of_a_stream_with_entries(scene: Scene) -> None:
    await scene.add(1, 10)
    await scene.group("$")
    await scene.add(11, 11)


async def at_a_middle_id(scene: Scene) -> None:
    await scene.add(1, 10)
    await scene.group("5-0")


async def at_a_middle_id_and_read(scene: Scene) -> None:
    await at_a_middle_id(scene)
    await scene.read(2)


async def moved_by_setid(scene: Scene) -> None:
    await all_read(scene)
    await scene.do("XGROUP", "SETID", scene.stream, GROUP, "5-0")


async def unread_deleted(scene: Scene) -> None:
    await some_read(scene)
    await scene.do("XDEL", scene.stream, "7-0")


async def unread_deleted_and_more_read(scene: Scene) -> None:
    await unread_deleted(scene)
    await scene.read(2)


async def the_last_unread_deleted(scene: Scene) -> None:
    await from_the_beginning(scene)
    await scene.read(9)
    await scene.do("XDEL", scene.stream, "10-0")


async def read_deleted(scene: Scene) -> None:
    await some_read(scene)
    await scene.do("XDEL", scene.stream, "2-0")
    await scene.do("XDEL", scene.stream, "1-0")


async def unread_trimmed(scene: Scene) -> None:
    await from_the_beginning(scene)
    await scene.read(2)
    await scene.do("XTRIM", scene.stream, "MAXLEN", 3)


async def unread_trimmed_and_more_read(scene: Scene) -> None:
    await unread_trimmed(scene)
    await scene.read(1)


async def unread_trimmed_and_all_read(scene: Scene) -> None:
    await unread_trimmed(scene)
    await scene.read(3)


async def read_trimmed(scene: Scene) -> None:
    await some_read(scene)
    await scene.do("XTRIM", scene.stream, "MAXLEN", 8)


async def all_trimmed(scene: Scene) -> None:
    await some_read(scene)
    await scene.do("XTRIM", scene.stream, "MAXLEN", 0)


async def an_empty_stream(scene: Scene) -> None:
    await scene.group("$")


async def ahead_of_the_stream(scene: Scene) -> None:
    await scene.add(1, 10)
    await scene.group("99-0")


CASES = [
    Case("from the beginning", from_the_beginning, 10, 10, 10),
    Case("some read", some_read, 6, 6, 6),
    Case("all read", all_read, 0, 0, 0),
    Case("at $ of a stream with entries", at_the_end_of_a_stream_with_entries, 1, None, None),
    Case("at a middle id", at_a_middle_id, 5, None, None),
    Case("at a middle id, and read", at_a_middle_id_and_read, 3, None, None),
    Case("moved by SETID", moved_by_setid, 5, None, None),
    Case("unread deleted", unread_deleted, 5, None, None),
    Case("unread deleted, and more read", unread_deleted_and_more_read, 3, None, None),
    Case("the last unread deleted", the_last_unread_deleted, 0, None, None),
    Case("read deleted", read_deleted, 6, 6, 6),
    Case("unread trimmed", unread_trimmed, 3, 8, 3, trimmed=5),
    Case("unread trimmed, and more read", unread_trimmed_and_more_read, 2, 2, 2),
    Case("unread trimmed, and all read", unread_trimmed_and_all_read, 0, 0, 0),
    Case("read trimmed", read_trimmed, 6, 6, 6),
    Case("all trimmed", all_trimmed, 0, 6, 0, trimmed=6),
    Case("an empty stream", an_empty_stream, 0, 0, 0),
    Case("ahead of the stream", ahead_of_the_stream, 0, None, None),
]


@pytest.fixture
async def observer(redis_url: str, admin_url: str) -> AsyncIterator[RedisObserver]:
    observer = RedisObserver(topology_of(as_role(admin_url, "reader")))
    yield observer
    await observer.close()


async def facts(observer: RedisObserver, stream: str) -> tuple[StreamFacts, GroupFacts]:
    seen = (await observer.look({stream: ()}))[stream]
    assert isinstance(seen, StreamFacts), seen
    (group,) = seen.groups
    return seen, group


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_lag_is_the_true_one_whatever_the_server_says(
    case: Case, observer: RedisObserver, redis: Redis, stream: str, server_kind: str
) -> None:
    await case.do(Scene(redis, stream))
    seen, group = await facts(observer, stream)
    lag = await lag_of(observer, seen, group)
    assert (lag.entries, group.server_lag) == (case.lag, case.said(server_kind))
    assert lag.kind == ("exact" if case.lag in (0, group.server_lag, seen.length) else "counted")
    assert trimmed_of(seen, group) == (None if server_kind == "redis-6.2" else case.trimmed)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(60, Lag(50, "counted")), (50, Lag(50, "counted")), (49, Lag(49, "at_least")), (5, Lag(5, "at_least"))],
)
async def test_what_is_too_much_to_be_counted_is_told_as_at_least(
    most: int, expected: Lag, observer: RedisObserver, redis: Redis, stream: str
) -> None:
    scene = Scene(redis, stream)
    await scene.add(1, 100)
    await scene.group("50-0")
    seen, group = await facts(observer, stream)
    assert await lag_of(observer, seen, group, most) == expected


async def test_a_lag_too_large_to_be_counted_is_counted_from_the_beginning_if_that_is_nearer(
    observer: RedisObserver, redis: Redis, stream: str
) -> None:
    scene = Scene(redis, stream)
    await scene.add(1, 100)
    await scene.group("5-0")
    seen, group = await facts(observer, stream)
    assert await lag_of(observer, seen, group, 10) == Lag(95, "counted")


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
async def test_in_the_middle_of_a_long_stream_the_servers_number_stands(
    observer: RedisObserver, redis: Redis, stream: str, server_kind: str
) -> None:
    scene = Scene(redis, stream)
    await scene.add(1, 100)
    await scene.group()
    await scene.read(50)
    seen, group = await facts(observer, stream)
    assert await lag_of(observer, seen, group, 10) == Lag(50, "exact")


async def test_the_lag_of_a_group_that_is_gone_is_unknown_and_not_nothing() -> None:
    stream, gone = StreamFacts(name="orders", now=0.0), GroupFacts(name="billing", exists=False)
    assert await lag_of(None, stream, gone) == Lag(None)  # type: ignore[arg-type]  # nothing is to be asked
    assert trimmed_of(stream, gone) is None
