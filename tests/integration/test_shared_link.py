"""One connection for many tasks: what shares a round trip, and what callers are told when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis

from streamworker.errors import BrokerError, Unavailable, WrongType
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.link import Command, Link
from streamworker.redisbroker.shared import NotSent, SharedLink
from tests.conftest import ServerOf
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture
def redis_url(admin_url: str) -> str:
    """These tests send commands of their own over a worker's connections."""
    return admin_url


class Shared:
    """A shared link whose round trips can be held up before they begin, and are noted."""

    def __init__(self, url: str, **limits: int) -> None:
        self.batches: list[list[Command]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.link = SharedLink(Link(topology_of(url), timeout=5.0), self._exchange, **limits)
        self._asked: list[asyncio.Task[Any]] = []

    async def _exchange(self, link: Link, questions: list[Command]) -> list[Any]:
        self.batches.append(questions)
        await self.go_on.wait()
        return await link.pipeline(questions)

    def ask(self, *command: str, size: int = 0) -> asyncio.Task[Any]:
        task = asyncio.create_task(self._ask(command, size))
        self._asked.append(task)
        return task

    async def _ask(self, command: Command, size: int) -> Any:
        async with asyncio.timeout(10):  # an answer that never comes is a failure, and holds up no other test
            return await self.link.ask(command, size)

    async def hold(self) -> asyncio.Task[Any]:
        """Have one question under way, and hold it up."""
        self.go_on.clear()
        before = len(self.batches)
        first = self.ask("ECHO", "first")
        await wait_until(lambda: len(self.batches) > before)
        return first

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    async def close(self) -> None:
        self.go_on.set()
        await self.link.close()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[Shared]:
    shared = Shared(redis_url)
    yield shared
    await shared.close()


@pytest.fixture
async def own_shared(own_server: Server) -> AsyncIterator[Shared]:
    shared = Shared(own_server.url)
    yield shared
    await shared.close()


async def settled() -> None:
    """Let everything run that can run without waiting for the outside."""
    for _ in range(5):
        await asyncio.sleep(0)


async def blocked(redis: Redis) -> list[str]:
    """The ids of connections that wait for a list."""
    found: list[dict[str, str]] = await redis.client_list()
    return [client["id"] for client in found if client["cmd"] == "blpop" and "b" in client["flags"]]


# --- round trips


async def test_what_is_asked_during_a_round_trip_shares_the_next_one(shared: Shared) -> None:
    first = await shared.hold()
    others = [shared.ask("ECHO", str(number)) for number in range(50)]
    await settled()
    shared.go_on.set()
    assert await first == b"first"
    assert await asyncio.gather(*others) == [str(number).encode() for number in range(50)]
    assert shared.sizes == [1, 50]


async def test_what_is_asked_at_once_shares_one_round_trip(shared: Shared) -> None:
    answers = await asyncio.gather(*(shared.ask("ECHO", str(number)) for number in range(20)))
    assert answers == [str(number).encode() for number in range(20)]
    assert shared.sizes == [20]


async def test_a_round_trip_takes_no_more_questions_than_it_may(redis_url: str) -> None:
    shared = Shared(redis_url, batch=3)
    await shared.hold()
    others = [shared.ask("ECHO", "x") for _ in range(7)]
    await settled()
    shared.go_on.set()
    await asyncio.gather(*others)
    assert shared.sizes == [1, 3, 3, 1]
    await shared.close()


async def test_a_round_trip_takes_no_more_bytes_than_it_may_and_at_least_one_question(shared: Shared) -> None:
    with patch("streamworker.redisbroker.shared._BATCH_BYTES", 100):
        await shared.hold()
        others = [shared.ask("ECHO", "x", size=size) for size in (60, 60, 60, 500, 1)]
        await settled()
        shared.go_on.set()
        await asyncio.gather(*others)
    assert shared.sizes == [1, 2, 2, 1]


async def test_an_error_is_told_to_who_asked_and_to_nobody_else(shared: Shared, redis: Redis, stream: str) -> None:
    await redis.set(stream, "something else")
    wrong, right = shared.ask("XLEN", stream), shared.ask("GET", stream)
    answers = await asyncio.gather(wrong, right, return_exceptions=True)
    assert [type(answers[0]), answers[1]] == [WrongType, b"something else"]
    assert shared.sizes == [2]


# --- cancelling


async def test_cancelling_withdraws_nothing(shared: Shared, redis: Redis, stream: str) -> None:
    await shared.hold()
    waiting = [shared.ask("INCR", stream) for _ in range(3)]
    await settled()
    waiting[1].cancel()
    shared.go_on.set()
    assert [await waiting[0], await waiting[2]] == [1, 3], "the others get their own answers"
    assert waiting[1].cancelled()
    assert await redis.get(stream) == b"3"


async def test_cancelling_what_is_under_way_leaves_the_connection_to_the_others(shared: Shared) -> None:
    first = await shared.hold()
    first.cancel()
    other = shared.ask("ECHO", "other")
    await settled()
    shared.go_on.set()
    assert await other == b"other"
    assert first.cancelled()


# --- limits


async def test_no_more_questions_wait_than_may(redis_url: str) -> None:
    shared = Shared(redis_url, waiting=3)
    first = await shared.hold()
    others = [shared.ask("ECHO", str(number)) for number in range(10)]
    await settled()
    assert len(shared.link._queue) == 3
    shared.go_on.set()
    await first
    assert await asyncio.gather(*others) == [str(number).encode() for number in range(10)]
    assert max(shared.sizes) == 3
    await shared.close()


async def test_no_more_bytes_wait_than_may_but_one_question_of_any_size(redis_url: str) -> None:
    shared = Shared(redis_url, max_bytes=100)
    await shared.hold()
    others = [shared.ask("ECHO", str(number), size=60) for number in range(3)]
    others.append(shared.ask("ECHO", "3", size=1000))
    await settled()
    assert len(shared.link._queue) == 1
    shared.go_on.set()
    assert await asyncio.gather(*others) == [b"0", b"1", b"2", b"3"]
    assert shared.sizes == [1] * 5
    await shared.close()


async def test_who_is_cancelled_while_waiting_for_space_has_asked_nothing(
    redis_url: str, redis: Redis, stream: str
) -> None:
    shared = Shared(redis_url, waiting=1)
    await shared.hold()
    asked = [shared.ask("INCR", stream) for _ in range(3)]
    await settled()
    asked[1].cancel()
    await settled()
    shared.go_on.set()
    assert [await asked[0], await asked[2]] == [1, 2]
    assert await redis.get(stream) == b"2"
    await shared.close()


# --- a connection that is lost


async def test_what_was_under_way_may_have_been_done_and_what_waited_goes_over_the_next_connection(
    shared: Shared, redis: Redis, stream: str
) -> None:
    under_way = shared.ask("BLPOP", stream, "60")
    await wait_until(lambda: blocked(redis))
    others = [shared.ask("ECHO", str(number)) for number in range(3)]
    await settled()
    (mine,) = await blocked(redis)
    await redis.client_kill_filter(_id=mine)
    with pytest.raises(Unavailable) as caught:
        await under_way
    assert not isinstance(caught.value, NotSent), "nobody knows whether it was done"
    assert await asyncio.gather(*others) == [b"0", b"1", b"2"]


async def test_what_was_not_sent_when_the_server_went_away_is_known_not_to_be_done(
    own_server: Server, own_redis: Redis, own_shared: Shared, stream: str
) -> None:
    under_way = own_shared.ask("BLPOP", stream, "60")
    await wait_until(lambda: blocked(own_redis))
    others = [own_shared.ask("INCR", stream) for _ in range(3)]
    await settled()
    own_server.kill()
    with pytest.raises(Unavailable) as caught:
        await under_way
    assert not isinstance(caught.value, NotSent)
    for other in others:
        with pytest.raises(NotSent):
            await other
    assert own_shared.sizes == [1]
    own_server.start()
    assert await own_shared.ask("INCR", stream) == 1


async def test_each_caller_has_an_exception_of_its_own(own_server: Server, own_shared: Shared) -> None:
    """One that is raised in many tasks would gather the tracebacks of all."""
    own_server.kill()
    answers = await asyncio.gather(*(own_shared.ask("PING") for _ in range(3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {NotSent}
    assert len(set(map(id, answers))) == 3


async def test_a_server_that_is_away_is_not_hammered(own_server: Server, own_shared: Shared) -> None:
    own_server.kill()
    began = monotonic()
    for _ in range(3):
        with pytest.raises(NotSent):
            await own_shared.ask("PING")
    assert monotonic() - began > 0.29, "pauses of 0.1 s and 0.2 s between three attempts"
    own_server.start()
    assert await own_shared.ask("PING") == b"PONG"


async def test_wrong_credentials_are_a_question_that_was_not_sent(make_server: ServerOf, server_kind: str) -> None:
    server = make_server(server_kind, "--requirepass", "secret-word")
    shared = Shared(f"redis://:wrong-word@127.0.0.1:{server.port}")
    with pytest.raises(NotSent) as caught:
        await shared.ask("PING")
    assert "-word" not in str(caught.value)
    await shared.close()


async def test_a_round_trip_that_breaks_leaves_nobody_waiting_and_the_next_one_works(redis_url: str) -> None:
    outcomes = ["right", "broken"]

    async def exchange(link: Link, questions: list[Command]) -> list[Any]:
        if outcomes.pop() == "broken":
            raise ZeroDivisionError
        return await link.pipeline(questions)

    shared = SharedLink(Link(topology_of(redis_url), timeout=5.0), exchange)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        await shared.ask(("PING",))
    assert await shared.ask(("PING",)) == b"PONG"
    await shared.close()


# --- the end


async def test_closing_sends_what_waits(shared: Shared, redis: Redis, stream: str) -> None:
    await shared.hold()
    waiting = [shared.ask("INCR", stream) for _ in range(3)]
    await settled()
    closing = asyncio.create_task(shared.link.close())
    await settled()
    shared.go_on.set()
    await closing
    assert await asyncio.gather(*waiting) == [1, 2, 3]
    assert await redis.get(stream) == b"3"


async def test_after_the_end_nothing_is_sent(shared: Shared) -> None:
    await shared.ask("PING")
    await shared.link.close()
    with pytest.raises(NotSent):
        await shared.ask("PING")
    assert shared.sizes == [1]


async def test_who_waits_for_space_at_the_end_is_told_that_nothing_was_sent(redis_url: str) -> None:
    shared = Shared(redis_url, waiting=1)
    await shared.hold()
    asked = [shared.ask("ECHO", "x") for _ in range(3)]
    await settled()
    closing = asyncio.create_task(shared.link.close())
    await settled()
    shared.go_on.set()
    await closing
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [bytes, NotSent, NotSent]


async def test_the_end_does_not_wait_for_a_server_that_does_not_answer(
    own_server: Server, own_shared: Shared, stream: str
) -> None:
    await own_shared.ask("PING")
    own_server.pause()
    under_way = own_shared.ask("INCR", stream)
    await wait_until(lambda: len(own_shared.batches) == 2)
    waiting = own_shared.ask("INCR", stream)
    await settled()
    began = monotonic()
    await own_shared.link.close()
    assert monotonic() - began < 3
    answers = await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, NotSent]
    assert all(isinstance(answer, BrokerError) for answer in answers)
    own_server.resume()
