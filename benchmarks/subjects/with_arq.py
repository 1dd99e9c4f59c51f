"""arq: no results kept, and a queue that is polled as soon as the last poll's jobs are started."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import uvloop
from arq import Retry, Worker, create_pool, func
from arq.connections import RedisSettings

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, quiet

job = read_job()
quiet(job)
settings = RedisSettings.from_dsn(job.url)


async def drain() -> dict[str, Any]:
    over = asyncio.Event()
    work = Work(job, over.set, lambda: Retry(defer=0.05))

    async def handle(context: dict[str, Any], body: dict[str, Any]) -> None:
        await work(body)

    worker = Worker(
        [func(handle, name="handle", keep_result=0)],
        queue_name=job.name,
        redis_settings=settings,
        max_jobs=job.concurrency,
        poll_delay=0.0001,
        handle_signals=False,
        log_results=False,
    )

    async def left() -> int:
        return int(await worker.pool.zcard(job.name))

    return await drained(work, over, worker.main(), left)


async def publish_each(tasks: int = job.tasks) -> dict[str, Any]:
    pool = await create_pool(settings, default_queue_name=job.name)
    return await publish(replace(job, tasks=tasks), lambda body: pool.enqueue_job("handle", body))


uvloop.run(perform(job, {"fill": lambda: publish_each(100), "drain": drain, "publish": publish_each}))
