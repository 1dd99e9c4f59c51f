"""streaq: no results kept, nothing logged for each task."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import uvloop
from streaq import StreaqRetry, Worker

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, publish_many, quiet

job = read_job()
quiet(job)
worker: Worker[None] = Worker(job.url, queue_name=job.name, concurrency=job.concurrency, handle_signals=False)
over = asyncio.Event()
work = Work(job, over.set, lambda: StreaqRetry("at first", delay=timedelta(milliseconds=50)))


@worker.task(ttl=0, silent=True)
async def handle(body: dict[str, Any]) -> None:
    await work(body)


async def drain() -> dict[str, Any]:
    return await drained(work, over, worker.run_async(), worker.queue_size)


async def publish_each() -> dict[str, Any]:
    async def one(body: dict[str, Any]) -> None:
        await handle.enqueue(body)

    async with worker:
        return await publish(job, one)


async def publish_piped() -> dict[str, Any]:
    async with worker:
        return await publish_many(job, lambda bodies: worker.enqueue_many([handle.enqueue(body) for body in bodies]))


uvloop.run(
    perform(job, {"fill": publish_piped, "drain": drain, "publish": publish_each, "publish_many": publish_piped})
)
