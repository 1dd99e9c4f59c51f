"""Limits of time that hold on a busy machine too: waiting by the time that this process was given."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

_PAUSE: Final = 0.01
_MOST: Final = 3 * _PAUSE  # what a pause counts at most: what it took longer, the machine was busy elsewhere


async def within(
    seconds: float, condition: Callable[[], object | Awaitable[object]], what: str | Callable[[], object] = ""
) -> None:
    """Return once ``condition()`` is true; AssertionError after ``seconds`` in which this event loop went round.

    For workers in the same event loop: while the machine lets the loop stand still, their time does not run either.
    """
    given = 0.0
    before = time.monotonic()
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if given > seconds:
            raise AssertionError(f"not true within {seconds} s: {what() if callable(what) else what or condition}")
        await asyncio.sleep(_PAUSE)
        now = time.monotonic()
        given, before = given + min(_MOST, now - before), now
