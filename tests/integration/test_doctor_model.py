"""Random histories of a stream: what ``doctor --fix`` makes of the server's lag is the truth, and hides no loss."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker.operating import Operator
from streamworker.operating.findings import Finding
from streamworker.redisbroker import scripts
from streamworker.redisbroker.broker import RedisBroker
from tests.running import Watched

HISTORIES = range(60)
JUMPS = (0, 0, 2**53, 2**63)  # numbers in Lua are exact up to the second


@pytest.fixture(params=["valkey-9.1", "redis-8.2"])  # 6.2 counts nothing
def server_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def operator(admin_url: str) -> AsyncIterator[Operator]:
    made = Operator(RedisBroker(admin_url).operator())
    yield made
    await made.close()


class History:
    """One stream and its group, changed at random; the same ``seed`` makes the same changes.

    Args:
        redis: the server.
        stream: the stream.
        seed: of the changes.
        deletes: whether entries are deleted from the middle too.
    """

    def __init__(self, redis: Redis, stream: str, seed: int, *, deletes: bool = False) -> None:
        self.watched = Watched(redis, stream, "billing")
        self.stream = stream
        self.log: list[object] = [seed]
        self._chance = random.Random(seed)
        self._deletes = deletes
        self._last = self._chance.choice(JUMPS)
        # Made as a worker makes it, which counts what is trimmed unread; or as others do, anywhere.
        self.ours = self._chance.random() < 0.6

    async def begin(self) -> None:
        if self.ours:
            await self._do("XGROUP", "CREATE", self.stream, "billing", "0", "MKSTREAM", "ENTRIESREAD", 0)
            await self._do("HSET", self.watched.keys.consumers, "skipped", 0)
        await self.add(self._chance.randint(0, 8))
        if not self.ours:
            place = self._chance.choice(["0", "$", *await self._ids()])
            await self._do("XGROUP", "CREATE", self.stream, "billing", place, "MKSTREAM")

    async def step(self) -> str:
        """Change something; returns what. ``"fix"`` is left to the caller."""
        what = self._chance.choice(["add", "read", "trim", "fix", "read", "add", "delete" if self._deletes else "move"])
        many, ids = self._chance.randint(0, 6), await self._ids()
        id = self._chance.choice([*ids, "0"])
        self.log.append((what, many, id))
        match what:
            case "add":
                await self.add(many)
            case "read":
                await self.read(many + 1)
            case "trim":
                await self._do("XTRIM", self.stream, "MAXLEN", many)
            case "delete" if ids:
                await self._do("XDEL", self.stream, id)
            case "move" if not self.ours:
                await self._do("XGROUP", "SETID", self.stream, "billing", id)
        return what

    async def add(self, many: int) -> None:
        for _ in range(many):
            self._last += self._chance.choice([1, 1, 5])
            await self._do("XADD", self.stream, f"{self._last}-{self._chance.choice([0, 1, 2**60])}", "data", "x")

    async def read(self, many: int) -> None:
        words = ("XREADGROUP", "GROUP", "billing", "web", "COUNT", many, "NOACK", "STREAMS", self.stream, ">")
        await self._do(*words)

    async def is_right(self) -> bool:
        """Whether the server's lag is what lies behind the group."""
        info = await self.watched.info()
        assert info is not None
        behind = await self._do("XRANGE", self.stream, f"({info[b'last-delivered-id'].decode()}", "+")
        return bool(info[b"lag"] == len(behind))

    async def count_trimmed(self) -> None:
        """As a worker does now and then."""
        keys = self.watched.keys
        await self._do("EVAL", scripts.SKIPPED.source, 2, keys.stream, keys.consumers, "billing")

    async def trimmed(self) -> int:
        await self.count_trimmed()
        return int(await self._do("HGET", self.watched.keys.consumers, "trimmed") or 0)

    async def _ids(self) -> list[str]:
        return [str(id, "ascii") for id, _ in await self._do("XRANGE", self.stream, "-", "+")]

    async def _do(self, *words: str | bytes | int) -> Any:
        return await self.watched.do(*words)


async def fix(operator: Operator, stream: str) -> bool:
    finding = Finding(level="warning", text="", check="lag", stream=stream, group="billing", fixable=True)
    (fixed,) = await operator.fix([finding])
    return fixed.done


async def test_the_lag_is_right_at_once_and_stays_so_whatever_was_before(
    operator: Operator, redis: Redis, stream: str
) -> None:
    for seed in HISTORIES:
        history = History(redis, f"{stream}-{seed}", seed)
        await history.begin()
        for _ in range(8):
            if await history.step() == "fix":
                assert await fix(operator, history.stream), history.log
                assert await history.is_right(), history.log
        assert await fix(operator, history.stream), history.log
        for many in range(4):
            await history.add(many)
            assert await history.is_right(), history.log
            await history.read(2)
            assert await history.is_right(), history.log
        findings = await operator.examine([history.stream])
        assert [one for one in findings if one.check == "lag" and one.level != "ok"] == [], history.log


async def test_across_deleted_entries_it_is_right_or_refused_and_right_when_they_are_read_past(
    operator: Operator, redis: Redis, stream: str
) -> None:
    refused = 0
    for seed in HISTORIES:
        history = History(redis, f"{stream}-{seed}", seed, deletes=True)
        await history.begin()
        for _ in range(8):
            if await history.step() == "fix":
                assert not await fix(operator, history.stream) or await history.is_right(), history.log
        if not await fix(operator, history.stream):
            refused += 1
            await history.add(2)
            await history.read(100)
            await history.add(1)
            assert await fix(operator, history.stream), history.log
        for many in range(4):
            await history.add(many)
            await history.read(2)
            assert await history.is_right(), history.log
    assert 0 < refused < len(HISTORIES)


async def test_fixing_tells_of_what_was_trimmed_unread_as_a_worker_would(
    operator: Operator, redis: Redis, stream: str
) -> None:
    told = 0
    for seed in HISTORIES:
        one, other = (History(redis, f"{stream}-{seed}-{name}", seed) for name in ("fixed", "counted"))
        for history in (one, other):
            await history.begin()
        for _ in range(8):
            if not one.ours:
                break
            what = await one.step()
            assert await other.step() == what
            if what == "fix":
                await fix(operator, one.stream)
                await other.count_trimmed()
        if one.ours:
            assert await one.trimmed() == await other.trimmed(), one.log
            told += await other.trimmed()
    assert told > 0
