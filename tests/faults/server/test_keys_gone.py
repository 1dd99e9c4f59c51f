"""Keys, groups and consumers that somebody takes away while workers use them."""

from __future__ import annotations

import asyncio

import pytest

from streamworker import App, PublishError
from streamworker.ids import parse_id
from tests.faults.server.fleet import Fleet
from tests.running import on_all_servers
from tests.servers import Server
from tests.waiting import wait_until

Command = tuple[str, ...]
valkey_only = pytest.mark.parametrize("server_kind", ["valkey-9.1"])


def _named(command: Command, fleet: Fleet) -> Command:
    return tuple(fleet.watched.keys.stream.decode() if word == "STREAM" else word for word in command)


@on_all_servers
@pytest.mark.parametrize("command", [("FLUSHALL",), ("DEL", "STREAM"), ("XGROUP", "DESTROY", "STREAM", "group")])
async def test_what_is_taken_away_from_blocked_and_busy_workers_is_made_again_and_what_comes_after_is_handled(
    command: Command, fleet: Fleet
) -> None:
    await fleet.start(2)
    await fleet.publish("done-0", "done-1", "done-2")
    await fleet.publish("held-0", "held-1", hold=True)
    await fleet.got("done-0", "held-0", "held-1")
    await wait_until(lambda: {"done-0", "done-1", "done-2"} <= fleet.handled)
    await _floor_is_kept(fleet)
    await fleet.watched.do(*_named(command, fleet))
    # What a destroyed group had pending is repeated; of a deleted stream nothing can be.
    await fleet.heals(twice=["held-0", "held-1"] if "DESTROY" in command else [])
    assert len(fleet.logged("group.created")) <= 2, "the first one, and one for the one that is gone"
    assert len(fleet.logged("group.missing")) <= 2 * len(fleet.workers), fleet.log


@pytest.mark.parametrize("server_kind", ["redis-8.2"])
@pytest.mark.parametrize("command", [("FLUSHALL",), ("DEL", "STREAM"), ("XGROUP", "DESTROY", "STREAM", "group")])
async def test_under_load_everything_published_after_it_is_handled(command: Command, fleet: Fleet) -> None:
    await fleet.start(2)
    before = [f"before-{number}" for number in range(150)]
    after = [f"after-{number}" for number in range(150)]
    await fleet.publish(*before[:100], s=0.01)
    await fleet.publish(*before[100:], fail=1)
    await fleet.watched.do(*_named(command, fleet))
    await fleet.publish(*after[:100], s=0.01)
    await fleet.publish(*after[100:], fail=1)
    if "DESTROY" not in command:
        fleet.lost = set(before)  # the server has lost them; what was read may run all the same
    await fleet.heals(twice=before)  # what a destroyed group had pending is repeated


@valkey_only
async def test_a_stream_that_is_emptied_ten_times_in_a_row_makes_no_noise(fleet: Fleet) -> None:
    await fleet.start()
    for _ in range(10):
        await fleet.watched.do("FLUSHALL")
        await asyncio.sleep(0.2)
    await fleet.heals()
    assert len(fleet.log.splitlines()) < 30, fleet.log


@valkey_only
async def test_an_evicted_stream_is_one_that_was_deleted(fleet: Fleet) -> None:
    await fleet.start()
    await fleet.publish("done")
    await fleet.publish("held", hold=True)
    await fleet.got("done", "held")
    watched = fleet.watched
    await watched.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await watched.do("CONFIG", "SET", "maxmemory", "1mb")

    async def gone() -> bool:
        await watched.do("PING")  # keys are evicted when a command comes
        return not await watched.do("EXISTS", watched.keys.stream)

    await wait_until(gone, what="the stream is evicted")
    await fleet.noticed("group.missing")
    await fleet.keep_quiet(2.0)
    await watched.do("CONFIG", "SET", "maxmemory", "0")
    await fleet.heals()


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-6.2"])
async def test_a_live_consumer_that_is_deleted_ends_what_it_runs_and_comes_back(fleet: Fleet) -> None:
    await fleet.start(concurrency=2, prefetch=10)
    await fleet.publish("held-0", "held-1", hold=True)
    await fleet.publish("waits-0", "waits-1")  # delivered, and not started
    await fleet.publish("fails", hold=True, fail=1)
    watched = fleet.watched
    await wait_until(lambda: len(fleet.starts) == 2)

    async def all_pending() -> bool:
        return await watched.pending() == 5

    await wait_until(all_pending)
    (name,) = await watched.consumers()
    assert await watched.do("XGROUP", "DELCONSUMER", watched.keys.stream, "group", name) == 5
    fleet.lost = {"fails"}  # it cannot be retried: the entry is nobody's any more
    fleet.go()
    await fleet.heals()
    assert fleet.starts == {"held-0": 1, "held-1": 1, "waits-0": 1, "waits-1": 1, "fails": 1, "first": 1}


@valkey_only
async def test_a_stream_whose_ids_are_used_up_is_read_to_its_end(fleet: Fleet, own_server: Server) -> None:
    """No more can be published; what is there is handled, and ids in the future have no negative age."""
    await fleet.start()
    watched = fleet.watched
    for name, id in (("future", "9999999999999-0"), ("last", "18446744073709551615-18446744073709551615")):
        await watched.add("data", f'{{"name": "{name}", "fail": 1}}', id=id)
        fleet.published.add(name)
        fleet.fails[name] = 1
        await wait_until(lambda: name in fleet.handled)  # noqa: B023
    await watched.rests()
    async with App("publisher", url=own_server.url) as app:
        with pytest.raises(PublishError, match="last possible ID"):
            await app.publish(watched.keys.stream.decode(), "x")
    await fleet.settles()


async def _floor_is_kept(fleet: Fleet) -> None:
    watched = fleet.watched

    async def kept() -> bool:
        *_, (last_done, _), _, _ = await watched.do("XRANGE", watched.keys.stream, "-", "+")
        floor = await watched.do("HGET", watched.keys.consumers, "floor")
        return floor is not None and parse_id(floor) >= parse_id(last_done)

    await wait_until(kept, what="a heartbeat has kept the floor")
