"""Runs one worker process, and another one after each change of the code; the one before drains first."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

from streamworker.changes import Changes
from streamworker.child import MARGIN, MOST_REPLACED, Birth, Child, reap_stranger
from streamworker.logs import log
from streamworker.signals import DRAIN_TIMED_OUT, woken_by_signals

_CRASHED = 1
_NEVER_JOINED = (2, 3)  # usage or import, no Redis: it held nothing that another could take over


class Reloader:
    """Runs workers until it is told to stop; see ``run``.

    Args:
        command: the argument vector of a child.
        changes: what tells of changes; watching.
        shutdown_timeout: seconds that a child's drain may take.
        environment: the children's environment.
        on_embedded: called when a child works on the embedded server, which this process is to hold as well: else it
            would go with each child.
    """

    def __init__(
        self,
        command: Callable[[Birth], Sequence[str]],
        changes: Changes,
        *,
        shutdown_timeout: float,
        environment: Mapping[str, str],
        on_embedded: Callable[[], None],
    ) -> None:
        self._command = command
        self._changes = changes
        self._patience = shutdown_timeout + MARGIN
        self._environment = environment
        self._on_embedded = on_embedded
        self._signals: list[int] = []
        self._child: Child | None = None
        self._listening = False  # for the child's first sign of life
        self._limit: float | None = None  # the child drains: when it still runs then, it is killed
        self._again = False  # another one is to be started when the child has ended
        self._replaces: tuple[str, ...] = ()
        self._code = 0

    def run(self) -> int:
        """Run workers one after the other, and return the exit code of the last; 128 + signal at the second signal.

        One that ends by itself, since its code cannot be imported or since it crashes, is not started again before
        the next change.
        """
        with woken_by_signals(self._on_signal) as wake:
            self._start()
            try:
                while self._child is not None or not self._signals:
                    self._sleep(wake)
                    self._hear()
                    self._reap()
                    self._obey()
                    self._heed()
                    self._kill_overdue()
            finally:
                if self._child is not None:
                    self._child.kill()
        return self._code

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals.append(signum)

    def _start(self) -> None:
        self._again = False
        try:
            self._child = Child(self._command, replaces=self._replaces, environment=self._environment)
        except OSError as error:
            self._code = _CRASHED
            log.error("worker.start_failed", reason=f"{error}; the next change tries again")
            return
        self._listening = True
        log.debug("worker.spawned", pid=self._child.pid)

    def _sleep(self, wake: int) -> None:
        readable = [wake, self._changes.fileno()]
        if self._child is not None and self._listening:
            readable.append(self._child.vitals.fileno())
        timeout = None if self._limit is None else max(0.0, self._limit - time.monotonic())
        if wake in select.select(readable, [], [], timeout)[0]:
            with suppress(BlockingIOError):
                os.read(wake, 4096)

    def _hear(self) -> None:
        """Learn from the child's first sign of life, or from its end, which server it is on."""
        if self._child is None or not self._listening:
            return
        vitals = self._child.vitals
        if select.select([vitals.fileno()], [], [], 0)[0]:
            self._listening = False
            vitals.silence(time.monotonic())
            if vitals.embedded:
                self._on_embedded()

    def _reap(self) -> None:
        if self._child is not None and (code := self._child.ended()) is not None:
            self._on_exit(self._child, code)
        while os.getpid() == 1 and reap_stranger({self._child.pid} if self._child is not None else ()):
            if self._child is not None and (code := self._child.ended()) is not None:
                self._on_exit(self._child, code)

    def _on_exit(self, child: Child, code: int) -> None:
        child.close()
        self._child = None
        drained = self._limit is not None
        self._limit = None
        # Of SIGTERM dies only who has not come to installing handlers: it had nothing to drain.
        code = 0 if drained and code == -signal.SIGTERM else code
        self._code = code if code >= 0 else _CRASHED
        self._replaces = () if code == 0 else self._replaces
        if code and code not in _NEVER_JOINED:
            self._replaces = (*self._replaces, child.consumer)[-MOST_REPLACED:]
        if self._signals:
            return
        if self._again:
            self._start()
        else:
            log.warning("reload.waiting", exit_code=code, reason="the next change of a Python file starts it again")

    def _obey(self) -> None:
        if len(self._signals) > 1:
            if self._child is not None:
                self._child.kill()
                self._on_exit(self._child, _CRASHED)
            self._code = 128 + self._signals[1]
        elif self._signals:
            self._drain()

    def _heed(self) -> None:
        if self._signals or not (files := self._changes.taken()):
            return
        log.info("reload.changed", files=files)
        if self._child is None:
            self._start()
        else:
            # A change during a drain only adds to what the next one will load.
            self._again = True
            self._drain()

    def _drain(self) -> None:
        if self._child is not None and self._limit is None:
            self._limit = time.monotonic() + self._patience
            self._child.drain()

    def _kill_overdue(self) -> None:
        if self._child is not None and self._limit is not None and time.monotonic() >= self._limit:
            log.error("worker.killed", pid=self._child.pid, reason="it did not end")
            self._child.kill()
            self._on_exit(self._child, DRAIN_TIMED_OUT)
