"""What the peers' programs have in common: a handler's work, publishing, and a drain that proves itself.

A peer's drain is a result only if every message was handled and the peer's own queue is empty afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from benchmarks.subjects.subject import Job, Meter, burn, tell

_PATIENCE = 20.0  # seconds for the last acks
_LARGEST = 2**22  # bytes sent as one


class Work:
    """What a handler does, and a count of it.

    Args:
        job: says what is done.
        over: called when every message was handled.
        failure: makes what a handler raises at a first delivery that fails, so that the peer tries again.
    """

    def __init__(
        self, job: Job, over: Callable[[], object], failure: Callable[[], Exception] = lambda: ValueError("at first")
    ) -> None:
        assert job.messages is not None, "a peer has to know how many messages there are"
        self._job = job
        self._failure = failure
        self._failed: set[int] = set()
        self._handled = bytearray(job.messages)
        self._again = 0
        self._meter = Meter(job.messages, over)

    async def __call__(self, body: dict[str, Any]) -> None:
        """Handle a message."""
        if self._job.wait:
            await asyncio.sleep(self._job.wait)
        self.finish(body)

    def blocking(self, body: dict[str, Any], counting: AbstractContextManager[object]) -> None:
        """Handle a message in a thread; ``counting`` is the lock of all of them."""
        if self._job.wait:
            time.sleep(self._job.wait)
        with counting:
            self.finish(body)

    def finish(self, body: dict[str, Any]) -> None:
        """The part that does not wait."""
        number = body["id"]
        if self._job.spin:
            burn(self._job.spin)
        if self._job.fail_every and number % self._job.fail_every == 0 and number not in self._failed:
            self._failed.add(number)
            raise self._failure()
        if self._handled[number]:
            self._again += 1
            return
        self._handled[number] = 1
        self._meter.tick()

    def result(self) -> dict[str, Any]:
        """The rate, and how many messages were handled again after they had been."""
        return {**self._meter.result(), "again": self._again, "failed": len(self._failed)}


def quiet(job: Job) -> None:
    """Warnings and worse are logged; where handlers fail on purpose, not even those."""
    logging.disable(logging.ERROR if job.fail_every else logging.INFO)


def perform(job: Job, ways: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]]) -> Coroutine[Any, Any, None]:
    """Do what the job says, and tell the result; end with a sentence if this subject has no way to do it."""

    async def told() -> None:
        tell(await ways[job.do]())

    if job.do not in ways:
        raise SystemExit(f"there is no way to do {job.do!r} with it")
    return told()


async def drained(
    work: Work, over: asyncio.Event, worker: Coroutine[Any, Any, Any], left: Callable[[], Awaitable[int]]
) -> dict[str, Any]:
    """Let the worker run until all is handled and acked.

    Args:
        work: that the worker's handlers do.
        over: is set when the last of them has done it.
        worker: runs until it is cancelled.
        left: how many messages the peer's queue still holds, those being handled among them.
    """
    running = asyncio.create_task(worker)
    waiting = asyncio.create_task(over.wait())
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
        raise SystemExit("the worker has ended before all was handled")
    end = time.monotonic() + _PATIENCE
    while count := await left():
        if time.monotonic() > end:
            raise SystemExit(f"all was handled, and the queue still has {count} messages after {_PATIENCE:.0f} s")
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait((running,), timeout=5)
    return work.result()


async def publish(job: Job, one: Callable[[dict[str, Any]], Awaitable[object]]) -> dict[str, Any]:
    """One message at a time, from as many tasks as the job says."""
    bodies = job.bodies()
    meter = Meter(job.messages, lambda: None)

    async def publisher() -> None:
        for body in bodies:
            await one(body)
            meter.tick()

    await asyncio.gather(*(publisher() for _ in range(job.tasks)))
    return meter.result()


async def publish_many(job: Job, some: Callable[[list[dict[str, Any]]], Awaitable[object]]) -> dict[str, Any]:
    """Up to 500 messages at a time, and not more than a few megabytes."""
    bodies = job.bodies()
    meter = Meter(job.messages, lambda: None)
    while chunk := list(islice(bodies, max(1, min(500, _LARGEST // job.body)))):
        await some(chunk)
        meter.tick(len(chunk))
    return meter.result()
