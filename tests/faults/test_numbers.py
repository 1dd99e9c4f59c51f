"""Numbers: a dead consumer with 200,000 entries, 10,000 failures in a second, a backlog of a million."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest
from redis.asyncio import Redis

from tests.conftest import ProgramOf, ServerOf
from tests.faults.numbers import DEAD, die_with, fill, memory, pinged, slowest_script
from tests.programs import Program
from tests.running import Watched
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

PENDING = 200_000
FAILING = 10_000
BACKLOG = 1_000_000
SLOW_LOG = ("--slowlog-log-slower-than", "1000", "--slowlog-max-len", "10000")

# Bodies below 0 are live traffic; the rest was there before.
HANDLER = """
from streamworker import App, Backoff, Message

app = App("group", lease=2)
old = live = highest = 0

@app.on({stream!r}, concurrency=32)
async def handle(n: int, message: Message) -> None:
    global old, live, highest
    if n < 0:
        live += 1
        journal("live", -n)
    else:
        old += 1
        highest = max(highest, n)
        if n < highest - 5000:
            journal("late", n, highest)
        if old % {every} == 0:
            journal("old", old)
"""


@pytest.fixture
def numbers_server(server_kind: str, make_server: ServerOf) -> Server:
    """A server of this test alone, that writes down which commands took longer than a millisecond."""
    return make_server(server_kind, *SLOW_LOG)


@pytest.fixture
async def watch(numbers_server: Server, stream: str) -> AsyncIterator[Watched]:
    client = Redis.from_url(numbers_server.url, protocol=2, decode_responses=False, socket_timeout=60)
    yield Watched(client, stream, "group")
    await client.aclose()


def words_of(program: Program, kind: str) -> list[int]:
    return [int(event.words[1]) for event in program.journal if event.words[0] == kind]


class Live:
    """Live traffic: messages published one after the other, and how long each took to start."""

    def __init__(self, watched: Watched, program: Program) -> None:
        self._watched = watched
        self._program = program
        self._published: dict[int, float] = {}

    async def until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Publish ten messages at a time, 10 ms apart, until ``condition`` holds."""

        async def publish_on() -> bool:
            for number in range(self.count + 1, self.count + 11):
                self._published[number] = monotonic()
                await self._watched.add("data", json.dumps(-number))
                await asyncio.sleep(0.01)
            return condition()  # which reads the whole journal

        await wait_until(publish_on, timeout)

    def waits(self) -> list[float]:
        """Seconds from publishing to the handler's start, of those that were handled."""
        started = {int(event.words[1]): event.at for event in self._program.journal if event.words[0] == "live"}
        return [started[number] - at for number, at in self._published.items() if number in started]

    @property
    def count(self) -> int:
        return len(self._published)


async def test_200_000_entries_of_a_dead_consumer_are_taken_over_beside_the_live_traffic(
    numbers_server: Server, watch: Watched, program: ProgramOf, stream: str
) -> None:
    await die_with(watch, "group", PENDING)
    await watch.do("SLOWLOG", "RESET")
    worker = program(HANDLER.format(stream=stream, every=1000), url=numbers_server.url)
    live = Live(watch, worker)
    await live.until(lambda: len(live.waits()) >= 20, 20)
    before = memory(worker.pid)
    began = monotonic()
    with pinged(numbers_server) as others:
        await live.until(lambda: words_of(worker, "old")[-1:] == [PENDING], 90)
    took = monotonic() - began
    after = memory(worker.pid)
    await watch.rests()
    waits = sorted(live.waits())
    print(
        f"took {took:.1f} s; live {live.count}: median {waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s; "
        f"PING {others.longest:.3f} s; "
        f"script {await slowest_script(watch):.3f} s; memory {before:.0f} -> {after:.0f} MiB"
    )
    assert len(waits) == live.count
    # Who stood behind the old ones would wait for as long as these take; on a slow machine everything takes longer.
    assert waits[len(waits) // 2] < took / 20
    assert waits[-1] < took / 4
    others.check()
    assert after - before < 50
    assert DEAD not in await watch.consumers()


async def test_200_000_suspects_do_not_stop_the_live_traffic_and_cost_the_server_little(
    numbers_server: Server, watch: Watched, program: ProgramOf, stream: str
) -> None:
    await die_with(watch, "group", PENDING, deliveries=2)
    await watch.do("SLOWLOG", "RESET")
    worker = program(HANDLER.format(stream=stream, every=1), url=numbers_server.url)
    live = Live(watch, worker)
    with pinged(numbers_server) as others:
        await live.until(lambda: len(words_of(worker, "old")) >= 300, 60)
    began, ended = [event.at for event in worker.journal if event.words[0] == "old"][::299]
    waits = sorted(live.waits())
    lines = worker.log.count("suspect.runs_alone")
    print(
        f"live {live.count}: median {waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s; "
        f"PING {others.longest:.3f} s; "
        f"script {await slowest_script(watch):.3f} s; {299 / (ended - began):.0f} suspects/s; {lines} lines"
    )
    assert len(waits) > live.count / 2  # the last ones may wait for a suspect
    assert waits[-1] < 8.0
    others.check()
    assert lines <= 2 + (ended - began) / 2


async def test_what_lies_behind_the_suspects_is_found_all_the_same(
    numbers_server: Server, watch: Watched, program: ProgramOf, stream: str
) -> None:
    await die_with(watch, "group", 20_000, deliveries=2)
    await watch.do("XREADGROUP", "GROUP", "group", DEAD, "COUNT", 1, "STREAMS", stream, ">")
    await watch.add("data", "-7")
    await watch.do("XREADGROUP", "GROUP", "group", DEAD, "COUNT", 1, "STREAMS", stream, ">")
    worker = program(HANDLER.format(stream=stream, every=1), url=numbers_server.url)
    await wait_until(lambda: words_of(worker, "live") == [7], 60, "an innocent entry is handled before 20,000 suspects")
    assert len(words_of(worker, "old")) < 10_000


FAILS = """
from streamworker import App, Backoff, Message

app = App("group", lease=2)

@app.on({stream!r}, concurrency=100, max_deliveries=2, retry=Backoff(first=5, jitter=0.4))
async def fails(n: int, message: Message) -> None:
    journal("failed", n, message.deliveries)
    raise ConnectionError("the payment service is away, says message %d" % n)
"""


async def test_10_000_failing_messages_are_spread_over_time_and_do_not_flood_the_log(
    numbers_server: Server, watch: Watched, program: ProgramOf, stream: str
) -> None:
    await fill(watch, FAILING)
    worker = program(FAILS.format(stream=stream), url=numbers_server.url)
    await wait_until(lambda: words_of(worker, "failed"), 20)
    before = memory(worker.pid)
    await wait_until(lambda: len(words_of(worker, "failed")) == 2 * FAILING, 60)
    await watch.rests(30)
    after = memory(worker.pid)
    lines = [line for line in worker.log.splitlines() if "message." in line]
    runs = worker.journal
    again = sorted(event.at for event in runs if event.words[2] == "2")
    seconds = runs[-1].at - runs[0].at
    crowd = max(sum(at <= one < at + 0.5 for one in again) for at in again[::500])
    print(
        f"retries spread over {again[-1] - again[0]:.1f} s, at most {crowd} in half a second; "
        f"{len(lines)} lines in {seconds:.1f} s; memory {before:.0f} -> {after:.0f} MiB"
    )
    assert again[-1] - again[0] > 3.0  # 5 s, more or less 40 %
    assert crowd < FAILING / 3
    assert len(await watch.letters()) == FAILING
    assert len(lines) <= 2 * (2 + seconds / 2)
    assert sum("left_out" in line for line in lines) >= 2
    assert after - before < 50


async def test_a_backlog_of_a_million_is_read_oldest_first_in_flat_memory(
    numbers_server: Server, watch: Watched, program: ProgramOf, stream: str
) -> None:
    await fill(watch, BACKLOG)
    await watch.do("SLOWLOG", "RESET")
    worker = program(HANDLER.format(stream=stream, every=1000), url=numbers_server.url)
    await wait_until(lambda: len(words_of(worker, "old")) >= 20, 60)
    before = memory(worker.pid)
    with pinged(numbers_server) as others:
        await wait_until(lambda: len(words_of(worker, "old")) >= 200, 100)
    after = memory(worker.pid)
    at = [event.at for event in worker.journal if event.words[0] == "old"]
    print(
        f"{180_000 / (at[199] - at[19]):.0f} messages/s; PING {others.longest:.3f} s; "
        f"memory {before:.0f} -> {after:.0f} MiB"
    )
    assert words_of(worker, "late") == []
    assert after - before < 30
    others.check()
    worker.sigterm()
    assert await worker.ended() == 0
    assert await watch.pending() == 0 or await watch.consumers() == ["released"]
