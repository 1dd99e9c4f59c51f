"""The terminal while a live picture has it: its own screen, no cursor, keys one by one; all as before at the end."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

# The alternate screen, no cursor, no wrapping of what is a column too long; and back.
_BEGIN: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_END: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"


class Screen:
    """A context manager; ``draw`` puts lines where the last ones were."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._before: list[Any] | None = None

    @property
    def keys(self) -> int | None:
        """The descriptor on which keys come; None if nobody can press any."""
        return sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def __enter__(self) -> Screen:
        if self.keys is not None:
            self._before = termios.tcgetattr(self.keys)
            tty.setcbreak(self.keys, termios.TCSANOW)
            changed = termios.tcgetattr(self.keys)
            changed[6][termios.VSUSP] = b"\0"  # whoever is stopped cannot put the terminal in order
            termios.tcsetattr(self.keys, termios.TCSANOW, changed)
        self._write(_BEGIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._write(_END)
        finally:
            if self._before is not None and self.keys is not None:
                # What was typed and not read is no command for the shell.
                termios.tcsetattr(self.keys, termios.TCSAFLUSH, self._before)

    def draw(self, lines: Sequence[str]) -> None:
        """Show ``lines``, which are printable and not too long; what was there is gone."""
        rows = "\r\n".join(f"{line}\x1b[K" for line in lines[: self.size[1]])
        self._write(f"\x1b[H{rows}\x1b[J")

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="backslashreplace"))
        while data:
            data = data[os.write(self._out, data) :]
