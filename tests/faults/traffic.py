"""An app that publishes to its streams without pause and notes what its handlers get, through every failover."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic

from streamworker import App, Backoff, Message
from streamworker.errors import PublishError
from tests.running import working
from tests.waiting import wait_until

SOON = 5.0  # seconds in which everything goes on after a failover's end
_PACE = 0.02


class Traffic:
    """One publisher and one handler for each stream; every tenth message fails at its first delivery.

    Args:
        streams: the streams.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self.app = App("group")
        self.streams = streams
        self.published: dict[str, tuple[float, float]] = {}  # when it was asked for, and when it was acknowledged
        self.handled: dict[str, float] = {}
        self.starts: Counter[str] = Counter()
        self.errors: list[PublishError] = []
        self._quiet = False
        self._excused: list[tuple[float, float]] = []
        for stream in streams:
            self.app.on(stream, retry=Backoff(first=0.05, jitter=0.0))(self._handle)

    @asynccontextmanager
    async def flowing(self, url: str) -> AsyncIterator[None]:
        """A worker and publishers, for as long as the block lasts; at its end all that was published is handled,
        but for what a failover explains."""
        async with working(self.app, url=url, patient=True):
            publishing = [asyncio.create_task(self._publish_loop(stream)) for stream in self.streams]
            try:
                await self.goes_on(monotonic(), 15.0)
                yield
            finally:
                self._quiet = True
                await asyncio.gather(*publishing)
            await wait_until(lambda: not self.lost(), 30, lambda: f"handled, or lost for a reason: {self.lost()}")

    async def publishes(self, stream: str, since: float) -> None:
        """Wait until something that was asked for after ``since`` was published."""
        await wait_until(
            lambda: any(asked > since for body, (asked, _) in self.published.items() if body.startswith(f"{stream} ")),
            max(0.01, since + SOON - monotonic()),
        )

    async def goes_on(self, since: float, timeout: float = SOON, streams: Sequence[str] | None = None) -> None:
        """Wait until something that was published after ``since`` was handled, on each stream."""
        for stream in self.streams if streams is None else streams:
            await wait_until(
                partial(self._handled_since, stream, since),
                max(0.01, since + timeout - monotonic()),
                partial("{} goes on; the last errors: {}".format, stream, self.errors[-3:]),
            )

    def excuse(self, since: float, until: float) -> None:
        """What was asked for before ``until`` and acknowledged after ``since`` may not have been replicated."""
        self._excused.append((since, until))

    def lost(self) -> dict[str, tuple[float, float]]:
        """What was acknowledged to its publisher and is not handled, though nothing explains that."""
        return {
            body: (asked, acknowledged)
            for body, (asked, acknowledged) in self.published.items()
            if body not in self.handled
            and not any(since < acknowledged and asked < until for since, until in self._excused)
        }

    def _handled_since(self, stream: str, since: float) -> bool:
        mine = (body for body, (asked, _) in self.published.items() if asked > since and body.startswith(f"{stream} "))
        return any(body in self.handled for body in mine)

    async def _publish_loop(self, stream: str) -> None:
        number = 0
        while not self._quiet:
            body = f"{stream} {number}"
            asked = monotonic()
            try:
                await self.app.publish(stream, body)
            except PublishError as error:
                self.errors.append(error)
            else:
                self.published[body] = (asked, monotonic())
            number += 1
            await asyncio.sleep(_PACE)

    async def _handle(self, body: str, message: Message) -> None:
        self.starts[body] += 1
        if body.endswith("0") and self.starts[body] == 1:
            raise ValueError("the first time")
        self.handled.setdefault(body, monotonic())
