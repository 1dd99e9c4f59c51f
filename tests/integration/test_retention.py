"""Declared retention: one worker of the fleet trims, says who holds a limit back, and counts what force loses."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Message, Reject, Retry
from streamworker.errors import ConfigError
from streamworker.launch import RunOptions, run_worker
from streamworker.operating import Operator
from streamworker.redisbroker.broker import RedisBroker
from streamworker.redisbroker.keys import Keys
from streamworker.retention import Limits
from tests.conftest import ProgramOf
from tests.programs import Program
from tests.roles import as_role
from tests.running import Watched, events, everything_logged, working
from tests.servers import Server
from tests.waiting import wait_until

# The one that trims says so: what a worker removed is otherwise told with --http only.
SOURCE = """
from streamworker import App
import streamworker.trimmer

streamworker.trimmer._EVERY = 0.05
keep = streamworker.trimmer._Stream.keep

async def telling(self):
    journal("trims")
    return await keep(self)

streamworker.trimmer._Stream.keep = telling
app = App("group", lease=0.6)
app.stream("{stream}", max_length=10)

@app.on("{stream}")
async def handle(body: str) -> None:
    journal("handled", body)
"""


def consuming(stream: str, group: str = "group", **retention: Any) -> App:
    app = App(group)
    if retention:
        app.stream(stream, **retention)

    @app.on(stream)
    async def handle(body: str) -> None: ...

    return app


async def publish(redis: Redis, stream: str, many: int) -> None:
    pipe = redis.pipeline(transaction=False)
    for number in range(many):
        pipe.execute_command("XADD", stream, "*", "data", str(number))
    await pipe.execute()


async def test_a_declared_length_is_kept_once_all_is_handled(redis: Redis, redis_url: str, stream: str) -> None:
    watched = Watched(redis, stream, "group")
    async with working(consuming(stream, max_length=10), url=redis_url):
        for _ in range(2):
            await publish(redis, stream, 500)
            await wait_until(lambda: _is_long(redis, stream, 10))
        await watched.rests()
    assert (await watched.info() or {})[b"pending"] == 0


async def _is_long(redis: Redis, stream: str, length: int) -> bool:
    return int(await redis.xlen(stream)) == length


async def test_without_a_declaration_nothing_is_trimmed(redis: Redis, redis_url: str, stream: str) -> None:
    await publish(redis, stream, 200)
    async with working(consuming(stream), consuming(f"{stream}-other", max_length=10), url=redis_url):
        await publish(redis, f"{stream}-other", 200)
        await wait_until(lambda: _is_long(redis, f"{stream}-other", 10))
        await Watched(redis, stream, "group").rests()
    assert await redis.xlen(stream) == 200


async def test_a_retry_and_a_dead_letter_outlive_their_entries(redis: Redis, redis_url: str, stream: str) -> None:
    app, seen = App("group"), list[str]()
    app.stream(stream, max_length=1)

    @app.on(stream, retry=Backoff(first=0.5, jitter=0.0))
    async def handle(body: str, message: Message) -> None:
        if body == "1":
            raise Reject("no")
        if body == "2" and message.deliveries == 1:
            raise Retry
        seen.append(body)

    async with working(app, url=redis_url):
        await publish(redis, stream, 50)
        await wait_until(lambda: _is_long(redis, stream, 1))
        await wait_until(lambda: "2" in seen)
        await Watched(redis, stream, "group").rests()
    (letter,) = await Watched(redis, stream, "group").letters()
    assert letter.facts["sw-reason"] == "no"
    assert len(seen) == 49


async def test_one_worker_trims_and_another_takes_over_when_it_is_killed(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    first = program(SOURCE.format(stream=stream), url=redis_url)
    others = [program(None, url=redis_url) for _ in range(2)]
    left = {one.pid: one for one in (first, *others)}
    watched = Watched(redis, stream, "group")

    def trims(at: float) -> set[int]:
        """Who has begun a round since then."""
        return {event.pid for event in first.journal if event.words == ("trims",) and event.at > at}

    def last() -> float:
        return max((event.at for event in first.journal), default=0.0)

    for _ in range(2):
        await wait_until(lambda: _is_alone(watched, left, first), 20, first.log)
        began = last()
        await publish(redis, stream, 300)
        await wait_until(lambda: _is_long(redis, stream, 10), 20)
        (trimming,) = trims(began)
        assert trimming == _first_by_name(await _beating(watched), left)
        left.pop(trimming).sigkill()


async def _is_alone(watched: Watched, left: dict[int, Program], any_of: Program) -> bool:
    """Whether all that are left are members, and the last ten rounds were those of one of them."""
    names = await _beating(watched)
    rounds = [event.pid for event in any_of.journal if event.words == ("trims",)][-10:]
    return (
        all(any(f"-{pid}-" in name for name in names) for pid in left)
        and len(rounds) == 10
        and set(rounds) == {_first_by_name(names, left)}
    )


async def _beating(watched: Watched) -> list[str]:
    """All that have a heartbeat, the killed ones too."""
    return [name.decode() for name in await watched.do("HKEYS", watched.keys.consumers) if name.endswith(b".sw")]


def _first_by_name(names: list[str], left: dict[int, Program]) -> int:
    return min((name, pid) for name in names for pid in left if f"-{pid}-" in name)[1]


async def test_who_holds_a_limit_back_is_told_once_and_when_it_does_no_longer(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await publish(redis, stream, 30)
    await redis.xgroup_create(stream, "archive", "0")
    await redis.xreadgroup("archive", "somebody", {stream: ">"}, count=5)
    pending = await redis.xpending_range(stream, "archive", "-", "+", 5)
    await redis.xack(stream, "archive", *[one["message_id"] for one in pending[:3]])
    async with working(consuming(stream, max_length=10), url=redis_url):
        await wait_until(lambda: events(caplog, "retention.held"))
        assert await redis.xlen(stream) == 27
        for done, one in enumerate(pending[3:], 1):  # some rounds more, in which the same group gets on
            await redis.xack(stream, "archive", one["message_id"])
            await wait_until(lambda left=27 - done: _is_long(redis, stream, left))  # type: ignore[misc]
        (held,) = events(caplog, "retention.held")
        assert (held["stream"], held["group"], held["consumer"]) == (stream, "archive", "somebody")
        assert held["since"].encode() == pending[3]["message_id"]
        assert held["age"] >= 0
        assert not events(caplog, "retention.freed")
        await redis.xgroup_destroy(stream, "archive")
        await wait_until(lambda: events(caplog, "retention.freed"))
    assert events(caplog, "retention.freed") == [{"event": "retention.freed", "stream": stream, "group": "archive"}]
    assert len(events(caplog, "retention.held")) == 1
    assert await redis.xlen(stream) == 10


async def test_what_force_loses_is_told_once(
    redis: Redis, redis_url: str, stream: str, server_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(redis, stream, "group")
    async with working(consuming(stream), url=redis_url):  # from now on the group's losses are counted
        await publish(redis, stream, 1)
        await watched.rests()
    await redis.hset(watched.keys.consumers, "paused", "1")
    await publish(redis, stream, 100)
    await redis.xgroup_create(stream, "archive", "0")
    await redis.xreadgroup("archive", "somebody", {stream: ">"}, count=20)
    await redis.xtrim(stream, maxlen=90, approximate=False)  # by somebody else: 10 of 100 were unread
    async with working(consuming(stream, max_length=40, force=True), url=redis_url):
        await wait_until(lambda: _is_long(redis, stream, 40))
        await wait_until(lambda: events(caplog, "retention.lost"))
        await redis.hdel(watched.keys.consumers, "paused")
        await watched.rests()
    lost = {one["group"]: (one["unread"], one["pending"]) for one in events(caplog, "retention.lost")}
    assert lost == {"group": (50, 0), "archive": (41, 9)}
    counted = sum(one["unread"] for one in events(caplog, "entries.trimmed"))
    summed = int(await redis.hget(watched.keys.consumers, "trimmed") or 0)
    assert (counted, summed) == ((0, 0) if server_kind == "redis-6.2" else (10, 60))


async def test_dead_letters_are_kept_by_number_and_age(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, other = Keys.of(stream, "group").dead, Keys.of(stream, "foreign").dead
    seconds, micros = await redis.time()
    now = seconds * 1000 + micros // 1000
    for dead in (one, other):
        for number in range(120):
            await redis.xadd(dead, {"sw-reason": "old"}, id=f"{now - 3_600_000 + number}-0")
        for number in range(120):
            await redis.xadd(dead, {"sw-reason": "young"}, id=f"{now + number}-0")
    await publish(redis, stream, 10)
    app = consuming(stream, dead_max_age=1800.0, dead_max_length=50)
    async with working(app, url=redis_url):
        await wait_until(lambda: _is_long(redis, one.decode(), 50))
        await Watched(redis, stream, "group").rests()
    assert await redis.xlen(other) == 240, "another app's"
    assert await redis.xlen(stream) == 10, "no limit for the stream itself"
    assert sum(each["letters"] for each in events(caplog, "dead_letters.expired")) == 190
    assert {each["group"] for each in events(caplog, "dead_letters.expired")} == {"group"}
    await redis.delete(one)
    for number in range(120):
        await redis.xadd(one, {"sw-reason": "old"}, id=f"{now - 3_600_000 + number}-0")
    await redis.xadd(one, {"sw-reason": "young"})
    async with working(consuming(stream, dead_max_age=1800.0), url=redis_url):
        await wait_until(lambda: _is_long(redis, one.decode(), 1))


async def test_trouble_is_told_when_it_begins_and_when_it_ends(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dead = Keys.of(stream, "group").dead
    await redis.set(dead, "x")
    await publish(redis, stream, 50)
    async with working(consuming(stream, max_length=10, dead_max_length=5), url=redis_url):
        await wait_until(lambda: events(caplog, "retention.failing"))
        await wait_until(lambda: _is_long(redis, stream, 10))
        await redis.delete(dead)
        await wait_until(lambda: events(caplog, "retention.recovered"))
    (failing,) = events(caplog, "retention.failing")
    assert failing["stream"] == stream
    assert len(events(caplog, "retention.recovered")) == 1


async def test_a_server_that_is_away_is_told_once_for_all_parts_of_a_worker(
    own_server: Server, own_redis: Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with working(consuming(stream, max_length=10), url=own_server.url):
        await publish(own_redis, stream, 50)
        await wait_until(lambda: _is_long(own_redis, stream, 10))
        own_server.restart(killed=True)
        await wait_until(lambda: events(caplog, "redis.available"), 20)
        await publish(own_redis, stream, 50)
        await wait_until(lambda: _is_long(own_redis, stream, 10), 20)
    assert len(events(caplog, "redis.unavailable")) == len(events(caplog, "redis.available"))
    assert "retention.failing" not in everything_logged(caplog)


@pytest.mark.parametrize(
    ("apps", "told"),
    [
        (lambda stream: [_declaring(App("group"), stream)], "no handler of its own consumes that stream as a group"),
        (lambda stream: [_hearing(_declaring(App("group"), stream), stream)], "as a group"),
        (lambda stream: [_declaring(App("one"), stream), consuming(stream, "other")], "app 'one' declares"),
        (
            lambda stream: [consuming(stream, "one", max_length=1), consuming(stream, "other", max_age=9)],
            "both declare",
        ),
    ],
    ids=["nobody", "broadcast", "another-app", "two-apps"],
)
async def test_who_declares_a_stream_must_be_the_one_that_consumes_it(
    redis_url: str, stream: str, apps: Any, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        await run_worker(apps(stream), redis_url, RunOptions(connect_timeout=1.0), asyncio.Event(), lambda: None)


def _declaring(app: App, stream: str) -> App:
    app.stream(stream, max_length=1)
    return app


def _hearing(app: App, stream: str) -> App:
    @app.on(stream, broadcast=True)
    async def hear(body: str) -> None: ...

    return app


async def test_a_stream_that_is_left_out_needs_no_handler(redis: Redis, redis_url: str, stream: str) -> None:
    app = consuming(stream, max_length=1)
    app.stream(f"{stream}-other", max_length=1)
    stop = asyncio.Event()
    stop.set()
    options = RunOptions(only=frozenset({stream}), connect_timeout=1.0)
    assert await run_worker([app], redis_url, options, stop, lambda: None)


class Member:
    """An app of one group that notes what it was given, in order; some messages fail at first."""

    def __init__(self, name: str, stream: str) -> None:
        self.app = App(name)
        self.seen: Counter[str] = Counter()

        @self.app.on(stream, concurrency=8, retry=Backoff(first=0.05, factor=1.0))
        async def handle(body: str, message: Message) -> None:
            number = int(body)
            await asyncio.sleep(0.001 * (number % 5))
            if number % 50 == 7 and message.deliveries == 1:
                raise Retry
            self.seen[body] += 1

    async def has_handled(self, many: int) -> None:
        await wait_until(lambda: sum(self.seen.values()) >= many, 30)


@pytest.fixture
async def operator(admin_url: str) -> AsyncIterator[Operator]:
    operator = Operator(RedisBroker(as_role(admin_url, "operator")).operator())
    yield operator
    await operator.close()


async def test_trim_never_removes_an_unfinished_entry_while_four_groups_one_of_them_stopped_consume_under_load(
    redis: Redis, redis_url: str, stream: str, operator: Operator
) -> None:
    many = 2000
    members = [Member(name, stream) for name in ("one", "two", "three")]
    members[0].app.stream(stream, max_length=5)
    await redis.xgroup_create(stream, "stopped", "0", mkstream=True)
    counts = {"trims": 0, "removed": 0}

    async def trim_loop() -> None:
        while True:
            counts["removed"] += (await operator.trim(stream, Limits(max_length=5))).removed
            counts["trims"] += 1
            await asyncio.sleep(0.003)

    async def publish_from(first: int) -> list[str]:
        bodies = [str(number) for number in range(first, first + many)]
        for at in range(0, many, 50):
            await publish_bodies(redis, stream, bodies[at : at + 50])
            await asyncio.sleep(0.005)
        return bodies

    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(working(member.app, url=redis_url))
        trimming = asyncio.create_task(trim_loop())
        stack.callback(trimming.cancel)
        bodies = await publish_from(0)
        given: Any = await redis.xreadgroup("stopped", "somebody", {stream: ">"}, count=100)
        await redis.xack(stream, "stopped", *[id for id, _ in given[0][1][:60]])
        bodies += await publish_from(many)
        for member in members:
            await member.has_handled(2 * many)
        await wait_until(lambda: _is_long(redis, stream, 2 * many - 60))
        # What the stopped group has not finished is all there: 40 pending, and whatever it has not read.
        entries: Any = await redis.xrange(stream)
        left = [fields[b"data"].decode() for _, fields in entries]
        assert left == bodies[60:]
        given = await redis.xreadgroup("stopped", "somebody", {stream: ">"})
        assert [fields[b"data"].decode() for _, fields in given[0][1]] == bodies[100:]
        await redis.xgroup_destroy(stream, "stopped")
        bodies += await publish_from(2 * many)
        for member in members:
            await member.has_handled(3 * many)
        await wait_until(lambda: _is_long(redis, stream, 5))
        assert not trimming.done()
    for member in members:
        assert member.seen == Counter(bodies)
    assert counts["trims"] > 50


KILLED = """
import asyncio
from streamworker import App
import streamworker.trimmer

streamworker.trimmer._EVERY = 0.01
app = App("billing", lease=0.6)
app.stream("{stream}", max_length=3)

@app.on("{stream}")
async def charge(body: str) -> None:
    await asyncio.sleep(0.01)
    journal("billing", body)

@app.on("{stream}", group="search", prefetch=200)
async def index(body: str) -> None:
    await asyncio.sleep(0.002)
    journal("search", body)
"""


async def test_what_killed_workers_held_is_never_trimmed(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    bodies = [str(number) for number in range(1200)]
    for group in ("billing", "search"):  # before the first entry: who comes too late is given what is left
        await redis.xgroup_create(stream, group, "0", mkstream=True)
    workers = [program(KILLED.format(stream=stream), url=redis_url)]
    workers += [program(None, url=redis_url) for _ in range(2)]

    def handled(group: str) -> set[str]:
        return {event.words[1] for event in workers[0].journal if event.words[0] == group}

    await publish_bodies(redis, stream, bodies[:400])
    await wait_until(lambda: len(handled("billing")) > 50, 20, lambda: workers[0].log)
    for killed, at in ((0, 400), (1, 800)):
        workers[killed].sigkill()
        workers.append(program(None, url=redis_url))
        await publish_bodies(redis, stream, bodies[at : at + 400])
        await wait_until(lambda many=at: len(handled("search")) > many, 30, lambda: workers[-1].log)  # type: ignore[misc]
    await wait_until(lambda: _is_long(redis, stream, 3), 30, lambda: workers[-1].log)
    assert handled("billing") == handled("search") == set(bodies)
    assert "entries.trimmed" not in "".join(one.log for one in workers)


async def publish_bodies(redis: Redis, stream: str, bodies: list[str]) -> None:
    pipe = redis.pipeline(transaction=False)
    for body in bodies:
        pipe.xadd(stream, {"data": body})
    await pipe.execute()
