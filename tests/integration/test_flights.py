"""The flights example: its loader, its table, and its workers killed one after the other."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from examples.flights.data import STREAM, Flight, flights
from examples.flights.load import load
from tests.conftest import ServerOf
from tests.servers import Server, dying_with_us
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
LOADER = """
import asyncio, sys
from redis.asyncio import Redis
from examples.flights import load
load._BATCH = 20  # small steps, so that there is time to interrupt it
asyncio.run(load.load(Redis.from_url(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def expected() -> list[Flight]:
    return list(flights())


async def published(redis: Redis) -> list[Flight]:
    entries: Any = await redis.xrange(STREAM)
    return [msgspec.json.decode(fields[b"data"], type=Flight) for _, fields in entries]


@contextmanager
def loader(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """A loader in a process of its own, killed at the end of the block."""
    process = subprocess.Popen(dying_with_us(sys.executable, "-c", LOADER, server.url), cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def half_way(redis: Redis) -> None:
    """Return when some flights are in the stream."""

    async def some() -> bool:
        return int(await redis.xlen(STREAM)) > 0

    await wait_until(some, what="the loader has begun")


async def test_loaders_that_start_together_publish_each_flight_once(
    own_server: Server, own_redis: Redis, expected: list[Flight]
) -> None:
    clients = [Redis.from_url(own_server.url) for _ in range(4)]
    await asyncio.gather(*(load(client) for client in clients))
    for client in clients:
        await client.aclose()
    assert await published(own_redis) == expected


async def test_a_loader_killed_half_way_leaves_no_flight_out_and_none_twice(
    own_server: Server, own_redis: Redis, expected: list[Flight]
) -> None:
    with loader(own_server) as process:
        await half_way(own_redis)
        process.kill()
        process.wait()
    assert 0 < await own_redis.xlen(STREAM) < len(expected)
    await load(own_redis)
    assert await published(own_redis) == expected


async def test_a_loader_that_wakes_up_after_its_lock_ran_out_publishes_nothing_twice(
    make_server: ServerOf, expected: list[Flight]
) -> None:
    server = make_server("valkey-9.1")
    async with Redis.from_url(server.url) as redis:
        with loader(server) as process:
            await half_way(redis)
            process.send_signal(signal.SIGSTOP)
            assert 0 < await redis.xlen(STREAM) < len(expected)
            await load(redis)
            process.send_signal(signal.SIGCONT)
            assert process.wait(10) == 0
        assert await published(redis) == expected


async def test_a_stream_with_entries_of_somebody_else_is_left_alone(make_server: ServerOf) -> None:
    async with Redis.from_url(make_server("valkey-9.1").url) as client:
        await client.xadd(STREAM, {"data": "{}"})
        await load(client)
        assert await client.xlen(STREAM) == 1
