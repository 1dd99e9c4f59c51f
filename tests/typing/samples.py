"""What a type checker makes of the public API: it must accept this file, and each ``assert_type`` must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_type

import msgspec

from streamworker import App, Backoff, Drop, Failure, Message, Reject, Retry
from streamworker.testing import Outcome, deliver, message


class Order(msgspec.Struct):
    id: int


app = App("billing", lease=10, unrouted="drop")


@app.on("orders")
async def charge(order: Order) -> None: ...


@app.on("orders", type="paid", concurrency=32)
async def with_message(order: Order, message: Message) -> int:
    return order.id + message.deliveries


@app.on("orders", group="threads", start=datetime(2024, 1, 1, tzinfo=UTC), retry=Backoff(first=1))
def in_thread(order: Order) -> str:
    return str(order.id)


class Service:
    async def __call__(self, order: Order) -> bytes:
        return b""

    async def handle(self, order: Order, *, message: Message) -> float:
        return 0.0


service = app.on("orders", group="objects")(Service())
method = app.on("orders", group="methods")(service.handle)
filled_in = app.on("orders", group="partials")(partial(with_message, message=message()))


def decide(failure: Failure) -> Retry | Reject | Drop | None:
    assert_type(failure.message, Message)
    return Drop("known") if failure.deliveries > 2 else None


async def decide_later(failure: Failure) -> Reject | None:
    return None


@app.on("orders", group="deciding", on_failure=decide)
@app.on("orders", group="deciding later", on_failure=decide_later)
@app.on("news", broadcast=True)
async def several(order: Order) -> None: ...


@app.lifespan
@asynccontextmanager
async def resources() -> AsyncIterator[dict[str, int]]:
    yield {}


async def use() -> None:
    assert_type(await charge(Order(1)), None)
    assert_type(await with_message(Order(1), message()), int)
    assert_type(in_thread(Order(1)), str)
    assert_type(service, Service)
    assert_type(await method(Order(1), message=message()), float)
    assert_type(await filled_in(Order(1)), int)
    assert_type(await several(Order(1)), None)
    assert_type(await app.publish("orders", Order(1), headers={"a": "b"}), str)
    assert_type(await app.publish_many("orders", [Order(1), "text", b"bytes"]), int)
    assert_type(await deliver(app, "orders", Order(1), group="threads"), Outcome)
    async with app as entered, resources() as state:
        assert_type(entered, App)
        assert_type(state, dict[str, int])
    async with app.running() as running:
        assert_type(running, App)


kept: Callable[[Order], Coroutine[Any, Any, None]] = charge
