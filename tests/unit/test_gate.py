"""The gate of a process: closed while a suspect runs alone."""

from __future__ import annotations

import asyncio
from time import monotonic

from streamworker.gate import Gate

ONE, OTHER = object(), object()
LONG = 30.0


def test_a_gate_is_open_until_somebody_closes_it() -> None:
    gate = Gate()
    assert not gate.closed
    assert gate.close(ONE)
    assert gate.closed


def test_only_one_holds_the_gate() -> None:
    gate = Gate()
    assert gate.close(ONE)
    assert not gate.close(OTHER)
    assert gate.close(ONE), "closing it again is no harm"


def test_only_who_holds_the_gate_opens_it() -> None:
    gate = Gate()
    gate.close(ONE)
    gate.open(OTHER)
    assert gate.closed
    gate.open(ONE)
    assert not gate.closed
    assert gate.close(OTHER)


def test_everybody_is_told_when_the_gate_opens_and_only_then() -> None:
    gate = Gate()
    told: list[str] = []
    gate.when_opened(lambda: told.append("a"))
    gate.when_opened(lambda: told.append("b"))
    gate.open(ONE)
    assert told == [], "it was not closed"
    gate.close(ONE)
    gate.open(OTHER)
    assert told == []
    gate.open(ONE)
    assert told == ["a", "b"]


async def test_where_nothing_runs_there_is_silence_at_once() -> None:
    gate = Gate()
    gate.close(ONE)
    assert await gate.silence(LONG)


async def test_silence_comes_with_the_end_of_the_last_handler() -> None:
    gate = Gate()
    gate.running = 2
    gate.close(ONE)
    silence = asyncio.create_task(gate.silence(LONG))
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.sleep(0)
    assert not silence.done()
    gate.leave()
    began = monotonic()
    assert await silence
    assert monotonic() - began < LONG / 3


async def test_who_waits_for_silence_too_long_is_told_that_there_is_none() -> None:
    gate = Gate()
    gate.running = 1
    gate.close(ONE)
    assert not await gate.silence(0.01)
    gate.leave()
    assert await gate.silence(LONG), "asked again, there is"


async def test_a_silence_that_is_over_does_not_count() -> None:
    """What ended were the others; it is the suspect that runs now, and who waits for it must not spin."""
    gate = Gate()
    gate.running = 1
    gate.close(ONE)
    gate.leave()
    gate.running = 1
    began = monotonic()
    assert not await gate.silence(0.05)
    assert monotonic() - began > 0.04


async def test_handlers_that_end_while_the_gate_is_open_make_no_silence() -> None:
    gate = Gate()
    gate.running = 1
    gate.leave()
    gate.running = 1
    gate.close(ONE)
    assert not await gate.silence(0.01)
