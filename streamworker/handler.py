"""A handler: the user's function with its options, checked when it is registered."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias

from streamworker.backoff import Backoff
from streamworker.errors import ConfigError
from streamworker.verdicts import Failure, Verdict

Start: TypeAlias = str | datetime
OnFailure: TypeAlias = Callable[[Failure], Verdict | Awaitable[Verdict | None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One registered handler; the attributes are the options of ``App.on``, with their defaults filled in.

    Durations are seconds. ``group`` is None for a broadcast handler.
    """

    function: Callable[..., Any]
    name: str
    stream: str
    group: str | None
    type: str | None
    start: Start
    concurrency: int
    prefetch: int | None
    lease: float
    timeout: float | None
    max_deliveries: int
    max_age: float | None
    retry: Backoff
    dead_letter: bool
    on_failure: OnFailure | None
    ack: Literal["after", "before"]
    body: str | None

    def __str__(self) -> str:
        return f"handler {self.name!r} of stream {self.stream!r}"


@dataclass(frozen=True, slots=True)
class Group:
    """The handlers that share one consumer group on one stream; what belongs to the group is read off the first."""

    stream: str
    name: str
    handlers: tuple[Handler, ...]
    unrouted: Literal["dead-letter", "drop"]
    max_body: int

    @property
    def lease(self) -> float:
        return self.handlers[0].lease

    @property
    def start(self) -> Start:
        return self.handlers[0].start

    @property
    def prefetch(self) -> int | None:
        return self.handlers[0].prefetch

    @property
    def concurrency(self) -> int:
        """The most handlers of this group that run at once: each handler has its own share."""
        return sum(handler.concurrency for handler in self.handlers)

    def __str__(self) -> str:
        return f"{self.stream}/{self.name}"


def check(handler: Handler) -> None:
    """Raise ConfigError if an option makes no sense, with a sentence that says which and what would."""

    def wants(right: bool, option: str, what: str) -> None:
        if not right:
            value = getattr(handler, option)
            raise ConfigError(f"{handler}: {option}={value!r}, but it must be {what}")

    def name(value: object) -> bool:
        return isinstance(value, str) and bool(value) and value.isprintable()

    wants(name(handler.stream), "stream", "a name of printable characters")
    wants(handler.group is None or name(handler.group), "group", "a name of printable characters")
    wants(handler.type is None or isinstance(handler.type, str), "type", "a text")
    wants(isinstance(handler.concurrency, int) and handler.concurrency >= 1, "concurrency", "1 or more")
    wants(
        handler.prefetch is None or (isinstance(handler.prefetch, int) and handler.prefetch >= 1),
        "prefetch",
        "1 or more: the most messages held at once, running ones included",
    )
    wants(number(handler.lease) and 0.5 <= handler.lease <= 86_400, "lease", "between 0.5 and 86400 seconds")
    wants(
        handler.timeout is None or (number(handler.timeout) and handler.timeout > 0), "timeout", "more than 0 seconds"
    )
    wants(isinstance(handler.max_deliveries, int) and handler.max_deliveries >= 1, "max_deliveries", "1 or more")
    wants(
        handler.max_age is None or (number(handler.max_age) and handler.max_age > 0), "max_age", "more than 0 seconds"
    )
    wants(isinstance(handler.retry, Backoff), "retry", "a Backoff(...)")
    wants(handler.ack in ("after", "before"), "ack", "'after' or 'before'")
    wants(handler.on_failure is None or callable(handler.on_failure), "on_failure", "a function")
    wants(handler.body is None or bool(handler.body), "body", "'fields' or the name of a field")
    _check_start(handler)


def number(value: object) -> bool:
    """Whether an option is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _check_start(handler: Handler) -> None:
    start = handler.start
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigError(f"{handler}: start={start!r} has no time zone; use datetime(..., tzinfo=UTC)")
        return
    milliseconds, _, sequence = str(start).partition("-")
    if start not in ("beginning", "new") and not (milliseconds.isdigit() and (sequence or "0").isdigit()):
        raise ConfigError(
            f"{handler}: start={start!r}, but it must be 'beginning', 'new', an entry id such as "
            "'1700000000000-0' (from this one on), or a datetime with a time zone"
        )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` gives an awaitable; objects with an async ``__call__`` count."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  (whether it is async, not whether it is there)
    )


def name_of(function: Callable[..., Any]) -> str:
    """What logs and dead letters call a handler."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))
