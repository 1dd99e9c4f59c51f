"""Running a handler's coroutine inside a slot's task: its context, its cancellations, its part of a traceback."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Any


@types.coroutine
def in_context(context: Context, coroutine: Coroutine[Any, Any, object]) -> Generator[Any, Any, object]:
    """Await ``coroutine`` with its steps run in ``context``, in the task that is running.

    What it sets stays there: the next message of the slot must not see it.
    """
    run = context.run
    try:
        yielded = run(coroutine.send, None)
        while True:
            try:
                value = yield yielded
            except BaseException as exc:  # noqa: BLE001  (whatever is thrown in is the coroutine's)
                yielded = run(coroutine.throw, exc)
            else:
                yielded = run(coroutine.send, value)
    except StopIteration as stop:
        return stop.value


def users_part(frames: TracebackType | None) -> TracebackType | None:
    """A traceback without our own frames at its beginning."""
    found = frames
    while found is not None and found.tb_frame.f_globals.get("__package__") == __package__:
        found = found.tb_next
    return found if found is not None else frames


async def uncancel(task: asyncio.Task[None]) -> None:
    """Take back every cancellation of the running task: the sweeper's, or the handler's own.

    One that has not been raised yet comes with the next await, also when it was taken back (before Python 3.13).
    """
    while task.cancelling():
        task.uncancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
