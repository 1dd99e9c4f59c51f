"""The library's logger: events with key-values through the stdlib logger ``streamworker``, safe to print.

Nothing is configured here. A program with plain stdlib logging sees ``event key=value …``; the command
line finds the same values as a dict in ``record.streamworker``.
"""

from __future__ import annotations

import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import structlog

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"

LIMIT = 4096  # characters of a value; a user's exception may carry 50 MB of text
_TRACEBACK_LIMIT = 4 * LIMIT
_FRAMES = 25
_ITEMS = 50
# What stands before the host of a URL. Ours are searched beyond a slash, which a password should not hold, but may.
_LOGIN = re.compile(r"""((?:rediss?|unix|sentinels?|clusters?)://)[^\s@"']{1,1000}@|(://)[^\s/@"']{1,1000}@""")
_LONGEST_LOGIN = 1020

# The message being handled. It is set per message and read only when something is logged: binding five
# values to every message's context costs 6.5 µs, this 0.05.
current: ContextVar[object | None] = ContextVar("streamworker_current", default=None)


def context() -> dict[str, Plain]:
    """What to add to a record that is logged inside a handler: which message it is about."""
    message = current.get()
    if message is None:
        return {}
    names = {"stream": "stream", "group": "group", "message_id": "id", "deliveries": "deliveries", "handler": "handler"}
    return {key: plain(getattr(message, name, None)) for key, name in names.items()}


def clean(text: str, limit: int = LIMIT) -> str:
    """``text`` on one line without control characters, bidi marks and lone surrogates, at most about ``limit`` long.

    They forge log lines, move a terminal's cursor, or raise UnicodeEncodeError where the line is written.
    """
    safe = without_logins(text[: limit + _LONGEST_LOGIN])[:limit]
    if not safe.isprintable():
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)
    if len(text) > limit or len(safe) > limit:
        note = f"… ({len(text)} characters)"
        return safe[: limit - len(note)] + note  # not longer than the limit: values are cleaned more than once
    return safe


def without_logins(text: str) -> str:
    """``text`` without the user names and passwords of URLs: an exception or a line of source may quote one."""
    return _LOGIN.sub(r"\1\2…@", text) if "://" in text else text


def for_terminal(text: str) -> str:
    """``text``, which may have several lines, as it can be printed."""
    return "\n".join(clean(line) for line in text.split("\n"))


def plain(value: object, depth: int = 3) -> Plain:
    """``value`` as what JSON knows, with every text cleaned; never raises."""
    # Longer integers raise when they are turned into text; subclasses may bring a __str__ of their own.
    if value is None or (type(value) in (bool, int) and -(2**63) <= cast(int, value) < 2**64):
        return cast("int | None", value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    try:
        if depth and isinstance(value, Mapping):
            return {clean(str(key)): plain(item, depth - 1) for key, item in list(value.items())[:_ITEMS]}
        if depth and isinstance(value, list | tuple | set | frozenset):
            return [plain(item, depth - 1) for item in list(value)[:_ITEMS]]
        return clean(_text_of(value))
    except Exception as error:  # noqa: BLE001  (a user's __str__ or __repr__ may raise anything)
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _text_of(value: object) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return str(value) if isinstance(value, str) else repr(value)


def traceback_of(exception: BaseException, limit: int = _TRACEBACK_LIMIT) -> str:
    """The traceback as text: no local variables, each line cleaned, the middle cut out where it is too long."""
    try:
        formatted = traceback.TracebackException.from_exception(exception, limit=-_FRAMES, compact=True).format()
        lines = [clean(line) for chunk in formatted for line in chunk[: 2 * LIMIT].rstrip("\n").split("\n")]
    except Exception as error:  # noqa: BLE001  (see plain)
        return f"{type(exception).__name__} (its traceback cannot be shown: {type(error).__name__})"
    text = "\n".join(lines)
    if len(text) > limit:
        head = limit // 4
        return f"{text[:head]}\n… {len(text) - limit} characters left out …\n{text[head - limit :]}"
    return text


def in_words(event: str, values: Mapping[str, Plain]) -> str:
    """``event key=value …`` on one line."""
    return " ".join([event, *(f"{key}={_quoted(value)}" for key, value in values.items())])


def _quoted(value: Plain) -> str:
    text = value if isinstance(value, str) else str(value)
    if text and not any(c in text for c in " ='\""):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _to_record(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    options: dict[str, Any] = {
        name: event.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in event
    }
    name = clean(str(event.pop("event", "")))
    values = {clean(key): plain(value) for key, value in event.items()}
    # One attribute holds them all: logging refuses extras called `name`, `message` or `args`.
    options["extra"] = {"streamworker": {"event": name, **values}}
    return (in_words(name, values),), options


# Processors of our own: structlog prints to stdout where nobody has configured it.
log = cast(
    structlog.stdlib.BoundLogger,
    structlog.wrap_logger(
        logging.getLogger("streamworker"),
        processors=[structlog.stdlib.filter_by_level, _to_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ),
)


class Suppressor:
    """Lets one line per key through in ``interval`` seconds; a broken dependency must not print 10,000 tracebacks.

    Args:
        interval: seconds between two lines of one key.
        most: how many keys are remembered; the one that was logged longest ago is forgotten first.
    """

    def __init__(self, interval: float = 2.0, most: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._most = most
        self._clock = clock
        self._keys: dict[Hashable, tuple[float, int]] = {}  # in the order of their last lines

    def left_out(self, key: Hashable) -> int | None:
        """How many lines of ``key`` were left out since its last one; None says to leave this one out too."""
        now = self._clock()
        logged, count = self._keys.get(key, (-math.inf, 0))
        if now - logged < self._interval:
            self._keys[key] = (logged, count + 1)
            return None
        self._keys.pop(key, None)
        while len(self._keys) >= self._most:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = (now, 0)
        return count


class Outage:
    """Logs a trouble once when it begins and once when it ends.

    Args:
        begins: the event of the first line, a warning.
        ends: the event of the last line, with the seconds it lasted.
        values: what both lines say.
    """

    def __init__(self, begins: str, ends: str, **values: object) -> None:
        self._begins = begins
        self._ends = ends
        self._values = values
        self._since: float | None = None

    def began(self, reason: object) -> None:
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._begins, reason=reason, **self._values)

    def ended(self) -> None:
        if self._since is not None:
            lasted = round(time.monotonic() - self._since, 1)
            self._since = None
            log.info(self._ends, seconds=lasted, **self._values)
