"""A terminal for tests: a program on a pseudo-terminal, and what a user would see of it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Callable, Mapping
from types import TracebackType

from tests.servers import dying_with_us
from tests.waiting import wait_until_sync

# The terminal is the program's own, so that it is told of new sizes and of Ctrl-C.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Display:
    """What a terminal shows of the characters that it is sent; it knows what we use, and objects to the rest."""

    def __init__(self, columns: int, rows: int) -> None:
        self.modes = {"1049": False, "25": True, "7": True}  # alternate screen, cursor, wrapping
        self.strange: list[str] = []  # what does not belong there: other sequences, characters outside the screen
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        self._cells = [[" "] * columns for _ in range(rows)]
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, text: str) -> str:
        """Take ``text``; returns what may be the beginning of a sequence that is not complete yet."""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    if len(text) - at < 12:
                        return text[at:]
                    self.strange.append(text[at : at + 12])
                    at += 1
                    continue
                self._obey(*found.groups())
                at = found.end()
            else:
                self._put(text[at])
                at += 1
        return ""

    def _obey(self, private: str, numbers: str, letter: str) -> None:
        if private and letter in "hl" and numbers in self.modes:
            self.modes[numbers] = letter == "h"
        elif letter == "H" and not numbers:
            self._row = self._column = 0
        elif letter == "K" and not numbers:
            self._cells[self._row][self._column :] = [" "] * (self._columns - self._column)
        elif letter == "J" and not numbers:
            self._obey("", "", "K")
            self._cells[self._row + 1 :] = [[" "] * self._columns for _ in range(self._rows - self._row - 1)]
        else:
            self.strange.append(f"\x1b[{private}{numbers}{letter}")

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            if self._row + 1 >= self._rows:
                self.strange.append("a line too many")
            self._row = min(self._row + 1, self._rows - 1)
        elif not char.isprintable():
            self.strange.append(char)
        else:
            wide = 2 if unicodedata.east_asian_width(char) in "WF" else 1
            if self._column + wide > self._columns:
                self.strange.append(f"{char} is beyond the screen")
                return
            self._cells[self._row][self._column : self._column + wide] = [char] + [""] * (wide - 1)
            self._column += wide


class Terminal:
    """A context manager: the program on a terminal of that size, killed at the end."""

    def __init__(
        self, *command: str, columns: int = 80, rows: int = 24, environment: Mapping[str, str] | None = None
    ) -> None:
        self.display = Display(columns, rows)
        self.raw = b""
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._master, self._slave = pty.openpty()
        self._resize(columns, rows)
        self.before = termios.tcgetattr(self._slave)
        variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            dying_with_us(sys.executable, "-I", "-S", "-c", _TAKE_TERMINAL, *command),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**variables, "TERM": "xterm", **(environment or {})},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._master)
        os.close(self._slave)

    @property
    def attributes(self) -> list[object]:
        """How the terminal is set now."""
        return termios.tcgetattr(self._slave)

    @property
    def text(self) -> str:
        """What is on the screen."""
        self.read()
        return "\n".join(self.display.lines)

    @property
    def pictures(self) -> int:
        """How many it has begun to draw."""
        self.read()
        return self.raw.count(b"\x1b[H")

    def draws(self, many: int) -> None:
        """Wait until it has begun so many more pictures."""
        before = self.pictures
        wait_until_sync(lambda: self.pictures >= before + many, 20, lambda: f"it draws:\n{self.text}")

    def shows(self, what: str | Callable[[str], object], timeout: float = 20.0) -> str:
        """Wait until ``what`` is on the screen, and return all of it."""
        is_there = (lambda text: what in text) if isinstance(what, str) else what
        wait_until_sync(lambda: is_there(self.text), timeout, lambda: f"{what!r} is shown:\n{self.text}")
        return self.text

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """As a user does with the window's edge."""
        self.read()
        self.display.resize(columns, rows)
        self._resize(columns, rows)

    def wait(self, timeout: float = 10.0) -> int:
        """The exit code."""
        wait_until_sync(self._has_ended, timeout, lambda: f"it ends:\n{self.text}")
        self.read()
        return int(self.process.returncode)

    def read(self) -> None:
        """Take what it has written so far."""
        while select.select([self._master], [], [], 0)[0]:
            data = os.read(self._master, 65_536)
            self.raw += data
            self._rest = self.display.feed(self._rest + self._decoder.decode(data))

    def _has_ended(self) -> bool:
        self.read()  # or it would wait for ever for room to write
        return self.process.poll() is not None

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
