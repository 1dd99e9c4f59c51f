"""Workers inside the test's own event loop, and looks at what a group has left behind on the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis

from streamworker import App
from streamworker.launch import RunOptions, run_worker
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.packing import unpack
from tests.roles import as_role
from tests.servers import KINDS
from tests.waiting import wait_until

# For the tests that matter on every server, in modules whose ``server_kind`` is one.
on_all_servers = pytest.mark.parametrize("server_kind", list(KINDS))


@asynccontextmanager
async def working(
    *apps: App, url: str, patient: bool = False, shutdown_timeout: float = 5.0, drains: bool = True
) -> AsyncIterator[None]:
    """Run a worker for ``apps`` for as long as the block lasts, as the worker's user, then drain it.

    Args:
        apps: the apps.
        url: of the server.
        patient: with the turns and reads of real life, of 0.5 s; else of 0.02 s, so that a test is over soon.
        shutdown_timeout: as for the worker.
        drains: whether the drain is expected to finish everything in time.
    """
    stop, started = asyncio.Event(), asyncio.Event()
    options = RunOptions(shutdown_timeout=shutdown_timeout, connect_timeout=5.0)
    with impatience(not patient):
        work = asyncio.create_task(run_worker(apps, as_role(url), options, stop, started.set), name="worker")
        beginning = asyncio.create_task(started.wait())
        await asyncio.wait([work, beginning], return_when=asyncio.FIRST_COMPLETED)
        beginning.cancel()
        try:
            if not work.done():
                yield
        finally:
            ended = work.done()
            stop.set()
            await asyncio.wait([work])
        assert not work.cancelled(), "the worker ended by itself, cancelled by nobody"
        drained = work.result()
        assert not ended, "the worker ended by itself"
        assert drained is drains


async def burst(*apps: App, url: str) -> None:
    """Run a worker for ``apps`` until everything is handled and settled."""
    with impatience():
        assert await run_worker(apps, as_role(url), RunOptions(burst=True), asyncio.Event(), lambda: None)


@contextmanager
def impatience(wanted: bool = True) -> Iterator[None]:
    """Turns and reads take 0.02 s instead of 0.5, so retries come, streams are trimmed and drains end sooner."""
    if not wanted:
        yield
        return
    with (
        patch("streamworker.acquirer._TURN", 0.02),
        patch("streamworker.acquirer._AT_REST", 0.02),
        patch("streamworker.broadcast._BLOCK", 0.02),
        patch("streamworker.broadcast._CHECK", 0.2),
        patch("streamworker.trimmer._EVERY", 0.02),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: its facts by name, ``sw-fields`` apart, and the original fields, flat."""

    facts: dict[str, str]
    fields: list[bytes]

    @property
    def reason(self) -> str:
        return self.facts["sw-reason"]


# In one step, because a retry wanders from key to key.
_AT_REST = """
local function pairs_of(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('XLEN', KEYS[2]) > 0 or redis.call('ZCARD', KEYS[3]) > 0 then return 0 end
local last = pairs_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(flat)
  if group['name'] == ARGV[1] then
    return group['pending'] == 0 and group['last-delivered-id'] == last and 1 or 0
  end
end
return 0
"""


class Watched:
    """One group as the server sees it.

    Args:
        redis: a plain client, bytes in and out; from now on it gives every reply as the server sends it.
        stream: the stream.
        group: the group.
    """

    def __init__(self, redis: Redis, stream: str, group: str) -> None:
        self.keys = Keys.of(stream, group)
        self._redis = redis
        self._group = group
        redis.response_callbacks.clear()

    async def do(self, *command: str | bytes | int) -> Any:
        """One command of any kind."""
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def add(self, *fields: str | bytes, id: str = "*") -> str:
        """XADD as any program does it: names and values, as they are."""
        return str(await self.do("XADD", self.keys.stream, id, *fields), "ascii")

    async def pending(self, consumer: str | None = None) -> int:
        """How many entries of the user's stream are pending, for everybody or for one consumer."""
        if consumer is None:
            return int((await self.do("XPENDING", self.keys.stream, self._group))[0])
        return len(await self.do("XPENDING", self.keys.stream, self._group, "-", "+", 100_000, consumer))

    async def delayed(self) -> int:
        """How many retries wait for their time."""
        return int(await self.do("ZCARD", self.keys.delayed))

    async def consumers(self) -> list[str]:
        """The members of the group, the one that stands for released entries included."""
        found = await self.do("XINFO", "CONSUMERS", self.keys.stream, self._group)
        return [str(_pairs(one)[b"name"], "utf-8") for one in found]

    async def info(self) -> dict[bytes, Any] | None:
        """What XINFO GROUPS says about the group; None if there is none."""
        if not await self.do("EXISTS", self.keys.stream):
            return None
        groups = [_pairs(one) for one in await self.do("XINFO", "GROUPS", self.keys.stream)]
        return next((one for one in groups if one[b"name"] == self._group.encode()), None)

    async def letters(self) -> list[Letter]:
        """The dead letters, oldest first."""
        found = []
        for _, flat in await self.do("XRANGE", self.keys.dead, "-", "+"):
            fields = _pairs(flat)
            packed = fields.pop(b"sw-fields")
            found.append(Letter({name.decode(): value.decode() for name, value in fields.items()}, unpack(packed)))
        return found

    async def is_at_rest(self) -> bool:
        """Whether everything published was read, and nothing is pending or waits for another delivery."""
        keys = (self.keys.stream, self.keys.retry, self.keys.delayed)
        return bool(await self.do("EVAL", _AT_REST, len(keys), *keys, self._group))

    async def rests(self, timeout: float = 15.0) -> None:
        """Wait until it is at rest."""
        await wait_until(self.is_at_rest, timeout, "everything is read and settled")

    async def check_nothing_is_left(self) -> None:
        """After its workers have left: nothing is waiting, and nobody is a member any more."""
        assert await self.is_at_rest()
        if await self.do("EXISTS", self.keys.retry):
            assert (await self.do("XPENDING", self.keys.retry, self._group))[0] == 0
        assert await self.consumers() == []
        assert {*await self.do("HKEYS", self.keys.consumers)} <= {b"floor", b"clock", b"skew", b"skipped", b"trimmed"}


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The values of each log line of the event ``name``."""
    found = [getattr(record, "streamworker", {}) for record in caplog.records]
    return [values for values in found if values.get("event") == name]


def everything_logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged by anybody, tracebacks and structured values included."""
    formatter = logging.Formatter()
    lines = [f"{formatter.format(record)} {getattr(record, 'streamworker', '')}" for record in caplog.records]
    return "\n".join(lines)


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
