"""Trimming one stream to its end: what was removed, what is left, and who keeps the rest from being removed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from streamworker.broker import Trimming
from streamworker.identity import RELEASED
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.snapshots import status
from streamworker.retention import Forced, Held, Limits, Trim

Progress = Callable[[int], object]


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What a group lost by force: entries that it had not been given, and that it had not finished."""

    group: str
    unread: int
    pending: int


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The group that holds a limit back.

    Attributes:
        group: its name.
        id: the first entry that it has not finished.
        age_seconds: since that was published; None if its id is no time.
        state: ``"unread"`` or ``"pending"``.
        consumer: who has it; None if it is unread.
        idle_seconds: since it was delivered.
        deliveries: how often it was.
        members: how many consumers the group has, living or not.
        workers: how many workers of the group are alive.
        others: how many consumers other programs have in it; whether they live, nobody knows.
    """

    group: str
    id: str
    age_seconds: float | None
    state: str
    consumer: str | None
    idle_seconds: float | None
    deliveries: int
    members: int
    workers: int
    others: int


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """What trimming came to.

    Attributes:
        stream: its name.
        exists: whether there is such a stream.
        dry_run: nothing was removed; the numbers say what would have been.
        removed: entries.
        length: entries that are left.
        memory_bytes: what they take, as the server estimates it; None if it does not tell. Of a dry run, as of now.
        kept: whether the limits are kept.
        groups: the stream's groups, whoever made them.
        held: the group that holds a limit back; None if none does. Where there is no group at all nothing is trimmed.
        lost: what groups lost by force.
    """

    stream: str
    exists: bool
    dry_run: bool
    removed: int
    length: int
    memory_bytes: int | None
    kept: bool
    groups: tuple[str, ...]
    held: Holder | None
    lost: tuple[Loss, ...]


class StreamTrimmer:
    """Trims one stream, or says what that would do.

    Args:
        trimming: the server.
        observer: to ask who lives in a group.
        stream: the stream.
        limits: how much of it is kept.
        progress: called with the number of entries removed so far, or counted.
    """

    def __init__(
        self, trimming: Trimming, observer: Observer, stream: str, limits: Limits, progress: Progress | None = None
    ) -> None:
        self._trimming = trimming
        self._observer = observer
        self._stream = stream
        self._limits = limits
        self._progress = progress or bool
        self._removed = 0
        self._lost: dict[str, tuple[int, int]] = {}

    async def trim(self, *, force: bool) -> Trimmed:
        """Remove until the limits are kept, or a group holds them back."""
        while True:
            last = await self._trimming.trim(self._stream, self._limits, without_groups=force, tell_memory=True)
            self._count(last.removed)
            if last.more:
                continue
            if last.kept or not force or not (await self._force()).removed:
                return await self._result(last, removed=self._removed, length=last.length)

    async def foresee(self, *, force: bool) -> Trimmed:
        """Count what ``trim`` would remove, a page at a time."""
        look = await self._trimming.look(self._stream, self._limits)
        goes, kept = 0, look.kept
        after: str | None = None
        while not kept and (look.groups or force):
            page = await self._trimming.foresee(self._stream, self._limits, after, self._removed)
            kept = not page.removed
            after = page.last
            if force:
                self._take(page)
            else:
                self._count(page.finished)
            goes = self._removed
            if not force and page.finished < page.removed:  # all that follows is held back too
                break
        last = Trim(exists=look.exists, memory=look.memory, kept=kept, groups=look.groups, held=look.held)
        return await self._result(last, removed=goes, length=look.length - goes, dry_run=True)

    async def _force(self) -> Forced:
        page = await self._trimming.force(self._stream, self._limits)
        self._take(page)
        return page

    def _take(self, page: Forced) -> None:
        self._count(page.removed)
        for one in page.lost:
            unread, pending = self._lost.get(one.group, (0, 0))
            self._lost[one.group] = (unread + one.unread, pending + one.pending)

    def _count(self, removed: int) -> None:
        self._removed += removed
        self._progress(self._removed)

    async def _result(self, last: Trim, *, removed: int, length: int, dry_run: bool = False) -> Trimmed:
        return Trimmed(
            stream=self._stream,
            exists=last.exists,
            dry_run=dry_run,
            removed=removed,
            length=length,
            memory_bytes=last.memory,
            kept=last.kept,
            groups=last.groups,
            held=None if last.kept or last.held is None else await self._holder(last.held),
            lost=tuple(Loss(group=one, unread=lost[0], pending=lost[1]) for one, lost in sorted(self._lost.items())),
        )

    async def _holder(self, held: Held) -> Holder:
        seen = await status(self._observer, [self._stream], over=0.0)
        group = next((one for one in seen.groups if one.group == held.group), None)
        consumers = [one for one in group.consumers if one.name != RELEASED] if group is not None else []
        return Holder(
            group=held.group,
            id=held.entry,
            age_seconds=held.age,
            state="unread" if held.consumer is None else "pending",
            consumer=held.consumer,
            idle_seconds=held.idle,
            deliveries=held.deliveries,
            members=len(consumers),
            workers=sum(one.alive is True for one in consumers),
            others=sum(one.alive is None for one in consumers),
        )
