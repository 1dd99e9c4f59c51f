"""Standstills of the event loop, as another thread sees and tells them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextvars import copy_context
from typing import Any

import pytest

from streamworker.coroutine import ENDED, first_step, further_steps
from streamworker.logs import current
from streamworker.message import Delivery
from streamworker.standstill import Standstill
from streamworker.state import InHand
from tests.running import events
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamworker")


def look(standstill: Standstill, ahead: float, overslept: float = 0.0) -> threading.Thread:
    """A look from another thread in a moment, as if ``ahead`` seconds from now."""
    thread = threading.Timer(0.1, lambda: standstill.look(time.monotonic() + ahead, overslept))
    thread.start()
    return thread


async def in_a_handler(block: Any, steps_before: int = 0) -> None:
    """``block()`` as a step of a handler called "charge"."""

    async def handler() -> None:
        for _ in range(steps_before):
            await asyncio.sleep(0)
        block()

    context = copy_context()
    delivery = Delivery(b"orders", b"1-0", b"1-0", [b"data", b"1"], 1)
    context.run(current.set, InHand("charge", "orders", "group", delivery))
    coroutine = handler()
    awaited = first_step(context, coroutine)
    if awaited is not ENDED:
        await further_steps(context, coroutine, awaited)


@pytest.mark.parametrize("steps_before", [0, 1, 3])
async def test_the_handler_and_its_line_are_named_once_and_then_the_end(
    steps_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    standstill = Standstill()

    def block() -> None:
        for _ in range(2):
            look(standstill, 10.0).join()

    await in_a_handler(block, steps_before)
    await wait_until(lambda: events(caplog, "loop.blocked"))
    standstill.turned()
    standstill.look(time.monotonic(), 0.0)
    await wait_until(lambda: events(caplog, "loop.unblocked"))
    (told,) = events(caplog, "loop.blocked")
    assert told["handler"] == "charge"
    assert told["seconds"] >= 10
    assert "threading.py" in told["at"]
    assert told["called_from"].endswith("in handler")
    assert __file__ in told["called_from"]


async def test_a_loop_that_turns_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    standstill = Standstill()
    look(standstill, 1.0).join()
    await asyncio.sleep(0.05)
    assert not events(caplog, "loop.blocked")


async def test_what_is_no_handler_is_told_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    standstill = Standstill()
    look(standstill, 10.0).join()
    await wait_until(lambda: events(caplog, "loop.blocked"))
    (told,) = events(caplog, "loop.blocked")
    assert told["handler"] == ""
    assert told["at"]


async def test_a_process_that_was_stopped_as_a_whole_is_no_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    standstill = Standstill()
    look(standstill, 10.0, overslept=9.0).join()
    look(standstill, 10.2).join()  # the loop has not had its turn yet
    await asyncio.sleep(0.05)
    assert not events(caplog, "loop.blocked")


async def test_a_handler_that_kept_the_interpreter_is_named_although_the_thread_came_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    standstill = Standstill()
    await in_a_handler(lambda: look(standstill, 10.0, overslept=9.0).join())
    await wait_until(lambda: events(caplog, "loop.blocked"))
    assert events(caplog, "loop.blocked")[0]["handler"] == "charge"
