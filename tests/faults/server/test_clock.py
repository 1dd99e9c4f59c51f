"""Wrong clocks: the server's set forward and back while messages run and wait, and a worker's wrong by a day."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.conftest import ProgramOf, ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.server.clock import Clock, compiled
from tests.faults.server.conftest import patient_client
from tests.faults.server.fleet import Fleet
from tests.running import Watched
from tests.waiting import wait_until

_HOUR, _DAY = 3600.0, 86400.0
_LEASE = 2.0
_SLACK = 3.0  # seconds: a turn of 0.5 s, and a machine that is busy


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Clock:
    return Clock(library, tmp_path)


@pytest.fixture
async def clocked(
    server_kind: str, make_server: ServerOf, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[int, Redis]]:
    """A server that goes by ``clock``: its port, and a client."""
    with monkeypatch.context() as patch:
        for name, value in clock.environment.items():
            patch.setenv(name, value)
        server = make_server(server_kind)
    client = patient_client(server)
    yield server.port, client
    await client.aclose()


def _starts(fleet: Fleet, name: str) -> list[float]:
    return [event.at for event in fleet.journal if event.words[:2] == ("start", name)]


async def _is_off_by(seconds: float, watched: Watched) -> bool:
    now, _ = await watched.do("TIME")  # some keep the time for a millisecond
    return abs(int(now) - (time.time() + seconds)) < 60


@pytest.mark.parametrize(
    ("server_kind", "step"),
    [("valkey-9.1", _HOUR), ("valkey-9.1", -_HOUR), ("redis-8.2", _HOUR), ("redis-8.2", -_HOUR), ("redis-6.2", -_HOUR)],
)
async def test_a_step_of_the_servers_clock_runs_nothing_twice_and_holds_nothing_up(
    step: float, clock: Clock, clocked: tuple[int, Redis], program: ProgramOf, stream: str, tmp_path: Path
) -> None:
    port, client = clocked
    watched = Watched(client, stream, "group")
    held = [f"held-{number}" for number in range(8)]
    with FaultProxy(port) as proxy:
        fleet = Fleet(watched, proxy, program, tmp_path)
        await fleet.start(2, lease=_LEASE, concurrency=20, retry=2.0)
        for name in held:
            await fleet.publish(name, hold=True)
            await fleet.got(name)
        await fleet.publish("fails-before", fail=1)
        await wait_until(watched.delayed)
        clock.shift(step)
        await wait_until(lambda: _is_off_by(step, watched), what="the server goes by the clock")
        await fleet.publish("fails-after", fail=1)
        beats = proxy.totals["BEAT"]
        await wait_until(lambda: proxy.totals["BEAT"] > beats + 2 * 9, 30, "a lease and a half of both goes by")
        assert all(fleet.starts[name] == 1 for name in held), "whoever is alive keeps what it holds"
        victim = fleet.workers.pop()
        his = {event.words[1] for event in fleet.journal if event.pid == victim.pid} & set(held)
        victim.sigkill()
        killed = time.monotonic()
        await wait_until(lambda: all(fleet.starts[name] == 2 for name in his), 15)
        assert max([_starts(fleet, name)[1] for name in his], default=0.0) - killed < _LEASE * (1 + 2.5 / 6) + _SLACK
        await fleet.heals(twice=his)
        for name in ("fails-before", "fails-after"):
            first, second = _starts(fleet, name)
            early_at_most = 0.0 if name == "fails-before" and step > 0 else 1.9  # time seemed to go by
            assert early_at_most <= second - first < 2.0 + _SLACK, f"{name} came after {second - first:.1f} s"


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
@pytest.mark.parametrize("wrong", [_DAY, -_DAY])
async def test_a_worker_whose_clock_is_wrong_by_a_day_works_as_the_others_do(
    wrong: float, clock: Clock, fleet: Fleet
) -> None:
    clock.shift(wrong)
    await fleet.start(lease=_LEASE, retry=1.0, env=clock.environment, options="max_age=3600")
    await fleet.publish("held", hold=True)
    await fleet.got("held")
    await fleet.start(lease=_LEASE, retry=1.0, options="max_age=3600")  # whose clock is right
    await fleet.publish(*(f"fine-{number}" for number in range(20)), s=0.01)
    await fleet.publish(*(f"fails-{number}" for number in range(20)), fail=1)
    clock.shift(-wrong)
    beats = fleet.proxy.totals["BEAT"]
    await wait_until(lambda: fleet.proxy.totals["BEAT"] > beats + 2 * 9, 30, "a lease and a half of both goes by")
    await fleet.heals()
    for number in range(20):
        first, second = _starts(fleet, f"fails-{number}")
        assert 0.9 <= second - first < 1.0 + _SLACK
