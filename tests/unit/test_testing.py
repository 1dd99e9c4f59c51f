"""deliver and message: what users test their handlers with."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from streamworker import App, Backoff, ConfigError, Drop, Failure, Message, Reject, Retry
from streamworker.testing import deliver, message

pytestmark = pytest.mark.anyio


class Order(msgspec.Struct):
    id: int
    cancelled: bool = False


def shop(**options: Any) -> tuple[App, list[Any]]:
    """An app with one handler that notes what it gets."""
    app, got = App("shop"), []

    @app.on("orders", **options)
    async def charge(order: Order, message: Message) -> None:
        got.append((order, message))
        if order.cancelled:
            raise Reject("cancelled")
        if order.id == 0:
            raise ValueError("no order")

    return app, got


async def test_the_handler_gets_what_a_worker_would_give_it() -> None:
    app, got = shop()
    outcome = await deliver(app, "orders", Order(1), type="created", headers={"trace": "abc"}, deliveries=3)
    assert outcome.kind == "ack"
    ((order, made),) = got
    assert order == Order(1)
    assert (made.stream, made.group, made.type, made.headers, made.deliveries, made.size) == (
        "orders", "shop", "created", {"trace": "abc"}, 3, len(b'{"id":1,"cancelled":false}'),
    )  # fmt: skip
    assert made.handler.endswith("charge")
    assert abs(made.published - time.time()) < 5


@pytest.mark.parametrize("body", ['{"id":1}', b'{"id":1}', {"id": 1}, Order(1)])
async def test_a_body_may_be_raw_or_a_value(body: Any) -> None:
    app, got = shop()
    assert (await deliver(app, "orders", body)).kind == "ack"
    assert got[0][0] == Order(1)


async def test_a_raw_entry_of_another_program_can_be_delivered() -> None:
    app, got = shop()
    assert (await deliver(app, "orders", None, fields={"id": "7", "cancelled": b"false"})).kind == "ack"
    assert got[0][0] == Order(7)


async def test_verdicts_and_failures_come_back_as_outcomes() -> None:
    app, _ = shop(retry=Backoff(first=3, jitter=0))
    rejected = await deliver(app, "orders", Order(1, cancelled=True))
    assert (rejected.kind, rejected.reason) == ("dead-letter", "cancelled")
    retried = await deliver(app, "orders", Order(0))
    assert (retried.kind, retried.delay, str(retried.exception)) == ("retry", 3, "no order")
    dead = await deliver(app, "orders", Order(0), deliveries=5)
    assert (dead.kind, dead.reason) == ("dead-letter", "ValueError after 5 deliveries")


async def test_a_wrong_body_is_dead_lettered_with_the_reason() -> None:
    app, got = shop()
    outcome = await deliver(app, "orders", b'{"id":"x"}')
    assert (outcome.kind, outcome.reason) == ("dead-letter", "undecodable: Expected `int`, got `str` - at `$.id`")
    assert not got


async def test_a_body_over_max_body_is_dead_lettered_unparsed() -> None:
    app = App("shop", max_body=10)

    @app.on("orders")
    async def handle(body: bytes) -> None:
        raise AssertionError("called")

    outcome = await deliver(app, "orders", b"x" * 11)
    assert outcome.kind == "dead-letter"
    assert "11 bytes, more than the 10 of max_body" in outcome.reason


async def test_a_message_over_max_age_is_not_run() -> None:
    app, got = shop(max_age=60)
    outcome = await deliver(app, "orders", Order(1), age=61)
    assert (outcome.kind, outcome.reason) == ("dead-letter", "61 s old, and max_age is 60 s")
    assert not got


async def test_on_failure_is_asked() -> None:
    seen: list[Failure] = []

    def on_failure(failure: Failure) -> Drop:
        seen.append(failure)
        return Drop("known")

    app, _ = shop(on_failure=on_failure)
    outcome = await deliver(app, "orders", Order(0), type="t", age=5, deliveries=2)
    assert (outcome.kind, outcome.reason) == ("drop", "known")
    (failure,) = seen
    assert failure.fields == ((b"data", b'{"id":0,"cancelled":false}'), (b"type", b"t"))
    assert (failure.kind, failure.age, failure.deliveries, failure.size) == ("error", 5, 2, 26)
    assert 4 < time.time() - failure.message.published < 10


async def test_a_handler_that_runs_too_long_is_cancelled() -> None:
    app, cancelled = App("shop"), []

    @app.on("orders", timeout=0.02)
    async def handle(order: Order) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(order)
            raise

    outcome = await deliver(app, "orders", Order(1))
    assert (outcome.kind, outcome.reason) == ("retry", "timeout of 0.02 s in delivery 1 of 5")
    assert cancelled == [Order(1)]


@pytest.mark.parametrize(
    "exception", [SystemExit(3), asyncio.CancelledError(), BaseExceptionGroup("g", [SystemExit()])]
)
async def test_what_would_end_a_program_is_a_failure(exception: BaseException) -> None:
    app = App("shop")

    @app.on("orders", max_deliveries=1)
    async def handle(order: Order) -> None:
        raise exception

    outcome = await deliver(app, "orders", Order(1))
    assert (outcome.kind, outcome.exception) == ("dead-letter", exception)


async def test_a_timeout_error_of_the_handler_itself_is_an_error() -> None:
    app = App("shop")

    @app.on("orders", timeout=30, max_deliveries=1)
    async def handle(order: Order) -> None:
        raise TimeoutError("the bank does not answer")

    assert (await deliver(app, "orders", Order(1))).reason == "TimeoutError after 1 delivery"


async def test_a_test_can_cancel_a_delivery() -> None:
    app = App("shop")

    @app.on("orders", timeout=60)
    async def handle(order: Order) -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await deliver(app, "orders", Order(1))


async def test_a_plain_function_runs_in_its_thread() -> None:
    app = App("shop")

    @app.on("orders", timeout=0.001)
    def handle(order: Order) -> None:
        time.sleep(0.02)
        raise Retry(after=4)

    outcome = await deliver(app, "orders", Order(1))
    assert (outcome.kind, outcome.delay) == ("retry", 4)


async def test_entries_are_routed_by_their_type() -> None:
    app, got = App("shop", unrouted="drop"), []

    @app.on("orders", type="created")
    async def created(order: Order) -> None:
        got.append("created")

    @app.on("orders", type="paid")
    async def paid(order: Order) -> None:
        got.append("paid")

    await deliver(app, "orders", Order(1), type="paid")
    await deliver(app, "orders", Order(1), type="created")
    assert got == ["paid", "created"]
    outcome = await deliver(app, "orders", Order(1), type="unknown")
    assert (outcome.kind, outcome.reason.partition(":")[0]) == ("drop", "unrouted")


async def test_several_groups_on_a_stream_are_told_apart_by_name() -> None:
    app, got = App("shop"), []
    app.on("orders")(lambda order: got.append("shop"))
    app.on("orders", group="audit")(lambda order: got.append("audit"))
    app.on("orders", broadcast=True)(lambda order: got.append("broadcast"))
    with pytest.raises(ConfigError, match=r"'shop' .*, 'audit' .*, '' .*group="):
        await deliver(app, "orders", Order(1))
    for group in ("audit", "shop", ""):
        assert (await deliver(app, "orders", Order(1), group=group)).kind == "ack"
    assert got == ["audit", "shop", "broadcast"]
    with pytest.raises(ConfigError, match="group="):
        await deliver(app, "orders", Order(1), group="other")


async def test_a_stream_without_a_handler_is_named_with_those_that_have_one() -> None:
    app, _ = shop()
    with pytest.raises(ConfigError, match=r"no handler for stream 'order'; it has some for \['orders'\]"):
        await deliver(app, "order", Order(1))


async def test_a_wrong_handler_is_refused_as_at_the_start_of_a_worker() -> None:
    app = App("shop")
    app.on("orders")(lambda order, db: None)
    with pytest.raises(ConfigError, match="wants 2 arguments"):
        await deliver(app, "orders", Order(1))


def test_a_message_for_a_test_has_sensible_attributes() -> None:
    made = message(Order(1), deliveries=3, stream="orders")
    assert (made.deliveries, made.stream, made.size) == (3, "orders", 26)
    assert abs(made.published - time.time()) < 5
    assert message(id="1700000000000-0").published == 1_700_000_000
    with pytest.raises(TypeError, match="attempts"):
        message(attempts=3)
