"""One connection for many tasks: what is asked during a round trip shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, TypeAlias

from streamworker.errors import BrokerError, Unavailable
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.topology import Topology

Batch: TypeAlias = Callable[[Link, list[Any]], Coroutine[Any, Any, list[Any]]]

_BATCH_BYTES: Final = 8 * 2**20
_LAST: Final = 1.0  # seconds that closing may take, when the server does not answer
_PAUSES: Final = (0.1, 2.0)  # seconds between two attempts to connect: the first, and the longest


class NotSent(Unavailable):
    """The server could not be reached, so nothing was asked of it."""


@dataclass(slots=True)
class _Asked:
    what: Any
    size: int
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SharedLink:
    """Gathers questions into round trips.

    Args:
        link: the connection, used by nobody else.
        exchange: sends a list of questions and returns an answer to each; an exception among the
            answers is raised to whoever asked.
        batch: how many questions at most go in one round trip.
        waiting: how many questions, and how many bytes of them, wait at most; then ``ask`` waits.
    """

    def __init__(
        self, link: Link, exchange: Batch, *, batch: int = 1000, waiting: int = 10_000, max_bytes: int = 64 * 2**20
    ) -> None:
        self._link = link
        self._exchange = exchange
        self._batch = batch
        self._limits = (waiting, max_bytes)
        self._queue: deque[_Asked] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._closing = False
        self._under_way: list[_Asked] = []

    async def ask(self, what: Any, size: int = 0) -> Any:
        """Put a question and wait for its answer. Cancelling withdraws nothing.

        Raises:
            NotSent: the server cannot be reached; nothing was asked.
            Unavailable: the connection was lost on the way; it may have been done, or not.
        """
        while len(self._queue) >= self._limits[0] or (self._queue and self._bytes + size > self._limits[1]):
            self._space.clear()
            await self._space.wait()
        if self._closing:
            raise NotSent("closed")
        if self._task is None:
            self._task = asyncio.create_task(self._send_loop(), name="shared-link", context=Context())
            self._task.add_done_callback(self._ended)
        asked = _Asked(what, size)
        self._queue.append(asked)
        self._bytes += size
        self._wake.set()
        return await asked.answer

    async def close(self) -> None:
        """Send what waits, then drop the connection."""
        self._closing = True
        self._wake.set()
        self._space.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LAST)
            if self._task is not None:
                self._task.cancel()
        await self._link.close()

    async def _send_loop(self) -> None:
        while True:
            while not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            try:
                await self._open()
            except BrokerError as error:
                self._answer(self._take(len(self._queue)), NotSent(str(error)))
                continue
            batch = self._under_way = self._take(self._batch, _BATCH_BYTES)
            try:
                answers = await self._exchange(self._link, [asked.what for asked in batch])
            except Unavailable as error:
                self._answer(batch, error)
                continue
            if self._link.connected:
                self._pause = 0.0
            else:
                self._back_off()  # a server that can be reached, but does not serve
            for asked, answer in zip(batch, answers, strict=True):
                if asked.answer.done():
                    continue  # cancelled
                if isinstance(answer, Exception):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """However the loop ended, nobody may wait for ever; the next question starts it anew."""
        self._task = None
        broken = None if task.cancelled() else task.exception()
        if broken is not None or task.cancelled():
            self._answer(self._under_way, Unavailable(f"the connection's task ended: {type(broken).__name__}"))
            self._answer(self._take(len(self._queue)), NotSent("the connection's task ended"))

    async def _open(self) -> None:
        """Connect, but not more often than the pauses allow: callers that try again at once must not hammer."""
        if self._link.connected:
            return
        clock = asyncio.get_running_loop().time
        if clock() < self._not_before and not self._closing:
            await asyncio.sleep(self._not_before - clock())
        try:
            await self._link.open()
        except BrokerError:
            self._back_off()
            raise

    def _back_off(self) -> None:
        first, longest = _PAUSES
        self._pause = min(longest, self._pause * 2 or first)
        self._not_before = asyncio.get_running_loop().time() + self._pause

    def _take(self, most: int, most_bytes: float = inf) -> list[_Asked]:
        batch: list[_Asked] = []
        size = 0
        while self._queue and len(batch) < most and size < most_bytes:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        self._bytes -= size
        self._space.set()
        return batch

    @staticmethod
    def _answer(batch: list[_Asked], error: Unavailable) -> None:
        for asked in batch:
            if not asked.answer.done():
                asked.answer.set_exception(type(error)(str(error)))


class SharedLinks:
    """A ``SharedLink`` to each server that something was asked of.

    Args:
        topology: says which server that is.
        exchange: as for ``SharedLink``.
        timeout: seconds a round trip may take.
    """

    def __init__(self, topology: Topology, exchange: Batch, *, timeout: float) -> None:
        self._topology = topology
        self._exchange = exchange
        self._timeout = timeout
        self._links: dict[Topology, SharedLink] = {}

    async def ask(self, key: bytes, what: Any, size: int = 0) -> Any:
        """As ``SharedLink.ask``, of the server for ``key``."""
        try:
            part = await self._topology.part(key)
        except BrokerError as error:
            raise NotSent(str(error)) from None
        return await self.ask_at(part, what, size)

    async def ask_at(self, part: Topology, what: Any, size: int = 0) -> Any:
        """As ``ask``, of this server."""
        shared = self._links.get(part)
        if shared is None:
            left = [other for other in self._links if not other.serves]
            shared = self._links[part] = SharedLink(Link(part, timeout=self._timeout), self._exchange)
            await asyncio.gather(*(self._links.pop(other).close() for other in left))
        return await shared.ask(what, size)

    async def close(self) -> None:
        """Send what waits, then drop the connections."""
        await asyncio.gather(*(shared.close() for shared in self._links.values()))
