"""A slot: one place in which a handler runs, one message after the other."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Literal

from streamworker.message import Delivery


class Slot:
    """One place in which a handler runs; the fields are about the message in it.

    Args:
        stoppable: whether the handler can be cancelled; a thread cannot.
    """

    __slots__ = (
        "delivery",
        "inside",
        "mentioned",
        "settled",
        "started",
        "stoppable",
        "stopped_at",
        "stopped_by",
        "task",
    )

    def __init__(self, stoppable: bool) -> None:
        self.stoppable = stoppable
        self.task: asyncio.Task[None] | None = None
        self.delivery: Delivery | None = None
        self.begin(None, 0.0)

    def begin(self, delivery: Delivery | None, now: float) -> None:
        self.delivery = delivery
        self.started = now
        self.inside = False  # the handler itself is at work: only then may it be cancelled
        self.stopped_by: Literal["", "timeout", "lost", "drain"] = ""  # who cancelled the handler, and why
        self.stopped_at = now
        self.settled = False  # it ran on past timeout and grace: the sweeper has settled the message
        self.mentioned = False

    def stop(self, by: Literal["timeout", "lost", "drain"]) -> None:
        """Cancel the handler, once. A thread is left to end by itself."""
        if self.inside and not self.stopped_by and self.stoppable and self.task is not None:
            self.stopped_by = by
            self.stopped_at = monotonic()
            self.task.cancel()
