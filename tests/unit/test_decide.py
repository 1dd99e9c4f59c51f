"""What becomes of a failed delivery, and how it is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker import App, Backoff, Drop, Failure, Reject, Retry, UndecodableBody
from streamworker.decide import decide, too_old, unrouted, verdict_of
from streamworker.handler import Handler
from streamworker.testing import message
from streamworker.verdicts import FailureKind, Outcome

pytestmark = pytest.mark.anyio

CANARY = "SW-CANARY-4111"


def handler(**options: Any) -> Handler:
    async def handle(body: bytes) -> None: ...

    app = App("app")
    if not options.get("broadcast"):
        options.setdefault("retry", Backoff(jitter=0))
    app.on("orders", **options)(handle)
    return app.handlers[0]


async def decided(
    exception: BaseException, *, kind: FailureKind = "error", deliveries: int = 1, **options: Any
) -> Outcome:
    made = message(CANARY, deliveries=deliveries)
    failure = Failure(kind, exception, made, deliveries, 1.0, made.size, ((b"data", CANARY.encode()),))
    outcome = await decide(handler(**options), failure)
    assert outcome.exception is exception
    return outcome


def told(outcome: Outcome) -> tuple[str, str]:
    return outcome.kind, outcome.reason


# --- the default


async def test_a_failure_is_retried_after_the_backoff() -> None:
    pauses = []
    for deliveries in range(1, 5):
        outcome = await decided(ValueError(), deliveries=deliveries)
        assert told(outcome) == ("retry", f"ValueError in delivery {deliveries} of 5")
        assert outcome.counted
        pauses.append(outcome.delay)
    assert pauses == [2, 10, 50, 250]


@pytest.mark.parametrize("deliveries", [5, 6, 1000])
async def test_after_max_deliveries_it_is_dead_lettered_without_the_text_of_the_error(deliveries: int) -> None:
    outcome = await decided(ValueError(CANARY), deliveries=deliveries)
    assert told(outcome) == ("dead-letter", f"ValueError after {deliveries} deliveries")


async def test_one_delivery_is_told_in_the_singular() -> None:
    assert (await decided(ValueError(), max_deliveries=1)).reason == "ValueError after 1 delivery"


@pytest.mark.parametrize(
    "exception", [SystemExit(1), asyncio.CancelledError(), BaseExceptionGroup("g", [SystemExit()])]
)
async def test_what_is_no_exception_is_a_failure_too(exception: BaseException) -> None:
    outcome = await decided(exception, max_deliveries=1)
    assert told(outcome) == ("dead-letter", f"{type(exception).__name__} after 1 delivery")


async def test_a_timeout_is_told_with_its_length() -> None:
    first = await decided(TimeoutError(), kind="timeout", timeout=30)
    assert told(first) == ("retry", "timeout of 30 s in delivery 1 of 5")
    last = await decided(TimeoutError(), kind="timeout", timeout=0.5, deliveries=5)
    assert told(last) == ("dead-letter", "timeout of 0.5 s after 5 deliveries")


async def test_a_timeout_of_the_handlers_own_is_an_error() -> None:
    assert (await decided(TimeoutError(), deliveries=5)).reason == "TimeoutError after 5 deliveries"


async def test_an_undecodable_body_is_dead_lettered_at_once() -> None:
    outcome = await decided(UndecodableBody("the body is empty"), kind="undecodable")
    assert told(outcome) == ("dead-letter", "undecodable: the body is empty")


async def test_without_a_dead_letter_it_is_dropped_with_the_same_reason() -> None:
    assert told(await decided(ValueError(), deliveries=5, dead_letter=False)) == (
        "drop",
        "ValueError after 5 deliveries",
    )
    assert told(await decided(Reject("no"), dead_letter=False)) == ("drop", "no")
    undecodable = await decided(UndecodableBody("x"), kind="undecodable", dead_letter=False)
    assert told(undecodable) == ("drop", "undecodable: x")


@pytest.mark.parametrize("options", [{"ack": "before"}, {"broadcast": True}])
async def test_what_is_delivered_at_most_once_is_dropped_whatever_happens(options: dict[str, Any]) -> None:
    assert told(await decided(ValueError(), **options)) == ("drop", "ValueError, and it is delivered at most once")
    assert told(await decided(Retry(), **options)) == ("drop", "Retry, and it is delivered at most once")
    assert told(await decided(Reject("no"), **options)) == ("drop", "no")
    assert told(await decided(UndecodableBody("x"), kind="undecodable", **options)) == ("drop", "undecodable: x")


# --- verdicts


async def test_the_reason_of_a_verdict_is_the_users_own() -> None:
    assert told(await decided(Reject("cancelled"))) == ("dead-letter", "cancelled")
    assert told(await decided(Drop("bereits erledigt … doppelt"))) == ("drop", "bereits erledigt … doppelt")


async def test_a_reason_that_could_fool_a_terminal_or_fill_a_disk_is_tamed() -> None:
    outcome = await decided(Reject("\x1b[2J\n\ud800" + "x" * 10_000_000))
    assert outcome.reason.startswith("\\x1b[2J\\n\\ud800x")
    assert len(outcome.reason.encode()) <= 1000
    assert (await decided(Drop(404))).reason == "404"  # type: ignore[arg-type]


async def test_retry_waits_as_long_as_it_says_and_otherwise_for_the_backoff() -> None:
    assert (await decided(Retry(after=7.5), deliveries=2)).delay == 7.5
    assert (await decided(Retry(after=0), deliveries=2)).delay == 0
    outcome = await decided(Retry(), deliveries=2)
    assert (outcome.delay, outcome.counted, outcome.reason) == (10, True, "Retry in delivery 2 of 5")


async def test_a_counted_retry_ends_at_max_deliveries_and_an_uncounted_one_never_does() -> None:
    assert told(await decided(Retry(after=1), deliveries=5)) == ("dead-letter", "Retry after 5 deliveries")
    outcome = await decided(Retry(after=1, counted=False), deliveries=5)
    assert (outcome.kind, outcome.delay, outcome.counted) == ("retry", 1, False)
    assert (await decided(Retry(counted=False), deliveries=1000, retry=Backoff(factor=1e300, jitter=0))).delay == 3600


def _group(*exceptions: BaseException) -> BaseException:
    return BaseExceptionGroup("group", exceptions)


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (_group(Drop("x")), "drop"),
        (_group(_group(_group(Reject("x")))), "dead-letter"),
        (_group(ValueError(), _group(KeyError(), Drop("x"))), "drop"),
        (_group(asyncio.CancelledError(), Drop("x")), "drop"),
        (_group(Drop("x"), Reject("y")), "retry"),
        (_group(Drop("x"), _group(Drop("x"))), "retry"),
        (_group(ValueError()), "retry"),
    ],
)
async def test_a_group_that_holds_one_verdict_is_that_verdict(exception: BaseException, kind: str) -> None:
    assert (await decided(exception)).kind == kind


async def test_a_verdict_in_a_group_that_is_thousands_deep_is_found() -> None:
    exception: BaseException = Drop("x")
    for _ in range(5000):
        exception = _group(exception)
    assert isinstance(verdict_of(exception), Drop)
    while isinstance(exception, BaseExceptionGroup):  # or freeing it would recurse too deep
        exception = exception.exceptions[0]


# --- on_failure


async def test_on_failure_sees_the_failure_and_decides() -> None:
    seen = []

    def on_failure(failure: Failure) -> Drop:
        seen.append(failure)
        return Drop("known")

    error = ValueError("x")
    assert told(await decided(error, deliveries=3, on_failure=on_failure)) == ("drop", "known")
    (failure,) = seen
    assert (failure.kind, failure.exception, failure.deliveries) == ("error", error, 3)
    assert failure.fields == ((b"data", CANARY.encode()),)


@pytest.mark.parametrize("kind", ["error", "timeout", "undecodable"])
async def test_on_failure_may_be_async_and_is_asked_about_every_kind(kind: FailureKind) -> None:
    async def on_failure(failure: Failure) -> Reject:
        await asyncio.sleep(0)
        return Reject(failure.kind)

    assert told(await decided(UndecodableBody("x"), kind=kind, on_failure=on_failure)) == ("dead-letter", kind)


async def test_on_failure_may_raise_its_verdict() -> None:
    def raises(failure: Failure) -> None:
        raise Retry(after=3)

    async def raises_in_a_group(failure: Failure) -> None:
        raise ExceptionGroup("group", [Drop("x")])

    outcome = await decided(UndecodableBody("x"), kind="undecodable", on_failure=raises)
    assert (outcome.kind, outcome.delay) == ("retry", 3)
    assert (await decided(ValueError(), on_failure=raises_in_a_group)).kind == "drop"


async def test_on_failure_that_says_nothing_leaves_the_default() -> None:
    assert (await decided(ValueError(), on_failure=lambda failure: None)).kind == "retry"


async def test_a_retry_of_on_failure_ends_at_max_deliveries_too() -> None:
    outcome = await decided(ValueError(), deliveries=5, on_failure=lambda failure: Retry(1))
    assert told(outcome) == ("dead-letter", "ValueError after 5 deliveries")


async def test_on_failure_is_not_asked_about_a_verdict_that_the_handler_raised() -> None:
    def on_failure(failure: Failure) -> Drop:
        raise AssertionError("asked")

    assert told(await decided(Reject("mine"), on_failure=on_failure)) == ("dead-letter", "mine")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def _returns_nonsense(failure: Failure) -> Any:
    return "drop"


def _raises(exception: BaseException) -> Any:
    def on_failure(failure: Failure) -> None:
        raise exception

    return on_failure


@pytest.mark.parametrize(
    ("on_failure", "error"),
    [
        (_raises(KeyError("x")), "KeyError"),
        (_raises(SystemExit(1)), "SystemExit"),
        (_raises(asyncio.CancelledError()), "CancelledError"),
        (_raises(Unprintable()), "Unprintable"),
        (_raises(BaseExceptionGroup("g", [SystemExit()])), "BaseExceptionGroup"),
        (_returns_nonsense, "on_failure returned str"),
    ],
)
async def test_on_failure_that_fails_is_logged_and_the_default_holds(
    on_failure: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "streamworker"):
        assert (await decided(ValueError(CANARY), on_failure=on_failure)).kind == "retry"
    (record,) = caplog.records
    assert record.getMessage().startswith("on_failure.failed")
    assert error in record.getMessage()
    assert CANARY not in str(record.__dict__)


async def test_deciding_can_be_cancelled_while_on_failure_runs() -> None:
    started = asyncio.Event()

    async def on_failure(failure: Failure) -> None:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(decided(ValueError(), on_failure=on_failure))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- what never reaches a handler


def test_a_message_older_than_max_age_is_dead_lettered() -> None:
    assert too_old(handler(max_age=60), 60.0) is None
    assert too_old(handler(), 1e12) is None
    outcome = too_old(handler(max_age=60), 61.4)
    assert outcome is not None
    assert told(outcome) == ("dead-letter", "61 s old, and max_age is 60 s")
    outcome = too_old(handler(max_age=60, dead_letter=False), 61.0)
    assert outcome is not None
    assert outcome.kind == "drop"


def test_an_entry_that_no_handler_takes_is_told_as_unrouted() -> None:
    app = App("billing")
    app.on("orders", type="a")(lambda body: None)
    (group,) = app.groups()
    assert told(unrouted(group, [b"type", b"b"])) == (
        "dead-letter",
        "unrouted: it has the type 'b', and no handler of group 'billing' takes that",
    )
    assert "it has no type" in unrouted(group, [b"data", b"1"]).reason
    dropping = App("billing", unrouted="drop")
    dropping.on("orders", type="a")(lambda body: None)
    assert unrouted(dropping.groups()[0], []).kind == "drop"


@given(st.binary(max_size=2000))
def test_no_type_whatsoever_breaks_the_reason(kind: bytes) -> None:
    app = App("billing")
    app.on("orders", type="a")(lambda body: None)
    reason = unrouted(app.groups()[0], [b"type", kind]).reason
    assert len(reason.encode()) <= 1000
    assert "\n" not in reason
    assert "\x1b" not in reason
