"""The gate: how many handlers run in this process, and whether more may start while a suspect runs alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Gate:
    """One for the whole process: a crash takes everything along that runs beside it.

    ``running`` is counted by the slots; handlers that are stuck are not part of it.
    """

    def __init__(self) -> None:
        self.running = 0
        self.closed = False
        self._holder: object | None = None
        self._silent = asyncio.Event()
        self._opened: list[Callable[[], None]] = []

    def when_opened(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called whenever the gate opens again."""
        self._opened.append(wake)

    def leave(self) -> None:
        """A handler ended, or is stuck."""
        self.running -= 1
        if self.running == 0 and self.closed:
            self._silent.set()

    def close(self, holder: object) -> bool:
        """Let nothing more start, on behalf of ``holder``; False if another holds the gate."""
        if self._holder is None:
            self._holder = holder
            self.closed = True
            self._silent.clear()
        return self._holder is holder

    async def silence(self, timeout: float) -> bool:
        """Wait until nothing runs, for at most ``timeout`` seconds; says whether it is so."""
        if self.running:
            self._silent.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._silent.wait()
            except TimeoutError:
                pass
        return self.running == 0

    def open(self, holder: object) -> None:
        """Let handlers start again, if ``holder`` holds the gate."""
        if self._holder is holder:
            self._holder = None
            self.closed = False
            for wake in self._opened:
                wake()
