"""Entries trimmed before the group was through with them: counted, and never given to a handler as empty."""

from __future__ import annotations

import json

import pytest

from tests.faults.server.fleet import Fleet
from tests.running import on_all_servers
from tests.waiting import wait_until


def _trimmed(fleet: Fleet, kind: str) -> int:
    return sum(line[kind] for line in fleet.logged("entries.trimmed"))


@on_all_servers
async def test_what_was_trimmed_while_a_worker_that_died_held_it_is_counted(fleet: Fleet) -> None:
    held, waiting = [f"held-{number}" for number in range(5)], [f"waits-{number}" for number in range(20)]
    await fleet.start(lease=1.5, concurrency=5, prefetch=50)
    await fleet.publish(*held, hold=True)
    await fleet.publish(*waiting)
    await fleet.got(*held)
    await wait_until(lambda: _is_pending(fleet, 25))
    (victim,) = fleet.workers
    await fleet.start(lease=1.5)
    await fleet.watched.do("XTRIM", fleet.watched.keys.stream, "MAXLEN", 0)
    fleet.workers.remove(victim)
    victim.sigkill()
    await wait_until(lambda: _trimmed(fleet, "pending") == 25, 15, lambda: f"25 are counted\n{fleet.log}")
    fleet.lost = {*held, *waiting}
    await fleet.heals()
    assert fleet.starts == dict.fromkeys([*held, "first"], 1)
    assert (_trimmed(fleet, "pending"), _trimmed(fleet, "unread")) == (25, 0)


@on_all_servers
async def test_what_is_trimmed_while_a_live_worker_holds_it_is_handled_and_retried_all_the_same(fleet: Fleet) -> None:
    await fleet.start(lease=1.5, concurrency=5, prefetch=50)
    await fleet.publish(*(f"held-{number}" for number in range(5)), hold=True, fail=1)
    await fleet.publish(*(f"waits-{number}" for number in range(20)), fail=1)
    await wait_until(lambda: _is_pending(fleet, 25))
    await fleet.watched.do("XTRIM", fleet.watched.keys.stream, "MAXLEN", 0)
    beats = fleet.proxy.totals["BEAT"]
    await wait_until(lambda: fleet.proxy.totals["BEAT"] > beats + 6, 20, "a lease goes by, with audits")
    fleet.go()
    await fleet.heals()
    assert not fleet.logged("entries.trimmed")


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])  # 6.2 keeps no positions
async def test_what_a_cap_trims_while_all_slots_are_busy_is_counted_before_it_is_read_over(fleet: Fleet) -> None:
    await fleet.start(lease=8.0, concurrency=4, prefetch=4)
    for name in (held := [f"held-{number}" for number in range(4)]):
        await fleet.publish(name, hold=True)
        await fleet.got(name)  # each read brings less than it asked for: the worker knows of no backlog
    watched = fleet.watched
    for number in range(100):
        await watched.do("XADD", watched.keys.stream, "MAXLEN", 20, "*", "data", json.dumps({"name": f"m{number}"}))
    fleet.go()
    await watched.rests(20)
    assert fleet.handled == {*held, *(f"m{number}" for number in range(80, 100))}
    await wait_until(lambda: _trimmed(fleet, "unread") == 80, 15, lambda: f"80 are counted\n{fleet.log}")
    await fleet.heals()


async def _is_pending(fleet: Fleet, count: int) -> bool:
    return await fleet.watched.pending() == count
