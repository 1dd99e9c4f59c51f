"""A run of the contract: ten thousand messages while the server is restarted at a third and at half."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from streamworker import App, Message
from streamworker.broker import Publisher
from streamworker.errors import PublishFailed
from tests.contract.backend import Backend, working
from tests.waiting import wait_until

MESSAGES = 10_000
_BATCH = 100
_PATIENCE = 90.0  # seconds; ten runs share the machine


@dataclass
class Run:
    """What one run published and handled; entries by id, bodies by number."""

    started: Counter[str] = field(default_factory=Counter)
    handled: Counter[int] = field(default_factory=Counter)
    deliveries: int = 0
    unknown: int = 0  # published with an outcome that nobody knows, so published again


async def run(backend: Backend, stream: str) -> Run:
    """Publish and consume at the same time, and restart the server twice: once in order, once killed."""
    app, seen = App("group", lease=2.0), Run()

    @app.on(stream, concurrency=50)
    async def handle(n: int, message: Message) -> None:
        seen.started[message.id] += 1
        seen.deliveries = max(seen.deliveries, message.deliveries)
        await asyncio.sleep(0.001)
        seen.handled[n] += 1

    broker = backend.broker()
    publisher = broker.publisher()
    async with working(backend, app, limit=_PATIENCE):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_publish(publisher, stream, seen))
            tasks.create_task(_restart_twice(backend, seen))
        await wait_until(lambda: len(seen.handled) == MESSAGES, _PATIENCE, lambda: f"{len(seen.handled)} are handled")
        await wait_until(lambda: backend.at_rest(stream, "group"), _PATIENCE, "everything is settled")
    await publisher.close()
    await broker.close()
    return seen


async def _publish(publisher: Publisher, stream: str, seen: Run) -> None:
    """Publish every number, again and again where the outcome is not known; never far ahead of the handlers."""
    at = 0
    while at < MESSAGES:
        await wait_until(lambda at=at: at - len(seen.handled) < 1000, _PATIENCE, "the handlers keep up")  # type: ignore[misc]
        try:
            at += await publisher.publish_many(stream, range(at, min(at + _BATCH, MESSAGES)))
        except PublishFailed as failed:
            at += failed.published
            seen.unknown += failed.unknown
            await asyncio.sleep(0.05)  # the server is away


async def _restart_twice(backend: Backend, seen: Run) -> None:
    for at, killed in ((MESSAGES // 3, False), (MESSAGES // 2, True)):
        await wait_until(lambda at=at: len(seen.handled) >= at, _PATIENCE, f"{at} are handled")  # type: ignore[misc]
        assert len(seen.handled) < MESSAGES
        await asyncio.to_thread(backend.restart, killed=killed)


def check(seen: Run) -> None:
    """Nothing is lost, and no entry runs twice: its worker was alive all the time."""
    assert set(seen.handled) == set(range(MESSAGES))
    assert max(seen.started.values()) == 1
    assert seen.deliveries == 1
    assert len(seen.started) <= MESSAGES + seen.unknown
