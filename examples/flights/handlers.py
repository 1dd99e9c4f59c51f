"""The app: what becomes of each flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis

from examples.flights import table
from examples.flights.data import STREAM, Flight
from examples.flights.load import load
from examples.flights.results import DEPARTED, LATE, Results
from streamworker import App, Message, Reject

app = App("flights")


class Late(msgspec.Struct):
    """A flight that departed an hour late or more; ``flight`` is the id of its entry in the first stream."""

    flight: str
    carrier: str
    delay: int


@dataclass(frozen=True, slots=True)
class State:
    """What the handlers find as ``app.state``."""

    departed: Results
    late: Results


@app.lifespan
@asynccontextmanager
async def lifespan() -> AsyncIterator[State]:
    """Publish what is missing before the worker begins, and print the table when it has drained."""
    assert app.url is not None  # the worker has set it to the server it runs on
    async with Redis.from_url(app.url) as redis:
        await table.prepare(redis)
        await load(redis)
        yield State(departed=Results(redis, DEPARTED), late=Results(redis, LATE))
        await table.print_once(redis)


# A message may be delivered more than once. So both results are kept by the id of the flight's entry: what is
# written twice is there once.


@app.on(STREAM, group="board", concurrency=100)
async def keep_delay(flight: Flight, message: Message) -> None:
    if flight.departed is None:
        raise Reject("cancelled")
    await app.state.departed.put(message.id, f"{flight.carrier} {flight.delay}")


@app.on(STREAM, group="alerts", concurrency=100)
async def alert(flight: Flight, message: Message) -> None:
    if flight.departed is not None and flight.delay >= 60:
        await app.publish("late", Late(message.id, flight.carrier, flight.delay))


@app.on("late", concurrency=100)
async def keep_late(late: Late) -> None:
    # By the flight's id and not by this message's: ``alert`` may have run twice, and published twice.
    await app.state.late.put(late.flight, f"{late.carrier} {late.delay}")
