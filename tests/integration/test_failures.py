"""What becomes of messages whose handlers fail, on real servers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Drop, Failure, Message, Reject, Retry
from tests.running import Watched, burst, events, everything_logged, on_all_servers, working
from tests.waiting import wait_until

SOON = Backoff(first=0.01, factor=1, jitter=0)
NEVER = Backoff(first=3600)


@pytest.fixture
def server_kind() -> str:
    """One server will do for what happens in the worker; ``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
async def group(redis: Redis, stream: str) -> AsyncIterator[Watched]:
    """The group ``app``; nothing of what it was given may be left anywhere at the end of a test."""
    group = Watched(redis, stream, "app")
    yield group
    await group.check_nothing_is_left()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end after its timeout is given up soon."""
    monkeypatch.setattr("streamworker.sweeper._GRACE", 0.2)


# --- a handler that always fails


@on_all_servers
async def test_a_message_that_always_fails_is_delivered_max_deliveries_times_with_growing_delays_and_kept(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    runs: list[float] = []
    messages: list[Message] = []

    @app.on(stream, max_deliveries=4, retry=Backoff(first=0.1, factor=4, jitter=0))
    async def charge(body: bytes, message: Message) -> None:
        secret = "local-variable-4711"
        messages.append(message)
        runs.append(time.monotonic())
        raise ValueError(f"the gateway said no {len(secret)} times")

    # Duplicate names and bytes that are no text: the copies must keep them all.
    fields = [
        b"data",
        b"\xff\x00 body",
        b"x",
        b"1",
        b"x",
        b"\xfe",
        b"type",
        b"t",
        b"",
        b"empty name",
        b"content-type",
        b"",
    ]
    id = await group.add(*fields)
    before = time.time()
    async with working(app, url=redis_url):
        await group.rests()

    assert [message.deliveries for message in messages] == [1, 2, 3, 4]
    pauses = [later - earlier for earlier, later in pairwise(runs)]
    for pause, wanted in zip(pauses, (0.1, 0.4, 1.6), strict=True):
        assert wanted - 0.01 <= pause < wanted + 2
    (letter,) = await group.letters()
    assert letter.fields == fields
    facts = dict(letter.facts)
    assert facts.pop("sw-error") == "ValueError: the gateway said no 19 times"
    traceback = facts.pop("sw-traceback")
    assert "in charge" in traceback
    assert "the gateway said no 19 times" in traceback
    assert "local-variable-4711" not in traceback.replace('secret = "local-variable-4711"', "")
    happened = datetime.fromisoformat(facts.pop("sw-time"))
    assert happened.tzinfo is not None
    assert before - 1 < happened.timestamp() < time.time() + 1
    assert facts == {
        "sw-id": id,
        "sw-stream": stream,
        "sw-group": "app",
        "sw-handler": messages[0].handler,
        "sw-reason": "ValueError after 4 deliveries",
        "sw-deliveries": "4",
        "sw-published": datetime.fromtimestamp(int(id.split("-")[0]) / 1000, UTC).isoformat(timespec="milliseconds"),
        "sw-consumer": messages[0].consumer,
    }
    assert len(events(caplog, "message.dead_lettered")) == 1


@on_all_servers
async def test_no_message_waits_for_one_that_failed(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    handled: list[int] = []

    @app.on(stream, concurrency=1, retry=NEVER)
    async def handle(body: dict[str, str], message: Message) -> None:
        if "poison" in body:
            raise ValueError
        handled.append(int(body["id"]))

    await group.add("poison", "1")
    for number in range(50):
        await group.add("id", str(number))
    async with working(app, url=redis_url):
        await wait_until(lambda: len(handled) == 50)
        assert await group.delayed() == 1
    assert handled == list(range(50))
    assert await group.pending() == 0  # it waits outside of the stream's pending list
    assert await group.do("DEL", group.keys.delayed) == 1


@on_all_servers
async def test_a_retry_is_carried_on_by_another_worker_with_its_fields_id_and_count(
    redis_url: str, stream: str, group: Watched
) -> None:
    messages: list[Message] = []
    bodies: list[bytes] = []

    def make() -> App:
        app = App("app")

        @app.on(stream, retry=Backoff(first=0.3, factor=1, jitter=0))
        async def handle(body: bytes, message: Message) -> None:
            messages.append(message)
            bodies.append(body)
            if message.deliveries == 1 and body != b"last":
                raise ValueError

        return app

    id = await group.add("data", b"\r\n \x00 100% \xff", "x", "y")

    async def failed() -> bool:
        return await group.delayed() == 1

    async with working(make(), url=redis_url):
        await wait_until(failed)
    await group.do("DEL", stream)  # nor does trimming matter any more
    await group.add("data", "last")
    async with working(make(), url=redis_url):
        await wait_until(lambda: len(messages) == 3)
        await group.rests()
    retried = [message for message in messages if message.id == id]
    assert [message.deliveries for message in retried] == [1, 2]
    assert [message.headers for message in retried] == [{"x": "y"}] * 2
    assert retried[0].consumer != retried[1].consumer
    assert sorted(bodies) == [b"\r\n \x00 100% \xff", b"\r\n \x00 100% \xff", b"last"]


async def test_hundreds_that_fail_at_once_are_all_kept(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")

    @app.on(stream, max_deliveries=2, retry=SOON)
    async def handle(body: bytes) -> None:
        raise ValueError

    ids = [await group.add("data", str(number)) for number in range(300)]
    async with working(app, url=redis_url):
        await group.rests()
    letters = await group.letters()
    assert sorted(letter.facts["sw-id"] for letter in letters) == sorted(ids)
    assert {letter.facts["sw-deliveries"] for letter in letters} == {"2"}
    assert {letter.fields[1] for letter in letters} == {str(number).encode() for number in range(300)}


async def test_with_one_delivery_the_first_failure_is_the_last(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    runs = 0

    @app.on(stream, max_deliveries=1)
    def handle(body: bytes) -> None:
        nonlocal runs
        runs += 1
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    (letter,) = await group.letters()
    assert letter.reason == "ValueError after 1 delivery"
    assert runs == 1


@on_all_servers
async def test_without_a_dead_letter_what_always_fails_is_dropped(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    runs = 0

    @app.on(stream, max_deliveries=2, retry=SOON, dead_letter=False)
    async def handle(body: bytes) -> None:
        nonlocal runs
        runs += 1
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert runs == 2
    assert await group.do("EXISTS", group.keys.dead) == 0
    (line,) = events(caplog, "message.dropped")
    assert line["reason"] == "ValueError after 2 deliveries"


# --- verdicts


async def test_retry_waits_as_long_as_it_says(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    runs: list[float] = []

    @app.on(stream, retry=NEVER)
    async def handle(body: bytes) -> None:
        runs.append(time.monotonic())
        if len(runs) == 1:
            raise Retry(after=0.3)

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert 0.29 <= runs[1] - runs[0] < 2.3


@on_all_servers
async def test_a_retry_that_is_not_counted_spends_no_delivery(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    deliveries: list[int] = []

    @app.on(stream, max_deliveries=2, retry=SOON)
    async def handle(body: bytes, message: Message) -> None:
        deliveries.append(message.deliveries)
        if len(deliveries) < 5:
            raise Retry(after=0, counted=False)
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert deliveries == [1, 1, 1, 1, 1, 2]
    (letter,) = await group.letters()
    assert letter.facts["sw-deliveries"] == "2"


def grouped(*exceptions: BaseException) -> Callable[[], BaseException]:
    return lambda: BaseExceptionGroup("outer", [BaseExceptionGroup("inner", exceptions), ValueError("beside it")])


@pytest.mark.parametrize(
    ("raised", "ends", "deliveries", "reason"),
    [
        (lambda: Reject("no such customer"), "dead", 1, "no such customer"),
        (lambda: Drop("not interesting"), "dropped", 1, "not interesting"),
        (lambda: Retry(after=0), "dead", 2, "Retry after 2 deliveries"),
        (grouped(Reject("no such customer")), "dead", 1, "no such customer"),
        (grouped(Drop("not interesting"), KeyError()), "dropped", 1, "not interesting"),
        (grouped(Retry(after=0)), "dead", 2, "Retry after 2 deliveries"),
        (grouped(KeyError()), "dead", 2, "ExceptionGroup after 2 deliveries"),
        (grouped(Reject("one"), Drop("two")), "dead", 2, "ExceptionGroup after 2 deliveries"),
    ],
    ids=[
        "Reject", "Drop", "Retry", "Reject in a group", "Drop in a group", "Retry in a group",
        "a group without a verdict", "a group with two verdicts",
    ],
)  # fmt: skip
async def test_a_verdict_decides_also_in_an_exception_group(
    raised: Callable[[], BaseException], ends: str, deliveries: int, reason: str,
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    app = App("app")
    seen: list[int] = []

    @app.on(stream, max_deliveries=2, retry=SOON)
    async def handle(message: Message) -> None:
        seen.append(message.deliveries)
        raise raised()

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert seen == list(range(1, deliveries + 1))
    if ends == "dead":
        (letter,) = await group.letters()
        assert letter.reason == reason
    else:
        assert await group.letters() == []
        (line,) = events(caplog, "message.dropped")
        assert line["reason"] == reason


async def test_a_verdict_in_a_task_group_decides(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")

    async def refuse() -> None:
        raise Reject("a task of it said so")

    @app.on(stream)
    async def handle(message: Message) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse())
            tasks.create_task(asyncio.Event().wait())

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    (letter,) = await group.letters()
    assert letter.reason == "a task of it said so"


# --- on_failure


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_on_failure_sees_every_kind_of_failure_and_decides(
    is_async: bool, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    failures: list[Failure] = []
    answers: dict[str, Reject | Drop] = {
        "error": Drop("an error"),
        "timeout": Reject("a timeout"),
        "undecodable": Reject("undecodable"),
    }

    def decide(failure: Failure) -> Retry | Reject | Drop | None:
        failures.append(failure)
        return answers[failure.kind]

    async def decide_later(failure: Failure) -> Retry | Reject | Drop | None:
        await asyncio.sleep(0)
        return decide(failure)

    @app.on(stream, timeout=0.1, on_failure=decide_later if is_async else decide)
    async def handle(body: dict[str, int]) -> None:
        if body["id"] == 1:
            raise KeyError("why")
        await asyncio.Event().wait()

    old = f"{int(time.time() * 1000) - 60_000}-0"
    await group.add("data", '{"id":1}', "x", "1", "x", "2", id=old)
    await group.add("data", '{"id":2}')
    await group.add("data", '{"id":')
    async with working(app, url=redis_url):
        await group.rests()
    by_kind = {failure.kind: failure for failure in failures}
    assert len(failures) == len(by_kind) == 3
    error = by_kind["error"]
    assert isinstance(error.exception, KeyError)
    assert error.message.id == old
    assert error.deliveries == error.message.deliveries == 1
    assert 59 < error.age < 90
    assert error.size == 8
    assert error.fields == ((b"data", b'{"id":1}'), (b"x", b"1"), (b"x", b"2"))
    assert isinstance(by_kind["timeout"].exception, TimeoutError)
    assert 0 <= by_kind["timeout"].age < 30
    assert by_kind["undecodable"].fields == ((b"data", b'{"id":'),)
    assert sorted(letter.reason for letter in await group.letters()) == ["a timeout", "undecodable"]


async def test_on_failure_may_retry_and_leave_the_rest_to_the_default(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    seen: list[int] = []

    def patience(failure: Failure) -> Retry | None:
        return Retry(after=0, counted=False) if len(seen) < 3 else None

    @app.on(stream, max_deliveries=1, retry=NEVER, on_failure=patience)
    async def handle(message: Message) -> None:
        seen.append(message.deliveries)
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert seen == [1, 1, 1]
    (letter,) = await group.letters()
    assert letter.reason == "ValueError after 1 delivery"


@pytest.mark.parametrize("how", ["raises", "ends the process", "returns nonsense"])
async def test_where_on_failure_fails_itself_the_default_holds_and_the_log_says_so(
    how: str, redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    seen: list[int] = []

    def broken(failure: Failure) -> Any:
        if how == "raises":
            raise RuntimeError("no database")
        if how == "ends the process":
            raise SystemExit(1)
        return "drop it"

    @app.on(stream, max_deliveries=2, retry=SOON, on_failure=broken)
    async def handle(message: Message) -> None:
        seen.append(message.deliveries)
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert seen == [1, 2]
    (letter,) = await group.letters()
    assert letter.reason == "ValueError after 2 deliveries"
    assert len(events(caplog, "on_failure.failed")) == 2


@pytest.mark.usefixtures("short_grace")
async def test_on_failure_may_take_its_time_and_is_asked_once(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    asked: list[str] = []
    timed_out: list[str] = []
    go_on = asyncio.Event()

    async def store(failure: Failure) -> Drop | None:
        if failure.kind == "timeout":
            timed_out.append(failure.message.id)
            return Drop()
        asked.append(failure.message.id)
        await go_on.wait()
        return Drop("stored elsewhere")

    @app.on(stream, concurrency=2, timeout=0.1, on_failure=store)
    async def handle(body: dict[str, str]) -> None:
        if "slow" in body:
            await asyncio.Event().wait()
        raise ValueError

    first = await group.add("fails", "1")
    async with working(app, url=redis_url):
        await wait_until(lambda: asked)
        # Three timeouts one after the other take far longer than timeout and grace of the first message.
        slow = [await group.add("slow", "1") for _ in range(3)]
        await wait_until(lambda: set(slow) <= set(timed_out), 5, "timeouts are seen to while on_failure works")
        go_on.set()
        await group.rests()
    assert asked == [first]
    assert sorted(timed_out) == sorted(slow)
    assert events(caplog, "handler.stuck") == []


@pytest.mark.usefixtures("short_grace")
async def test_on_failure_may_take_its_time_over_a_stuck_handler_while_others_time_out(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    asked: list[str] = []
    timed_out: list[str] = []
    go_on = asyncio.Event()

    async def store(failure: Failure) -> Drop:
        if (b"stubborn", b"1") in failure.fields:
            asked.append(failure.message.id)
            await go_on.wait()
        else:
            timed_out.append(failure.message.id)
        return Drop()

    @app.on(stream, concurrency=2, timeout=0.1, on_failure=store)
    async def handle(body: dict[str, str]) -> None:
        while "stubborn" in body and not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()
        if "stubborn" not in body:
            await asyncio.Event().wait()

    stubborn = await group.add("stubborn", "1")
    async with working(app, url=redis_url):
        await wait_until(lambda: asked)
        slow = [await group.add("slow", "1") for _ in range(2)]
        try:
            await wait_until(lambda: timed_out == slow, 5, "timeouts are seen to while on_failure works")
        finally:
            go_on.set()
        await group.rests()
    assert asked == [stubborn]


# --- too old, or too long


@on_all_servers
async def test_what_is_older_than_max_age_is_dead_lettered_without_being_run(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    seen: list[bytes] = []

    @app.on(stream, max_age=30)
    async def handle(body: bytes) -> None:
        seen.append(body)

    await group.add("data", "old", id=f"{int(time.time() * 1000) - 60_000}-0")
    await group.add("data", "fresh")
    async with working(app, url=redis_url):
        await group.rests()
    assert seen == [b"fresh"]
    (letter,) = await group.letters()
    assert "max_age is 30 s" in letter.reason
    assert letter.fields == [b"data", b"old"]
    assert letter.facts["sw-error"] == ""


async def test_a_message_may_become_too_old_between_its_retries(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    deliveries: list[int] = []

    @app.on(stream, max_age=0.5, max_deliveries=1000, retry=Backoff(first=0.2, factor=1, jitter=0))
    async def handle(message: Message) -> None:
        deliveries.append(message.deliveries)
        raise ValueError

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert 1 <= len(deliveries) <= 3
    (letter,) = await group.letters()
    assert "max_age" in letter.reason


async def test_a_handler_past_its_timeout_is_cancelled_once_and_its_slot_goes_on(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    story: list[str] = []

    @app.on(stream, concurrency=1, timeout=0.15, max_deliveries=2, retry=SOON)
    async def handle(body: dict[str, str]) -> None:
        if "slow" not in body:
            task = asyncio.current_task()
            assert task is not None
            story.append(f"next, cancelled {task.cancelling()} times")
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.append("cancelled")
            await asyncio.sleep(0)  # it may still do something about it
            story.append("cleaned up")
            raise

    await group.add("slow", "1")
    await group.add("quick", "1")
    async with working(app, url=redis_url):
        await group.rests()
    assert sorted(story) == sorted(2 * ["cancelled", "cleaned up"] + ["next, cancelled 0 times"])
    (letter,) = await group.letters()
    assert letter.reason == "timeout of 0.15 s after 2 deliveries"
    assert letter.facts["sw-error"] == "TimeoutError: ran longer than 0.15 s"


async def test_a_handler_that_returns_in_spite_of_its_cancellation_has_succeeded_or_failed_but_once(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    runs = 0

    @app.on(stream, timeout=0.1, max_deliveries=1)
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert runs == 1
    (letter,) = await group.letters()
    assert letter.reason == "timeout of 0.1 s after 1 delivery"


@pytest.mark.usefixtures("short_grace")
async def test_a_handler_that_swallows_its_cancellation_is_given_up_and_the_others_go_on(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    caplog.set_level(logging.INFO, "streamworker")
    go_on = asyncio.Event()
    cancelled, handled = 0, 0

    @app.on(stream, concurrency=2, timeout=0.1, max_deliveries=1)
    async def handle(body: dict[str, str]) -> None:
        nonlocal cancelled, handled
        while "stubborn" in body and not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                cancelled += 1
        handled += 1

    await group.add("stubborn", "1")
    async with working(app, url=redis_url, patient=True):
        await group.rests()
        (letter,) = await group.letters()
        assert letter.reason == "timeout of 0.1 s after 1 delivery"
        assert len(events(caplog, "handler.stuck")) == 1
        cpu, wall = time.process_time(), time.monotonic()
        for number in range(20):
            await group.add("id", str(number))
            await wait_until(lambda number=number: handled > number)  # type: ignore[misc]
            await asyncio.sleep(0.03)  # what is measured is the time in which nothing is to be done
        assert time.process_time() - cpu < 0.5 * (time.monotonic() - wall)
        go_on.set()
        await wait_until(lambda: handled == 21)
    assert cancelled == 1
    assert len(events(caplog, "handler.unstuck")) == 1
    assert len(await group.letters()) == 1


@pytest.mark.usefixtures("short_grace")
async def test_a_plain_function_past_its_timeout_is_given_up_and_the_others_go_on(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    go_on = threading.Event()
    handled: list[str] = []

    @app.on(stream, concurrency=2, timeout=0.1, max_deliveries=1)
    def handle(body: dict[str, str], message: Message) -> None:
        if "stubborn" in body:
            go_on.wait(20)
        handled.append(message.id)

    await group.add("stubborn", "1")
    try:
        async with working(app, url=redis_url):
            await group.rests()
            (letter,) = await group.letters()
            assert letter.reason == "timeout of 0.1 s after 1 delivery"
            for _ in range(5):
                await group.add("quick", "1")
            await group.rests()
            assert len(handled) == 5
            go_on.set()
            await wait_until(lambda: len(handled) == 6)
    finally:
        go_on.set()
    assert len(events(caplog, "handler.stuck")) == 1
    assert len(await group.letters()) == 1  # and that it ended after all changes nothing


@pytest.mark.usefixtures("short_grace")
async def test_a_worker_whose_handler_is_stuck_ends_all_the_same_and_says_so(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    go_on = asyncio.Event()

    @app.on(stream, timeout=0.1, max_deliveries=1)
    async def handle(message: Message) -> None:
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()

    await group.add("data", "x")
    async with working(app, url=redis_url, shutdown_timeout=0.3, drains=False):
        await group.rests()
    go_on.set()
    assert len(events(caplog, "drain.incomplete")) == 1
    assert len(await group.letters()) == 1


# --- what is no ordinary exception


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be shown")

    __repr__ = __str__


def deeper(depth: int = 0) -> int:
    return deeper(depth + 1) + 1


def enormous() -> None:
    raise ValueError("x" * 50_000_000 + "the end")


def raising(exception: BaseException) -> Callable[[], object]:
    def do() -> object:
        raise exception

    return do


STRANGE: dict[str, Callable[[], object]] = {
    "SystemExit": raising(SystemExit(3)),
    "CancelledError": raising(asyncio.CancelledError()),
    "GeneratorExit": raising(GeneratorExit()),
    "StopIteration": raising(StopIteration(1)),
    "StopAsyncIteration": raising(StopAsyncIteration()),
    "MemoryError": raising(MemoryError()),
    "RecursionError": deeper,
    "Unprintable": raising(Unprintable()),
    "ValueError": enormous,
    "UnicodeError": raising(UnicodeError("\ud800 \x1b[2J \r\n forged=line")),
    "BaseExceptionGroup": raising(BaseExceptionGroup("g", [SystemExit(1), asyncio.CancelledError()])),
}


@pytest.mark.parametrize("threads", [False, True], ids=["async", "threads"])
async def test_whatever_a_handler_raises_is_a_failure_and_the_worker_stays(
    threads: bool, redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    handled: list[str] = []

    def fail(body: dict[str, str]) -> None:
        if body["what"] in STRANGE:
            STRANGE[body["what"]]()
        handled.append(body["what"])

    async def fail_in_loop(body: dict[str, str]) -> None:
        fail(body)

    function: Callable[[dict[str, str]], Any] = fail if threads else fail_in_loop
    app.on(stream, concurrency=2, max_deliveries=1)(function)
    for what in STRANGE:
        await group.add("what", what)
        await group.add("what", f"after {what}")
    async with working(app, url=redis_url):
        await group.rests(30)
    assert sorted(handled) == sorted(f"after {what}" for what in STRANGE)
    letters = {letter.fields[1].decode(): letter for letter in await group.letters()}
    assert set(letters) == set(STRANGE)
    for what, letter in letters.items():
        named = "RuntimeError" if what == "StopIteration" else what  # Python makes it one
        assert letter.reason == f"{named} after 1 delivery"
        assert letter.facts["sw-error"].startswith(named)
        for fact, most in (("sw-error", 1000), ("sw-traceback", 8000), ("sw-reason", 1000)):
            assert len(letter.facts[fact].encode()) <= most
        assert "\x1b" not in letter.facts["sw-error"] + letter.facts["sw-traceback"]
        assert "\n" not in letter.facts["sw-error"]
    assert letters["ValueError"].facts["sw-error"].endswith("the end")
    assert "in deeper" in letters["RecursionError"].facts["sw-traceback"]
    assert len(everything_logged(caplog)) < 50_000


@pytest.mark.parametrize("then", ["awaits", "returns", "raises"])
async def test_a_handler_that_cancels_its_own_task_has_failed_and_the_worker_stays(
    then: str, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    handled: list[str] = []

    @app.on(stream, concurrency=1, max_deliveries=2, retry=SOON)
    async def handle(body: dict[str, str]) -> None:
        if "suicidal" in body:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if then == "awaits":
                await asyncio.sleep(0)
            if then == "raises":
                raise ValueError
        handled.append(body["id"])

    await group.add("suicidal", "1", "id", "first")
    await group.add("id", "second")
    async with working(app, url=redis_url):
        await wait_until(lambda: "second" in handled, 5)
        await group.rests()
    if then == "returns":
        assert handled == ["first", "second"]  # it returned, and nothing came of the cancellation
    else:
        assert handled == ["second"]
        assert len(await group.letters()) == 1


# --- at most once


@on_all_servers
async def test_with_ack_before_a_message_is_delivered_at_most_once(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")
    pending: list[int] = []
    handled: list[int] = []

    @app.on(stream, ack="before", retry=SOON, concurrency=1, prefetch=1)
    async def handle(body: dict[str, int]) -> None:
        pending.append(await group.pending())
        if body["id"] == 0:
            raise ValueError
        if body["id"] == 1:
            raise Retry(after=0)
        if body["id"] == 2:
            raise Reject("no")
        handled.append(body["id"])

    for number in range(4):
        await group.add("data", f'{{"id":{number}}}')
    await group.add("data", "no JSON")
    async with working(app, url=redis_url):
        await group.rests()
        await wait_until(lambda: handled == [3])
    assert pending == [0, 0, 0, 0]
    assert await group.letters() == []
    assert len(events(caplog, "message.dropped")) >= 1


async def test_the_log_says_where_an_error_was_raised_and_the_traceback_begins_there(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")

    @app.on(stream, max_deliveries=1)
    async def handle(body: str) -> None:
        raise ValueError

    await group.add("data", "x")
    await burst(app, url=redis_url)
    (line,) = events(caplog, "message.dead_lettered")
    assert "test_failures.py" in line["at"]
    assert line["at"].endswith("in handle")
    (letter,) = await group.letters()
    assert "slots.py" not in letter.facts["sw-traceback"]
