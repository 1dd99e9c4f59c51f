"""Tells of an event loop that stands still, and which handler keeps it: seen from another thread."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Final

from streamworker.coroutine import first_step, further_steps
from streamworker.describe import place
from streamworker.logs import current, log

_LONG: Final = 2.0  # seconds without a turn of the loop that are told; it says so every half second
_STEPS: Final = (first_step.__code__, further_steps.__code__)
_OVERSLEPT: Final = 1.0  # seconds: the whole process was stopped, or had no processor


class Standstill:
    """One line when the loop stands still, and one when it turns again. To be made in the loop's own thread.

    Nothing is written down per message: where the loop's thread is says its stack, which is looked at only then.
    """

    def __init__(self) -> None:
        self.turned_at = monotonic()
        self._thread = threading.get_ident()
        self._excused = 0.0
        self._since: float | None = None

    def turned(self) -> None:
        """To be called by the event loop, again and again."""
        self.turned_at = monotonic()

    def look(self, now: float, overslept: float) -> None:
        """To be called by the other thread, again and again.

        Args:
            now: monotonic seconds.
            overslept: by how much this call comes late; a handler that keeps the interpreter holds it up too.
        """
        if self._since is None:
            if now - max(self.turned_at, self._excused) > _LONG:
                self._tell(now, overslept)
        elif self.turned_at > self._since:
            _say("warning", "loop.unblocked", seconds=round(self.turned_at - self._since, 1))
            self._since = None

    def _tell(self, now: float, overslept: float) -> None:
        frame = sys._current_frames().get(self._thread)
        handler, called = _handler_in(frame)
        if not handler and overslept > _OVERSLEPT:
            self._excused = now  # the loop had no chance either
            return
        if frame is None:
            return
        self._since = self.turned_at
        details = {"handler": handler, "seconds": round(now - self.turned_at, 1), "at": _place_of(frame)}
        if called is not None and called is not frame:
            details["called_from"] = _place_of(called)
        _say("error", "loop.blocked", **details)


def _handler_in(frame: FrameType | None) -> tuple[str, FrameType | None]:
    """The handler whose step this stack is in, and its own frame; "" if it is in none."""
    inner = None
    while frame is not None:
        if frame.f_code in _STEPS:
            message = frame.f_locals["context"].get(current)
            return getattr(message, "handler", ""), inner
        inner, frame = frame, frame.f_back
    return "", None


def _place_of(frame: FrameType) -> str:
    return place(frame.f_code, frame.f_lineno)


def _say(level: str, event: str, **values: object) -> None:
    # In a thread of its own: what blocks the loop may be a log handler whose lock it holds, and the caller beats.
    with suppress(RuntimeError):  # no more threads: too many, or the interpreter ends
        threading.Thread(target=getattr(log, level), args=(event,), kwargs=values, daemon=True).start()
