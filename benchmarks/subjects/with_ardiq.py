"""ardiq, whose core is written in Rust."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from ardiq import Ardiq, Retry

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, publish_many, quiet

job = read_job()
quiet(job)
app = Ardiq(job.url, queue_name=job.name, concurrency=job.concurrency, result_ttl_ms=0)
over = asyncio.Event()
work = Work(job, over.set, lambda: Retry(delay_ms=50))


@app.task
async def handle(body: dict[str, Any]) -> None:
    await work(body)


async def drain() -> dict[str, Any]:
    return await drained(work, over, app.run(), app.queue_size)


async def publish_each() -> dict[str, Any]:
    return await publish(job, handle.enqueue)


async def publish_piped() -> dict[str, Any]:
    return await publish_many(job, lambda bodies: app.enqueue_many([handle.prepare(body) for body in bodies]))


uvloop.run(
    perform(job, {"fill": publish_piped, "drain": drain, "publish": publish_each, "publish_many": publish_piped})
)
