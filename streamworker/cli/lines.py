"""The lines of a file or a pipe, as they come."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 2**18  # bytes read at once
_LONGEST: Final = 64 * 2**20  # bytes of a line; a file without line ends must not fill the memory


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not empty.

    Attributes:
        number: its number in the file, from 1; empty lines have one too.
        text: its bytes, without what ends it.
        end: how many bytes were read up to its end.
    """

    number: int
    text: bytes
    end: int


class LineTooLong(Exception):
    """The line ``number`` has no end within reason."""

    def __init__(self, number: int) -> None:
        super().__init__(f"it is longer than {_LONGEST // 2**20} MiB")
        self.number = number


class Lines:
    """Reads ``fd`` from where it is, and leaves out the first ``skip`` lines.

    Attributes:
        size: how many bytes there are to read; None where nobody knows.
    """

    def __init__(self, fd: int, skip: int = 0) -> None:
        self.size = _size(fd)
        self._fd = fd
        self._skip = skip
        self._number = 0
        self._end = 0
        self._ready: deque[Line] = deque()
        self._begun: list[bytes] = []  # pieces of the line whose end has not been read yet
        self._begun_size = 0
        self._ended = False

    async def some(self, most: int) -> list[Line]:
        """What can be had at once, at most so many lines; waits for one. None are left if it is empty.

        Raises:
            OSError: reading failed.
            LineTooLong: all lines before it have been returned.
        """
        while not (self._ready or self._ended):
            await self._read()
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    async def _read(self) -> None:
        await _readable(self._fd)
        chunk = os.read(self._fd, _CHUNK)
        piece, *others = chunk.split(b"\n")
        self._begin(piece)
        for piece in others:
            self._complete()
            self._begin(piece)
        if self._begun_size > _LONGEST:
            raise LineTooLong(self._number + 1)
        if not chunk:  # the last line may have no end
            self._complete()
            self._ended = True

    def _begin(self, piece: bytes) -> None:
        self._begun.append(piece)
        self._begun_size += len(piece)

    def _complete(self) -> None:
        text = b"".join(self._begun)
        self._begun, self._begun_size = [], 0
        self._number += 1
        self._end += len(text) + 1
        if self._number > self._skip and text.strip():
            self._ready.append(Line(self._number, text.removesuffix(b"\r"), self._end))


def _size(fd: int) -> int | None:
    facts = os.fstat(fd)
    return facts.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(facts.st_mode) else None


async def _readable(fd: int) -> None:
    """Wait for a pipe or a terminal in the event loop: a read that blocks would keep Ctrl-C out."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a regular file can always be read
        await asyncio.sleep(0)
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
