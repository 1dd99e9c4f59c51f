"""FastStream on Redis streams: a consumer group, bodies not validated, all reads as large as the concurrency."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, publish_many, quiet

job = read_job()
quiet(job)
# A connection for each that acks or publishes at once; redis-py allows 100 if it is told nothing.
broker = RedisBroker(job.url, apply_types=False, max_connections=max(job.concurrency, job.tasks) + 10)


async def drain() -> dict[str, Any]:
    over = asyncio.Event()
    work = Work(job, over.set)
    options: dict[str, Any] = {"group": job.group, "consumer": "one", "max_records": max(100, job.concurrency)}
    workers = {"max_workers": job.concurrency, "ack_policy": AckPolicy.NACK_ON_ERROR}
    broker.subscriber(stream=StreamSub(job.name, **options), **workers)(work.__call__)
    if job.fail_every:  # what failed stays pending, and is another subscriber's who claims it
        options |= {"consumer": "two", "min_idle_time": 300, "polling_interval": 100}
        broker.subscriber(stream=StreamSub(job.name, **options), **workers)(work.__call__)

    async def worker() -> None:
        await broker.start()
        await asyncio.Event().wait()

    async with Redis.from_url(job.url) as client:
        await client.xgroup_create(job.name, job.group, id="0")

        async def left() -> int:
            (group,) = await client.xinfo_groups(job.name)
            return int(group["pending"]) + int(group["lag"])

        found = await drained(work, over, worker(), left)
    await broker.stop()
    return found


async def publish_each() -> dict[str, Any]:
    async with broker:
        return await publish(job, lambda body: broker.publish(body, stream=job.name))


async def publish_piped() -> dict[str, Any]:
    async with broker, Redis.from_url(job.url) as client:

        async def some(bodies: list[dict[str, Any]]) -> None:
            async with client.pipeline(transaction=False) as pipe:
                for body in bodies:
                    await broker.publish(body, stream=job.name, pipeline=pipe)
                await pipe.execute()

        return await publish_many(job, some)


uvloop.run(
    perform(job, {"fill": publish_piped, "drain": drain, "publish": publish_each, "publish_many": publish_piped})
)
