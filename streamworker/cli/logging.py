"""Configures logging for a process that the command line owns: one safe line per record, on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

from streamworker import logs
from streamworker.cli.outlet import Outlet


def configure(log_format: str, level: str) -> bool:
    """Set up the root logger, unless the user's app has done it already; say whether.

    Args:
        log_format: ``"console"``, ``"json"``, or ``"auto"``: console on a terminal, else JSON.
        level: the lowest level that is shown.
    """
    root = logging.getLogger()
    if root.handlers:
        return False
    handler = LineHandler(Outlet())
    handler.setFormatter(formatter(is_console(log_format), colors=_has_terminal()))
    root.addHandler(handler)
    root.setLevel(level.upper())
    if not structlog.is_configured():  # a user's structlog goes the same way, instead of printing to stdout
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.PositionalArgumentsFormatter(),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=True,
        )
    return True


def is_console(log_format: str) -> bool:
    """Whether lines are written for people."""
    return log_format == "console" or (log_format == "auto" and _has_terminal())


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def formatter(console: bool, *, colors: bool = False) -> logging.Formatter:
    """What makes one line of a record, whether it came from us, from the user's logging or the user's structlog."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[_gather, _console(colors) if console else _json],
    )


class LineHandler(logging.Handler):
    """Formats in the thread that logs, where the handler's message is known, and leaves the writing to an outlet."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._left_out:
            note = f"{self._left_out} log lines left out: nobody read them"
            if not self._outlet.write(self._line(_substitute(record, logging.WARNING, note))):
                self._left_out += 1
                return
            self._left_out = 0
        if not self._outlet.write(self._line(record)):
            self._left_out += 1

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + "\n"
        except Exception as error:  # noqa: BLE001  (a user's arguments and __str__; logging must not fail a message)
            where = f"{record.pathname}:{record.lineno}"
            note = f"a log record of {where} cannot be formatted: {logs.plain(error)}"
            return self.format(_substitute(record, record.levelno, note)) + "\n"

    def flush(self) -> None:
        self._outlet.flush()


def _substitute(record: logging.LogRecord, level: int, text: str) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "streamworker",
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": text,
            "created": record.created,
        }
    )


def _gather(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Everything the line will say, as plain values, the most important first."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog")
    ours = event.pop("streamworker", None)
    exception = _exception(event.pop("exc_info", None))
    values = ours if isinstance(ours, dict) and record.name == "streamworker" else event
    line: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": logs.clean(record.levelname.lower()),
        "event": logs.plain(values.get("event")),
        "logger": logs.clean(record.name),
    }
    for name, value in values.items():
        line.setdefault(logs.clean(str(name)), logs.plain(value))
    for name, value in logs.context().items():
        line.setdefault(name, value)
    if exception is not None:
        line["exception"] = logs.traceback_of(exception)
    return line


def _exception(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _json(logger: Any, method: str, line: MutableMapping[str, Any]) -> str:
    # `message` is what log collectors show first.
    named = {"message" if name == "event" else name: value for name, value in line.items() if name != "message"}
    return json.dumps(named)


def _console(colors: bool) -> Any:
    render = structlog.dev.ConsoleRenderer(
        colors=colors and "NO_COLOR" not in os.environ,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def to_line(logger: Any, method: str, line: MutableMapping[str, Any]) -> str:
        text = line.get("exception")
        if text is not None:
            # Indented, so that no line of a user's message can pass for a record of its own.
            line["exception"] = "\n".join("    " + part for part in str(text).split("\n"))
        return render(logger, method, line)

    return to_line
