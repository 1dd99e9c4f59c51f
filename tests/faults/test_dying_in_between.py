"""Dying and waiting at the worst moment: before an ack, between two halves of a retry, while memory is short."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests.conftest import ProgramOf
from tests.faults.proxy import FaultProxy
from tests.programs import Program
from tests.running import Watched
from tests.servers import Server
from tests.waiting import wait_until

LEASE = 1.0
BEATS = 6 * 3  # in three leases

# What the first body says is done at the first delivery only; `go` is a file in the folder of the programs.
APP = """
import asyncio
from pathlib import Path
from streamworker import App, Backoff, Message

app = App("group", lease=1)

@app.on({stream!r}, retry=Backoff(first=1, jitter=0))
async def handle(body: str, message: Message) -> None:
    journal("start", body, message.deliveries)
    if body == "hold":
        while not Path("go").exists():
            await asyncio.sleep(0.05)
    if body == "fail" and message.deliveries == 1:
        raise ValueError(body)
    journal("end", body, message.deliveries)
"""


@pytest.fixture
def watched(own_redis: Redis, stream: str) -> Watched:
    return Watched(own_redis, stream, "group")


def said(program: Program, *words: str) -> list[str]:
    """The deliveries with which the journal says this, of all programs of the folder."""
    return [event.words[2] for event in program.journal if event.words[:2] == words]


async def test_who_dies_while_a_handler_runs_has_acked_nothing(
    own_server: Server, watched: Watched, program: ProgramOf, stream: str
) -> None:
    victim = program(APP.format(stream=stream), url=own_server.url)
    await watched.add("data", "hold")
    await wait_until(lambda: said(victim, "start", "hold"), 20)
    victim.sigkill()
    (victim.folder / "go").touch()
    heir = program(None, url=own_server.url)
    await wait_until(lambda: said(heir, "end", "hold") == ["2"], 20)
    await watched.rests()


async def test_what_a_live_worker_runs_for_three_leases_stays_its_own(
    own_server: Server, watched: Watched, program: ProgramOf, stream: str
) -> None:
    workers = [program(APP.format(stream=stream), url=own_server.url), program(None, url=own_server.url)]
    await watched.add("data", "hold")
    await wait_until(lambda: said(workers[0], "start", "hold"), 20)
    await beaten(watched, workers)
    (workers[0].folder / "go").touch()
    await wait_until(lambda: said(workers[0], "end", "hold"), 20)
    await watched.rests()
    assert said(workers[0], "start", "hold") == ["1"]


async def test_who_cannot_beat_while_memory_is_short_is_robbed_by_nobody(
    own_server: Server, watched: Watched, program: ProgramOf, stream: str
) -> None:
    workers = [program(APP.format(stream=stream), url=own_server.url), program(None, url=own_server.url)]
    await watched.add("data", "hold")
    await wait_until(lambda: said(workers[0], "start", "hold"), 20)
    await beaten(watched, workers, 1)
    await watched.do("CONFIG", "SET", "maxmemory", "1")
    await beaten(watched, workers)
    await watched.do("CONFIG", "SET", "maxmemory", "0")
    (workers[0].folder / "go").touch()
    await wait_until(lambda: said(workers[0], "end", "hold"), 20)
    await watched.rests()
    assert said(workers[0], "start", "hold") == ["1"]


async def test_who_dies_right_after_a_retry_was_written_leaves_one_copy(
    own_server: Server, watched: Watched, program: ProgramOf, stream: str
) -> None:
    with FaultProxy(own_server.port) as proxy:
        victim = program(APP.format(stream=stream), url=proxy.url)
        hole = proxy.black_hole(command="RETRY", towards="client")
        await watched.add("data", "fail")
        await wait_until(lambda: hole.hits, 20)
        await wait_until(watched.delayed, 20)
        victim.sigkill()
        assert await victim.ended() < 0
    heir = program(None, url=own_server.url)
    await wait_until(lambda: said(heir, "end", "fail"), 20)
    await watched.rests()
    await beaten(watched, [heir])  # in which the victim is seen dead, and taken over if there were anything
    await watched.rests()
    assert said(heir, "start", "fail") == ["1", "2"]
    assert said(heir, "end", "fail") == ["2"]


async def beaten(watched: Watched, workers: list[Program], beats: int = BEATS) -> None:
    """Wait until each worker has beaten so often, or somebody was given what another one holds."""
    before: dict[bytes, int] = {}

    async def all_have() -> bool:
        if "2" in said(workers[0], "start", "hold"):
            return True
        flat = await watched.do("HGETALL", watched.keys.consumers)
        counts = {
            name: int(value.split(b" ")[0])
            for name, value in zip(flat[::2], flat[1::2], strict=True)
            if any(b"-%d-" % worker.pid in name for worker in workers) and name.endswith(b".sw")
        }
        for name, count in counts.items():
            before.setdefault(name, count)
        return len(counts) == len(workers) and all(count - before[name] >= beats for name, count in counts.items())

    await wait_until(all_have, 30, "every worker beats")
