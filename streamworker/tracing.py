"""Tracing: OpenTelemetry spans around publishing, handlers, retries and dead letters.

Imported only where tracing is on: elsewhere OpenTelemetry is not loaded, and no message costs anything more.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from streamworker.decide import verdict_of
from streamworker.describe import place_of, printable
from streamworker.identity import version
from streamworker.invocation import Invocation
from streamworker.logs import current
from streamworker.message import Delivery, Message, field
from streamworker.url import Kind, read_url
from streamworker.verdicts import Drop, Outcome

if TYPE_CHECKING:
    from streamworker.broker import Publisher, Written
    from streamworker.handler import Group
    from streamworker.slot import Slot
    from streamworker.state import InHand

Attributes: TypeAlias = dict[str, str | int]

_NOBODYS: Final = Context()  # a worker may have been started inside a span, which is no message's parent
_MOST_NAME: Final = 200  # bytes
_MOST_HEADER: Final = 8192  # bytes; anybody may have written it
_BAGGAGE: Final = "baggage"
_SETTLING: Final = {"retry": "retry", "dead-letter": "dead_letter"}
_STOPPED: Final = {"lost": "lease_lost", "drain": "drained"}


class Tracing:
    """Makes what traces one process.

    Args:
        url: of the server, of which spans tell host and port.
    """

    def __init__(self, url: str) -> None:
        self._tracer = trace.get_tracer("streamworker", version())
        self._common: Attributes = {"messaging.system": "redis", **_place_of_server(url)}

    def publisher(self, publisher: Publisher) -> TracedPublisher:
        """``publisher``, with a span for each call."""
        return TracedPublisher(publisher, self._tracer, self._common)

    def of(self, group: Group, me: str) -> GroupTracing:
        """What traces the consumer ``me`` of ``group``."""
        return GroupTracing(group, me, self._tracer, self._common)


class TracedPublisher:
    """``broker.Publisher`` with a span for each call, whose context goes into the entry as headers.

    A context that the caller has put there stands.
    """

    def __init__(self, publisher: Publisher, tracer: Tracer, common: Attributes) -> None:
        self._publisher = publisher
        self._tracer = tracer
        self._common: Attributes = {
            **common, "messaging.operation.name": "send", "messaging.operation.type": "send",
        }  # fmt: skip

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        with self._sending(stream, headers or {}) as (span, with_context):
            id = await self._publisher.publish(stream, body, type=type, headers=with_context)
            span.set_attribute("messaging.message.id", id)
        return id

    async def publish_many(
        self,
        stream: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        with self._sending(stream, headers or {}) as (span, with_context):
            count = await self._publisher.publish_many(stream, bodies, type=type, headers=with_context)
            span.set_attribute("messaging.batch.message_count", count)
        return count

    @property
    def written(self) -> Written:
        """As the publisher inside counts it."""
        return self._publisher.written

    async def close(self) -> None:
        await self._publisher.close()

    @contextmanager
    def _sending(self, stream: str, headers: Mapping[str, str]) -> Iterator[tuple[Span, Mapping[str, str]]]:
        # What is no name of a stream is refused below; exporters can write only what UTF-8 can.
        name = stream if isinstance(stream, str) and stream.isprintable() else printable(stream, _MOST_NAME)
        attributes: Attributes = {**self._common, "messaging.destination.name": name}
        span = self._tracer.start_span(f"send {name}", kind=SpanKind.PRODUCER, attributes=attributes)
        ours: dict[str, str] = {}
        propagate.inject(ours, trace.set_span_in_context(span))
        if ours.keys() & headers.keys() - {_BAGGAGE}:  # half of one context and half of another would be neither
            ours = {}
        try:
            yield span, {**ours, **headers}
        except BaseException as exc:
            _fail(span, _type_of(exc))
            raise
        finally:
            span.end()


class GroupTracing:
    """The spans of one consumer: of its handlers' runs, and of what becomes of those that failed."""

    def __init__(self, group: Group, me: str, tracer: Tracer, common: Attributes) -> None:
        self._stream = group.stream
        self._tracer = tracer
        self._common: Attributes = {
            **common,
            "messaging.destination.name": group.stream,
            **({"messaging.consumer.group.name": group.name} if group.name else {}),
            "messaging.client.id": me,
        }
        self._process: Attributes = {
            **self._common, "messaging.operation.name": "process", "messaging.operation.type": "process",
        }  # fmt: skip
        self._spans: dict[Delivery, Span] = {}  # of what runs, and of what has failed until that is carried out

    def traced(self, invocation: Invocation, slot_of: Callable[[Delivery], Slot | None]) -> Invocation:
        """``invocation``, with a span around the handler that is current in the handler's own context.

        Args:
            invocation: of the handler.
            slot_of: the slot in which a delivery runs, which knows whether its handler was stopped, and why.
        """
        run, timeout = invocation.call, invocation.handler.timeout

        async def call(body: object, message: Message | None) -> object:
            delivery = cast("InHand", current.get()).delivery
            span = self._begin(delivery)
            began = monotonic()
            try:
                returned = await run(body, message)
            except BaseException as exc:
                self._end(delivery, span, exc, slot_of(delivery))
                raise
            if timeout is not None and monotonic() - began > timeout / 2:  # it may have been stopped, and gone on
                self._end(delivery, span, None, slot_of(delivery))
            else:
                del self._spans[delivery]
                span.end()
            return returned

        return replace(invocation, call=call)

    def settling(self, delivery: Delivery, outcome: Outcome) -> Callable[[bool], object]:
        """A retry or a dead letter is on its way to the server: what to call when it is there.

        It is called with False if it was another's by then. What else becomes of a failure is not traced.
        """
        process = self._spans.pop(delivery, None)
        name = _SETTLING.get(outcome.kind)
        if name is None:
            return bool
        parent = _context_of(delivery) if process is None else trace.set_span_in_context(process, _NOBODYS)
        attributes: Attributes = {
            **self._common, **_about(delivery), "messaging.operation.name": name, "messaging.operation.type": "settle",
        }  # fmt: skip
        if outcome.exception is not None:
            attributes["exception.type"] = _type_of(outcome.exception)
        span = self._tracer.start_span(f"{name} {self._stream}", parent, SpanKind.CLIENT, attributes)

        def over(ours: bool) -> None:
            if not ours:
                _fail(span, _STOPPED["lost"])
            span.end()

        return over

    def _begin(self, delivery: Delivery) -> Span:
        """Runs in the context of the handler, which nobody else has: nothing has to be put back."""
        context = _context_of(delivery)
        created = trace.get_current_span(context).get_span_context()
        span = self._tracer.start_span(
            f"process {self._stream}", context, SpanKind.CONSUMER, {**self._process, **_about(delivery)},
            links=[Link(created)] if created.is_valid else [],
        )  # fmt: skip
        attach(trace.set_span_in_context(span, context))
        self._spans[delivery] = span
        return span

    def _end(self, delivery: Delivery, span: Span, exc: BaseException | None, slot: Slot | None) -> None:
        """The handler has failed, or may have been stopped. As ``Slots._over`` decides about the message."""
        stopped, settled = (slot.stopped_by, slot.settled) if slot is not None else ("", False)
        given_up = stopped in _STOPPED and exc is not None
        if given_up:
            _fail(span, _STOPPED[stopped])
        elif stopped == "timeout" or settled:
            _fail(span, "timeout", "TimeoutError", exc)
        elif exc is not None:
            verdict = verdict_of(exc)
            if verdict is None:
                _fail(span, _type_of(exc), _type_of(exc), exc)
            elif not isinstance(verdict, Drop):
                _fail(span, type(verdict).__name__)
        failed = stopped == "timeout" or exc is not None
        if given_up or settled or not failed:  # else the retry or dead letter that follows is the span's child
            self._spans.pop(delivery, None)
        span.end()


class _Fields(Getter[list[bytes]]):
    """How propagators read an entry's flat fields."""

    def get(self, carrier: list[bytes], key: str) -> list[str] | None:
        value = field(carrier, key.encode())
        return None if value is None or len(value) > _MOST_HEADER else [value.decode(errors="replace")]

    def keys(self, carrier: list[bytes]) -> list[str]:
        return [name.decode(errors="replace") for name in carrier[::2]]


_fields: Final = _Fields()


def _context_of(delivery: Delivery) -> Context:
    """The context in which the entry was published."""
    if len(delivery.fields) == 2:  # a body and nothing else
        return _NOBODYS
    return propagate.extract(delivery.fields, _NOBODYS, _fields)


def _about(delivery: Delivery) -> Attributes:
    return {
        "messaging.message.id": delivery.origin.decode(errors="replace"),
        "messaging.redis.message.delivery_count": delivery.deliveries,
    }


def _fail(span: Span, error: str, exception: str = "", raised: BaseException | None = None) -> None:
    """The text of an exception may quote the payload, so a span has its class, and the place where it was raised."""
    span.set_attribute("error.type", error)
    at = place_of(raised)
    span.set_status(Status(StatusCode.ERROR, f"{error} at {at}" if at else error))
    if exception:
        span.add_event("exception", {"exception.type": exception, "exception.stacktrace": at})


def _type_of(exc: BaseException) -> str:
    kind = type(exc)
    return printable(
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}", _MOST_NAME
    )


def _place_of_server(url: str) -> Attributes:
    """Of a single server; behind sentinels and in a cluster it changes."""
    if read_url(url).kind is not Kind.SERVER:
        return {}
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return {"server.address": parts.path}
    return {"server.address": parts.hostname or "localhost", "server.port": parts.port or 6379}
