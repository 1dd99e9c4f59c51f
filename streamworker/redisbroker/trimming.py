"""RedisTrimming: streams made shorter, in steps that hold up the server for some milliseconds each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking, decoded, encoded
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Argument
from streamworker.retention import Forced, Held, Limits, Lost, Trim

_MOST: Final = 100_000  # entries a call; freeing them takes the server some 10 ms
_EARLIEST: Final = 946_684_800.0  # the year 2000; an id below that is no time


class RedisTrimming:
    """``broker.Trimming`` on Redis."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def look(self, stream: str, limits: Limits) -> Trim:
        return await self._trim(stream, limits, (0, "", "1"))

    async def trim(
        self, stream: str, limits: Limits, *, without_groups: bool = False, tell_memory: bool = False
    ) -> Trim:
        return await self._trim(stream, limits, (_MOST, "1" if without_groups else "", "1" if tell_memory else ""))

    async def force(self, stream: str, limits: Limits, groups: Sequence[str] = ()) -> Forced:
        hashes = {}
        for group in groups:
            try:
                hashes[group] = Keys.of(stream, group).consumers
            except UnicodeEncodeError:  # of another program, so nothing is kept beside it
                continue
        names = [encoded(group) for group in hashes]
        return await self._force(stream, list(hashes.values()), (*_written(limits), "", "-", 0, *names))

    async def foresee(self, stream: str, limits: Limits, after: str | None = None, counted: int = 0) -> Forced:
        begin = "-" if after is None else f"({after}"
        return await self._force(stream, [], (*_written(limits), "1", begin, counted))

    async def expire(self, stream: str, group: str, limits: Limits) -> tuple[int, bool]:
        length, age, _ = _written(limits)
        keys = (Keys.of(stream, group).dead,)
        removed, more = await self._asking.script(stream, scripts.EXPIRE, keys, (length, age, _MOST))
        return removed, bool(more)

    async def _trim(self, stream: str, limits: Limits, how: Sequence[Argument]) -> Trim:
        arguments = (*_written(limits), *how)
        now, *told = await self._asking.script(stream, scripts.TRIM, (encoded(stream),), arguments)
        if not told:
            return Trim(exists=False)
        removed, length, memory, state, groups, held = told
        return Trim(
            removed=removed,
            length=length,
            memory=memory,
            more=state == 1,
            kept=state == 0,
            groups=tuple(map(decoded, groups)),
            held=_held(held, now / 1000) if held else None,
        )

    async def _force(self, stream: str, hashes: Sequence[bytes], arguments: Sequence[Argument]) -> Forced:
        keys = (encoded(stream), *hashes)
        removed, finished, last, lost = await self._asking.script(stream, scripts.FORCE, keys, arguments)
        losses = tuple(Lost(decoded(group), unread, pending) for group, unread, pending in lost)
        return Forced(removed, finished, str(last, "ascii"), losses)


def _written(limits: Limits) -> tuple[Argument, Argument, Argument]:
    age = "" if limits.max_age is None else int(limits.max_age * 1000)
    return (
        "" if limits.max_length is None else limits.max_length,
        age,
        "" if limits.max_bytes is None else limits.max_bytes,
    )


def _held(told: list[Any], now: float) -> Held:
    group, id, *pending = told
    made = int(id.partition(b"-")[0]) / 1000
    entry, age = str(id, "ascii"), max(0.0, now - made) if _EARLIEST < made < now + 86_400 else None
    if not pending:
        return Held(decoded(group), entry, age)
    consumer, idle, deliveries = pending
    return Held(decoded(group), entry, age, decoded(consumer), max(0, idle) / 1000, deliveries)
