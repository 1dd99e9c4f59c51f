"""Suspects that run alone, where what ends them comes at an awkward moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

from streamworker.gate import Gate
from streamworker.isolation import Isolation


async def test_a_suspect_may_end_during_a_step_after_trouble_of_the_server() -> None:
    delivery = SimpleNamespace(alone=False, fields=[], deliveries=3, origin=b"1-0")
    handler = SimpleNamespace(type=None, max_deliveries=5)
    gate, state, reader, slots = Gate(), MagicMock(), AsyncMock(), MagicMock()
    state.gate, state.lease.seconds, state.flight.room, state.group.handlers = gate, 2.0, 5, (handler,)
    reader.claim_alone.return_value = SimpleNamespace(delivery=delivery, count=3, guilty=False)
    routes: Any = SimpleNamespace(find=lambda fields: SimpleNamespace(handler=handler))
    isolation = Isolation(state, reader, routes, {None: slots}, MagicMock(), lambda: True)
    isolation.suspect = MagicMock()
    await isolation.step()
    _, over = slots.run_alone.call_args.args
    gate.running = 1
    isolation.give_up()  # the server was away, and is back before the suspect has ended
    step = asyncio.create_task(isolation.step())
    await asyncio.sleep(0)  # the step waits for silence
    delivery.alone = False
    over()
    gate.leave()
    await step
    assert not gate.closed
