"""streamworker with everything on: the command line as users start it, typed bodies, heartbeats, audits, counters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

from benchmarks.subjects.subject import Job, Meter, burn, percentiles, read_job, tell
from streamworker import App, Backoff
from streamworker.cli import cli

job = read_job()
app = App(job.group, url=job.url)


@dataclass(slots=True)
class Order:
    """The body of a message."""

    id: int
    customer: str
    amount: float
    pad: str


@dataclass(slots=True)
class Stamped:
    """The body of a message whose age matters."""

    at: float


def over() -> None:
    """Print the result and drain: the exit code tells whether everything was acked."""
    tell({**meter.result(), **(percentiles(ages) if job.do == "latency" else {})})
    os.kill(os.getpid(), signal.SIGTERM)


def over_at_end_of_input() -> None:
    sys.stdin.read()
    over()


meter = Meter(job.messages, over)
ages: list[float] = []
failed: set[int] = set()


async def nothing(order: Order) -> None:
    meter.tick()


async def waits(order: Order) -> None:
    await asyncio.sleep(job.wait)
    meter.tick()


async def spins(order: Order) -> None:
    burn(job.spin)
    meter.tick()


async def fails(order: Order) -> None:
    if order.id % job.fail_every == 0 and order.id not in failed:
        failed.add(order.id)
        raise ValueError("the first delivery fails")
    meter.tick()


async def notes_age(order: Stamped) -> None:
    ages.append(time.monotonic() - order.at)
    meter.tick()


async def publish(job: Job) -> None:
    """From ``job.tasks`` tasks, one message at a time."""
    bodies = job.bodies()

    async def publisher() -> None:
        for body in bodies:
            await app.publish(job.name, body)
            meter.tick()

    async with app:
        await asyncio.gather(*(publisher() for _ in range(job.tasks)))
    tell(meter.result())


async def publish_many(job: Job) -> None:
    """In bulk: the clock runs over all of it, since nothing tells how far it is."""
    async with app:
        begun = time.monotonic()
        count = await app.publish_many(job.name, job.bodies())
        tell({"rate": count / (time.monotonic() - begun)})


def work() -> None:
    """Run the worker as ``streamworker run`` does, until the last message is handled."""
    here = os.path.dirname(os.path.abspath(__file__))
    cli(["run", "with_streamworker:app", "--app-dir", here, "--redis", job.url, "--log-level", "error"])


if job.do in ("drain", "latency", "idle"):
    handler = (
        notes_age if job.do == "latency" else waits if job.wait else spins if job.spin else fails if job.fail_every
        else nothing
    )  # fmt: skip
    for stream in job.names:
        app.on(
            stream, concurrency=job.concurrency, timeout=job.timeout, prefetch=job.prefetch, retry=Backoff(first=0.05)
        )(handler)

# The command line imports this file a second time: that one has the handlers that are called.
if __name__ != "__main__" and job.messages is None:
    threading.Thread(target=over_at_end_of_input, daemon=True).start()

if __name__ == "__main__":
    if job.do == "publish":
        meter = Meter(job.messages, lambda: None)
        run = publish(job)
    elif job.do == "publish_many":
        run = publish_many(job)
    else:
        work()
    import uvloop

    uvloop.run(run)
