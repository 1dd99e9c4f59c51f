"""The flights example: its loader, its table, and its workers killed one after the other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from examples.flights.data import STREAM, Flight, flights
from examples.flights.load import load
from examples.flights.results import DEPARTED
from examples.flights.table import DEAD
from tests.conftest import ProgramOf, ServerOf
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


FLIGHTS = ("run", "examples.flights:app")
BURST = ("--burst", "--app-dir", str(ROOT))
# What the example's README shows.
TABLE = re.findall(
    r"^```\n(airline.*?)^```", (ROOT / "examples/flights/README.md").read_text(), re.DOTALL | re.MULTILINE
)[0]


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
    make_server: ServerOf, expected: list[Flight]
) -> None:
    server = make_server("valkey-9.1")
    async with Redis.from_url(server.url) as redis:
        with loader(server) as process:
            await half_way(redis)
            process.kill()
            process.wait()
        assert 0 < await redis.xlen(STREAM) < len(expected)
        await load(redis)
        assert await published(redis) == expected


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


@pytest.mark.parametrize("kind", ["redis-8.2", "redis-6.2"])
def test_a_run_ends_with_the_table(kind: str, make_server: ServerOf, program: ProgramOf) -> None:
    run = program(None, *BURST, command=FLIGHTS, url=make_server(kind).outright_url)
    assert run.wait(40) == 0, run.log
    assert run.out == TABLE


def test_a_second_run_on_the_embedded_server_ends_with_the_same_table(program: ProgramOf, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()  # so that the server keeps its files here
    for _ in range(2):
        run = program(None, *BURST, command=FLIGHTS)
        assert run.wait(40) == 0, run.log
        assert run.out == TABLE


async def test_workers_killed_one_after_the_other_lose_no_flight(
    make_server: ServerOf, program: ProgramOf, expected: list[Flight]
) -> None:
    server = make_server("valkey-9.1")
    run = program(None, "--workers", "4", *BURST, command=FLIGHTS, url=server.outright_url)
    async with Redis.from_url(server.url) as redis:

        async def over(handled: int) -> bool:
            return int(await redis.hlen(DEPARTED)) > handled

        await wait_until(lambda: len(run.children) == 4, what=lambda: f"four workers run\n{run.log}")
        for number, worker in enumerate(run.children):
            await wait_until(partial(over, 4_000 * number + 1_000), 30, lambda: f"the run goes on\n{run.log}")
            os.kill(worker, signal.SIGKILL)
        assert not await over(26_000), "the run was over too early for its workers to be killed in it"

        assert await run.ended(50) == 0, run.log
        assert await redis.hlen(DEPARTED) + await redis.xlen(DEAD) == len(expected)
        assert TABLE in run.out
        for stream, group in (STREAM, "board"), (STREAM, "alerts"), ("late", "flights"):
            assert (await redis.xpending(stream, group))["pending"] == 0


def test_the_table_shows_what_is_in_the_file(expected: list[Flight]) -> None:
    departed = [flight for flight in expected if flight.departed is not None]
    delays = {"EV": (3_989, 24.23), "US": (1_555, 1.82), "UA": (4_605, 8.33)}
    for carrier, (number, mean) in delays.items():
        of_carrier = [flight.delay for flight in departed if flight.carrier == carrier]
        assert (len(of_carrier), round(sum(of_carrier) / number, 2)) == (number, mean)
        assert re.search(rf"^{carrier} +{number:,} +{mean} ", TABLE, re.MULTILINE)
    assert (len(expected), len(departed), sum(flight.delay >= 60 for flight in departed)) == (27_004, 26_483, 1_852)
    assert TABLE.endswith("\n16 airlines, 26,483 departed, 521 dead letters, 1,852 late\n")


async def test_a_stream_with_entries_of_somebody_else_is_left_alone(make_server: ServerOf) -> None:
    async with Redis.from_url(make_server("valkey-9.1").url) as client:
        await client.xadd(STREAM, {"data": "{}"})
        await load(client)
        assert await client.xlen(STREAM) == 1
