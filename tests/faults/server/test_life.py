"""Servers that are killed, started again and load their data, with and without a file to load it from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import ProgramOf, ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.server.conftest import patient_client
from tests.faults.server.fleet import Fleet
from tests.running import Watched, on_all_servers
from tests.servers import Server
from tests.waiting import wait_until

_MANY = 600
valkey_only = pytest.mark.parametrize("server_kind", ["valkey-9.1"])


@on_all_servers
async def test_a_server_killed_at_a_third_and_at_half_of_a_run_loses_and_repeats_nothing(
    fleet: Fleet, own_server: Server
) -> None:
    await fleet.start(2, concurrency=4, prefetch=40)
    names = [f"m{number}" for number in range(_MANY)]
    await fleet.publish(*names[: _MANY // 2], s=0.02)
    await fleet.publish(*names[_MANY // 2 :], s=0.02, fail=1)
    for part in (3, 2):
        await wait_until(lambda: len(fleet.starts) >= _MANY // part, 30)  # noqa: B023
        own_server.restart(killed=True)
    await fleet.heals()


@pytest.mark.parametrize("server_kind", ["redis-8.2", "redis-6.2"])
async def test_a_server_that_comes_back_empty_is_worked_on_as_a_new_one(
    server_kind: str, make_server: ServerOf, stream: str, program: ProgramOf, tmp_path: Path
) -> None:
    server = make_server(server_kind)
    client = patient_client(server)
    with FaultProxy(server.port) as proxy:
        fleet = Fleet(Watched(client, stream, "group"), proxy, program, tmp_path)
        await fleet.start(2, retry=0.5)
        await fleet.publish("held-0", "held-1", "held-2", hold=True)
        await fleet.publish("failed", fail=1)
        await fleet.got("held-0", "held-1", "held-2", "failed")
        server.restart(killed=True)
        fleet.lost = {"failed"}
        await fleet.heals()
    await client.aclose()


@valkey_only
async def test_a_server_that_loads_its_data_is_waited_for_quietly(
    server_kind: str, make_server: ServerOf, stream: str, program: ProgramOf, tmp_path: Path
) -> None:
    # A key takes a millisecond, and other clients are answered between two of them: with LOADING.
    slowly = ("--key-load-delay", "2500", "--loading-process-events-interval-bytes", "1024")
    server = make_server(server_kind, *slowly)
    client = patient_client(server)
    watched = Watched(client, stream, "group")
    await watched.do("EVAL", "for i = 1, 3500 do redis.call('SET', 'key' .. i, i) end", 0)
    with FaultProxy(server.port) as proxy:
        fleet = Fleet(watched, proxy, program, tmp_path)
        await fleet.start(lease=2.0)
        await fleet.publish("held-0", "held-1", hold=True)
        await fleet.got("held-0", "held-1")
        await watched.do("SAVE")
        server.kill()
        loads = asyncio.create_task(asyncio.to_thread(server.start))
        await fleet.noticed()
        await fleet.keep_quiet()
        assert server.ask("PING").startswith(b"-LOADING")
        await loads
        await fleet.heals()
    await client.aclose()


@valkey_only
async def test_scripts_forgotten_in_the_middle_of_a_run_are_nothing_to_tell(fleet: Fleet) -> None:
    await fleet.start(concurrency=4)
    names = [f"m{number}" for number in range(100)]
    await fleet.publish(*names[:80], s=0.02, fail=1)
    await fleet.publish(*names[80:], reject=True)
    while len(fleet.starts) < len(names):
        await fleet.watched.do("SCRIPT", "FLUSH")
        await asyncio.sleep(0.01)  # the next command of a worker comes between two of these
    await fleet.heals()
    assert "NOSCRIPT" not in fleet.log
    assert not fleet.logged("redis.unavailable") + fleet.logged("stream.failing") + fleet.logged("settlement.refused")
