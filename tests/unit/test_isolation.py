"""Suspects that run alone, where what ends them comes at an awkward moment."""

from __future__ import annotations

import asyncio
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

from streamworker.gate import Gate
from streamworker.isolation import Isolation


class Stage:
    """A worker with one handler, and a suspect for it."""

    def __init__(self, on_duty: bool = True) -> None:
        self.delivery = SimpleNamespace(alone=False, fields=[], deliveries=3, origin=b"1-0")
        handler = SimpleNamespace(type=None, max_deliveries=5)
        state, self.reader, self.slots = MagicMock(), AsyncMock(), MagicMock()
        self.gate = state.gate = Gate()
        state.lease.seconds, state.flight.room, state.group.handlers = 0.2, 5, (handler,)
        self.reader.claim_alone.return_value = SimpleNamespace(delivery=self.delivery, count=3, guilty=False)
        routes: Any = SimpleNamespace(find=lambda fields: SimpleNamespace(handler=handler))
        self.isolation = Isolation(state, self.reader, routes, {None: self.slots}, MagicMock(), lambda: on_duty)
        self.isolation.suspect = MagicMock()

    async def closed_for(self, seconds: float) -> float:
        """Go on for so long; the share of the time in which the gate was closed."""
        steps = asyncio.create_task(self._go_on())
        seen: list[bool] = []
        end = monotonic() + seconds
        while monotonic() < end:
            await asyncio.sleep(0.005)
            seen.append(self.gate.closed)
        steps.cancel()
        return sum(seen) / len(seen)

    async def _go_on(self) -> None:
        while True:
            await self.isolation.step()
            await asyncio.sleep(0.01)


async def test_a_suspect_may_end_during_a_step_after_trouble_of_the_server() -> None:
    stage = Stage()
    await stage.isolation.step()
    _, over = stage.slots.run_alone.call_args.args
    stage.gate.running = 1
    stage.isolation.give_up()  # the server was away, and is back before the suspect has ended
    step = asyncio.create_task(stage.isolation.step())
    await asyncio.sleep(0)  # the step waits for silence
    stage.delivery.alone = False
    over()
    stage.gate.leave()
    await step
    assert not stage.gate.closed


async def test_who_is_not_on_duty_waits_for_no_suspect() -> None:
    stage = Stage(on_duty=False)
    stage.gate.running = 1
    assert not await stage.isolation.step()
    assert not stage.gate.closed
    assert stage.isolation.reserved == 0, "nor keeps room for it"


async def test_who_is_not_on_duty_takes_a_suspect_when_nothing_else_runs() -> None:
    stage = Stage(on_duty=False)
    assert await stage.isolation.step()
    stage.slots.run_alone.assert_called_once()


async def test_a_handler_that_does_not_end_holds_up_the_others_for_half_of_the_time_at_most() -> None:
    stage = Stage()
    stage.gate.running = 1
    assert 0.2 < await stage.closed_for(3) < 0.7


async def test_suspects_that_come_one_by_one_hold_up_the_others_for_half_of_the_time_at_most() -> None:
    stage = Stage()
    stage.reader.claim_alone.return_value = None  # each is gone when silence has come
    stage.gate.running = 1

    async def comes_and_goes() -> None:
        while True:
            await asyncio.sleep(0.15)  # a handler takes so long
            stage.gate.leave()
            await asyncio.sleep(0.02)
            stage.gate.running = 1
            stage.isolation.suspect = MagicMock()

    handlers = asyncio.create_task(comes_and_goes())
    assert await stage.closed_for(3) < 0.65
    assert stage.reader.claim_alone.await_count > 3
    handlers.cancel()
