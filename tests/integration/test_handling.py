"""What handlers get, and how the runtime runs them, on real servers."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypedDict

import anyio.from_thread
import msgspec
import pydantic
import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, ConfigError, Message, Unavailable
from tests.running import Watched, burst, events, on_all_servers, working
from tests.waiting import wait_until

SOON = Backoff(first=0.01, factor=1, jitter=0)


class Order(msgspec.Struct):
    id: int
    qty: int = 1


class Placed(msgspec.Struct, tag=True):
    id: int


class Cancelled(msgspec.Struct, tag=True):
    id: int
    why: str


@dataclass
class Point:
    x: float
    y: float


class Person(TypedDict):
    name: str
    age: int


class Model(pydantic.BaseModel):
    id: int
    tags: list[str] = []


@pytest.fixture
def server_kind() -> str:
    """One server will do for what happens in the worker; ``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
def group(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, "app")


# --- bodies


@on_all_servers
async def test_a_body_of_any_type_arrives_as_it_was_published(redis: Redis, redis_url: str, stream: str) -> None:
    app = App("app", url=redis_url)
    seen: dict[str, list[object]] = {}

    def takes(kind: str, annotation: Any) -> None:
        async def handle(body: object) -> None:
            seen.setdefault(kind, []).append(body)

        handle.__annotations__["body"] = annotation
        app.on(f"{stream}:{kind}")(handle)

    takes("struct", Order)
    takes("union", Placed | Cancelled)
    takes("dataclass", Point)
    takes("typeddict", Person)
    takes("pydantic", Model)
    takes("dict", dict[str, Any])
    takes("bytes", bytes)
    takes("str", str)
    takes("any", Any)
    published: dict[str, list[object]] = {
        "struct": [Order(1), Order(2, qty=7)],
        "union": [Placed(1), Cancelled(2, "späte Reue")],
        "dataclass": [Point(1.5, -2.0)],
        "typeddict": [{"name": "Ada", "age": 36}],
        "pydantic": [Model(id=1, tags=["a", "b"])],
        "dict": [{"a": [1, None, {"b": "ü"}]}, {}],
        "bytes": [b"\x00\xff\n", b""],
        "str": ["text that is no JSON \u2603", ""],
        "any": [[1, "2"], None, "quoted text"],
    }
    async with app:
        for kind, bodies in published.items():
            for body in bodies:
                written = msgspec.json.encode(body) if kind == "any" else body
                await app.publish(f"{stream}:{kind}", written)
    async with working(app, url=redis_url):
        for kind in published:
            await Watched(redis, f"{stream}:{kind}", "app").rests()
    assert {kind: sorted(map(repr, bodies)) for kind, bodies in seen.items()} == {
        kind: sorted(map(repr, bodies)) for kind, bodies in published.items()
    }


@on_all_servers
async def test_entries_of_other_programs_are_flat_records(
    redis_url: str, stream: str, redis: Redis, group: Watched
) -> None:
    app = App("app")
    structs: list[Order] = []
    dicts: list[dict[str, str]] = []

    @app.on(stream)
    async def struct(body: Order) -> None:
        structs.append(body)

    @app.on(stream, group="dicts")
    async def mapping(body: dict[str, str]) -> None:
        dicts.append(body)

    await group.add("id", "1", "qty", "2")
    await group.add("id", "3", "ignored", "because the type does not have it")
    async with working(app, url=redis_url):
        await group.rests()
        await Watched(redis, stream, "dicts").rests()
    assert sorted(structs, key=lambda order: order.id) == [Order(1, 2), Order(3)]
    assert {"id": "1", "qty": "2"} in dicts
    assert len(dicts) == 2


async def test_a_handler_may_say_which_field_holds_the_body(
    redis_url: str, stream: str, redis: Redis, group: Watched
) -> None:
    app = App("app")
    bodies: dict[str, object] = {}

    @app.on(stream, body="fields")
    async def record(body: dict[str, str]) -> None:
        bodies["fields"] = body

    @app.on(stream, group="field", body="payload")
    async def payload(body: Order) -> None:
        bodies["payload"] = body

    await group.add("data", "{}", "payload", '{"id":4}', "type", "x")
    async with working(app, url=redis_url):
        await group.rests()
        await Watched(redis, stream, "field").rests()
    assert bodies == {
        "fields": {"data": "{}", "payload": '{"id":4}', "type": "x"},
        "payload": Order(4),
    }


# --- the message


@on_all_servers
async def test_a_message_keeps_its_id_over_retries_and_counts_its_deliveries(redis_url: str, group: Watched) -> None:
    stream = group.keys.stream.decode()
    app = App("app", url=redis_url)
    seen: list[Message] = []

    @app.on(stream, retry=SOON)
    async def handle(body: Order, message: Message) -> None:
        seen.append(message)
        if len(seen) < 4:
            raise ValueError

    async with app:
        id = await app.publish(stream, Order(1, 2), type="placed", headers={"trace": "é", "tenant": "7"})
    async with working(app, url=redis_url):
        await group.rests()
    await group.check_nothing_is_left()
    assert [message.deliveries for message in seen] == [1, 2, 3, 4]
    assert len({message.consumer for message in seen}) == 1
    for message in seen:
        assert message.id == id
        assert message.published == int(id.partition("-")[0]) / 1000
        assert message.type == "placed"
        assert message.headers == {"trace": "é", "tenant": "7"}
        assert message.size == len(b'{"id":1,"qty":2}')
        assert (message.stream, message.group) == (stream, "app")
        assert message.handler.endswith("handle")


async def test_a_message_of_a_flat_record_has_no_headers_and_the_size_of_its_values(
    redis_url: str, group: Watched
) -> None:
    app = App("app")
    seen: list[Message] = []

    @app.on(group.keys.stream.decode())
    async def handle(message: Message) -> None:
        seen.append(message)

    await group.add("id", "12", "qty", "345")
    async with working(app, url=redis_url):
        await group.rests()
    assert [(message.type, message.headers, message.size) for message in seen] == [(None, {}, 5)]


# --- threads and contexts


async def test_plain_functions_run_in_threads_side_by_side_and_publish_from_there(
    redis_url: str, redis: Redis, stream: str, group: Watched
) -> None:
    app = App("app")
    together = threading.Barrier(4, timeout=10)
    threads: list[int] = []
    answers: list[int] = []

    @app.on(stream, concurrency=4)
    def handle(body: Order) -> None:
        threads.append(threading.get_ident())
        together.wait()  # passes only if four of them run at once
        anyio.from_thread.run(app.publish, f"{stream}:answers", {"id": body.id * 10})

    @app.on(f"{stream}:answers")
    async def answer(body: dict[str, int]) -> None:
        answers.append(body["id"])

    for number in range(8):
        await group.add("id", str(number))
    async with working(app, url=redis_url):
        await wait_until(lambda: len(answers) == 8)
        await group.rests()
    assert sorted(answers) == [number * 10 for number in range(8)]
    assert threading.get_ident() not in threads


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="untouched")


async def test_no_message_sees_the_context_variables_of_another(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    before: list[str] = []
    after: list[bool] = []

    @app.on(stream, concurrency=1)
    async def handle(message: Message) -> None:
        before.append(VARIABLE.get())
        VARIABLE.set(message.id)
        await asyncio.sleep(0)
        after.append(VARIABLE.get() == message.id)

    @app.on(stream, group="threads", concurrency=1)
    def in_thread(message: Message) -> None:
        before.append(VARIABLE.get())
        VARIABLE.set(message.id)
        after.append(VARIABLE.get() == message.id)

    for _ in range(5):
        await group.add("id", "1")
    async with working(app, url=redis_url):
        await wait_until(lambda: len(after) == 10)
    assert before == ["untouched"] * 10
    assert all(after)


# --- routing


async def test_an_entry_goes_to_the_handler_of_its_type_and_others_to_the_one_without(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    seen: list[tuple[str, int]] = []

    @app.on(stream, type="placed")
    async def placed(body: Order) -> None:
        seen.append(("placed", body.id))

    @app.on(stream, type="cancelled")
    async def cancelled(body: Order) -> None:
        seen.append(("cancelled", body.id))

    @app.on(stream)
    async def others(body: Order) -> None:
        seen.append(("others", body.id))

    async with app:
        for id, kind in enumerate(("placed", "cancelled", "refunded", None, "placed")):
            await app.publish(stream, Order(id), type=kind)
    async with working(app, url=redis_url):
        await group.rests()
    assert sorted(seen) == [("cancelled", 1), ("others", 2), ("others", 3), ("placed", 0), ("placed", 4)]


@on_all_servers
async def test_an_entry_that_no_handler_takes_is_dead_lettered_as_unrouted(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    seen: list[int] = []

    @app.on(stream, type="placed")
    async def placed(body: Order) -> None:
        seen.append(body.id)

    await group.add("data", '{"id":1}', "type", "returned")
    await group.add("data", '{"id":2}')
    await group.add("data", '{"id":3}', "type", "placed")
    async with working(app, url=redis_url):
        await group.rests()
    await group.check_nothing_is_left()
    returned, untyped = await group.letters()
    assert "unrouted" in returned.reason
    assert "'returned'" in returned.reason
    assert returned.fields == [b"data", b'{"id":1}', b"type", b"returned"]
    assert returned.facts["sw-deliveries"] == "1"
    assert "unrouted" in untyped.reason
    assert "no type" in untyped.reason
    assert seen == [3]


async def test_an_app_may_drop_what_is_unrouted(
    redis_url: str, stream: str, group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app", unrouted="drop")

    @app.on(stream, type="placed")
    async def placed(body: Order) -> None: ...

    await group.add("data", '{"id":1}', "type", "returned")
    async with working(app, url=redis_url):
        await group.rests()
    assert await group.letters() == []
    (line,) = events(caplog, "message.dropped")
    assert "unrouted" in line["reason"]


# --- the app's life


async def test_the_lifespan_is_entered_before_the_first_message_and_left_after_the_last(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    story: list[str] = []
    go_on = asyncio.Event()

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncIterator[str]:
        story.append("entered")
        await app.publish(stream, Order(1))  # it is connected already
        yield "a database, say"
        story.append("left")

    @app.on(stream)
    async def handle(body: Order) -> None:
        story.append(f"begun with {app.state}")
        await go_on.wait()
        story.append(f"ended with {app.state}")

    async def finish_late() -> None:
        await wait_until(lambda: len(story) == 2)
        asyncio.get_running_loop().call_later(0.1, go_on.set)  # when it is draining

    async with working(app, url=redis_url):
        await finish_late()
    assert story == ["entered", "begun with a database, say", "ended with a database, say", "left"]
    await group.check_nothing_is_left()


async def test_apps_of_one_worker_have_groups_and_states_of_their_own(
    redis_url: str, redis: Redis, stream: str, group: Watched
) -> None:
    seen: list[tuple[str, int]] = []

    def make(name: str) -> App:
        app = App(name)

        @app.lifespan
        @asynccontextmanager
        async def life() -> AsyncIterator[str]:
            yield f"state of {name}"

        @app.on(stream)
        async def handle(body: Order) -> None:
            seen.append((app.state, body.id))

        return app

    for number in range(3):
        await group.add("id", str(number))
    async with working(make("app"), make("other"), url=redis_url):
        await group.rests()
        await Watched(redis, stream, "other").rests()
    assert sorted(seen) == [(f"state of {name}", number) for name in ("app", "other") for number in range(3)]


async def test_apps_that_would_be_one_member_twice_are_refused(redis_url: str, stream: str) -> None:
    def make() -> App:
        app = App("app")
        app.on(stream)(_nothing)
        return app

    with pytest.raises(ConfigError, match="both consume"):
        await burst(make(), make(), url=redis_url)


async def _nothing(body: bytes) -> None: ...


@on_all_servers
async def test_a_worker_runs_inside_another_program(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    seen: list[int] = []

    @app.on(stream)
    async def handle(body: Order) -> None:
        seen.append(body.id)

    signals = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for turn in (1, 2):  # it can be run again
        async with app.running() as inside:
            assert inside is app
            assert {one: signal.getsignal(one) for one in signals} == signals
            await app.publish(stream, Order(turn))
            await wait_until(lambda turn=turn: turn in seen)  # type: ignore[misc]
        await group.check_nothing_is_left()
    with pytest.raises(ConfigError, match="not connected"):
        await app.publish(stream, Order(3))
    assert seen == [1, 2]


async def test_what_runs_is_finished_and_acked_when_the_other_program_is_cancelled(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.on(stream)
    async def handle(body: Order) -> None:
        began.set()
        await go_on.wait()
        ended.set()

    async def program() -> None:
        async with app.running():
            await app.publish(stream, Order(1))
            await asyncio.Event().wait()

    running = asyncio.create_task(program())
    await asyncio.wait_for(began.wait(), 10)
    running.cancel()
    asyncio.get_running_loop().call_later(0.1, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
    await group.check_nothing_is_left()


async def test_a_worker_inside_another_program_says_at_once_that_it_cannot_start() -> None:
    nowhere = App("app", url="redis://127.0.0.1:1/0")
    nowhere.on("orders")(_nothing)
    with pytest.raises(Unavailable):
        async with nowhere.running():
            pytest.fail("it cannot run")

    async def wrong(body: asyncio.Event) -> None: ...

    app = App("app", url="redis://127.0.0.1:1/0")
    app.on("orders")(wrong)
    with pytest.raises(ConfigError, match="wrong"):
        async with app.running():
            pytest.fail("it cannot run")


async def test_an_entered_app_publishes_from_any_code(redis_url: str, stream: str, group: Watched) -> None:
    app = App("app", url=redis_url)
    async with app:
        first = await app.publish(stream, Order(1))
        async with app:  # somebody else enters it too
            second = await app.publish(stream, Order(2))
        third = await app.publish(stream, Order(3))
    with pytest.raises(ConfigError, match="not connected"):
        await app.publish(stream, Order(4))
    entries = await group.do("XRANGE", stream, "-", "+")
    assert [(id.decode(), fields) for id, fields in entries] == [
        (first, [b"data", b'{"id":1,"qty":1}']),
        (second, [b"data", b'{"id":2,"qty":1}']),
        (third, [b"data", b'{"id":3,"qty":1}']),
    ]


async def test_an_entered_app_stays_connected_when_its_worker_has_come_and_gone(redis_url: str, stream: str) -> None:
    app = App("app", url=redis_url)
    app.on(stream)(_nothing)
    async with app:
        async with app.running():
            assert await app.publish(stream, b"while it runs")
        assert await app.publish(stream, b"afterwards")


async def test_an_app_that_is_entered_while_its_worker_runs_stays_connected_when_that_has_gone(
    redis_url: str, stream: str
) -> None:
    app = App("app", url=redis_url)
    app.on(stream)(_nothing)
    worker = app.running()
    await worker.__aenter__()
    await app.__aenter__()
    assert await app.publish(stream, b"while it runs")
    await worker.__aexit__(None, None, None)
    try:
        assert await app.publish(stream, b"afterwards")
    finally:
        await app.__aexit__(None, None, None)
    with pytest.raises(ConfigError, match="not connected"):
        await app.publish(stream, b"too late")


async def test_tasks_that_enter_an_app_at_once_share_one_connection(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)

    async def use(number: int) -> None:
        async with app:
            for _ in range(5):
                await app.publish(stream, Order(number))

    async def connections() -> int:
        return len((await group.do("CLIENT", "LIST")).splitlines())

    before = await connections()
    await asyncio.gather(*(use(number) for number in range(10)))
    assert await group.do("XLEN", stream) == 50

    async def as_before() -> bool:
        return await connections() <= before

    await wait_until(as_before, 3, "all connections are closed")


# --- how much at once


@pytest.mark.parametrize("threads", [False, True], ids=["async", "threads"])
async def test_never_more_than_concurrency_handlers_run_at_once(
    redis_url: str, stream: str, group: Watched, threads: bool
) -> None:
    app = App("app")
    lock = threading.Lock()
    running, most, handled = 0, 0, 0

    def change(by: int) -> None:
        nonlocal running, most, handled
        with lock:
            running += by
            most = max(most, running)
            handled += by < 0

    async def handle(body: Order) -> None:
        change(+1)
        await asyncio.sleep(0.001)
        change(-1)

    def in_thread(body: Order) -> None:
        change(+1)
        threading.Event().wait(0.001)
        change(-1)

    function: Callable[[Order], Any] = in_thread if threads else handle
    app.on(stream, concurrency=5)(function)
    for number in range(100):
        await group.add("id", str(number))
    async with working(app, url=redis_url):
        await group.rests()
    assert handled == 100
    assert most == 5


@on_all_servers
@pytest.mark.parametrize(
    ("prefetch", "held"),
    [(7, 7), (2, 2), (None, 3)],
    ids=["more than runs", "less than could run", "by default"],
)
async def test_never_more_than_prefetch_messages_are_held(
    redis_url: str, stream: str, group: Watched, prefetch: int | None, held: int
) -> None:
    app = App("app")
    go_on = asyncio.Semaphore(0)
    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)
        await go_on.acquire()

    app.on(stream, type="a", concurrency=1, prefetch=prefetch)(handle)
    app.on(stream, type="b", concurrency=2, prefetch=prefetch)(handle)  # they share one window
    for number in range(30):
        await group.add("id", str(number), "type", "ab"[number % 2])
    async with working(app, url=redis_url):

        async def full() -> bool:
            return bool(seen) and await group.pending(seen[0].consumer) == held

        await wait_until(full, what="as much is pending as may be")
        # Without a prefetch of its own the window follows the speed; here nothing is ever finished in 100 ms.
        for finished in range(1, 24 if prefetch else 1):
            go_on.release()
            await wait_until(lambda finished=finished: len(seen) > finished)  # type: ignore[misc]
            assert await group.pending(seen[0].consumer) <= held
        for _ in range(10):  # several turns and reads
            assert await group.pending(seen[0].consumer) <= held
            await asyncio.sleep(0.02)
        for _ in range(30):
            go_on.release()
        await group.rests()
    assert len({message.id for message in seen}) == len(seen) == 30
    await group.check_nothing_is_left()


async def test_a_body_of_its_own_field_is_no_header_and_the_other_fields_are(
    redis_url: str, stream: str, redis: Redis
) -> None:
    app = App("app")
    seen: list[dict[str, str]] = []

    @app.on(stream, body="payload")
    async def handle(body: dict[str, int], message: Message) -> None:
        seen.append(message.headers)

    await redis.xadd(stream, {"payload": '{"a":1}', "tenant": "x", "data": "y"})
    await redis.xadd(stream, {"payload": '{"a":1}', "tenant": "x", "type": "t"})
    await burst(app, url=redis_url)
    assert seen == [{"tenant": "x", "data": "y"}, {"tenant": "x"}]


async def test_a_lifespan_that_is_no_context_manager_is_told(redis_url: str, stream: str) -> None:
    app = App("app")
    app.on(stream)(lambda body: None)

    @app.lifespan  # type: ignore[type-var]
    async def forgotten() -> None: ...

    with pytest.raises(ConfigError, match="asynccontextmanager"):
        await burst(app, url=redis_url)
