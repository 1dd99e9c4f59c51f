"""Trimming by hand: what goes is finished by every group, what stays is told, and force says what it loses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker.errors import ConfigError, Unavailable, WrongType
from streamworker.operating import Operator
from streamworker.operating.trimming import Trimmed
from streamworker.redisbroker.broker import RedisBroker
from streamworker.retention import Limits
from tests.roles import as_role
from tests.servers import Server


class Scene:
    """A stream of other programs' groups, and an operator who trims it."""

    def __init__(self, redis: Redis, operator: Operator, stream: str) -> None:
        redis.response_callbacks.clear()
        self._redis = redis
        self._operator = operator
        self.stream = stream

    async def do(self, *command: str | bytes | int) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def fill(self, last: int, first: int = 1, size: int = 10) -> None:
        """Entries ``first-0`` to ``last-0``."""
        pipe = self._redis.pipeline(transaction=False)
        for number in range(first, last + 1):
            pipe.execute_command("XADD", self.stream, f"{number}-0", "data", "x" * size)
        await pipe.execute()

    async def group(self, name: str, read: int, *unfinished: str) -> None:
        """A group that was given so many entries, and has acked all but ``unfinished``."""
        await self.do("XGROUP", "CREATE", self.stream, name, "0", "MKSTREAM")
        if not read:
            return
        reply = await self.do("XREADGROUP", "GROUP", name, "me", "COUNT", read, "STREAMS", self.stream, ">")
        ids = [id for id, _ in reply[0][1] if id.decode() not in unfinished]
        for at in range(0, len(ids), 1000):
            await self.do("XACK", self.stream, name, *ids[at : at + 1000])

    async def ids(self) -> list[str]:
        return [id.decode() for id, _ in await self.do("XRANGE", self.stream, "-", "+")]

    async def first(self) -> str | None:
        found = await self.do("XRANGE", self.stream, "-", "+", "COUNT", 1)
        return found[0][0].decode() if found else None

    async def length(self) -> int:
        return int(await self.do("XLEN", self.stream))

    async def trim(self, force: bool = False, dry_run: bool = False, **limits: Any) -> Trimmed:
        return await self._operator.trim(self.stream, Limits(**limits), force=force, dry_run=dry_run)


@pytest.fixture
async def operator(admin_url: str) -> AsyncIterator[Operator]:
    """As the operator of docs/security.md."""
    operator = Operator(RedisBroker(as_role(admin_url, "operator")).operator())
    yield operator
    await operator.close()


@pytest.fixture
def scene(redis: Redis, operator: Operator, stream: str) -> Scene:
    return Scene(redis, operator, stream)


def lost(done: Trimmed) -> dict[str, tuple[int, int]]:
    return {one.group: (one.unread, one.pending) for one in done.lost}


async def test_nothing_goes_that_one_of_four_groups_has_not_finished(scene: Scene) -> None:
    await scene.fill(1000)
    await scene.group("ahead", 1000)
    await scene.group("pending", 900, "700-0", "800-0")
    await scene.group("behind", 650)
    await scene.group("busy", 1000, "640-0")
    done = await scene.trim(max_length=10)
    assert (done.removed, await scene.first()) == (639, "640-0")
    assert done.held is not None
    assert (done.held.group, done.held.id, done.held.state, done.held.consumer) == ("busy", "640-0", "pending", "me")
    await scene.do("XACK", scene.stream, "busy", "640-0")
    done = await scene.trim(max_length=10)
    assert (done.removed, await scene.first(), done.kept) == (11, "651-0", False)
    assert done.held is not None
    assert (done.held.group, done.held.id, done.held.state, done.held.consumer) == ("behind", "651-0", "unread", None)
    await scene.do("XGROUP", "DESTROY", scene.stream, "behind")
    assert ((await scene.trim(max_length=10)).removed, await scene.first()) == (49, "700-0")
    await scene.do("XGROUP", "DESTROY", scene.stream, "pending")
    done = await scene.trim(max_length=10)
    assert (done.removed, done.length, done.kept, done.held) == (291, 10, True, None)
    assert await scene.ids() == [f"{number}-0" for number in range(991, 1001)]


@pytest.mark.parametrize("keep", [0, 1, 99, 100, 101, 777, 1234, 2499, 2500, 9999])
async def test_the_length_is_kept_to_the_entry(scene: Scene, keep: int) -> None:
    await scene.fill(2500)
    await scene.group("group", 2500)
    done = await scene.trim(max_length=keep)
    left = min(keep, 2500)
    assert (done.removed, done.length, done.kept) == (2500 - left, left, True)
    assert await scene.ids() == [f"{number}-0" for number in range(2501 - left, 2501)]
    assert (await scene.trim(max_length=keep)).removed == 0


async def test_the_length_is_kept_where_nodes_hold_one_entry_or_very_many(own_server: Server) -> None:
    async with Redis.from_url(own_server.url, protocol=2) as redis:
        operator = Operator(RedisBroker(own_server.url).operator())
        for entries in ("1", "5000"):
            scene = Scene(redis, operator, f"stream-{entries}")
            await scene.do("CONFIG", "SET", "stream-node-max-entries", entries)
            await scene.do("CONFIG", "SET", "stream-node-max-bytes", 0)
            await scene.fill(6000)
            await scene.group("group", 6000)
            assert (await scene.trim(max_length=777)).length == 777
            assert await scene.first() == "5224-0"
        await operator.close()


async def test_the_age_is_kept_to_the_millisecond(scene: Scene) -> None:
    seconds, micros = await scene.do("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    for at in range(300):
        await scene.do("XADD", scene.stream, f"{now - 3_600_000 + at}-0", "data", "old")
    await scene.do("XADD", scene.stream, f"{now - 1_700_000}-7", "data", "young")
    await scene.group("group", 301)
    done = await scene.trim(max_age=7200.0)
    assert (done.removed, done.kept) == (0, True)
    done = await scene.trim(max_age=1800.0)
    assert (done.removed, done.kept, await scene.ids()) == (300, True, [f"{now - 1_700_000}-7"])


async def test_entries_that_are_too_old_are_held_by_who_has_not_finished_them(scene: Scene) -> None:
    await scene.fill(500)
    await scene.group("group", 500, "123-0")
    done = await scene.trim(max_age=60.0)
    assert (done.removed, done.kept, await scene.first()) == (122, False, "123-0")
    assert done.held is not None
    assert (done.held.id, done.held.deliveries, done.held.others, done.held.workers) == ("123-0", 1, 1, 0)


@pytest.mark.parametrize("size", [10, 5000])
async def test_the_memory_is_kept_and_not_much_more_goes(scene: Scene, size: int) -> None:
    await scene.fill(4000, size=size)
    await scene.group("group", 4000)
    whole = await scene.do("MEMORY", "USAGE", scene.stream)
    done = await scene.trim(max_bytes=whole // 2)
    now = await scene.do("MEMORY", "USAGE", scene.stream)
    assert done.kept
    assert done.memory_bytes == now
    assert whole * 0.35 < now <= whole // 2


async def test_the_memory_is_held_by_who_has_not_finished(scene: Scene) -> None:
    await scene.fill(4000)
    await scene.group("group", 4000, "1000-0")
    whole = await scene.do("MEMORY", "USAGE", scene.stream)
    done = await scene.trim(max_bytes=whole // 2)
    assert (done.kept, await scene.first()) == (False, "1000-0")


async def test_of_several_limits_the_narrowest_counts(scene: Scene) -> None:
    await scene.fill(1000)
    await scene.group("group", 1000)
    assert (await scene.trim(max_length=900, max_age=10**10, max_bytes=10**9)).length == 900
    whole = await scene.do("MEMORY", "USAGE", scene.stream)
    assert (await scene.trim(max_length=900, max_bytes=whole // 3)).length < 500


@pytest.mark.parametrize(
    "ids",
    [
        ["1-18446744073709551614", "1-18446744073709551615", "2-0", "2-1"],
        ["9007199254740992-1", "9007199254740993-0", "9007199254740993-1", "9007199254740994-0"],
        ["9-9", "9-10", "10-0", "99-99"],
        ["1-9007199254740992", "1-9007199254740993", "1-9007199254740994", "1-9999999999999999999"],
        ["18446744073709551614-18446744073709551615", "18446744073709551615-0",
         "18446744073709551615-18446744073709551614", "18446744073709551615-18446744073709551615"],
    ],
    ids=["sequence", "milliseconds", "digits", "doubles", "greatest"],
)  # fmt: skip
@pytest.mark.parametrize("force", [False, True])
async def test_ids_are_compared_to_their_last_digit(scene: Scene, ids: Sequence[str], force: bool) -> None:
    for id in ids:
        await scene.do("XADD", scene.stream, id, "data", "x")
    for read in range(1, 4):
        await scene.group(f"read-{read}", read)
        await scene.group(f"pending-{read}", 4, ids[read])
    for read in range(1, 4):
        done = await scene.trim(max_length=0)
        assert await scene.ids() == list(ids[read:])
        assert done.held is not None
        assert done.held.id == ids[read]
        for group in (f"read-{read}", f"pending-{read}"):
            assert (done.removed, done.kept) == (1, False)
            if not force:
                await scene.do("XGROUP", "DESTROY", scene.stream, group)
        if force:
            done = await scene.trim(max_length=3 - read, force=True)
            assert done.kept
            assert lost(done)[f"pending-{read}"] == (0, 1)
            assert lost(done)[f"read-{read}"] == (1, 0)
            for group in (f"read-{read}", f"pending-{read}"):
                await scene.do("XGROUP", "DESTROY", scene.stream, group)
            return


async def test_what_was_deleted_while_pending_holds_nothing_back(scene: Scene) -> None:
    await scene.fill(1000)
    await scene.group("group", 1000, "100-0", "400-0", "800-0")
    await scene.do("XDEL", scene.stream, "100-0", "400-0")
    done = await scene.trim(max_length=10)
    assert done.held is not None
    assert (await scene.first(), done.held.id) == ("800-0", "800-0")
    await scene.do("XDEL", scene.stream, "800-0")
    done = await scene.trim(max_length=10)
    assert (done.kept, done.length) == (True, 10)


async def test_a_stream_without_groups_is_trimmed_by_force_alone(scene: Scene) -> None:
    await scene.fill(1000)
    done = await scene.trim(max_length=10)
    assert (done.removed, done.kept, done.held, done.groups) == (0, False, None, ())
    done = await scene.trim(max_length=10, dry_run=True)
    assert (done.removed, done.kept) == (0, False)
    done = await scene.trim(max_length=10, dry_run=True, force=True)
    assert (done.removed, done.length, done.kept, done.lost) == (990, 10, True, ())
    done = await scene.trim(max_length=10, force=True)
    assert (done.removed, done.length, done.kept, done.lost) == (990, 10, True, ())


async def test_an_empty_stream_and_none_at_all_are_left_alone(scene: Scene) -> None:
    done = await scene.trim(max_length=0, max_age=1.0, max_bytes=1, force=True)
    assert (done.exists, done.removed, done.kept) == (False, 0, True)
    await scene.group("group", 0)
    for force in (False, True):
        done = await scene.trim(max_length=0, max_age=1.0, max_bytes=1, force=force)
        assert (done.exists, done.removed, done.length, done.kept) == (True, 0, 0, True)
    assert await scene.do("EXISTS", scene.stream)


async def test_another_type_is_an_error_that_says_so(scene: Scene) -> None:
    await scene.do("SET", scene.stream, "x")
    for force in (False, True):
        with pytest.raises(WrongType):
            await scene.trim(max_length=1, force=force)


async def test_a_limit_is_needed(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="needs a limit"):
        await scene.trim()


async def test_force_says_of_each_group_what_it_loses_and_a_dry_run_says_the_same_before(scene: Scene) -> None:
    await scene.fill(3000)
    await scene.group("behind", 500, "7-0", "450-0")
    await scene.group("busy", 3000, "8-0", "2300-0", "2999-0")
    await scene.group("fine", 3000)
    before = await scene.do("XLEN", scene.stream)
    foreseen = await scene.trim(max_length=600, force=True, dry_run=True)
    assert await scene.do("XLEN", scene.stream) == before
    done = await scene.trim(max_length=600, force=True)
    for one in (foreseen, done):
        assert (one.removed, one.length, one.kept, one.held) == (2400, 600, True, None)
        assert lost(one) == {"behind": (1900, 2), "busy": (0, 2)}
    assert await scene.first() == "2401-0"


async def test_force_keeps_age_and_memory_too(scene: Scene) -> None:
    await scene.fill(3000)
    await scene.group("behind", 100)
    whole = await scene.do("MEMORY", "USAGE", scene.stream)
    foreseen = await scene.trim(max_bytes=whole // 2, force=True, dry_run=True)
    assert 1200 < foreseen.removed < 1800
    done = await scene.trim(max_bytes=whole // 2, force=True)
    assert done.kept
    assert whole * 0.3 < await scene.do("MEMORY", "USAGE", scene.stream) <= whole // 2
    assert lost(done) == {"behind": (done.removed - 100, 0)}
    left = await scene.length()
    done = await scene.trim(max_age=60.0, force=True)
    assert (done.removed, done.kept, lost(done), await scene.length()) == (left, True, {"behind": (left, 0)}, 0)


async def test_a_dry_run_tells_what_would_go_and_who_holds_the_rest(scene: Scene) -> None:
    await scene.fill(3000)
    await scene.group("group", 3000, "1500-0")
    foreseen = await scene.trim(max_length=100, dry_run=True)
    assert (await scene.length(), foreseen.removed, foreseen.length, foreseen.kept) == (3000, 1499, 1501, False)
    assert foreseen.held is not None
    assert foreseen.held.id == "1500-0"
    done = await scene.trim(max_length=100)
    assert (done.removed, done.length, done.kept, done.held and done.held.id) == (1499, 1501, False, "1500-0")
    foreseen = await scene.trim(max_length=1400, max_age=60.0, dry_run=True)
    assert (foreseen.removed, foreseen.kept) == (0, False)
    foreseen = await scene.trim(max_length=1501, dry_run=True)
    assert (foreseen.removed, foreseen.kept, foreseen.held) == (0, True, None)


async def test_many_entries_go_in_several_steps_that_may_be_interrupted(scene: Scene) -> None:
    await scene.fill(250_000, size=1)
    await scene.do("XGROUP", "CREATE", scene.stream, "group", "$")
    steps: list[int] = []
    limits = Limits(max_length=1000)
    trimming = asyncio.ensure_future(scene._operator.trim(scene.stream, limits, progress=steps.append))
    done = await trimming
    assert (done.removed, done.length) == (249_000, 1000)
    assert len(steps) == 3
    assert all(late - early <= 100_000 for early, late in pairwise(steps))
    await scene.fill(450_000, first=250_001, size=1)
    await scene.do("XGROUP", "SETID", scene.stream, "group", "$")
    trimming = asyncio.ensure_future(scene._operator.trim(scene.stream, limits, progress=lambda _: trimming.cancel()))
    with pytest.raises(asyncio.CancelledError):
        await trimming
    assert (await scene.trim(max_length=1000)).length == 1000
    assert await scene.first() == "449001-0"


async def test_trimming_works_out_of_memory(own_server: Server) -> None:
    operator = Operator(RedisBroker(own_server.url).operator())
    async with Redis.from_url(own_server.url, protocol=2) as redis:
        scene = Scene(redis, operator, "orders")
        await scene.fill(3000)
        await scene.group("group", 2000)
        await scene.do("CONFIG", "SET", "maxmemory", 1)
        assert (await scene.trim(max_length=100)).length == 1000
        assert (await scene.trim(max_length=100, force=True)).length == 100
    await operator.close()


async def test_a_server_that_is_away_is_told(own_server: Server) -> None:
    operator = Operator(RedisBroker(own_server.url).operator())
    own_server.kill()
    with pytest.raises(Unavailable):
        await operator.trim("orders", Limits(max_length=1))
    await operator.close()
