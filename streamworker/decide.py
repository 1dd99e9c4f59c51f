"""Decide what becomes of a delivery that did not simply succeed; settling it is done elsewhere, afterwards.

A verdict that the handler raises is its answer already, so ``on_failure`` is asked only about other
failures: every other raise, timeouts and undecodable bodies.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Literal

from streamworker.describe import place_of, printable
from streamworker.handler import Group, Handler
from streamworker.logs import log
from streamworker.message import field
from streamworker.verdicts import Cause, Drop, Failure, Outcome, Reject, Retry, Verdict

__all__ = ["decide", "too_old", "unrouted", "verdict_of"]

_MOST_REASON = 1000  # bytes: a reason is a sentence, whatever a user puts into it


async def decide(handler: Handler, failure: Failure) -> Outcome:
    """The outcome of a failed delivery.

    The first that answers decides: a verdict raised by the handler (alone, or as the only verdict of an
    exception group), what ``on_failure`` returns or raises, the default. By default an undecodable body is
    dead-lettered at once, anything else when it has been delivered ``max_deliveries`` times, and retried
    after the handler's backoff before that. A counted ``Retry`` asks for a delivery that is no longer
    allowed then, and is dead-lettered too. Never raises, except when it is cancelled itself.
    """
    verdict = verdict_of(failure.exception)
    if verdict is None and handler.on_failure is not None:
        verdict = await _ask(handler, failure)
    if verdict is None:
        verdict = _default(handler, failure)
    if isinstance(verdict, Drop):
        return Outcome("drop", printable(verdict.reason, _MOST_REASON), exception=failure.exception)
    if isinstance(verdict, Reject):
        cause: Cause = "undecodable" if failure.kind == "undecodable" else "rejected"
        return _dead_letter(handler, cause, verdict.reason, failure.exception)
    assert isinstance(verdict, Retry)
    return _retry(handler, failure, verdict)


def verdict_of(exception: BaseException) -> Verdict | None:
    """The verdict that ``exception`` is, or the only one among what an exception group holds, however deep."""
    found, waiting = [], [exception]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        elif isinstance(one, Retry | Reject | Drop):
            found.append(one)
    return found[0] if len(found) == 1 else None


def too_old(handler: Handler, age: float) -> Outcome | None:
    """The outcome of a message published ``age`` seconds ago, if that is more than ``max_age``."""
    if handler.max_age is None or age <= handler.max_age:
        return None
    return _dead_letter(handler, "max_age", f"{age:.0f} s old, and max_age is {handler.max_age:g} s")


def unrouted(group: Group, fields: list[bytes]) -> Outcome:
    """The outcome of an entry whose type no handler of its group takes."""
    kind = field(fields, b"type")
    what = "has no type" if kind is None else f"has the type '{kind[:200].decode(errors='replace')}'"
    reason = printable(f"unrouted: it {what}, and no handler of group {group.name!r} takes that", _MOST_REASON)
    return Outcome(group.unrouted, reason, cause="unrouted")


async def _ask(handler: Handler, failure: Failure) -> Verdict | None:
    """What ``on_failure`` says; None if it says nothing, or fails, which must not decide over the message."""
    assert handler.on_failure is not None
    try:
        answer = handler.on_failure(failure)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None or isinstance(answer, Retry | Reject | Drop):
            return answer
        error = f"on_failure returned {type(answer).__name__}; return Retry(...), Reject(...), Drop(...) or None"
        at = ""
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as exc:  # the user's function: SystemExit and a stray cancellation are failures too
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # we are being cancelled ourselves
        if verdict := verdict_of(exc):
            return verdict
        error, at = type(exc).__name__, place_of(exc)  # its text may quote the payload
    log.warning("on_failure.failed", handler=handler.name, message_id=failure.message.id, error=error, at=at)
    return None


def _default(handler: Handler, failure: Failure) -> Verdict:
    if failure.kind == "undecodable":
        return Reject(f"undecodable: {printable(failure.exception, _MOST_REASON)}")
    return Retry()


def _retry(handler: Handler, failure: Failure, verdict: Retry) -> Outcome:
    what = type(verdict_of(failure.exception) or failure.exception).__name__
    if failure.kind == "timeout":
        what = "timeout" if handler.timeout is None else f"timeout of {handler.timeout:g} s"
    count, most = failure.deliveries, handler.max_deliveries
    if _at_most_once(handler):
        return Outcome("drop", f"{what}, and it is delivered at most once", exception=failure.exception)
    if verdict.counted and count >= most:
        times = "1 delivery" if count == 1 else f"{count} deliveries"
        return _dead_letter(handler, "max_deliveries", f"{what} after {times}", failure.exception)
    delay = handler.retry.delay(count) if verdict.after is None else verdict.after
    reason = f"{what} in delivery {count} of {most}" if verdict.counted else f"{what}, not counted"
    return Outcome("retry", reason, delay, verdict.counted, failure.exception)


def _dead_letter(handler: Handler, cause: Cause, reason: str, exception: BaseException | None = None) -> Outcome:
    kept = handler.dead_letter and not _at_most_once(handler)
    kind: Literal["dead-letter", "drop"] = "dead-letter" if kept else "drop"
    return Outcome(kind, printable(reason, _MOST_REASON), exception=exception, cause=cause)


def _at_most_once(handler: Handler) -> bool:
    """Nothing is pending any more when such a handler fails, so there is nothing to retry or to move."""
    return handler.ack == "before" or handler.group is None
