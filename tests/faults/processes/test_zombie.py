"""Workers that are stopped for longer than their lease and go on, while others have taken over what they held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.faults.processes.stage import Stage
from tests.programs import Event, Program
from tests.running import on_all_servers
from tests.waiting import wait_until

_LEASE = 1.5
_RUNNING, _HELD = 4, 20
_REJECTS = "from streamworker import Reject; raise Reject('no')"


@on_all_servers
async def test_a_zombie_retries_and_dead_letters_nothing_that_another_has_handled(stage: Stage) -> None:
    zombie = await _zombie_to_be(stage)
    fails = ["raise ValueError", _REJECTS]
    await stage.publish_many({"i": i, "only": zombie.pid, "until": "go", "then": fails[i % 2]} for i in range(_HELD))
    another = await _another(stage)
    with zombie.stop_cont():
        stopped = time.monotonic()
        await stage.handles(range(_HELD))
        await _three_leases(stopped)
        stage.touch("go")  # its slots are free before it can know that its buffer is not its own
        continued = time.monotonic()
    another.sigterm()
    assert await another.ended(40) == 0, another.log
    await stage.publish({"i": 100})
    await stage.handles([100])
    assert stage.of("start", 100)[0].pid == zombie.pid, "it works on"
    await stage.all_is_settled(letters=0)
    for i in range(_HELD):
        assert stage.deliveries(i) == ([1, 2] if i < _RUNNING else [2]), "each was delivered once more"
    assert {e.words[1] for e in _by(zombie, stage.of("start")) if e.at > continued} == {"100"}
    await stage.ends(zombie)


@on_all_servers
async def test_a_zombie_cancels_what_another_owns_and_starts_nothing_from_its_buffer(stage: Stage) -> None:
    zombie = await _zombie_to_be(stage)
    await stage.publish_many({"i": i, "until": "go"} for i in range(_HELD))
    another = await _another(stage)
    async with _owners_watched(stage) as owners:
        with zombie.stop_cont():
            stopped = time.monotonic()
            await _taken_over(stage, another)
            await _three_leases(stopped)
            continued = time.monotonic()
        await wait_until(
            lambda: len(_by(zombie, stage.of("cancelled"))) == _RUNNING, 20,
            lambda: f"all that run are cancelled\n{stage.logs()}",
        )  # fmt: skip
        stage.touch("go")
        await stage.handles(range(_HELD))
        await stage.all_is_settled()
    assert all(e.at < continued for e in _by(zombie, stage.of("start"))), "nothing was started from its buffer"
    assert _by(zombie, stage.of("end")) == []
    assert len(stage.of("end")) == _HELD, "each was handled once"
    assert max(len(names) for names in owners.values()) <= 2, "owners change once at most"
    lost = stage.told("lease.lost")
    assert len(lost) == _RUNNING
    assert all(f"-{another.pid}-" in line["to"] for line in lost)
    await stage.ends(zombie, another)


async def test_a_zombie_that_is_told_to_end_releases_nothing_that_another_owns(stage: Stage) -> None:
    zombie = await _zombie_to_be(stage)
    await stage.publish_many({"i": i, "until": "go"} for i in range(_HELD))
    another = await _another(stage)
    async with _owners_watched(stage) as owners:
        with zombie.stop_cont():
            stopped = time.monotonic()
            await _taken_over(stage, another)
            await _three_leases(stopped)
            zombie.sigterm()
        assert await zombie.ended(40) == 0, zombie.log
        stage.touch("go")
        await stage.handles(range(_HELD))
        await stage.all_is_settled()
    assert len(stage.of("end")) == _HELD
    assert {e.words[2] for e in _by(another, stage.of("start"))} == {"2"}, "no delivery was taken back"
    assert max(len(names) for names in owners.values()) <= 2, "nothing went to the consumer for released entries"
    await stage.ends(another)


async def test_a_success_of_a_zombie_counts_while_another_has_not_finished(stage: Stage) -> None:
    """What it is in the middle of may end as it will: an ack is no failure that must be fenced."""
    stage.app(lease=_LEASE, concurrency=1, prefetch=1)
    zombie = stage.worker()
    await stage.works(1)
    await stage.publish({"i": 0, "only": zombie.pid, "until": "go"})
    await stage.started(0)
    another = await _another(stage)
    with zombie.stop_cont():
        await stage.handles([0])
    stage.touch("go")
    await stage.publish_many({"i": i} for i in range(1, 20))
    await stage.handles(range(20))
    await stage.all_is_settled()
    await stage.ends(zombie, another)


async def _zombie_to_be(stage: Stage) -> Program:
    stage.app(lease=_LEASE, concurrency=_RUNNING, prefetch=_HELD)
    zombie = stage.worker()
    await stage.works(1)
    return zombie


async def _another(stage: Stage) -> Program:
    """Start another worker, once the first one holds all there is."""
    await wait_until(_holds_all(stage), 20, "the first worker holds everything")
    another = stage.worker()
    await stage.works(2)
    return another


def _holds_all(stage: Stage) -> Callable[[], Awaitable[bool]]:
    async def all_of_it() -> bool:
        held = await stage.group.pending() == await stage.group.do("XLEN", stage.group.keys.stream)
        return held and len(stage.of("start")) == min(_RUNNING, await stage.group.pending())

    return all_of_it


async def _taken_over(stage: Stage, another: Program) -> None:
    """Wait until the other worker owns everything and runs what it can."""

    async def taken() -> bool:
        pending = await stage.group.do("XPENDING", stage.group.keys.stream, "group", "-", "+", 1000)
        return all(f"-{another.pid}-".encode() in owner for _, owner, *_ in pending) and bool(
            len(_by(another, stage.of("start"))) == _RUNNING
        )

    await wait_until(taken, 30, lambda: f"another has taken over\n{stage.logs()}")


@asynccontextmanager
async def _owners_watched(stage: Stage) -> AsyncIterator[dict[bytes, list[bytes]]]:
    """Who owned each entry, one after the other, for as long as the block lasts."""
    owners: dict[bytes, list[bytes]] = {}

    async def look_loop() -> None:
        while True:
            for id, owner, *_ in await stage.group.do("XPENDING", stage.group.keys.stream, "group", "-", "+", 1000):
                known = owners.setdefault(id, [])
                if not known or known[-1] != owner:
                    known.append(owner)
            await asyncio.sleep(0.03)

    looking = asyncio.create_task(look_loop())
    try:
        yield owners
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def _three_leases(since: float) -> None:
    """The fault's length: this much is to have passed since then."""
    await asyncio.sleep(max(0.0, since + 3 * _LEASE - time.monotonic()))


def _by(worker: Program, events: list[Event]) -> list[Event]:
    return [event for event in events if event.pid == worker.pid]
