"""The publishers of a soak: at a steady pace whatever happens, and each outcome is written down."""

from __future__ import annotations

import asyncio
import random
import time

from streamworker import App
from streamworker.errors import PublishError, PublishUnknown
from tests.faults.journal import Journal
from tests.faults.soak.kinds import GROUPS, KINDS, digest, draw

_PUBLISHERS = 4


class Sending:
    """Publishes until ``stop`` is set.

    Args:
        journal: where outcomes are written down.
        url: of the server.
        seed: decides what is published.
        rate: messages a second.
        lease: seconds, by which the slow messages are measured.
    """

    def __init__(self, journal: Journal, url: str, seed: int, rate: float, lease: float) -> None:
        self.stop = asyncio.Event()
        self._journal = journal
        self._app = App("publisher", url=url)
        self._seed = seed
        self._pause = _PUBLISHERS / rate
        self._lease = lease

    async def run(self) -> None:
        async with self._app:
            await asyncio.gather(*(self._publish_loop(number) for number in range(_PUBLISHERS)))

    async def _publish_loop(self, publisher: int) -> None:
        rng = random.Random(f"{self._seed} {publisher}")
        stream = list(GROUPS)[publisher % len(GROUPS)]
        number, due = publisher, time.monotonic()
        while not self.stop.is_set():
            kind, body = draw(rng, number, self._lease)
            await self._publish(stream, kind, body)
            number += _PUBLISHERS
            due = max(due + self._pause, time.monotonic() - 1)  # after an outage, not all at once
            await asyncio.sleep(due - time.monotonic())

    async def _publish(self, stream: str, kind: str, body: str) -> None:
        words = {"stream": stream, "body": digest(body), "dead": ",".join(KINDS[kind].dead)}
        try:
            id = await self._app.publish(stream, body, type=kind)
        except PublishUnknown:
            self._journal.note("unknown", **words)
        except PublishError:
            self._journal.note("refused", stream=stream)
            await asyncio.sleep(0.1)
        else:
            self._journal.note("published", **words, id=id)
