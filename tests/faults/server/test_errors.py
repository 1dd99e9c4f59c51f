"""Servers that answer with an error or not at all, for longer than a lease."""

from __future__ import annotations

import pytest

from tests.faults.server import troubles
from tests.faults.server.fleet import Fleet
from tests.faults.server.troubles import Trouble
from tests.servers import Server

_HELD = [f"held-{number}" for number in range(4)]
_FAILING = [f"failing-{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("server_kind", "trouble"),
    [
        ("valkey-9.1", troubles.paused_for_all),
        ("redis-8.2", troubles.paused_for_writes),
        ("redis-8.2", troubles.asleep),
        ("valkey-9.1", troubles.stopped),
        ("valkey-9.1", troubles.read_only),
        ("redis-6.2", troubles.read_only),
        ("redis-8.2", troubles.without_its_primary),
        ("valkey-9.1", troubles.unable_to_save),
        ("redis-8.2", troubles.short_of_replicas),
        ("redis-6.2", troubles.busy),
    ],
)
async def test_trouble_longer_than_the_lease_makes_nobody_dead_and_runs_nothing_twice(
    trouble: Trouble, fleet: Fleet, own_server: Server
) -> None:
    await fleet.start(2, lease=2.0, retry=3.0)
    await fleet.publish(*_FAILING, fail=1)  # they wait for their retries meanwhile
    await fleet.publish(*_HELD, hold=True)
    await fleet.got(*_HELD, *_FAILING)
    async with troubles.over(trouble, own_server):
        await fleet.noticed()
        await fleet.keep_quiet()
        fleet.go()  # they end while nothing can be settled
    await fleet.heals()
    assert not fleet.logged("worker.crashed")
    for worker in fleet.workers:
        assert worker.log.count("redis.unavailable") == 1, f"it is told once\n{worker.log}"
