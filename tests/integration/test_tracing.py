"""Tracing: which spans there are, how they hang together, and what must never be in them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from redis.asyncio import Redis

from streamworker import App, Backoff, ConfigError, Drop, Message, PublishError, Reject, Retry
from streamworker.launch import RunOptions, run_worker
from streamworker.tracing import GroupTracing, Tracing
from tests.conftest import ProgramOf, ServerOf
from tests.running import Watched, events, working
from tests.waiting import wait_until

SOON = Backoff(first=0.01, factor=1, jitter=0)
CANARY = "SW-CANARY-4111111111111111"
# Somebody else's trace: of a span in another program, which was sampled.
FOREIGN_TRACE, FOREIGN_SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
FOREIGN = f"00-{FOREIGN_TRACE:032x}-{FOREIGN_SPAN:016x}-01"


class Spans:
    """The spans that have ended, and the attributes that each had when it began."""

    def __init__(self) -> None:
        self.at_creation: list[tuple[str, Mapping[str, Any]]] = []
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=_Noting(self.at_creation), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the user's")

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """In the order in which they ended."""
        return [span for span in self.all if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found


class _Noting(Sampler):
    def __init__(self, noted: list[tuple[str, Mapping[str, Any]]]) -> None:
        self._noted = noted

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
        links: Sequence[Link] | None = None, trace_state: Any = None,
    ) -> SamplingResult:  # fmt: skip
        self._noted.append((name, dict(attributes or {})))
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "notes what it is asked"


@pytest.fixture
def server_kind() -> str:
    """One server will do: what is traced happens in the worker."""
    return "valkey-9.1"


@pytest.fixture
def group(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, "app")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Tracing is on, as in a program that has set a provider; it cannot be set twice in a process."""
    made = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    yield made
    made.provider.shutdown()


def context_of(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == (
        context_of(parent).trace_id, context_of(parent).span_id,
    )  # fmt: skip


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def endings(found: list[ReadableSpan]) -> list[tuple[StatusCode, Any]]:
    return [(span.status.status_code, attributes(span).get("error.type")) for span in found]


# --- one trace


async def test_publishing_and_handling_are_one_trace_with_the_users_spans_in_it(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    headers: list[dict[str, str]] = []

    @app.on(stream)
    async def handle(body: bytes, message: Message) -> None:
        headers.append(message.headers)
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("charge"):
            await asyncio.sleep(0)

    async with working(app, url=redis_url):
        with spans.tracer.start_as_current_span("request"):
            id = await app.publish(stream, b"x", headers={"tenant": "acme"})
        await group.rests()
    request, send, process, charge = (
        spans.only(name) for name in ("request", f"send {stream}", f"process {stream}", "charge")
    )
    assert is_child(send, request)
    assert is_child(process, send)
    assert is_child(charge, process)
    assert [link.context.span_id for link in process.links] == [context_of(send).span_id]
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert headers[0]["tenant"] == "acme"
    server = {
        "messaging.system": "redis",
        "messaging.destination.name": stream,
        "server.address": "127.0.0.1",
        "server.port": urlsplit(redis_url).port,
    }
    assert attributes(send) == {
        **server, "messaging.operation.name": "send", "messaging.operation.type": "send", "messaging.message.id": id,
    }  # fmt: skip
    handled = attributes(process)
    assert handled.pop("messaging.client.id").endswith(".sw")
    assert handled == {
        **server,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "app",
        "messaging.message.id": id,
        "messaging.redis.message.delivery_count": 1,
    }
    assert endings([send, process]) == [(StatusCode.UNSET, None)] * 2
    assert len(spans.all) == 4  # acks have none


async def test_a_sampler_sees_all_that_is_known_when_a_span_begins(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert spans.at_creation == [(f"process {stream}", attributes(spans.only(f"process {stream}")))]


async def test_what_a_handler_publishes_belongs_to_its_trace(spans: Spans, redis_url: str, stream: str) -> None:
    app = App("app")
    seen: list[object] = []

    @app.on(stream)
    async def first(body: bytes) -> None:
        await app.publish(f"{stream}:next", b"y")

    @app.on(f"{stream}:next")
    async def second(body: bytes) -> None:
        seen.append(body)

    async with working(app, url=redis_url):
        await app.publish(stream, b"x")
        await wait_until(lambda: seen)
    assert is_child(spans.only(f"send {stream}:next"), spans.only(f"process {stream}"))
    assert is_child(spans.only(f"process {stream}:next"), spans.only(f"send {stream}:next"))


async def test_a_handler_in_a_thread_has_its_span_too(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream)
    def handle(body: bytes) -> None:
        with spans.tracer.start_as_current_span("charge"):
            pass

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    assert is_child(spans.only("charge"), spans.only(f"process {stream}"))


async def test_messages_that_run_side_by_side_do_not_see_each_others_spans(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    inside: list[bytes] = []
    all_inside = asyncio.Event()

    @app.on(stream, concurrency=3)
    async def handle(body: bytes) -> None:
        inside.append(body)
        if len(inside) == 3:
            all_inside.set()
        await all_inside.wait()
        with spans.tracer.start_as_current_span("charge"):
            pass

    async with working(app, url=redis_url):
        for body in (b"1", b"2", b"3"):
            await app.publish(stream, body)
        await group.rests()
    parents = {span.parent.span_id for span in spans.named("charge") if span.parent is not None}
    assert parents == {context_of(span).span_id for span in spans.named(f"process {stream}")}
    assert len({context_of(span).trace_id for span in spans.named("charge")}) == 3


async def test_a_batch_has_one_span_and_its_messages_follow_it(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    async with working(app, url=redis_url):
        await app.publish_many(stream, (b"%d" % number for number in range(700)))
        await group.rests()
    send = spans.only(f"send {stream}")
    assert attributes(send)["messaging.batch.message_count"] == 700
    processed = spans.named(f"process {stream}")
    assert len(processed) == 700
    assert all(is_child(span, send) for span in processed)


async def test_an_entry_without_a_context_begins_a_trace_of_its_own(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    await group.add("data", "x")
    await group.add("data", "y", "traceparent", "00-nonsense", "tracestate", "\x00" * 20_000, "baggage", b"\xff=\xff")
    with spans.tracer.start_as_current_span("program"):  # in which the worker is started
        async with working(app, url=redis_url):
            await group.rests()
    processed = spans.named(f"process {stream}")
    assert [span.parent for span in processed] == [None, None]
    assert [list(span.links) for span in processed] == [[], []]
    assert len({context_of(span).trace_id for span in spans.all}) == 3


async def test_a_context_that_the_caller_has_put_into_the_headers_stands(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")
    headers: list[dict[str, str]] = []

    @app.on(stream)
    async def handle(message: Message) -> None:
        headers.append(message.headers)

    async with working(app, url=redis_url):
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await app.publish(stream, b"x", headers={"traceparent": FOREIGN})
        await app.publish_many(stream, [b"y"], headers={"traceparent": FOREIGN})
        await app.publish(stream, b"z", headers={"baggage": "tenant=other"})
        context.detach(token)
        await group.rests()
    assert headers[:2] == [{"traceparent": FOREIGN}] * 2
    assert headers[2]["baggage"] == "tenant=other"
    assert "traceparent" in headers[2]
    first, second, third = spans.named(f"process {stream}")
    for span in (first, second):
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (FOREIGN_TRACE, FOREIGN_SPAN)
    assert is_child(third, spans.named(f"send {stream}")[2])


async def test_baggage_reaches_the_handler(spans: Spans, redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    seen: list[object] = []

    @app.on(stream)
    async def handle(body: bytes) -> None:
        seen.append(baggage.get_baggage("tenant"))

    async with working(app, url=redis_url):
        token = context.attach(baggage.set_baggage("tenant", "späte & Reue"))
        await app.publish(stream, b"x")
        context.detach(token)
        await app.publish(stream, b"y")
        await group.rests()
    assert seen == ["späte & Reue", None]


async def test_a_broadcast_is_traced_without_a_group(spans: Spans, redis_url: str, stream: str) -> None:
    app = App("app")
    seen: list[bytes] = []

    @app.on(stream, broadcast=True, start="beginning")
    async def handle(body: bytes) -> None:
        seen.append(body)
        if body == b"bad":
            raise ValueError

    async with working(app, url=redis_url):
        await app.publish(stream, b"good")
        await app.publish(stream, b"bad")
        await wait_until(lambda: len(seen) == 2)
    processed = spans.named(f"process {stream}")
    assert endings(processed) == [(StatusCode.UNSET, None), (StatusCode.ERROR, "ValueError")]
    assert all("messaging.consumer.group.name" not in attributes(span) for span in processed)
    assert is_child(processed[0], spans.named(f"send {stream}")[0])


async def test_publishing_inside_async_with_is_traced(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    async with app:
        await app.publish(stream, b"x")
    send = spans.only(f"send {stream}")
    ((_, fields),) = await group.do("XRANGE", stream, "-", "+")
    assert fields[:2] == [b"data", b"x"]
    sent = context_of(send)
    assert fields[-2] == b"traceparent"
    assert fields[-1].startswith(f"00-{sent.trace_id:032x}-{sent.span_id:016x}-".encode())


# --- failures


async def test_retries_and_the_dead_letter_are_spans_below_the_run_that_failed(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream, max_deliveries=3, retry=SOON)
    async def handle(body: bytes) -> None:
        await asyncio.sleep(0)
        raise KeyError(body)

    async with working(app, url=redis_url):
        id = await app.publish(stream, b"x")
        await group.rests()
    send = spans.only(f"send {stream}")
    runs = spans.named(f"process {stream}")
    assert endings(runs) == [(StatusCode.ERROR, "KeyError")] * 3
    assert all(is_child(run, send) for run in runs)
    assert [[link.context.span_id for link in run.links] for run in runs] == [[context_of(send).span_id]] * 3
    assert [attributes(run)["messaging.redis.message.delivery_count"] for run in runs] == [1, 2, 3]
    settled = [*spans.named(f"retry {stream}"), spans.only(f"dead_letter {stream}")]
    assert [is_child(span, run) for span, run in zip(settled, runs, strict=True)] == [True] * 3
    assert [span.kind for span in settled] == [SpanKind.CLIENT] * 3
    told = [attributes(span) for span in settled]
    assert [one["messaging.operation.name"] for one in told] == ["retry", "retry", "dead_letter"]
    assert {one["messaging.operation.type"] for one in told} == {"settle"}
    assert {one["messaging.message.id"] for one in told} == {id}
    assert {one["exception.type"] for one in told} == {"KeyError"}
    assert endings(settled) == [(StatusCode.UNSET, None)] * 3


class Refused(Exception):
    pass


async def test_an_exception_is_told_once_by_its_class_and_its_place_and_nothing_of_a_body_is_in_any_span(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream, max_deliveries=2, retry=SOON)
    async def handle(body: dict[str, int], message: Message) -> None:
        local = CANARY
        try:
            raise ValueError(f"inner {local}")
        except ValueError as error:
            error.add_note(CANARY)
            raise Refused(f"cannot charge {body} {message.headers}", CANARY) from error

    async with working(app, url=redis_url):
        await app.publish(stream, {CANARY: 1}, headers={"card": CANARY})
        await app.publish(stream, f'{{"{CANARY}": no JSON')
        await app.publish(stream, {CANARY: 2}, type=CANARY)
        with pytest.raises(ConfigError):
            await app.publish(stream, {CANARY: object()}, headers={"card": CANARY})
        await group.rests()
    runs = spans.named(f"process {stream}")
    assert len(runs) == 4
    for run in runs:
        (event,) = run.events
        assert event.name == "exception"
        told = dict(event.attributes or {})
        assert told.pop("exception.type") == f"{__name__}.Refused"
        assert str(told.pop("exception.stacktrace")).endswith(" in handle")
        assert told == {}
        assert attributes(run)["error.type"] == f"{__name__}.Refused"
    for span in spans.all:
        assert CANARY not in span.to_json()
    assert len(spans.named(f"dead_letter {stream}")) == 3
    assert endings(spans.named(f"send {stream}"))[-1] == (StatusCode.ERROR, "streamworker.errors.ConfigError")


async def test_a_body_that_does_not_decode_has_no_run_so_its_dead_letter_follows_the_publishing(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: dict[str, int]) -> None: ...

    async with working(app, url=redis_url):
        await app.publish(stream, "no JSON")
        await group.rests()
    letter = spans.only(f"dead_letter {stream}")
    assert is_child(letter, spans.only(f"send {stream}"))
    assert attributes(letter)["exception.type"] == "streamworker.errors.UndecodableBody"
    assert spans.named(f"process {stream}") == []


@pytest.mark.parametrize(
    ("raised", "ending", "settled"),
    [
        (Drop("old"), (StatusCode.UNSET, None), []),
        (Reject("no such customer"), (StatusCode.ERROR, "Reject"), ["dead_letter"]),
        (Retry(after=0), (StatusCode.ERROR, "Retry"), ["retry", "dead_letter"]),
    ],
    ids=["Drop", "Reject", "Retry"],
)
async def test_a_verdict_is_told_as_what_it_is(
    raised: Exception, ending: tuple[StatusCode, Any], settled: list[str],
    spans: Spans, redis_url: str, stream: str, group: Watched,
) -> None:  # fmt: skip
    app = App("app")

    @app.on(stream, max_deliveries=2, retry=SOON)
    async def handle(body: bytes) -> None:
        raise raised

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await group.rests()
    runs = spans.named(f"process {stream}")
    assert endings(runs) == [ending] * max(1, len(settled))
    assert [list(run.events) for run in runs] == [[]] * len(runs)
    assert [span.name for span in spans.all if span not in runs] == [f"{name} {stream}" for name in settled]


async def test_a_run_that_is_stopped_by_its_timeout_says_so(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream, max_deliveries=1, timeout=0.1)
    async def handle(body: bytes) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if body == b"raises":
                raise

    await group.add("data", "raises")
    await group.add("data", "returns")
    async with working(app, url=redis_url):
        await group.rests()
    runs = spans.named(f"process {stream}")
    assert endings(runs) == [(StatusCode.ERROR, "timeout")] * 2
    letters = spans.named(f"dead_letter {stream}")
    assert sorted(context_of(run).span_id for run in runs) == sorted(
        letter.parent.span_id for letter in letters if letter.parent is not None
    )


async def test_a_run_that_does_not_end_is_told_when_it_does(
    spans: Spans, redis_url: str, stream: str, group: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamworker.sweeper._GRACE", 0.05)
    app, seen = App("app"), threading.Event()

    @app.on(stream, max_deliveries=1, timeout=0.05)
    def handle(body: bytes) -> None:
        seen.wait(30)

    await group.add("data", "x")
    async with working(app, url=redis_url):
        await wait_until(lambda: spans.named(f"dead_letter {stream}"))
        assert spans.named(f"process {stream}") == []
        seen.set()
        await wait_until(lambda: spans.named(f"process {stream}"))
    run = spans.only(f"process {stream}")
    assert endings([run]) == [(StatusCode.ERROR, "timeout")]
    assert is_child(spans.only(f"dead_letter {stream}"), run)


async def test_a_run_that_the_drain_cancels_says_so(spans: Spans, redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")
    started = asyncio.Event()

    @app.on(stream)
    async def handle(body: bytes) -> None:
        started.set()
        await asyncio.sleep(30)

    await group.add("data", "x")
    async with working(app, url=redis_url, shutdown_timeout=0.1, drains=False):
        await started.wait()
    assert endings(list(spans.all)) == [(StatusCode.ERROR, "drained")]


@pytest.mark.parametrize("waits", [False, True], ids=["before its retry", "while it runs"])
async def test_a_message_that_another_worker_has_taken_says_so(
    waits: bool, spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app")

    @app.on(stream, lease=0.5)
    async def handle(message: Message) -> None:
        await group.do("XCLAIM", stream, "app", "another", 0, message.id)
        await asyncio.sleep(30 if waits else 0)
        raise ValueError

    await group.add("data", "x")
    name = f"process {stream}" if waits else f"retry {stream}"
    async with working(app, url=redis_url):
        await wait_until(lambda: spans.named(name))
    assert endings(spans.named(name)) == [(StatusCode.ERROR, "lease_lost")]
    assert len(spans.all) == (1 if waits else 2)


async def test_no_span_is_kept_when_its_message_is_settled(
    spans: Spans, redis_url: str, stream: str, group: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[GroupTracing] = []
    of = Tracing.of

    def noting(*args: Any) -> GroupTracing:
        made.append(of(*args))
        return made[-1]

    monkeypatch.setattr(Tracing, "of", noting)
    app = App("app")
    held: list[int] = []

    @app.on(stream, max_deliveries=2, retry=SOON, timeout=0.1)
    async def handle(body: bytes) -> None:
        held.append(len(made[0]._spans))
        if body == b"drop":
            raise Drop
        if body == b"fail":
            raise ValueError
        await asyncio.sleep(30 if body == b"hang" else 0)

    for body in ("work", "drop", "fail", "hang"):
        await group.add("data", body)
    async with working(app, url=redis_url):
        await group.rests()
    assert min(held) > 0
    assert made[0]._spans == {}


async def test_a_publish_that_fails_is_told_by_its_class(
    spans: Spans, redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    await group.do("SET", stream, "no stream")
    async with app:
        with pytest.raises(PublishError):
            await app.publish(stream, CANARY)
        with pytest.raises(ConfigError):
            await app.publish("\ud800", CANARY)
    failed = spans.only(f"send {stream}")
    assert endings([failed]) == [(StatusCode.ERROR, "streamworker.errors.PublishError")]
    assert failed.status.description == "streamworker.errors.PublishError"
    assert spans.named("send \\ud800")


# --- off


async def test_a_worker_at_rest_makes_no_spans(spans: Spans, redis_url: str, stream: str, group: Watched) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    @app.on(stream, broadcast=True)
    async def all_of_it(body: bytes) -> None: ...

    async with working(app, url=redis_url):
        before = int((await _statistics(group))[b"total_commands_processed"])

        async def has_polled() -> bool:
            return int((await _statistics(group))[b"total_commands_processed"]) > before + 100

        await wait_until(has_polled)
    assert spans.all == ()


async def _statistics(group: Watched) -> dict[bytes, bytes]:
    lines = (await group.do("INFO", "stats")).split(b"\r\n")
    return dict(line.split(b":", 1) for line in lines if b":" in line)


async def test_without_a_provider_nothing_is_traced_and_entries_hold_no_context(
    redis_url: str, stream: str, group: Watched
) -> None:
    app = App("app", url=redis_url)
    valid: list[bool] = []

    @app.on(stream)
    async def handle(body: bytes) -> None:
        valid.append(trace.get_current_span().get_span_context().is_valid)

    await group.add("data", "x", "traceparent", FOREIGN)
    async with working(app, url=redis_url), app:
        await app.publish(stream, b"y")
        await group.rests()
    assert valid == [False, False]
    assert (await group.do("XRANGE", stream, "-", "+"))[1][1] == [
        b"data", b"y", b"content-type", b"application/octet-stream",
    ]  # fmt: skip


async def test_tracing_that_nobody_exports_is_told(
    redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    options = RunOptions(burst=True, tracing=True)
    assert await run_worker([app], redis_url, options, asyncio.Event(), lambda: None)
    assert len(events(caplog, "tracing.no_provider")) == 1


async def test_tracing_without_opentelemetry_says_what_to_install(
    redis_url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "streamworker.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    app = App("app")

    @app.on(stream)
    async def handle(body: bytes) -> None: ...

    with pytest.raises(ConfigError, match=r"pip install 'streamworker\[otel\]'"):
        await run_worker([app], redis_url, RunOptions(tracing=True), asyncio.Event(), lambda: None)


APP = """
import sys
from contextlib import asynccontextmanager
from streamworker import App

app = App("app")

@app.on("{stream}", max_deliveries=1)
async def handle(body: str) -> None:
    await app.publish("{stream}:next", body)
    if body == "bad":
        raise ValueError

@app.lifespan
@asynccontextmanager
async def around():
    yield
    journal(*sorted(name for name in sys.modules if "opentelemetry" in name or name == "streamworker.tracing"))
"""

PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

provider = TracerProvider()
exporter = ConsoleSpanExporter(out=open("spans", "w"), formatter=lambda span: span.name + "\\n")
provider.add_span_processor(BatchSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


# What the driver imports by itself, where it finds OpenTelemetry.
DRIVER = "import sys, redis.asyncio; print(*sorted(name for name in sys.modules if 'opentelemetry' in name))"


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "not installed"])
async def test_where_tracing_is_off_nothing_of_opentelemetry_is_even_imported(
    installed: bool, program: ProgramOf, shared_server: ServerOf, server_kind: str, stream: str, group: Watched
) -> None:
    expected: list[str] = []
    if installed:
        driver = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, check=True)
        expected = driver.stdout.split()
    for body in ("good", "bad"):
        await group.add("data", body)
    source = "" if installed else 'import sys\nsys.modules["opentelemetry"] = None\n'
    running = program(source + APP.format(stream=stream), "--burst", url=shared_server(server_kind).url)
    assert await running.ended() == 0
    (imported,) = running.journal
    assert [name for name in imported.words if installed or name != "opentelemetry"] == expected
    assert await group.do("XLEN", f"{stream}:next") == 2
    assert len(await group.letters()) == 1


async def test_a_provider_may_come_from_the_lifespan_where_tracing_is_asked_for(
    tmp_path: Path, program: ProgramOf, shared_server: ServerOf, server_kind: str, stream: str, group: Watched
) -> None:
    await group.add("data", "good")
    source = APP.format(stream=stream).replace("    yield", indent(PROVIDER, "    ") + "    yield")
    running = program(source, "--burst", "--tracing", url=shared_server(server_kind).url)
    assert await running.ended() == 0
    assert (tmp_path / "spans").read_text().splitlines() == [f"send {stream}:next", f"process {stream}"]
    assert "tracing.no_provider" not in running.log


@pytest.mark.parametrize(
    ("words", "traced"), [((), True), (("--tracing",), True), (("--no-tracing",), False)],
    ids=["by default", "--tracing", "--no-tracing"],
)  # fmt: skip
async def test_an_app_that_sets_a_provider_is_traced_to_the_last_span_unless_told_otherwise(
    words: tuple[str, ...], traced: bool, tmp_path: Path,
    program: ProgramOf, shared_server: ServerOf, server_kind: str, stream: str, group: Watched,
) -> None:  # fmt: skip
    await group.add("data", "good")
    url = shared_server(server_kind).url
    running = program(PROVIDER + APP.format(stream=stream), "--burst", *words, url=url)
    assert await running.ended() == 0
    found = (tmp_path / "spans").read_text().splitlines()
    assert found == ([f"send {stream}:next", f"process {stream}"] if traced else [])
