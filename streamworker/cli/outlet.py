"""Writes log lines from a thread of its own, so that a full or closed pipe never blocks a worker."""

from __future__ import annotations

import os
import queue
import select
import threading


class Outlet:
    """Lines for a file descriptor, in order; what does not fit into ``room`` bytes is left out.

    Args:
        descriptor: where the lines go.
        room: bytes that may wait while nobody reads.
    """

    def __init__(self, descriptor: int = 2, room: int = 4 * 2**20) -> None:
        self._descriptor = descriptor
        self._room = room
        self._start()
        # A forked child has no threads: without this its lines would wait for ever.
        os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._put = 0  # written by the callers of write(), which take turns
        self._written = 0  # written by the thread alone
        threading.Thread(target=self._write_loop, args=(self._lines,), name="streamworker-log", daemon=True).start()

    def write(self, line: str) -> bool:
        """Take a line, never waiting; False if there was no room. Callers take turns (a logging handler's lock)."""
        data = line.encode(errors="backslashreplace")
        if self._put - self._written > self._room:
            return False
        self._put += len(data)
        self._lines.put(data)
        return True

    def flush(self, patience: float = 1.0) -> bool:
        """Wait until everything taken so far is written, at most ``patience`` seconds."""
        mark = threading.Event()
        self._lines.put(mark)
        return mark.wait(patience)

    def _write_loop(self, lines: queue.SimpleQueue[bytes | threading.Event]) -> None:
        while True:
            line = lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            # One write per line: up to PIPE_BUF bytes, lines of several workers do not mix.
            rest = memoryview(line)
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # whoever shares our stderr has made it non-blocking
                    select.select([], [self._descriptor], [], 1.0)
                except OSError:  # the reader is gone, or the disk is full: the line is lost, the worker goes on
                    break
            self._written += len(line)
