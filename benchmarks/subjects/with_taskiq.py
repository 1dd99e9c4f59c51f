"""taskiq on Redis streams: orjson, no results, parameters not validated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import uvloop
from redis.asyncio import Redis
from taskiq import SimpleRetryMiddleware
from taskiq.receiver import Receiver
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, quiet

job = read_job()
quiet(job)
broker = (
    RedisStreamBroker(
        job.url,
        queue_name=job.name,
        consumer_group_name=job.group,
        consumer_id="0",
        xread_count=1000,
        max_connection_pool_size=max(job.concurrency, job.tasks) + 10,
    )
    .with_serializer(ORJSONSerializer())
    .with_middlewares(SimpleRetryMiddleware())
)
over = asyncio.Event()
work = Work(job, over.set)


@broker.task(retry_on_error=True)
async def handle(body: dict[str, Any]) -> None:
    await work(body)


async def drain() -> dict[str, Any]:
    broker.is_worker_process = True
    receiver = Receiver(broker, max_async_tasks=job.concurrency, max_prefetch=job.concurrency, validate_params=False)
    async with Redis.from_url(job.url) as client:

        async def left() -> int:
            (group,) = await client.xinfo_groups(job.name)
            return int(group["pending"]) + int(group["lag"])

        return await drained(work, over, receiver.listen(asyncio.Event()), left)


async def publish_each() -> dict[str, Any]:
    return await publish(job, handle.kiq)


async def fill() -> dict[str, Any]:
    return await publish(replace(job, tasks=100), handle.kiq)


uvloop.run(perform(job, {"fill": fill, "drain": drain, "publish": publish_each}))
