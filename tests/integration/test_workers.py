"""Worker processes that are killed, stopped, drained and blocked: what becomes of their messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.programs import Event, Program
from tests.running import Watched
from tests.servers import KINDS, Server
from tests.waiting import wait_until

ProgramOf = Callable[..., Program]
on_all_servers = pytest.mark.parametrize("server_kind", list(KINDS))

# What the messages do is in their bodies: wait "until" a file is there, "s" seconds of sleep, "block" seconds of
# a blocked loop, "kill".
APP = """
import asyncio
from streamworker import App, Message

app = App("group", lease={lease})


@app.on("{stream}", concurrency={concurrency}, prefetch={prefetch})
async def handle(body: dict, message: Message) -> None:
    journal("start", body["i"], message.deliveries)
    while body.get("until") and not os.path.exists(body["until"]):
        await asyncio.sleep(0.02)
    await asyncio.sleep(body.get("s", 0))
    time.sleep(body.get("block", 0))
    if body.get("kill"):
        os._exit(9)
    journal("end", body["i"], message.deliveries)
"""

QUICK = """
from streamworker import App

app = App("group")


@app.on("{stream}", concurrency=100)
async def handle(body: dict) -> None:
    pass
"""


@pytest.fixture
def server_kind() -> str:
    """One kind, where nothing depends on the server; ``on_all_servers`` says where something does."""
    return "valkey-9.1"


def source(stream: str, lease: float = 2.0, concurrency: int = 10, prefetch: int = 510) -> str:
    return APP.format(stream=stream, lease=lease, concurrency=concurrency, prefetch=prefetch)


async def publish(redis: Redis, stream: str, bodies: Iterable[dict[str, Any]]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for body in bodies:
        pipeline.xadd(stream, {"data": json.dumps(body)})
    await pipeline.execute()


def of(journal: list[Event], word: str) -> list[Event]:
    return [event for event in journal if event.words[0] == word]


def handled(journal: list[Event]) -> set[str]:
    return {event.words[1] for event in of(journal, "end")}


async def members(watched: Watched, count: int) -> None:
    """Wait until ``count`` workers have sent a heartbeat."""

    async def beating() -> bool:
        names: list[bytes] = await watched.do("HKEYS", watched.keys.consumers)
        return sum(name.endswith(b".sw") for name in names) == count

    await wait_until(beating, 20, f"{count} workers beat")


@on_all_servers
async def test_what_a_killed_worker_held_is_handled_by_another(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    first = program(source(stream, lease=1.0), url=redis_url)
    await members(watched, 1)
    await publish(redis, stream, ({"i": i, "s": 0.1} for i in range(300)))
    await wait_until(lambda: len(of(first.journal, "start")) > 20)
    program(None, url=redis_url)
    await members(watched, 2)
    first.sigkill()
    killed = time.monotonic()
    journal = first.journal_path

    def rest() -> bool:
        return len(handled(first.journal)) == 300

    await wait_until(rest, 20, lambda: f"all 300 are handled; {len(handled(first.journal))} are, see {journal}")
    await watched.rests()
    again = [event for event in of(first.journal, "start") if event.words[2] != "1"]
    assert again, "what the killed worker held was delivered again"
    assert {event.words[2] for event in again} == {"2"}, "its crash counts as one delivery"
    # lease + 2.5 looks + the turn; and some more for two noisy cores
    assert min(event.at for event in again) - killed < 1.0 + 2.5 / 6 + 0.5 + 2.0
    assert max(Counter(event.words[1] for event in of(first.journal, "start")).values()) == 2


@on_all_servers
async def test_sigterm_finishes_what_runs_and_hands_back_what_has_not_started(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    await publish(redis, stream, ({"i": i} | ({"until": "go-on"} if i < 10 else {}) for i in range(510)))
    first = program(source(stream), url=redis_url)

    async def full() -> bool:
        return len(of(first.journal, "start")) == 10 and await watched.pending() == 510

    await wait_until(full, 20, "10 run and 500 are fetched")
    second = program(None, url=redis_url)
    await members(watched, 2)
    told = time.monotonic()
    first.sigterm()
    await wait_until(lambda: len(handled(first.journal)) == 500)
    (first.folder / "go-on").touch()
    assert await first.ended() == 0
    assert len(handled(first.journal)) == 510
    journal = first.journal
    by_first = {event.words[1] for event in of(journal, "end") if event.pid == first.pid}
    assert by_first == {str(i) for i in range(10)}, "the running ones finished"
    rest = [event for event in of(journal, "start") if event.pid == second.pid]
    assert len(rest) == 500
    assert {event.words[2] for event in rest} == {"1"}, "handing back spends no delivery"
    assert max(event.at for event in rest) - told < 1.0 + 1.0, "within a second, and one more for two noisy cores"
    await watched.rests()
    second.sigterm()
    assert await second.ended() == 0
    await watched.check_nothing_is_left()


async def test_a_handler_of_ten_leases_runs_once_and_so_does_one_that_blocks_the_loop_for_three(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    first = program(source(stream, concurrency=1, prefetch=1), url=redis_url)
    program(None, url=redis_url)
    await members(watched, 2)
    # Two workers with room for one each: one sleeps for ten leases of 2 s, the other blocks its loop for three.
    await publish(redis, stream, [{"i": 0, "s": 20}, {"i": 1, "block": 6}])
    await wait_until(lambda: len(handled(first.journal)) == 2, 30)
    assert [event.words[2] for event in of(first.journal, "start")] == ["1", "1"]
    await watched.rests()


async def test_a_worker_that_was_stopped_for_three_leases_starts_nothing_that_another_took_over(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    await publish(redis, stream, ({"i": i, "s": 0.05} for i in range(400)))
    first = program(source(stream, lease=1.0, concurrency=4, prefetch=200), url=redis_url)
    await wait_until(lambda: len(of(first.journal, "start")) > 8)
    second = program(None, url=redis_url)
    await members(watched, 2)
    with first.stop_cont():
        stopped = time.monotonic()
        await wait_until(lambda: len(handled(first.journal)) >= 400 - 4, 30)
        await asyncio.sleep(max(0.0, stopped + 3.0 - time.monotonic()))  # three leases of 1 s
        frozen = {event.words[1] for event in of(first.journal, "start") if event.pid == first.pid}
    # It goes on working: it is no zombie for ever.
    second.sigterm()
    assert await second.ended() == 0
    await publish(redis, stream, [{"i": 1000}])
    await wait_until(lambda: "1000" in handled(first.journal))
    await watched.rests()
    started = Counter(event.words[1] for event in of(first.journal, "start"))
    twice = {i for i, count in started.items() if count > 1}
    assert twice <= frozen, "only what ran when it was stopped ran twice"
    assert len(twice) <= 4
    assert len(await watched.letters()) == 0


async def test_a_message_that_kills_its_worker_is_dead_lettered_alone_after_max_deliveries(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    bodies = [{"i": i, "s": (i * 7919 % 100) / 1000} for i in range(300)]
    bodies[100] |= {"kill": True, "s": 0.05}
    await publish(redis, stream, bodies)
    workers = program(source(stream, concurrency=16, prefetch=60), "--workers", "2", url=redis_url)

    async def settled() -> bool:
        return len(handled(workers.journal)) == 299 and len(await watched.letters()) == 1

    await wait_until(settled, 50, lambda: f"{len(handled(workers.journal))} handled\n{workers.log[-3000:]}")
    (letter,) = await watched.letters()
    assert json.loads(letter.fields[1])["kill"]
    assert letter.facts["sw-deliveries"] == "5"
    assert "its worker died 5 times" in letter.reason
    deliveries = [event.words[2] for event in of(workers.journal, "start") if event.words[1] == "100"]
    assert deliveries == ["1", "2", "3", "4", "5"]
    workers.sigterm()
    assert await workers.ended() == 0
    await watched.rests()


async def test_the_second_signal_ends_a_worker_at_once_and_its_messages_are_handled_later(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    await publish(redis, stream, [{"i": 0, "s": 1.5}])
    first = program(source(stream, lease=1.0), url=redis_url)
    await wait_until(lambda: of(first.journal, "start"))
    first.sigterm()
    await wait_until(lambda: "worker.draining" in first.log)
    first.sigterm()
    assert await first.ended() == 128 + signal.SIGTERM
    assert not handled(first.journal)
    second = program(None, url=redis_url)
    await wait_until(lambda: handled(second.journal))
    await Watched(redis, stream, "group").rests()


async def test_a_drain_that_takes_too_long_cancels_hands_back_and_says_so_by_its_exit_code(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    await publish(redis, stream, [{"i": 0, "s": 60}])
    first = program(source(stream), "--shutdown-timeout", "0.5", url=redis_url)
    await wait_until(lambda: of(first.journal, "start"))
    first.sigterm()
    assert await first.ended(10) == 4
    pending = await redis.xpending_range(stream, "group", "-", "+", 10)
    assert [(entry["consumer"], entry["times_delivered"]) for entry in pending] == [(b"released", 0)]


async def test_a_worker_drains_while_the_server_is_away(
    own_server: Server, own_redis: Redis, stream: str, program: ProgramOf
) -> None:
    await publish(own_redis, stream, [{"i": 0, "s": 0.5}])
    worker = program(source(stream), "--shutdown-timeout", "2", url=own_server.url)
    await wait_until(lambda: of(worker.journal, "start"))
    own_server.kill()
    await wait_until(lambda: handled(worker.journal))
    worker.sigterm()
    assert await worker.ended(8) == 4, "its ack could not be flushed, and that is said"


async def test_a_worker_with_nothing_in_flight_ends_soon_although_the_server_is_away(
    own_server: Server, own_redis: Redis, stream: str, program: ProgramOf
) -> None:
    worker = program(source(stream), url=own_server.url)
    await members(Watched(own_redis, stream, "group"), 1)
    own_server.kill()
    await wait_until(lambda: "redis.unavailable" in worker.log)
    worker.sigterm()
    assert await worker.ended(12) == 0, "and not after the 25 s that running handlers would get"


async def test_a_handler_that_blocks_the_loop_is_no_outage(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    worker = program(source(stream, lease=15), url=redis_url)
    await members(Watched(redis, stream, "group"), 1)
    await publish(redis, stream, [{"i": 0, "block": 5}])  # longer than a read and its reply may take
    await wait_until(lambda: handled(worker.journal))
    await publish(redis, stream, [{"i": 1}])
    await wait_until(lambda: len(handled(worker.journal)) == 2)
    assert "redis.unavailable" not in worker.log


async def test_a_server_killed_and_started_again_loses_nothing_and_stops_nobody(
    own_server: Server, own_redis: Redis, stream: str, program: ProgramOf
) -> None:
    watched = Watched(own_redis, stream, "group")
    worker = program(source(stream, lease=1.0, prefetch=50), url=own_server.url)
    await members(watched, 1)
    await publish(own_redis, stream, ({"i": i, "s": 0.02} for i in range(500)))
    await wait_until(lambda: len(handled(worker.journal)) > 50)
    own_server.kill()
    await wait_until(lambda: "redis.unavailable" in worker.log)
    own_server.start()
    await wait_until(lambda: len(handled(worker.journal)) == 500, 20)
    await watched.rests()
    starts = Counter(event.words[1] for event in of(worker.journal, "start"))
    assert max(starts.values()) == 1, "the audit told what was still pending, so nothing ran twice"
    assert worker.process.poll() is None
    assert worker.log.count("redis.unavailable") <= 2, "an outage is told once"


@pytest.mark.timeout(120)
async def test_the_memory_of_a_worker_stays_flat_on_a_million_entries(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "group")
    fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'data', ARGV[2] .. i .. '}') end"
    for _ in range(20):
        await watched.do("EVAL", fill, 1, stream, 50_000, '{"customer":"0123456789","amount":12.5,"i":')
    worker = program(QUICK.format(stream=stream), url=redis_url)
    await wait_until(lambda: _read_by(watched), 20)
    sizes: list[float] = []

    async def over() -> bool:
        sizes.append(_megabytes(worker.pid))
        return await watched.is_at_rest()

    await wait_until(over, 100)
    # The first samples are taken while it is still growing to its working size.
    working = sizes[len(sizes) // 10 :]
    assert max(working) - min(working) < 20, sizes
    await watched.do("DEL", stream)


async def _read_by(watched: Watched) -> bool:
    info = await watched.info()
    return info is not None and info[b"last-delivered-id"] != b"0-0"


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
