"""One soak from start to verdict."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from tests.faults.figures import Figures, measure
from tests.faults.history import History, Rules
from tests.faults.invariants import check
from tests.faults.journal import Journal
from tests.faults.proxy import FaultProxy
from tests.faults.soak.breaking import KINDS, Breaking
from tests.faults.soak.collecting import collect, settle
from tests.faults.soak.fleet import Fleet
from tests.faults.soak.kinds import GROUPS, MAX_DELIVERIES
from tests.faults.soak.sending import Sending
from tests.servers import Server
from tests.waiting import wait_until

_WARM = 5.0  # seconds before the first fault, and after the last one
_PATIENCE = 90.0  # seconds until everything must have come to rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a soak does.

    Attributes:
        seconds: how long faults come.
        seed: decides about messages, faults and the pauses between them.
        server: a key of ``tests.servers.KINDS``.
        workers: how many lone workers there are, beside a supervisor with two.
        rate: messages a second.
        faults: the kinds, drawn without replacement until all have been.
        lease, shutdown: seconds, of the workers.
    """

    seconds: float
    seed: int
    server: str = "valkey-9.1"
    workers: int = 3
    rate: float = 60.0
    faults: tuple[str, ...] = tuple(KINDS)
    lease: float = 2.0
    shutdown: float = 5.0


async def soak(plan: Plan, folder: Path) -> tuple[Figures, list[str]]:
    """Run it in ``folder``; the figures, and every violation."""
    journal = Journal(folder / "journal")
    (folder / "server").mkdir()
    server = Server(plan.server, folder / "server", appendonly=True).start()
    try:
        with FaultProxy(server.port) as shared, FaultProxy(server.port) as own:
            urls = [own.url, *(shared.url for _ in range(plan.workers - 1))]
            fleet = Fleet(folder, journal, urls, shared.url, lease=plan.lease, shutdown=plan.shutdown)
            sending = Sending(journal, shared.url, plan.seed, plan.rate, plan.lease)
            breaking = Breaking(journal, server, shared, own, fleet, lease=plan.lease)
            async with _working(fleet, sending, journal):
                await _break_things(plan, breaking)
                sending.stop.set()
                redis = Redis.from_url(server.url, protocol=2)
                told = await settle(redis, lambda: fleet.workers, _PATIENCE)
                _say(f"at rest; all are told to end {told}")
                await fleet.end()
            commands = shared.totals + own.totals
        await collect(redis, journal, fleet.logs())
        version = next(line for line in server.ask("INFO", "server").decode().split("\r\n") if "_version:" in line)
        await redis.aclose()
    finally:
        server.kill()
    rules = Rules(GROUPS, lease=plan.lease, max_deliveries=MAX_DELIVERIES, shutdown=plan.shutdown)
    facts = journal.read()
    about = {
        "seed": plan.seed, "minutes": round(plan.seconds / 60, 1), "server": f"{plan.server} ({version})",
        "commit": _commit(), "peak MiB of a worker": fleet.peak // 1024, "commands": commands.total(),
    }  # fmt: skip
    return measure(History.of(facts), rules, about), check(facts, rules)


@asynccontextmanager
async def _working(fleet: Fleet, sending: Sending, journal: Journal) -> AsyncIterator[None]:
    """Workers and publishers, for as long as the block lasts; nothing of them is left behind."""
    tasks: list[asyncio.Task[None]] = []
    try:
        fleet.start()
        tasks = [asyncio.create_task(fleet.watch_loop()), asyncio.create_task(sending.run())]
        await wait_until(lambda: any(fact.kind == "ok" for fact in journal.read()), 60, "the first message is handled")
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fleet.clear()


async def _break_things(plan: Plan, breaking: Breaking) -> None:
    rng = random.Random(plan.seed)
    until = time.monotonic() + plan.seconds
    await asyncio.sleep(_WARM)
    for kind in _sequence(plan.faults, rng):
        if time.monotonic() > until - _WARM:
            break
        _say(f"{until - time.monotonic():5.0f} s left: {kind}")
        await breaking.strike(kind, rng)
        await asyncio.sleep(rng.uniform(2, 4) * plan.lease)
    await asyncio.sleep(_WARM)


def _sequence(kinds: Sequence[str], rng: random.Random) -> Sequence[str]:
    """The kinds in a random order, all of them again and again."""
    return [kind for _ in range(10_000 // len(kinds)) for kind in rng.sample(kinds, len(kinds))]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"
