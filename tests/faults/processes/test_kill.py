"""Workers that are killed: at every point of a message's way, at random, by a supervisor; how soon others go on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from redis.asyncio import Redis

from tests.faults.conftest import NEWER
from tests.faults.processes.stage import Stage
from tests.programs import Program
from tests.running import on_all_servers
from tests.waiting import wait_until

StageOf: TypeAlias = Callable[[str], Stage]
on_two_servers = pytest.mark.parametrize("server_kind", NEWER)

_JOINING = ["XINFO", "HGET", "XGROUP"]
_WORKING = [
    "XPENDING",
    "TURN",
    "TURN:2",
    "XRANGE",  # between the two round trips of a turn that claims
    "XREADGROUP",
    "XREADGROUP:2",
    "XACK",
    "RETRY",
    "DEAD_LETTER",
    "DROP",
    "ACK_RETRIED",
    "CLAIM_ALONE",
    "XRANGE:2",  # between claiming a suspect and fetching it
    "BEAT",
    "BEAT:4",
]
_MATTER_MOST = ["TURN", "XREADGROUP", "XACK", "RETRY", "CLAIM_ALONE"]
_DEAD = "host-1-0123abcd.sw"


@pytest.fixture
def stage_of(redis: Redis, redis_url: str, stream: str, program: Callable[..., Program], tmp_path: Path) -> StageOf:
    """``stage_of(name)``: a stream and a folder of its own."""

    def make(name: str) -> Stage:
        (tmp_path / name).mkdir()
        return Stage(redis, redis_url, f"{stream}-{name}", program, tmp_path / name)

    return make


@pytest.mark.parametrize("call", _JOINING)
async def test_a_worker_killed_while_it_joins_leaves_a_group_that_others_join(stage_of: StageOf, call: str) -> None:
    async def one(stage: Stage, when: str) -> None:
        await stage.publish_many({"i": i} for i in range(20))
        await _dies_at(stage, f"{when}-{call}")
        await _another_goes_on(stage, range(20))

    await asyncio.gather(*(one(stage_of(when), when) for when in ("before", "after")))


@pytest.mark.parametrize("call", _WORKING)
async def test_nothing_is_lost_by_a_kill_at(stage_of: StageOf, call: str) -> None:
    await asyncio.gather(*(_killed_at_work(stage_of(when), f"{when}-{call}") for when in ("before", "after")))


@pytest.mark.parametrize("server_kind", ["redis-8.2", "redis-6.2"])
@pytest.mark.parametrize("call", _MATTER_MOST)
async def test_nothing_is_lost_on_other_servers_by_a_kill_at(stage_of: StageOf, call: str) -> None:
    await asyncio.gather(*(_killed_at_work(stage_of(when), f"{when}-{call}") for when in ("before", "after")))


@pytest.mark.parametrize("call", ["RELEASE", "LEAVE"])
async def test_nothing_is_lost_by_a_kill_in_the_middle_of_a_drain(stage_of: StageOf, call: str) -> None:
    async def one(stage: Stage, when: str) -> None:
        stage.app(lease=1.0, concurrency=2, prefetch=10)
        await stage.publish_many({"i": i, "until": "go"} for i in range(20))
        victim = stage.dying_worker(f"{when}-{call}")
        await stage.started(1)
        victim.sigterm()
        if call == "LEAVE":
            stage.touch("go")
        assert await victim.ended(40) == -signal.SIGKILL, stage.logs()
        stage.touch("go")
        await _another_goes_on(stage, range(20))

    await asyncio.gather(*(one(stage_of(when), when) for when in ("before", "after")))


async def _killed_at_work(stage: Stage, point: str) -> None:
    """A stream on which everything happens that may happen to a message, and a worker killed at a point of it."""
    stage.app(lease=1.0, concurrency=4)
    await stage.publish_many({"i": i, "s": 0.01} for i in range(12))
    await _left_by_a_dead_worker(stage, once=10)
    await stage.publish_many({"i": i, "s": 0.01} for i in range(12, 30))
    failing = {"raise ValueError": 1, "from streamworker import Reject; raise Reject('no')": 9}
    await stage.publish_many({"i": 30 + n, "do": do, "times": times} for n, (do, times) in enumerate(failing.items()))
    await stage.publish({"i": 32, "do": "from streamworker import Drop; raise Drop('no')"})
    await _dies_at(stage, point)
    await _another_goes_on(stage, range(31), letters=1)


async def _left_by_a_dead_worker(stage: Stage, once: int) -> None:
    """What is in the stream is pending for a consumer that is known to be dead: the first ``once`` entries were
    delivered once, the others twice, so that they are suspects."""
    keys = stage.group.keys
    await stage.group.do("XGROUP", "CREATE", keys.stream, "group", "0")
    reply = await stage.group.do("XREADGROUP", "GROUP", "group", _DEAD, "STREAMS", keys.stream, ">")
    for id, _ in reply[0][1][once:]:
        await stage.group.do("XCLAIM", keys.stream, "group", _DEAD, 0, id, "RETRYCOUNT", 2, "JUSTID")
    await stage.group.do("HSET", keys.consumers, _DEAD, "dead")


async def _dies_at(stage: Stage, point: str) -> None:
    victim = stage.dying_worker(point)
    assert await victim.ended(40) == -signal.SIGKILL, f"it comes to {point}\n{stage.logs()}"


async def _another_goes_on(stage: Stage, wanted: range, letters: int = 0) -> None:
    """Another worker does the rest: nothing is lost, what is repeated was in flight, and nothing is left behind."""
    victim = {event.pid for event in stage.journal}
    in_flight = await _numbers_pending(stage)
    another = stage.worker()
    await wait_until(lambda: "worker.started" in another.log, 30, stage.logs)  # there may be nothing left to do
    await stage.handles(wanted)
    await stage.all_is_settled(letters)
    ended = Counter(int(event.words[1]) for event in stage.of("end"))
    assert {i for i, times in ended.items() if times > 1} <= in_flight, "only what was in flight is repeated"
    for i in wanted:
        by_another = [e.words[2] for e in stage.of("start", i) if e.pid not in victim]
        assert len(by_another) <= 2, "and by one worker it is not repeated at all, but for the one that failed"
        assert all(int(count) <= 5 for count in by_another)
    await _members_are(stage, 1)
    await stage.ends(another)


async def _numbers_pending(stage: Stage) -> set[int]:
    """The numbers of the messages that are pending, for whomever."""
    found = set()
    for key in (stage.group.keys.stream, stage.group.keys.retry):
        if not await stage.group.do("EXISTS", key):
            continue
        if not await stage.group.do("XINFO", "GROUPS", key):
            continue
        for id, *_ in await stage.group.do("XPENDING", key, "group", "-", "+", 1000):
            for _, fields in await stage.group.do("XRANGE", key, id, id):
                found.add(stage.number_in(fields))
    return found


async def _members_are(stage: Stage, count: int) -> None:
    async def so_many() -> bool:
        names = await stage.group.do("HKEYS", stage.group.keys.consumers)
        known = {*await stage.group.consumers(), *(name.decode() for name in names if name.endswith(b".sw"))}
        return len(known - {"released"}) == count

    await wait_until(so_many, 30, lambda: f"the dead consumers are deleted\n{stage.logs()}")


@pytest.mark.timeout(150)
async def test_workers_killed_at_random_under_load_lose_nothing(stage: Stage) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chance = random.Random(seed)
    # A kill from outside while a message runs alone looks like guilt, hence the many deliveries.
    stage.app(lease=2.0, concurrency=8, prefetch=40, max_deliveries=30)
    total, kills = 1500, 6
    await stage.publish_many({"i": i, "s": chance.random() * 0.03} for i in range(total))
    workers = stage.worker("--workers", "2")
    for kill in range(kills):
        before = len(stage.handled)
        least = min(total, before + chance.randrange(20, 120))
        await wait_until(lambda least=least: len(stage.handled) >= least, 60, stage.logs)  # type: ignore[misc]
        await wait_until(lambda: workers.children, 20, stage.logs)
        os.kill(chance.choice(workers.children), signal.SIGKILL)
        print(f"kill {kill} after {least} handled")
    await stage.handles(range(total), 90)
    await stage.all_is_settled()
    starts = Counter(event.words[1] for event in stage.of("start"))
    assert sum(starts.values()) - total <= kills * 40, "what was not in flight is not repeated"
    assert workers.process.poll() is None
    await _members_are(stage, 2)
    await stage.ends(workers)


@on_all_servers
async def test_what_a_killed_worker_held_starts_elsewhere_within_its_lease_and_two_and_a_half_looks(
    stage: Stage,
) -> None:
    lease = 3.0
    stage.app(lease=lease, concurrency=4, prefetch=20)
    victim = stage.worker()
    await stage.works(1)
    await stage.publish_many({"i": i, "until": "go"} for i in range(20))
    await stage.started(3)
    another = stage.worker()
    await stage.works(2)
    victim.sigkill()
    killed = time.monotonic()
    stage.touch("go")
    await stage.handles(range(20))
    first = min(event.at for event in stage.of("start") if event.pid == another.pid)
    assert first - killed <= lease + 2.5 * lease / 6 + 0.5 + 1.0, "and a second for two noisy cores"
    await stage.all_is_settled()
    await stage.ends(another)


async def test_what_a_killed_child_held_starts_elsewhere_long_before_its_lease_is_over(stage: Stage) -> None:
    lease = 20.0
    stage.app(lease=lease, concurrency=2, prefetch=10)
    workers = stage.worker("--workers", "2")
    await stage.works(2)
    await stage.publish_many({"i": i, "until": "go"} for i in range(12))
    await stage.starts(4)
    victim = next(event.pid for event in stage.of("start"))
    held = {event.words[1] for event in stage.of("start") if event.pid == victim}
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    stage.touch("go")
    await stage.handles(range(12))
    again = [e.at for e in stage.of("start") if e.words[1] in held and e.pid != victim]
    assert min(again) - killed < lease / 4, "a second or two, not the lease"
    await stage.all_is_settled()
    await stage.ends(workers)


async def test_a_replacement_that_dies_before_it_connects_leaves_nobody_to_the_lease(stage: Stage) -> None:
    lease = 30.0
    stage.app(lease=lease, concurrency=2, prefetch=10)
    source = stage.source or ""
    # Every second process ends while it loads its app.
    stage.source = (
        "import os, pathlib, sys\n"
        "if '--parent-pipe' in ' '.join(sys.argv) and pathlib.Path('deadly').exists():\n"
        "    pathlib.Path('deadly').unlink()\n"
        "    os._exit(7)\n" + source
    )
    workers = stage.worker("--workers", "2")
    await stage.works(2)
    await stage.publish_many({"i": i, "until": "go"} for i in range(12))
    await stage.starts(4)
    victim = next(event.pid for event in stage.of("start"))
    stage.touch("deadly")
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    await stage.tells("worker.died", times=2)
    stage.touch("go")
    await stage.handles(range(12))
    assert time.monotonic() - killed < lease / 2
    await stage.all_is_settled()
    await stage.ends(workers)


async def test_a_child_whose_handler_keeps_the_interpreter_is_killed_by_its_supervisor(stage: Stage) -> None:
    """The thread that would end it at ``stuck_after`` never runs again."""
    stage.app(lease=20.0, stuck_after=2.0, concurrency=1, prefetch=2)
    workers = stage.worker("--workers", "2")
    await stage.works(2)
    await stage.publish({"i": 0, "do": "re.match(r'(a|aa)+$', 'a' * 60 + 'b')", "times": 1})
    await stage.publish_many({"i": i} for i in range(1, 10))
    killed = await stage.tells("worker.killed")
    assert killed["seconds"] >= 2
    await stage.handles(range(10))
    assert stage.deliveries(0) == [1, 2]
    await stage.all_is_settled()
    await stage.ends(workers)


async def test_a_child_whose_loop_is_blocked_past_stuck_after_says_so_and_ends_itself(stage: Stage) -> None:
    stage.app(lease=20.0, stuck_after=2.0, concurrency=1, prefetch=2)
    workers = stage.worker("--workers", "2")
    await stage.works(2)
    await stage.publish({"i": 0, "do": "time.sleep(60)", "times": 1})
    await stage.tells("loop.stuck")
    assert (await stage.tells("worker.died"))["exit_code"] == 1
    await stage.handles([0])
    assert not stage.told("worker.killed")
    await stage.all_is_settled()
    await stage.ends(workers)


async def test_what_keeps_supervised_children_from_starting_is_told_in_the_format_of_the_log(stage: Stage) -> None:
    stage.url = "redis://127.0.0.1:1"
    workers = stage.worker("--workers", "2", "--connect-timeout", "0.2", "--log-format", "json")
    assert await workers.ended(40) == 3
    assert all(line.startswith("{") for line in workers.log.splitlines()), workers.log
    failed = stage.told("worker.start_failed")
    assert failed[0]["exit_code"] == 3
    assert "Redis cannot be reached" in failed[0]["reason"]
