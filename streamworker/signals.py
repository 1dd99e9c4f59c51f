"""Turns the first SIGTERM or SIGINT into a drain with a limit, and the second into the end.

The limit holds whatever the event loop, a thread or a log pipe does: a thread of its own keeps it. Another
hears the signals while the main thread is in a call that Python cannot interrupt.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

CAUGHT = (signal.SIGTERM, signal.SIGINT)
DRAIN_TIMED_OUT = 4
_GRACE = 2.0  # seconds after the drain's own limit, for flushing acks
_LAST_WORDS = 1.0


class Signals:
    """A context manager around a worker's life; signals that come before ``attach`` end the process with 0.

    Args:
        shutdown_timeout: seconds that a drain may take; 2 s later the process is ended with 4.
    """

    def __init__(self, shutdown_timeout: float) -> None:
        self._limit = shutdown_timeout + _GRACE
        # Each signal is heard of twice, by the handler and by the thread, and either may miss one. They count
        # for themselves, in one step: the second may come while the handler of the first is at work.
        self._handled = itertools.count(1)
        self._heard = itertools.count(1)
        self._begun = threading.Event()
        self._over = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._writing: int | None = None

    def __enter__(self) -> Signals:
        # Handlers of Python's own, not of the loop: those do not run while a handler blocks the loop.
        self._before = {signum: signal.signal(signum, self._on_signal) for signum in CAUGHT}
        # A process that a handler forks is to die of SIGTERM, from the first moment, and its signals are not ours.
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=self._let_go)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._put_back()
        # Once told to end, the process has its limit to the last: a thread of the user's may keep it from exiting.
        if not self._begun.is_set():
            self._over.set()
            self._begun.set()

    def attach(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """From now on there is something to drain: the first signal sets ``stop``."""
        # Loaded now: beside a handler that spins, the watchdog's last second would not be enough.
        import streamworker.logs  # noqa: F401, PLC0415  (not above: the handlers are installed before anything slow)

        self._stop = stop
        self._loop = loop
        # Started here and not by the signal: starting a thread takes locks that the interrupted code may hold.
        threading.Thread(target=self._watch, name="streamworker-watchdog", daemon=True).start()
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        taken_from = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # A copy: the number may be somebody else's once the loop has closed its own.
        loops = os.dup(taken_from) if taken_from >= 0 else None
        threading.Thread(target=self._listen, args=(reading, loops), name="streamworker-signals", daemon=True).start()

    def begin(self) -> None:
        """Drain as after a first signal, without counting as one; may be called from any thread."""
        if self._loop is None or self._stop is None:
            os._exit(0)  # nothing has been started; as PID 1 the default action would not even end it
        self._begun.set()
        with suppress(RuntimeError):  # the loop is closed: everything has been drained
            self._loop.call_soon_threadsafe(self._stop.set)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._obey(signum, next(self._handled))

    def _listen(self, reading: int, loops: int | None) -> None:
        """Hear of signals at once, and pass them on to the event loop if it wants to (uvloop does).

        Python calls a signal's handler when the main thread is back from the call that it is in. Most calls are
        interrupted, but not all that C libraries make, and none that begins just after the signal.
        """
        while signums := os.read(reading, 64):
            if loops is not None:
                with suppress(OSError):
                    os.write(loops, signums)
            for signum in signums:
                if signum in CAUGHT:
                    self._obey(signum, next(self._heard))
        os.close(reading)
        if loops is not None:
            os.close(loops)

    def _obey(self, signum: int, count: int) -> None:
        if count > 1:
            os._exit(128 + signum)
        self.begin()

    def _let_go(self) -> None:
        self._put_back()
        _unblock()

    def _put_back(self) -> None:
        if self._writing is not None:
            signal.set_wakeup_fd(-1)  # whose ever it is now: a loop's own is closed by now, or of another process
            os.close(self._writing)
            self._writing = None
        while self._before:
            signum, handler = self._before.popitem()
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    def _watch(self) -> None:
        self._begun.wait()
        if not self._over.wait(self._limit):
            end_now(DRAIN_TIMED_OUT, self._say_why)

    def _say_why(self) -> None:
        from streamworker.logs import log  # noqa: PLC0415  (see attach)

        log.error(
            "worker.killed",
            reason="the drain did not end in time: a handler blocks the event loop, or does not return",
            seconds=self._limit,
        )


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)


@contextmanager
def woken_by_signals(on_signal: Callable[[int, FrameType | None], None]) -> Iterator[int]:
    """A descriptor that can be read after every signal, a child's death included; the handlers are put back."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = {signum: signal.signal(signum, on_signal) for signum in CAUGHT}
    # A signal without a handler wakes nobody.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        os.close(reading)
        os.close(writing)


def when_closed(descriptor: int, then: Callable[[], None]) -> None:
    """Call ``then``, in a thread, when nobody holds the other end of the pipe any more."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(descriptor, 1):
                pass
        then()

    threading.Thread(target=watch, name="streamworker-parent", daemon=True).start()


def end_now(code: int, last_words: Callable[[], object] | None = None) -> NoReturn:
    """End the process whatever still runs in it; logs and standard streams get a second to be flushed.

    ``sys.exit`` waits for the threads of ``def`` handlers and for tasks that swallow their cancellation.
    """

    def flush() -> None:
        if last_words is not None:
            last_words()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()

    # In a thread: what is flushed may be a full pipe, or behind a lock of a thread that never ends.
    thread = threading.Thread(target=flush, name="streamworker-flush", daemon=True)
    try:
        thread.start()
        thread.join(_LAST_WORDS)
    except RuntimeError:  # since Python 3.12 no thread can be started once the interpreter ends
        for descriptor in (1, 2):
            os.set_blocking(descriptor, False)  # a full pipe must not keep the process
        flush()
    finally:
        os._exit(code)
