"""The limit: what a program does that has only what is asked, on the driver's own connection.

``drain`` reads 512 entries at a time and acks each batch with the next read; nothing else.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis
import uvloop
from redis.asyncio.connection import AbstractConnection

from benchmarks.subjects.subject import Job, Meter, burn, percentiles, read_job, tell

_COUNT = 512
_CHUNK = 1000
_AT_ONCE = 2**25  # bytes in one read: no read may hold all there is, or there is nothing between two of them to time


async def connect(job: Job) -> AbstractConnection:
    parts = urlsplit(job.url)
    connection = redis.Connection(host=parts.hostname or "", port=parts.port or 0, protocol=3)
    await connection.connect()  # type: ignore[no-untyped-call]
    return connection


async def ask(connection: AbstractConnection, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """All replies to the commands, sent as one."""
    commands = list(commands)
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await connection.read_response(disable_decoding=True) for _ in commands]


async def fill(job: Job) -> dict[str, Any]:
    """Append the messages, and nothing else: to be drained by this program or by streamworker."""
    connection = await connect(job)
    names = job.names
    commands = (
        ("XADD", names[number % len(names)], "*", "data", json.dumps(body, separators=(",", ":")))
        for number, body in enumerate(job.bodies())
    )
    chunk: list[tuple[Any, ...]] = []
    size = 0
    for command in commands:
        chunk.append(command)
        size += job.body
        if len(chunk) == _CHUNK or size > 2**22:
            await ask(connection, chunk)
            chunk, size = [], 0
    if chunk:
        await ask(connection, chunk)
    return {}


async def drain(job: Job, each: Callable[[bytes], Awaitable[object]] | None = None) -> dict[str, Any]:
    """Read and ack to the end; ``each`` is awaited for every body if it is given."""
    connection = await connect(job)
    over = asyncio.Event()
    meter = Meter(job.messages, over.set)
    await ask(connection, [("XGROUP", "CREATE", name, job.group, "0", "MKSTREAM") for name in job.names])
    read: tuple[Any, ...] = (
        "XREADGROUP",
        "GROUP",
        job.group,
        f"bare-{time.monotonic_ns()}",
        "COUNT",
        max(1, min(_COUNT, _AT_ONCE // job.body)),
        "BLOCK",
        1000,
    )
    read += ("STREAMS", *job.names, *(">" for _ in job.names))
    acks: list[tuple[Any, ...]] = []
    while not over.is_set():
        streams = (await ask(connection, [*acks, read]))[-1] or {}
        acks = []
        for name, entries in streams.items():
            if each is not None:
                for _, fields in entries:
                    await each(fields[1])
                    meter.tick()
            else:
                meter.tick(len(entries))
            acks.append(("XACK", name, job.group, *(entry[0] for entry in entries)))
    await ask(connection, acks)
    return meter.result()


async def awaiting(job: Job) -> dict[str, Any]:
    """As ``drain``, with the handler of the others awaited for each message, and the body decoded for it."""
    decode = msgspec.json.Decoder(dict).decode

    async def handle(body: dict[str, Any]) -> None:
        if job.spin:
            burn(job.spin)

    async def each(body: bytes) -> None:
        await handle(decode(body))

    return await drain(job, each)


async def sleeping(job: Job) -> dict[str, Any]:
    """Tasks that only sleep: no server."""
    over = asyncio.Event()
    meter = Meter(job.messages, over.set)

    async def sleeper() -> None:
        while not over.is_set():
            await asyncio.sleep(job.wait)
            meter.tick()

    tasks = [asyncio.create_task(sleeper()) for _ in range(job.concurrency)]
    await over.wait()
    for task in tasks:
        task.cancel()
    return meter.result()


async def latency(job: Job) -> dict[str, Any]:
    """Read, decode, and note how old each message is."""
    ages: list[float] = []
    decode = msgspec.json.Decoder(dict).decode

    async def each(body: bytes) -> None:
        ages.append(time.monotonic() - decode(body)["at"])

    await drain(job, each)
    return percentiles(ages)


async def publish_pooled(job: Job) -> dict[str, Any]:
    """redis-py's own ``xadd`` from many tasks, over as many connections as there are tasks."""
    pool = redis.BlockingConnectionPool.from_url(job.url, max_connections=job.tasks)
    client = redis.Redis(connection_pool=pool)
    bodies = job.bodies()
    over = asyncio.Event()
    meter = Meter(job.messages, over.set)

    async def publisher() -> None:
        for body in bodies:
            await client.xadd(job.name, {"data": json.dumps(body, separators=(",", ":"))})
            meter.tick()

    await asyncio.gather(*(publisher() for _ in range(job.tasks)))
    await client.aclose()
    return meter.result()


async def publish_piped(job: Job) -> dict[str, Any]:
    """A pipeline written by hand: 500 at a time."""
    client = redis.Redis.from_url(job.url)
    over = asyncio.Event()
    meter = Meter(job.messages, over.set)
    pipe = client.pipeline(transaction=False)
    for body in job.bodies():
        pipe.xadd(job.name, {"data": json.dumps(body, separators=(",", ":"))})
        if len(pipe) == 500:
            meter.tick(len(await pipe.execute()))
    meter.tick(len(await pipe.execute()))
    await client.aclose()
    return meter.result()


async def main() -> None:
    job = read_job()
    what: dict[str, Callable[[Job], Coroutine[Any, Any, dict[str, Any]]]] = {
        "fill": fill, "drain": drain, "awaiting": awaiting, "sleeping": sleeping, "latency": latency,
        "publish": publish_pooled, "publish_many": publish_piped,
    }  # fmt: skip
    tell(await what[job.do](job))


if __name__ == "__main__":
    uvloop.run(main())
    sys.exit(0)
