"""dramatiq on Redis: a thread for each message that is handled at once, its middleware as it comes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, quiet

job = read_job()
quiet(job)
# A connection for each thread; redis-py allows 100 if it is told nothing.
broker = RedisBroker(client=Redis.from_url(job.url, max_connections=job.concurrency + 10))
dramatiq.set_broker(broker)
over = asyncio.Event()
runner = asyncio.Runner()
work = Work(job, lambda: runner.get_loop().call_soon_threadsafe(over.set))
counting = threading.Lock()


@dramatiq.actor(queue_name=job.name, max_retries=3, min_backoff=50)
def handle(body: dict[str, Any]) -> None:
    work.blocking(body, counting)


async def drain() -> dict[str, Any]:
    worker = dramatiq.Worker(broker, worker_threads=job.concurrency)
    worker.queue_prefetch = max(
        100, 2 * job.concurrency
    )  # as dramatiq_queue_prefetch does; few threads starve on theirs

    async def run() -> None:
        worker.start()
        await asyncio.Event().wait()

    async def left() -> int:
        names = (f"dramatiq:{name}.msgs" for name in (job.name, f"{job.name}.DQ"))
        return sum(int(broker.client.hlen(name)) for name in names)  # what is not acked is in there

    found = await drained(work, over, run(), left)
    worker.stop()
    return found


async def publish_each() -> dict[str, Any]:
    """Its client blocks: tasks take turns, and threads would only wait for Python's lock."""

    async def one(body: dict[str, Any]) -> None:
        handle.send(body)

    return await publish(job, one)


runner.run(perform(job, {"fill": publish_each, "drain": drain, "publish": publish_each}))
