"""saq: orjson, nothing stored of a job that is over, no timeout."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import uvloop
from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue

from benchmarks.subjects.subject import read_job
from benchmarks.subjects.work import Work, drained, perform, publish, quiet

job = read_job()
quiet(job)
TASKS = 100  # that fill the queue


def queue() -> RedisQueue:
    """With a connection for each that waits; redis-py allows 100 if it is told nothing."""
    most = max(TASKS, job.tasks, job.concurrency)
    client = Redis.from_url(job.url, max_connections=most + 10)
    return RedisQueue(client, job.name, dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=most)


async def drain() -> dict[str, Any]:
    over = asyncio.Event()
    work = Work(job, over.set)

    async def handle(context: dict[str, Any], *, body: dict[str, Any]) -> None:
        await work(body)

    worker = Worker(queue(), [("handle", handle)], concurrency=job.concurrency)
    return await drained(work, over, worker.start(), lambda: worker.queue.count("incomplete"))


async def publish_each(tasks: int = job.tasks) -> dict[str, Any]:
    to = queue()
    return await publish(
        replace(job, tasks=tasks), lambda body: to.enqueue("handle", body=body, ttl=-1, timeout=0, retries=2)
    )


uvloop.run(perform(job, {"fill": lambda: publish_each(TASKS), "drain": drain, "publish": publish_each}))
