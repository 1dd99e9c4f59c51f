"""Words that must not be found again, and everything that a worker tells in which they are looked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from streamworker.cli.logging import formatter

PAYLOAD: Final = "SW-CANARY-4111111111111111"
PASSWORD: Final = "SW-CANARY-pass/word"
USER: Final = "SW-CANARY-user"
LOGIN: Final = "SW-CANARY-user:SW-CANARY-pass%2Fword@"
# A password may be told as it is, encoded, or in part: nothing else that is told here begins like that.
MARK: Final = "SW-CANARY"


class Told(logging.Handler):
    """Every record of every logger as the command line writes it, in both formats, and as plain logging does."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._formatters = [formatter(console=True), formatter(console=False), logging.Formatter()]
        self.events: list[str] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(record.getMessage().split(" ")[0])
        self.lines += [one.format(record) for one in self._formatters]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def saw(self, *events: str) -> bool:
        return {*events} <= {*self.events}


@contextmanager
def listening() -> Iterator[Told]:
    """Collects what is logged at any level by anybody, asyncio and the driver included."""
    root, told = logging.getLogger(), Told()
    level = root.level
    root.addHandler(told)
    root.setLevel(logging.DEBUG)
    try:
        yield told
    finally:
        root.removeHandler(told)
        root.setLevel(level)
