"""For unit tests of handlers, without Redis: make a message, or deliver a body as a worker would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamworker.app import App
from streamworker.body import encode, size_of
from streamworker.decide import decide, too_old, unrouted
from streamworker.errors import ConfigError, UndecodableBody
from streamworker.handler import Group, Handler
from streamworker.invocation import Invocation, Routes
from streamworker.message import Message, headers_of, published_at
from streamworker.verdicts import ACK, Failure, FailureKind, Outcome

__all__ = ["Outcome", "deliver", "message"]

_CONSUMER: Final = "test-1-00000000.sw"
_GRACE: Final = 5.0  # seconds that a worker waits for a thread after its timeout


def message(body: Any = b"", **attributes: Any) -> Message:
    """A message for calling a handler directly: ``await charge(order, message(order, deliveries=3))``.

    Args:
        body: what was published; only its size is kept.
        attributes: attributes of ``Message`` that matter to the test.

    Raises:
        TypeError: there is no such attribute.
        ConfigError: ``body`` could not be published.
    """
    entry_id = attributes.get("id", f"{time.time_ns() // 1_000_000}-0")
    made = Message(
        id=entry_id,
        stream="stream",
        group="group",
        handler="handler",
        type=None,
        headers={},
        deliveries=1,
        published=published_at(entry_id.encode()),
        consumer=_CONSUMER,
        size=len(encode(body)[1]),
    )
    return msgspec.structs.replace(made, **attributes)


async def deliver(  # noqa: PLR0913  (what may differ between deliveries)
    app: App,
    stream: str,
    body: Any,
    *,
    type: str | None = None,
    headers: Mapping[str, str] | None = None,
    group: str | None = None,
    deliveries: int = 1,
    age: float = 0.0,
    fields: Mapping[str, str | bytes] | None = None,
) -> Outcome:
    """Deliver one entry to the app's handler and return how a worker would settle it.

    The body is encoded, routed by its type, decoded, and the handler runs with its timeout; what it raises
    goes through ``on_failure`` and the rules for retries. Nothing is logged, and ``app.lifespan`` is not
    entered: set ``app.state`` if a handler needs it.

    Args:
        app: the app.
        stream: the stream it was published to.
        body: as for ``App.publish``; ``str`` and ``bytes`` are the raw body, so wrong ones can be tried too.
        type: the entry's type.
        headers: the entry's headers.
        group: the consumer group, if several of the app take the stream; ``""`` for a broadcast.
        deliveries: how many times it was delivered, this one included.
        age: seconds since it was published.
        fields: the raw entry, for one that another program wrote; ``body``, ``type`` and ``headers`` are
            not used then.

    Returns:
        the outcome: its ``kind`` is ``"ack"``, ``"retry"``, ``"dead-letter"`` or ``"drop"``, its ``reason``
        says why, and its ``exception`` is what the handler raised.

    Raises:
        ConfigError: no handler takes the stream, several groups do, or a handler is wrong in itself.
    """
    found = _group_of(app, stream, group)
    flat = encode(body, type=type, headers=headers) if fields is None else _flat(fields)
    invocation = Routes(found).find(flat)
    if invocation is None:
        return unrouted(found, flat)
    handler = invocation.handler
    made = _message_of(handler, flat, deliveries, age)
    if outcome := too_old(handler, age):
        return outcome
    failed = await _run(invocation, flat, made, found.max_body)
    if failed is None:
        return ACK
    kind, exception = failed
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    return await decide(handler, Failure(kind, exception, made, deliveries, age, made.size, pairs))


def _group_of(app: App, stream: str, name: str | None) -> Group:
    found = [one for one in (*app.groups(), *app.broadcasts()) if one.stream == stream]
    if not found:
        streams = sorted({handler.stream for handler in app.handlers})
        raise ConfigError(f"{app!r} has no handler for stream {stream!r}; it has some for {streams}")
    chosen = [one for one in found if name is None or one.name == name]
    if len(chosen) != 1:
        names = ", ".join(f"{one.name!r} ({', '.join(handler.name for handler in one.handlers)})" for one in found)
        raise ConfigError(f"stream {stream!r} is taken by the groups {names}; say which with group=")
    return chosen[0]


def _flat(fields: Mapping[str, str | bytes]) -> list[bytes]:
    return [part.encode() if isinstance(part, str) else part for pair in fields.items() for part in pair]


def _message_of(handler: Handler, fields: list[bytes], deliveries: int, age: float) -> Message:
    published = time.time() - age
    kind = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"type")
    return Message(
        id=f"{int(published * 1000)}-0",
        stream=handler.stream,
        group=handler.group or "",
        handler=handler.name,
        type=None if kind is None else kind.decode(errors="replace"),
        headers=headers_of(fields, handler.body),
        deliveries=deliveries,
        published=published,
        consumer=_CONSUMER,
        size=size_of(fields, handler.body),
    )


async def _run(
    invocation: Invocation, fields: list[bytes], made: Message, max_body: int
) -> tuple[FailureKind, BaseException] | None:
    """Decode and run; how it failed, if it did."""
    handler = invocation.handler
    if made.size > max_body:
        why = f"the body has {made.size} bytes, more than the {max_body} of max_body"
        return "undecodable", UndecodableBody(why)
    try:
        body = None if invocation.decode is None else invocation.decode(fields)
    except UndecodableBody as exc:
        return "undecodable", exc
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    raised: BaseException | None = None
    # A thread cannot be stopped, so its timeout does not end it; a worker settles it as failed and goes on.
    limit = asyncio.timeout(handler.timeout if invocation.is_async else None)
    started = time.monotonic()
    try:
        async with limit:
            await invocation.call(body, made)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as exc:  # the user's handler: SystemExit and a stray cancellation are failures too
        if isinstance(exc, asyncio.CancelledError) and task.cancelling() > cancelled:
            raise  # the test itself is being cancelled
        raised = exc
    ran_over = handler.timeout is not None and time.monotonic() - started > handler.timeout + _GRACE
    if limit.expired() or ran_over:
        return "timeout", TimeoutError(f"ran longer than {handler.timeout:g} s")
    return None if raised is None else ("error", raised)
