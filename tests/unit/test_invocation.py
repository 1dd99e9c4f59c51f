"""What handlers become when a worker starts: signatures, types, calls, threads and routes."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any
from unittest.mock import AsyncMock

import anyio
import anyio.from_thread
import msgspec
import pytest

from streamworker import App, ConfigError, Message, Retry, UndecodableBody
from streamworker import Message as Delivered
from streamworker.invocation import Invocation, Routes, compile_all
from streamworker.invocation import compile as compile_handler
from streamworker.testing import message

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="nothing")
MESSAGE = message(id="5-0")


def compiled(function: Callable[..., Any], **options: Any) -> Invocation:
    app = App("app")
    app.on("orders", **options)(function)
    return compile_handler(app.handlers[0])


async def called(function: Callable[..., Any], body: bytes = b'{"id":1}', **options: Any) -> Any:
    """What the handler returns when a worker calls it."""
    invocation = compiled(function, **options)
    decoded = None if invocation.decode is None else invocation.decode([b"data", body])
    return await invocation.call(decoded, MESSAGE if invocation.wants_message else None)


def refused(function: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        compiled(function, **options)
    return str(caught.value)


# --- who gets what


async def test_the_first_parameter_gets_the_body_decoded_to_a_type_defined_below() -> None:
    assert await called(below) == ("body", Order(1))


async def below(order: Order) -> object:
    return "body", order


class Order(msgspec.Struct):
    id: int


async def test_a_parameter_annotated_message_gets_the_message_wherever_it_stands() -> None:
    async def second(order: Order, m: Message) -> object:
        return order, m

    async def first(m: Message, order: Order) -> object:
        return order, m

    async def keyword(order: Order, *, m: Message) -> object:
        return order, m

    async def behind_a_default(order: Order, limit: int = 3, m: Message | None = None) -> object:
        return order, m

    async def annotated(order: Order, m: Annotated[Message, "the message"]) -> object:
        return order, m

    async def renamed(order: Order, m: Delivered) -> object:
        return order, m

    async def positional_only(order: Order, m: Message, /) -> object:
        return order, m

    for function in (second, first, keyword, behind_a_default, annotated, renamed, positional_only):
        assert await called(function) == (Order(1), MESSAGE), function


async def test_a_parameter_called_message_gets_the_message_unless_its_annotation_says_otherwise() -> None:
    async def by_name(order: Order, message) -> object:  # type: ignore[no-untyped-def]
        return order, message

    async def the_body(message: Order) -> object:
        return message

    assert await called(by_name) == (Order(1), MESSAGE)
    assert await called(the_body) == Order(1)


async def test_a_handler_with_only_a_message_gets_only_that_and_decodes_nothing() -> None:
    async def only(message: Message) -> object:
        return message

    async def with_default(message: Message, limit: int = 3) -> object:
        return message, limit

    assert await called(only, b"no json") == MESSAGE
    assert await called(with_default, b"no json") == (MESSAGE, 3)
    assert compiled(only).decode is None


async def test_a_handler_without_parameters_is_called_with_nothing() -> None:
    async def nothing() -> str:
        return "called"

    assert await called(nothing, b"no json") == "called"
    assert not compiled(nothing).wants_message


async def test_a_body_without_annotation_is_any_json() -> None:
    async def anything(body) -> object:  # type: ignore[no-untyped-def]
        return body

    assert await called(anything, b'{"a":[1]}') == {"a": [1]}


async def test_constraints_of_an_annotated_body_hold() -> None:
    async def small(number: Annotated[int, msgspec.Meta(lt=10)]) -> object:
        return number

    assert await called(small, b"9") == 9
    with pytest.raises(UndecodableBody, match="Expected `int` <= 9"):
        await called(small, b"10")


async def test_a_body_may_have_a_default_and_others_keep_theirs() -> None:
    async def defaults(
        order: Order | None = None, limit: int = 3, *rest: int, flag: bool = True, **more: int
    ) -> object:
        return order, limit, rest, flag, more

    assert await called(defaults) == (Order(1), 3, (), True, {})


async def test_handlers_may_be_methods_partials_and_objects() -> None:
    class Service:
        async def handle(self, order: Order, message: Message) -> object:
            return order, message

        @classmethod
        async def handle_class(cls, order: Order) -> object:
            return order

        @staticmethod
        async def handle_static(order: Order) -> object:
            return order

        async def __call__(self, order: Order) -> object:
            return "object", order

    async def with_db(db: str, order: Order, message: Message) -> object:
        return db, order, message

    async def with_db_last(order: Order, db: str) -> object:
        return order, db

    service = Service()
    assert await called(service.handle) == (Order(1), MESSAGE)
    assert await called(service.handle_class) == Order(1)
    assert await called(Service.handle_static) == Order(1)
    assert await called(service) == ("object", Order(1))
    assert await called(functools.partial(service)) == ("object", Order(1))
    assert await called(functools.partial(with_db, "db")) == ("db", Order(1), MESSAGE)
    assert await called(functools.partial(with_db, db="db")) == ("db", Order(1), MESSAGE)
    assert await called(functools.partial(functools.partial(with_db_last, db="db"))) == (Order(1), "db")


async def test_wrapped_handlers_keep_the_signature_of_what_they_wrap() -> None:
    def logged(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return "logged", await function(*args, **kwargs)

        return wrapper

    def handed_on(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            return function(*args, **kwargs)

        return wrapper

    async def handle(order: Order, *, m: Message) -> object:
        return order, m

    assert await called(logged(handle)) == ("logged", (Order(1), MESSAGE))
    assert await called(handed_on(handle)) == (Order(1), MESSAGE)
    assert compiled(handed_on(handle)).is_async
    assert await called(handed_on(logged(handle))) == ("logged", (Order(1), MESSAGE))


async def test_a_decorator_without_wraps_gets_the_body() -> None:
    async def wrapper(*args: Any, **kwargs: Any) -> object:
        return args, kwargs

    assert await called(wrapper) == (({"id": 1},), {})


async def test_a_mock_can_be_a_handler() -> None:
    mock = AsyncMock(return_value="mocked")
    assert await called(mock) == "mocked"
    mock.assert_awaited_once_with({"id": 1})


async def test_registering_leaves_the_function_what_it_was() -> None:
    async def handle(order: Order) -> int:
        return order.id

    assert App("app").on("orders")(handle) is handle


# --- what is refused


def test_too_many_parameters_are_named() -> None:
    def charge(order: Order, message: Message, gateway: Any, db: Any) -> None: ...

    assert refused(charge) == (
        "handler 'test_too_many_parameters_are_named.<locals>.charge' of stream 'orders' wants 4 arguments "
        "(order, message, gateway, db); it gets the body and, if it asks for it, the message: "
        "give 'gateway' and 'db' a default"
    )


def test_two_messages_and_messages_that_cannot_be_passed_are_refused() -> None:
    def twice(order: Order, message: Message, again: Message) -> None: ...

    def unreachable(order: Order, limit: int = 3, m: Message = MESSAGE, /) -> None: ...

    assert "'message' and 'again' both ask for the message" in refused(twice)
    assert "parameter 'm' stands behind one that gets nothing" in refused(unreachable)


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    class Local(msgspec.Struct):
        id: int

    def local(order: Local) -> None: ...

    def checked_only(order: OnlyForTypeCheckers) -> None: ...

    def of_the_message(order: Order, message: OnlyForTypeCheckers) -> None: ...

    text = refused(local)
    assert "local" in text
    assert "the annotation 'Local' of parameter 'order' cannot be resolved (name 'Local' is not defined)" in text
    assert "'OnlyForTypeCheckers' of parameter 'order'" in refused(checked_only)
    assert "'OnlyForTypeCheckers' of parameter 'message'" in refused(of_the_message)


async def test_annotations_that_nobody_needs_are_not_resolved() -> None:
    async def handle(order: Order, other: OnlyForTypeCheckers | None = None) -> OnlyForTypeCheckers | None:
        return other

    assert await called(handle) is None


class Unsupported: ...


def test_an_annotation_that_no_body_decodes_to_is_named() -> None:
    def handle(order: Unsupported) -> None: ...

    text = refused(handle)
    assert "handle' of stream 'orders': parameter 'order': bodies cannot be decoded to `Unsupported`" in text


def test_body_fields_needs_a_record() -> None:
    def handle(order: str) -> None: ...

    assert "body='fields'" in refused(handle, body="fields")


def test_generators_are_refused_because_they_would_run_nothing() -> None:
    def generator(order: Order) -> Any:
        yield order

    async def async_generator(order: Order) -> Any:
        yield order

    assert "has a 'yield'" in refused(generator)
    assert "has a 'yield'" in refused(async_generator)
    assert "has a 'yield'" in refused(functools.partial(generator))


def test_what_has_no_signature_is_refused() -> None:
    assert "Python cannot tell its signature" in refused(type)


# --- threads


async def test_a_plain_function_runs_in_a_thread_with_the_context_of_its_caller() -> None:
    def handle(order: Order, message: Message) -> object:
        return order, message, threading.current_thread() is threading.main_thread(), variable.get()

    variable.set("set")
    assert await called(handle) == (Order(1), MESSAGE, False, "set")
    assert not compiled(handle).is_async


async def test_a_plain_function_can_call_back_into_the_loop() -> None:
    async def in_loop() -> str:
        return threading.current_thread().name

    def handle(order: Order) -> object:
        return anyio.from_thread.run(in_loop)

    assert await called(handle) == threading.main_thread().name


@pytest.mark.parametrize("exception", [ValueError("x"), Retry(3), SystemExit(1), asyncio.CancelledError()], ids=repr)
async def test_what_a_thread_raises_reaches_the_caller(exception: BaseException) -> None:
    def handle(order: Order) -> None:
        raise exception

    with pytest.raises(type(exception)) as caught:
        await called(handle)
    assert caught.value is exception


async def test_stop_iteration_from_a_thread_is_a_failure_like_any_other() -> None:
    def handle(order: Order) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await called(handle)


async def test_an_awaitable_from_a_thread_is_an_error_and_is_closed() -> None:
    async def work() -> None: ...

    def handle(order: Order) -> Awaitable[None]:
        return work()  # filterwarnings=error: it would fail here if it were never closed

    with pytest.raises(TypeError, match=r"is a plain function and returned a coroutine.*make it 'async def'"):
        await called(handle)
    with pytest.raises(TypeError, match="make it 'async def'"):
        await called(lambda order: work())


async def test_no_more_threads_run_than_the_handler_allows() -> None:
    running = most = 0
    lock = threading.Lock()

    def handle(order: Order) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    invocation = compiled(handle, concurrency=2)
    await asyncio.gather(*(invocation.call(Order(1), None) for _ in range(6)))
    assert most == 2


async def test_a_cancelled_call_waits_for_its_thread_and_gives_what_it_gave() -> None:
    started, go_on = threading.Event(), threading.Event()

    def handle(order: Order) -> str:
        started.set()
        assert go_on.wait(10)
        return "done"

    task = asyncio.ensure_future(compiled(handle).call(Order(1), None))
    while not started.is_set():
        await asyncio.sleep(0.001)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.001)
    assert not task.done()
    go_on.set()
    assert await task == "done"


async def test_a_cancelled_scope_does_not_spin_while_it_waits_for_a_thread() -> None:
    def handle(order: Order) -> None:
        time.sleep(0.3)

    invocation = compiled(handle)
    used = time.process_time()
    with anyio.move_on_after(0.01):
        await invocation.call(Order(1), None)
    assert time.process_time() - used < 0.15


# --- routes


def routes(*handlers: tuple[str | None, Callable[..., Any]]) -> Routes:
    app = App("app")
    for type_, function in handlers:
        app.on("orders", type=type_)(function)
    return Routes(app.groups()[0])


def handler_of(found: Invocation | None) -> Any:
    return None if found is None else found.handler.function


async def one(order: Order) -> None: ...


async def two(order: Order) -> None: ...


def test_one_handler_without_a_type_takes_everything() -> None:
    alone = routes((None, one))
    assert handler_of(alone.find([b"data", b"1"])) is one
    assert handler_of(alone.find([b"data", b"1", b"type", b"any"])) is one


def test_an_entry_goes_to_the_handler_of_its_type_and_otherwise_to_the_one_without() -> None:
    both = routes(("created", one), (None, two))
    assert handler_of(both.find([b"data", b"1", b"type", b"created"])) is one
    assert handler_of(both.find([b"data", b"1", b"type", b"other"])) is two
    assert handler_of(both.find([b"data", b"1"])) is two


def test_an_entry_that_no_handler_takes_is_found_out() -> None:
    typed = routes(("created", one), ("ünïcode", two))
    assert typed.find([b"data", b"1"]) is None
    assert typed.find([b"data", b"1", b"type", b"\xff"]) is None
    assert handler_of(typed.find([b"type", "ünïcode".encode(), b"data", b"1"])) is two


def test_compile_all_tells_about_every_group_that_is_wrong() -> None:
    def wrong(order: Order, db: Any) -> None: ...

    def also_wrong(order: Unsupported) -> None: ...

    app = App("app")
    app.on("a")(wrong)
    app.on("b")(also_wrong)
    app.on("c")(one)
    app.on("d", broadcast=True)(wrong)
    with pytest.raises(ConfigError) as caught:
        compile_all([*app.groups(), *app.broadcasts()])
    first, second, third = str(caught.value).splitlines()
    assert "stream 'a'" in first
    assert "stream 'b'" in second
    assert "stream 'd'" in third
    assert [routes.group.stream for routes in compile_all(app.groups()[2:])] == ["c"]


def test_a_decoder_of_a_handler_raises_undecodable_body() -> None:
    decode = compiled(one).decode
    assert decode is not None
    with pytest.raises(UndecodableBody):
        decode([b"data", b"x"])
