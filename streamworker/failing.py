"""What becomes of a delivery that failed: the decision is made here, carried out by settling, told to the log."""

from __future__ import annotations

from datetime import UTC, datetime

from streamworker.broker import Settlement
from streamworker.decide import decide, unrouted
from streamworker.describe import describe_error, place_of
from streamworker.handler import Handler
from streamworker.logs import Suppressor, log
from streamworker.message import Delivery, published_at
from streamworker.state import State
from streamworker.verdicts import Failure, FailureKind, Outcome


class Failing:
    """Turns failures of one consumer's deliveries into settlements."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._quiet = Suppressor()

    async def failed(self, handler: Handler, delivery: Delivery, kind: FailureKind, exc: BaseException) -> None:
        """A run raised, took too long, or its body did not decode."""
        self._state.counts.failed[handler.name, kind] += 1
        message = self._state.message(handler, delivery)
        fields = delivery.fields
        failure = Failure(
            kind=kind,
            exception=exc,
            message=message,
            deliveries=delivery.deliveries,
            age=self._state.age(delivery),
            size=message.size,
            fields=tuple(zip(fields[::2], fields[1::2], strict=False)),
        )
        self.carry_out(handler, delivery, await decide(handler, failure))

    def unrouted(self, delivery: Delivery) -> None:
        """No handler of the group takes the entry's type."""
        self.carry_out(None, delivery, unrouted(self._state.group, delivery.fields))

    def carry_out(self, handler: Handler | None, delivery: Delivery, outcome: Outcome) -> None:
        """Log ``outcome`` and have it settled. ``handler`` is None where no handler takes the entry's type."""
        name = handler.name if handler is not None else ""
        self._tell(name, delivery, outcome)
        settling, tracing = self._state.settling, self._state.tracing
        over = bool if tracing is None else tracing.settling(delivery, outcome)
        if settling is None or delivery.acked:  # at most once: there is nothing to settle
            self._state.counts.dropped += 1
            self._state.flight.remove(delivery)
        elif outcome.kind == "retry":
            settling.settle(Settlement(delivery, delay=outcome.delay, counted=outcome.counted, over=over))
        elif outcome.kind == "dead-letter":
            letter = self._letter(name, delivery, outcome)
            settling.settle(Settlement(delivery, letter=letter, cause=outcome.cause, over=over))
        else:
            settling.settle(Settlement(delivery))

    def _letter(self, handler: str, delivery: Delivery, outcome: Outcome) -> dict[str, str]:
        """The facts that stand beside the original fields in the dead stream."""
        state = self._state
        error, traceback = describe_error(outcome.exception) if outcome.exception is not None else ("", "")
        return {
            "id": delivery.origin.decode(errors="replace"),
            "stream": state.group.stream,
            "group": state.group.name,
            "handler": handler,
            "reason": outcome.reason,
            "error": error,
            "traceback": traceback,
            "deliveries": str(delivery.deliveries),
            "published": _iso(published_at(delivery.origin)),
            "consumer": state.me,
            "time": _iso(state.clock.now()),
        }

    def _tell(self, handler: str, delivery: Delivery, outcome: Outcome) -> None:
        """One line per handler, outcome and kind of error in an interval, with the number left out."""
        error = type(outcome.exception).__name__ if outcome.exception is not None else ""
        left_out = self._quiet.left_out((handler, outcome.kind, error))
        if left_out is None:
            return
        event = {
            "ack": "message.handled", "retry": "message.retry",
            "dead-letter": "message.dead_lettered", "drop": "message.dropped",
        }[outcome.kind]  # fmt: skip
        details: dict[str, object] = {
            "stream": self._state.group.stream,
            "group": self._state.group.name,
            "handler": handler,
            "message_id": delivery.origin.decode(errors="replace"),
            "deliveries": delivery.deliveries,
            "reason": outcome.reason,
        }
        if error:
            details["error"] = error  # its text may quote the payload: that goes to the dead stream only
            details["at"] = place_of(outcome.exception)
        if outcome.kind == "retry":
            details["retry_in"] = round(outcome.delay, 3)
        if left_out:
            details["left_out"] = left_out
        log.warning(event, **details)


def _iso(seconds: float) -> str:
    """An ISO 8601 time in UTC; ids made by hand may lie beyond what a date can be."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3f}"
