"""A wall clock that a test sets, for processes started with its environment."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shim.c")


def compiled(folder: Path) -> Path:
    """The library to preload; needs gcc, whose absence is an error."""
    library = folder / "clock_shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, _SOURCE], check=True, timeout=60
    )
    return library


class Clock:
    """Right at first; their monotonic clocks stay as they are.

    Args:
        library: what ``compiled`` made.
        folder: where its offset is kept.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        offset = folder / "clock-offset"
        offset.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
        with offset.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    def shift(self, seconds: float) -> None:
        """From now on it is ahead of the true time by so much."""
        self._page[:] = struct.pack("q", int(seconds * 1e9))
