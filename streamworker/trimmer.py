"""The trimmer: keeps streams within what their apps declared, in one worker of the fleet at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from streamworker.broker import Trimming
from streamworker.errors import BrokerError, NotPermitted, Unavailable
from streamworker.heartbeat import Membership
from streamworker.logs import Outage, log
from streamworker.outage import Outages
from streamworker.retention import Forced, Held, Retention, Trim

_EVERY: Final = 5.0  # seconds
_STEPS: Final = 20  # of one stream, until it is another one's turn
_TELL: Final = 60.0  # seconds between two lines about what was removed
_SURE: Final = 2  # rounds; what is in flight holds a tight limit back for a moment, again and again
_RIGHTS: Final = "trimming needs +xtrim, and +memory|usage for max_bytes"


@dataclass(slots=True)
class TrimCounts:
    """What was removed in this process: by stream, and by stream and group."""

    trimmed: Counter[str] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)  # by force, before the group was given it
    expired: Counter[tuple[str, str]] = field(default_factory=Counter)  # dead letters


class Trimmer:
    """Trims each declared stream whose first worker by name this is.

    No lock: one outlives its holder and cannot be taken out of memory. Two that trim at the same time do no harm.

    Args:
        trimming: the server.
        retentions: what is declared.
        memberships: this worker's, by stream.
        outages: shared by the whole process.
    """

    def __init__(
        self,
        trimming: Trimming,
        retentions: Sequence[Retention],
        memberships: Mapping[str, Sequence[Membership]],
        outages: Outages,
    ) -> None:
        self.counts = TrimCounts()
        self._streams = [_Stream(trimming, one, memberships[one.stream], self.counts, outages) for one in retentions]

    async def trim_loop(self) -> None:
        """Runs until it is cancelled; at once again while there is more to do."""
        try:
            while True:
                more = False
                for stream in self._streams:
                    if stream.is_ours:
                        more |= await stream.keep()
                    else:
                        stream.rest()
                await asyncio.sleep(0 if more else _EVERY)
        finally:
            for stream in self._streams:
                stream.tell(last=True)


class _Stream:
    """One declared stream."""

    def __init__(
        self,
        trimming: Trimming,
        retention: Retention,
        memberships: Sequence[Membership],
        counts: TrimCounts,
        outages: Outages,
    ) -> None:
        self._trimming = trimming
        self._retention = retention
        self._memberships = memberships
        self._counts = counts
        self._outages = outages
        self._failing = Outage("retention.failing", "retention.recovered", stream=retention.stream)
        self._held_back = HeldBack(retention.stream)
        self._lost = _Sums(
            # What was pending is counted by who finds it gone: a handler that has it finishes it.
            lambda group, many: log.warning(
                "retention.lost", stream=retention.stream, group=group, unread=many["unread"], pending=many["pending"]
            )
        )
        self._expired = _Sums(
            lambda group, many: log.info(
                "dead_letters.expired", stream=retention.stream, group=group, letters=many["letters"]
            )
        )
        if retention.limits:  # also what never was: a rate needs a beginning
            counts.trimmed[retention.stream] = 0
        for group in retention.groups:
            if retention.force:
                counts.lost[retention.stream, group] = 0
            if retention.dead:
                counts.expired[retention.stream, group] = 0

    @property
    def is_ours(self) -> bool:
        """Whether no living worker that trims this stream comes before this one, in any group of its."""
        return all(one.is_first(lambda report: report.trims) for one in self._memberships)

    async def keep(self) -> bool:
        """One round; returns whether there is more to do at once."""
        try:
            more = await self._trim() if self._retention.limits else False
            for group in self._retention.groups if self._retention.dead else ():
                more |= await self._expire(group)
            self.tell()
        except Unavailable as error:
            self._outages.began(self, f"{self._retention.stream}: {error}")
            return False
        except BrokerError as error:
            self._outages.ended(self)
            lacks = isinstance(error, NotPermitted)  # Redis 6.2 does not say what
            self._failing.began(f"{error} ({_RIGHTS})" if lacks else str(error))
            return False
        self._outages.ended(self)
        self._failing.ended()
        return more

    def rest(self) -> None:
        """It is another worker's to trim, and to tell about."""
        self._outages.ended(self)
        self._held_back = HeldBack(self._retention.stream)
        self.tell(last=True)

    def tell(self, *, last: bool = False) -> None:
        """Log what was removed and should not go unnoticed."""
        self._lost.tell(last=last)
        self._expired.tell(last=last)

    async def _trim(self) -> bool:
        stream, limits, force = self._retention.stream, self._retention.limits, self._retention.force
        for _ in range(_STEPS):
            last = await self._trimming.trim(stream, limits)
            self._counts.trimmed[stream] += last.removed
            if last.more:
                continue
            if last.kept or not force:
                break
            forced = await self._trimming.force(stream, limits, last.groups)
            self._lose(forced)
            if not forced.removed:
                break
        else:
            return True
        self._held_back.seen(last)
        return False

    def _lose(self, forced: Forced) -> None:
        self._counts.trimmed[self._retention.stream] += forced.removed
        for one in forced.lost:
            self._counts.lost[self._retention.stream, one.group] += one.unread
            self._lost.add(one.group, unread=one.unread, pending=one.pending)

    async def _expire(self, group: str) -> bool:
        stream = self._retention.stream
        removed, more = await self._trimming.expire(stream, group, self._retention.dead)
        if removed:
            self._counts.expired[stream, group] += removed
            self._expired.add(group, letters=removed)
        return more


class _Sums:
    """Numbers by group, told at once, then once a minute, and at the end: where it goes on, it goes on for long."""

    def __init__(self, say: Callable[[str, Counter[str]], object]) -> None:
        self._say = say
        self._sums: dict[str, Counter[str]] = {}
        self._due = 0.0

    def add(self, group: str, **numbers: int) -> None:
        self._sums.setdefault(group, Counter()).update(numbers)

    def tell(self, *, last: bool = False) -> None:
        """After each round, and when there are no more."""
        if self._sums and (last or monotonic() >= self._due):
            for group, many in sorted(self._sums.items()):
                self._say(group, many)
            self._sums.clear()
            self._due = monotonic() + _TELL


class HeldBack:
    """Tells once when a group holds a stream's limits back, and once when it does no longer."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._by: str | None = None
        self._told: str | None = None
        self._rounds = 0

    def seen(self, last: Trim) -> None:
        """The end of a round."""
        held = None if last.kept else last.held
        by = None if held is None else held.group
        self._rounds = self._rounds + 1 if by == self._by else 1
        self._by = by
        if self._rounds < _SURE or by == self._told:
            return
        if self._told is not None:
            log.info("retention.freed", stream=self._stream, group=self._told)
        if held is not None:
            self._tell(held)
        self._told = by

    def _tell(self, held: Held) -> None:
        log.warning(
            "retention.held",
            stream=self._stream,
            group=held.group,
            since=held.entry,
            age=None if held.age is None else round(held.age, 1),
            consumer=held.consumer,
        )
