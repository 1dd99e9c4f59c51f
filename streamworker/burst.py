"""A burst: working until everything that can be reached is handled and settled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from streamworker.broadcast import Broadcast
from streamworker.consumer import Consumer
from streamworker.errors import StreamworkerError
from streamworker.logs import log

_APART: Final = 0.5
_POLL: Final = 0.05
_TELL: Final = 10.0


class Burst:
    """Over after two looks, half a second apart, at which nothing was left for any group, and between
    which nothing was delivered: a handler of one group may publish for another that was looked at before.

    Never by comparing ids or lag: a deleted last entry leaves both wrong for ever.
    """

    def __init__(self, consumers: Sequence[Consumer], broadcasts: Sequence[Broadcast]) -> None:
        self._consumers = consumers
        self._broadcasts = broadcasts
        self._told = 0.0
        for consumer in consumers:
            consumer.acquirer.burst = True

    async def over(self) -> None:
        """Wait for the end of the burst.

        Raises:
            StreamworkerError: a group is paused, so it would never end.
        """
        first: tuple[float, int] | None = None
        while True:
            await asyncio.sleep(_POLL)
            if not self._quiet(first[0] if first else 0.0):
                if first and self._delivered() != first[1]:
                    first = None
                self._tell()
            elif first is None or self._delivered() != first[1]:
                first = (monotonic() + _APART, self._delivered())
            else:
                return

    def _quiet(self, since: float) -> bool:
        """Whether every part has looked after ``since`` and found nothing left."""
        for consumer in self._consumers:
            if consumer.acquirer.paused:
                raise StreamworkerError(f"group {consumer.group} is paused, so this burst would never end; resume it")
            look = consumer.acquirer.look
            if look is None or look[0] < since or look[1] or len(consumer.flight):
                return False
        return all(
            broadcast.idle_since is not None and monotonic() >= since and not len(broadcast.flight)
            for broadcast in self._broadcasts
        )

    def _delivered(self) -> int:
        parts: list[Consumer | Broadcast] = [*self._consumers, *self._broadcasts]
        return sum(part.counts.delivered for part in parts)

    def _tell(self) -> None:
        """Say now and then what is waited for, once everything else is done."""
        if monotonic() - self._told < _TELL:
            return
        for consumer in self._consumers:
            look = consumer.acquirer.look
            if look is None or not look[1] or len(consumer.flight):
                continue
            left = look[1]
            log.info(
                "burst.waiting", stream=consumer.group.stream, group=consumer.group.name,
                retries=left.waiting + left.ready,
                next_retry_in=round(left.next_in, 1), pending_elsewhere=left.pending,
            )  # fmt: skip
            self._told = monotonic()
