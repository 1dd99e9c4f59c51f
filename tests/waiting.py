"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

_PAUSE = 0.01


async def wait_until(
    condition: Callable[[], object | Awaitable[object]], timeout: float = 10.0, what: str | Callable[[], object] = ""
) -> None:
    """Return as soon as ``condition()`` is true; it may be a coroutine function.

    Raises AssertionError after ``timeout`` seconds, with ``what`` (a text, or a function that makes one).
    """
    limit = time.monotonic() + timeout
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() > limit:
            raise AssertionError(_text(condition, timeout, what, result))
        await asyncio.sleep(_PAUSE)


def wait_until_sync(
    condition: Callable[[], object], timeout: float = 10.0, what: str | Callable[[], object] = ""
) -> None:
    """As ``wait_until``, for tests without an event loop."""
    limit = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > limit:
            raise AssertionError(_text(condition, timeout, what, result))
        time.sleep(_PAUSE)


def _text(condition: Callable[[], object], timeout: float, what: str | Callable[[], object], last: object) -> str:
    said = what() if callable(what) else what
    if not said:
        try:
            said = inspect.getsource(condition).strip()
        except (OSError, TypeError):
            said = repr(condition)
    return f"not true within {timeout} s: {said} (last value: {last!r})"
