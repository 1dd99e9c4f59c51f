"""Running a handler's coroutine inside a slot's task: its context, its cancellations, its part of a traceback.

Each message has a context of its own: what a handler sets there, the next message of the slot must not see.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Final

ENDED: Final = object()


def first_step(context: Context, coroutine: Coroutine[Any, Any, object]) -> object:
    """Begin ``coroutine`` in ``context``; gives what it waits for, or ENDED if it has ended without waiting."""
    try:
        return context.run(coroutine.send, None)
    except StopIteration:
        return ENDED


@types.coroutine
def further_steps(
    context: Context, coroutine: Coroutine[Any, Any, object], awaited: object
) -> Generator[Any, Any, object]:
    """Await the rest of ``coroutine`` with its steps run in ``context``, in the task that is running."""
    run = context.run
    try:
        while True:
            try:
                value = yield awaited
            except BaseException as exc:  # noqa: BLE001  (whatever is thrown in is the coroutine's)
                awaited = run(coroutine.throw, exc)
            else:
                awaited = run(coroutine.send, value)
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
