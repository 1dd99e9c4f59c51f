"""Sampling: the numbers of this worker's streams, looked up every few seconds by one worker of the fleet."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from streamworker.errors import BrokerError
from streamworker.http.view import View
from streamworker.monitoring.facts import Observer, ServerFacts
from streamworker.monitoring.snapshots import Snapshot, of_snapshots, take_snapshot
from streamworker.monitoring.status import Status, StreamStatus

_EVERY: Final = 5.0  # seconds
_STALE: Final = 3 * _EVERY  # an old number is worse than none


class Sampler:
    """Looks at the streams for which this worker is the first of the fleet.

    All members of all groups of a stream could tell the same. The one tells whose consumer name comes first among
    those that live and serve metrics: no locks, which outlive their holder.

    Args:
        view: the worker.
        observer: its server; used by nobody else.

    Attributes:
        server: what the server says about itself, once it could be asked.
    """

    def __init__(self, view: View, observer: Observer) -> None:
        self._view = view
        self._observer = observer
        self._taken = 0.0
        self._status: Status | None = None
        self.server: ServerFacts | None = None

    async def sample_loop(self) -> None:
        """Runs until it is cancelled; a server that is away is no trouble here."""
        before: Snapshot | None = None
        while True:
            try:
                before = await self._sample(before)
            except BrokerError:
                before = None
            await asyncio.sleep(_EVERY)

    def streams(self) -> tuple[StreamStatus, ...]:
        """The last numbers, of the streams that this worker tells about; nothing if they are old."""
        if self._status is None or self._view.worker.draining or monotonic() - self._taken > _STALE:
            return ()
        return self._status.streams

    async def now(self, stream: str) -> Status:
        """The numbers of one stream as of now, whoever tells about it otherwise."""
        return await of_snapshots(self._observer, None, await take_snapshot(self._observer, {stream: ()}))

    async def _sample(self, before: Snapshot | None) -> Snapshot | None:
        if self.server is None:
            self.server = await self._ask_server()
        mine = [
            one.group.stream
            for one in self._view.worker.seen()
            if one.membership and one.membership.is_first(lambda report: report.http)
        ]
        if not mine or self._view.worker.draining:
            self._status = None
            return None
        look = await take_snapshot(self._observer, dict.fromkeys(sorted(set(mine)), ()))
        status = await of_snapshots(self._observer, before, look)
        told = tuple(stream for stream in status.streams if self._is_first(stream))
        self._status = Status(at=status.at, seconds=status.seconds, streams=told, errors=status.errors)
        self._taken = monotonic()
        return look

    async def _ask_server(self) -> ServerFacts | None:
        try:
            return await self._observer.server()
        except BrokerError:  # who may not ask, or not now
            return None

    def _is_first(self, stream: StreamStatus) -> bool:
        """Whether no living worker of another group comes before this one; its own group's it knows by heartbeats."""
        others = [one.name for group in stream.groups for one in group.consumers if one.alive and one.http]
        return all(self._view.worker.name <= name for name in others)
