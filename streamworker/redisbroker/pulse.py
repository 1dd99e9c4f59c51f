"""The heartbeat thread's connections: beats and looks of all groups, in one round trip to each server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from streamworker.broker import Beat, Look
from streamworker.errors import BrokerError, Unavailable
from streamworker.redisbroker import scripts
from streamworker.redisbroker.faults import Moved
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.settler import ScriptCall
from streamworker.redisbroker.topology import Topology

_LONGEST = 10.0  # seconds; each round has a limit of its own, which is shorter
_LAST_STEPS = 3  # of the loop, until sockets that were dropped are closed
Looks: TypeAlias = "list[Look | BrokerError]"


class _Lost(Unavailable):
    """No server answered this beat."""

    def __init__(self, because: BaseException) -> None:
        super().__init__(str(because) or "no answer in time")
        self.because = because if isinstance(because, BrokerError) else Unavailable(str(self))


class RedisPulse:
    """``broker.Pulse`` on Redis. Blocking, for a thread: the worker's event loop may stand still meanwhile.

    It has an event loop of its own, which runs only while a beat is under way.
    """

    def __init__(self, topology: Topology, consumer: str) -> None:
        self._topology = topology
        self._me = consumer
        self._links: dict[Topology, Link] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def beat(self, beats: Sequence[Beat], timeout: float) -> Looks:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        looks = self._loop.run_until_complete(self._round(beats, timeout))
        lost = [look for look in looks if isinstance(look, _Lost)]
        if len(lost) == len(looks):
            raise lost[0].because
        return looks

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(self._end())
            loop.close()

    async def _round(self, beats: Sequence[Beat], timeout: float) -> Looks:
        await asyncio.sleep(0)  # so that the loop sees which connections were closed since the last round
        await self._drop([part for part in self._links if not part.serves])
        # A third of a lease is two intervals. Where there are several servers a round takes no longer than
        # one, or a server that hangs would delay the beats on the others.
        limit = timeout / 2 if len(self._links) > 1 else timeout
        end = asyncio.get_running_loop().time() + limit
        looks: Looks = [_Lost(TimeoutError())] * len(beats)
        known = [self._topology.knows(beat.stream.encode()) for beat in beats]
        for sure in (True, False):  # beats whose server must be looked for do not hold up the others
            await self._send(beats, [at for at, is_known in enumerate(known) if is_known is sure], looks, end)
        await self._send(beats, [at for at, look in enumerate(looks) if isinstance(look, Moved)], looks, end)
        return looks

    async def _send(self, beats: Sequence[Beat], which: list[int], looks: Looks, end: float) -> None:
        """Send those of ``beats`` to their servers and put the answers into ``looks``."""
        parts: dict[Topology, list[int]] = {}
        found = await asyncio.gather(*(self._find(beats[at], end) for at in which))
        for at, part in zip(which, found, strict=True):
            if isinstance(part, _Lost):
                looks[at] = part
            else:
                parts.setdefault(part, []).append(at)
        answers = await asyncio.gather(
            *(self._exchange(part, [self._call(beats[at]) for at in those], end) for part, those in parts.items())
        )
        for those, replies in zip(parts.values(), answers, strict=True):
            for at, reply in zip(those, replies, strict=True):
                looks[at] = reply

    async def _find(self, beat: Beat, end: float) -> Topology | _Lost:
        try:
            async with asyncio.timeout_at(end):
                return await self._topology.part(beat.stream.encode())
        except (BrokerError, TimeoutError) as error:
            return _Lost(error)

    async def _exchange(self, part: Topology, calls: list[ScriptCall], end: float) -> Looks:
        link = self._links.get(part)
        if link is None:
            link = self._links[part] = Link(part, timeout=_LONGEST)
        try:
            async with asyncio.timeout_at(end):
                await link.open()
                replies = await link.scripts(calls)
        except (BrokerError, TimeoutError) as error:
            return [_Lost(error)] * len(calls)
        return [reply if isinstance(reply, BrokerError) else _look(reply) for reply in replies]

    async def _end(self) -> None:
        await self._drop(list(self._links))
        for _ in range(_LAST_STEPS):
            await asyncio.sleep(0)

    async def _drop(self, parts: list[Topology]) -> None:
        for part in parts:
            await self._links.pop(part).close()

    def _call(self, beat: Beat) -> ScriptCall:
        keys = Keys.of(beat.stream, beat.group)
        return scripts.BEAT, (keys.consumers, keys.stream, keys.retry), (beat.group, self._me, beat.value)


def _look(reply: list[Any]) -> Look:
    flat, names = reply
    return Look(
        {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)},
        frozenset(name.decode(errors="replace") for name in names),
    )
