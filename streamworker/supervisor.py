"""Keeps N worker processes running: starts them, replaces those that die, has them drain, waits for them.

A child's event loop shows signs of life through another pipe. One that shows none for too long is killed:
the child ends itself after ``stuck_after``, but its thread cannot where a handler keeps the GIL.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from streamworker.child import MARGIN, MOST_REPLACED, Birth, Child, reap_stranger
from streamworker.logs import log
from streamworker.signals import DRAIN_TIMED_OUT, woken_by_signals

_FIRST_PAUSE = 0.5  # before the second restart; the first comes at once
_LONGEST_PAUSE = 30.0
_LONG_LIFE = 60.0  # seconds after which a death counts as the first again
_LOOK = 1.0  # seconds between two looks at the signs of life
_HOPELESS = (2, 3)  # usage or import, no Redis: starting again would not help


@dataclass(slots=True)
class _Place:
    """One of the N places: the process in it, or when the next one is started."""

    number: int
    child: Child | None = None
    replaces: tuple[str, ...] = ()
    started: float = 0.0
    due: float = 0.0
    births: int = 0
    deaths: int = 0  # in a row
    done: bool = False
    codes: list[int] = field(default_factory=list)  # how it ended for good


class Supervisor:
    """Runs children until they end by themselves (burst) or are told to; see ``run``.

    Args:
        command: the argument vector of a child.
        workers: how many.
        shutdown_timeout: seconds that a child's drain may take.
        stuck_after: seconds without a sign of life after which a child is killed; None lets it be.
        burst: a child that ends with 0 has finished; otherwise it is replaced as well.
        environment: the children's environment; the parent's by default.
    """

    def __init__(
        self,
        command: Callable[[Birth], Sequence[str]],
        workers: int,
        *,
        shutdown_timeout: float,
        stuck_after: float | None = None,
        burst: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._patience = shutdown_timeout + MARGIN
        self._stuck_after = stuck_after
        self._burst = burst
        self._environment = environment
        self._places = [_Place(number) for number in range(1, workers + 1)]
        self._signals: list[int] = []
        self._limit: float | None = None  # when stopping: what still runs then is killed
        self._verdict: int | None = None

    def run(self) -> int:
        """Keep the children running, and return the exit code of the whole.

        0: all drained or finished; 1: a child crashed while it was stopping; 2 or 3: as the first children
        said; 4: a drain timed out; 128 + signal: at the second signal.
        """
        with woken_by_signals(self._on_signal) as wake:
            try:
                while not all(place.done for place in self._places):
                    self._start_due()
                    self._sleep(wake)
                    self._kill_silent()
                    self._reap()
                    self._obey()
                    self._kill_overdue()
            finally:
                self._kill()
        return self._exit_code()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals.append(signum)

    @property
    def _stopping(self) -> bool:
        return self._limit is not None

    def _start_due(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.child is None and not place.done and place.due <= now and not self._signals:
                self._start(place)

    def _start(self, place: _Place) -> None:
        place.started = time.monotonic()
        try:
            place.child = Child(self._command, place.number, place.replaces, self._environment)
        except OSError as error:
            self._put_off(place)
            log.error("worker.start_failed", place=place.number, reason=error, again_in=self._wait_of(place))
            return
        place.births += 1
        log.debug("worker.spawned", place=place.number, pid=place.child.pid)

    def _sleep(self, wake: int) -> None:
        now = time.monotonic()
        times = [place.due for place in self._places if place.child is None and not place.done]
        if self._limit is not None:
            times.append(self._limit)
        if self._stuck_after is not None and self._running:
            times.append(now + _LOOK)
        timeout = max(0.0, min(times) - now) if times else None
        if select.select([wake], [], [], timeout)[0]:
            with suppress(BlockingIOError):
                os.read(wake, 4096)

    def _reap(self) -> None:
        while True:
            for place in self._places:
                child = place.child
                if child is not None and (code := child.ended()) is not None:
                    self._forget(place, child)
                    self._on_exit(place, child, code)
            if os.getpid() != 1 or not reap_stranger({place.child.pid for place in self._places if place.child}):
                return

    def _on_exit(self, place: _Place, child: Child, code: int) -> None:
        if self._stopping or (self._burst and code == 0):
            place.done = True
            # Of SIGTERM dies only who has not come to installing handlers: it had nothing to drain.
            place.codes.append(0 if code == -signal.SIGTERM else code)
            if code:
                log.warning("worker.ended", place=place.number, pid=child.pid, exit_code=code)
            return
        if code in _HOPELESS and (self._burst or place.births == 1):
            place.done = True
            self._verdict = code
            self._stop()
            return
        # Whether it came to marking its predecessors nobody knows: to mark them twice does no harm.
        if time.monotonic() - place.started > _LONG_LIFE:
            place.replaces = ()
        # One that ended with 0 was told to by somebody else, and has left nothing to take over.
        if code:
            place.replaces = (*place.replaces, child.consumer)[-MOST_REPLACED:]
        self._put_off(place)
        log.error("worker.died", place=place.number, pid=child.pid, exit_code=code, restart_in=self._wait_of(place))

    def _kill_silent(self) -> None:
        """Kill children whose event loop has stood still for too long."""
        now = time.monotonic()
        for place in self._places:
            if place.child is None or self._stuck_after is None:
                continue
            if (seconds := place.child.vitals.silence(now)) > self._stuck_after:
                log.error(
                    "worker.killed", place=place.number, pid=place.child.pid, seconds=round(seconds),
                    reason="its event loop stands still, and it does not end by itself",
                )  # fmt: skip
                place.child.kill()  # its death is seen in this turn, and not told again

    def _put_off(self, place: _Place) -> None:
        now = time.monotonic()
        if now - place.started > _LONG_LIFE:
            place.deaths = 0
        # The exponent is bounded: a child that cannot start for days would overflow the float.
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(place.deaths - 1, 10)) if place.deaths else 0.0
        place.due = now + pause
        place.deaths += 1

    def _wait_of(self, place: _Place) -> float:
        return round(max(0.0, place.due - time.monotonic()), 1)

    def _obey(self) -> None:
        if len(self._signals) > 1:
            self._verdict = 128 + self._signals[1]
            self._kill()
        elif self._signals and not self._stopping:
            log.info("supervisor.draining", signal=signal.Signals(self._signals[0]).name, workers=self._running)
            self._stop()

    def _stop(self) -> None:
        self._limit = time.monotonic() + self._patience
        for place in self._places:
            if place.child is None:
                place.done = True
            else:
                place.child.drain()

    def _kill_overdue(self) -> None:
        if self._limit is not None and time.monotonic() >= self._limit:
            for place in self._places:
                if place.child is not None:
                    log.error("worker.killed", place=place.number, pid=place.child.pid, reason="it did not end")
                    place.codes.append(DRAIN_TIMED_OUT)
            self._kill()

    def _kill(self) -> None:
        for place in self._places:
            place.done = True
            if place.child is not None:
                place.child.kill()
                self._forget(place, place.child)

    @staticmethod
    def _forget(place: _Place, child: Child) -> None:
        place.child = None
        child.close()

    @property
    def _running(self) -> int:
        return sum(place.child is not None for place in self._places)

    def _exit_code(self) -> int:
        if self._verdict is not None:
            return self._verdict
        codes = {code for place in self._places for code in place.codes}
        if DRAIN_TIMED_OUT in codes:
            return DRAIN_TIMED_OUT
        return 1 if codes - {0} else 0
