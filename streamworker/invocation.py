"""Invocations: what handlers become when a worker starts, with types resolved, decoders compiled and calls planned.

A type may be defined below its handler, so none of this can happen at registration.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from streamworker.body import Decode, decoder
from streamworker.errors import ConfigError
from streamworker.handler import Group, Handler, is_async
from streamworker.message import Message, field
from streamworker.signature import Plan, innermost, read_signature

Call: TypeAlias = Callable[[object, Message | None], Coroutine[Any, Any, object]]
_Ended: TypeAlias = tuple[object, BaseException | None]


@dataclass(frozen=True, slots=True)
class Invocation:
    """A handler, ready to be called.

    Attributes:
        handler: the handler.
        decode: makes the body of an entry's flat fields; None if the handler takes no body.
        call: called with the body and the message; what the handler does not take is ignored. In a thread it
            waits for the thread's end whatever cancels it, and then gives what the thread gave.
        wants_message: whether a message has to be made for it.
        is_async: False if it runs in a thread.
    """

    handler: Handler
    decode: Decode | None
    call: Call
    wants_message: bool
    is_async: bool


class Routes:
    """Which handler of a group takes an entry.

    Attributes:
        group: the group.
        invocations: of all its handlers.
        for_all: the one that takes every entry; None where it depends.

    Raises:
        ConfigError: a handler cannot be compiled.
    """

    __slots__ = ("_by_type", "_default", "for_all", "group", "invocations")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.invocations = tuple(compile(handler) for handler in group.handlers)
        self._by_type = {one.handler.type.encode(): one for one in self.invocations if one.handler.type is not None}
        self._default = next((one for one in self.invocations if one.handler.type is None), None)
        self.for_all = None if self._by_type else self._default

    def find(self, fields: list[bytes]) -> Invocation | None:
        """The invocation that takes an entry with these flat fields; None if the entry is unrouted."""
        kind = field(fields, b"type")
        return self._default if kind is None else self._by_type.get(kind, self._default)


def compile_all(groups: Iterable[Group]) -> list[Routes]:
    """Compile the handlers of all groups.

    Raises:
        ConfigError: with a line for the first wrong handler of each group that has one.
    """
    compiled, wrong = [], []
    for group in groups:
        try:
            compiled.append(Routes(group))
        except ConfigError as exc:
            wrong.append(str(exc))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return compiled


def compile(handler: Handler) -> Invocation:
    """Read a handler's signature, compile its decoder and plan its call.

    Raises:
        ConfigError: the signature does not fit, an annotation cannot be resolved, or bodies cannot be
            decoded to it. The text names the handler and what to change.
    """
    asked = read_signature(handler)
    decode = None
    if asked.body is not None:
        try:
            decode = decoder(asked.annotation, handler.body)
        except ConfigError as exc:
            raise ConfigError(f"{handler}: parameter {asked.body!r}: {exc}") from exc
    call: Call
    if is_async(handler.function):
        call, in_loop = asked.plan, True
    elif inspect.iscoroutinefunction(innermost(handler.function)):
        call, in_loop = _awaiting(asked.plan), True  # a plain wrapper around an async function hands its coroutine on
    else:
        call, in_loop = _in_thread(handler, asked.plan), False
    return Invocation(handler, decode, call, asked.message, in_loop)


def _awaiting(plan: Plan) -> Call:
    async def call(body: object, message: Message | None) -> object:
        returned = plan(body, message)
        return await returned if inspect.isawaitable(returned) else returned

    return call


def _in_thread(handler: Handler, plan: Plan) -> Call:
    limiter: anyio.CapacityLimiter | None = None

    # What the function raises travels as a value: a future cannot hold StopIteration, and a task that ends
    # with SystemExit ends the event loop.
    def run(body: object, message: Message | None) -> _Ended:
        try:
            return plan(body, message), None
        except BaseException as exc:  # noqa: BLE001
            return None, exc

    async def call(body: object, message: Message | None) -> object:
        nonlocal limiter
        if limiter is None:
            limiter = anyio.CapacityLimiter(handler.concurrency)  # belongs to the loop that runs now
        thread = asyncio.ensure_future(anyio.to_thread.run_sync(run, body, message, limiter=limiter))
        returned, raised = await _outlast(thread)
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # its traceback holds this frame
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()  # or Python warns that it was never awaited
            raise TypeError(
                f"{handler} is a plain function and returned a {type(returned).__name__}, "
                "which nobody awaits in a thread; make it 'async def'"
            )
        return returned

    return call


async def _outlast(thread: asyncio.Future[_Ended]) -> _Ended:
    """Wait for a thread whatever the cancellations: it cannot be stopped, and its slot is not free before."""
    with anyio.CancelScope(shield=True):  # a cancelled scope around us would cancel us again and again
        while not thread.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(thread)
    return thread.result()
