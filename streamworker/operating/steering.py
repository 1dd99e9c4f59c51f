"""Steering: what a group reads, and whether: pause, resume, replay, seek, and claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from streamworker.errors import ConfigError
from streamworker.identity import RELEASED
from streamworker.ids import EntryId, parse_id, written
from streamworker.monitoring.facts import GroupFacts, Observer, StreamFacts
from streamworker.monitoring.snapshots import status
from streamworker.operating.pace import Pace
from streamworker.operating.places import Place, behind, from_, upto

_MOST: Final = 1000  # entries copied in one call
_MOST_COUNTED: Final = 10_000_000
_HANDED_OVER: Final = 1000  # entries a call


@dataclass(frozen=True, slots=True)
class Range:
    """Entries from ``first`` to ``last``, both included; of one type, if ``type`` is not None."""

    first: EntryId
    last: EntryId
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one call of a replay did.

    Attributes:
        looked: entries it looked at.
        copied: entries it gave to the group again.
        pending: entries it left out, since the group has them.
        rest: from where to go on; None at the end.
    """

    looked: int
    copied: int
    pending: int
    rest: str | None


@dataclass(frozen=True, slots=True)
class Sought:
    """``before``: up to where it had read. Or it stays: ``consumer`` has ``pending``, or it ``passed`` the place."""

    before: EntryId | None = None
    passed: str | None = None
    pending: str | None = None
    consumer: str | None = None


class Steering(Protocol):
    """What a server does to groups; each call is one step."""

    async def pause(self, stream: str, group: str, note: str) -> str | None:
        """Pause with a note, or resume with an empty one.

        Returns:
            The note that stood there, ``""`` for none; None if there is no such group, and nothing was done.
        """
        ...

    async def unfinished(self, stream: str, group: str, wanted: Range) -> str | None:
        """The entry behind which an earlier replay from there was interrupted; None if there was none."""
        ...

    async def forget(self, stream: str, group: str, wanted: Range) -> None:
        """Let the next replay of this range begin at its beginning."""
        ...

    async def replay(self, stream: str, group: str, wanted: Range, most: int, *, goes_on: bool = False) -> Replayed:
        """Give the next entries of the range to the group again, ``most`` at most.

        ``goes_on``: this is not the first call, so where no place is kept another one has come to the end.
        """
        ...

    async def count(self, stream: str, group: str, wanted: Range, at: str | None) -> Replayed:
        """The same without doing it, from ``at`` on."""
        ...

    async def seek(
        self, stream: str, group: str, behind: EntryId, position: int | None, *, back: bool
    ) -> Sought | None:
        """Let the group read on behind an id, but not back over what is pending; None if there is no such group.

        Args:
            stream: the stream.
            group: the group.
            behind: the id.
            position: how many entries were ever added up to there; None if nobody knows.
            back: whether it may go back at all.
        """
        ...

    async def hand_over(self, stream: str, group: str, consumer: str, most: int) -> int:
        """Release what ``consumer`` holds, about ``most`` of it; how many that were."""
        ...

    async def mark_dead(self, stream: str, group: str, consumer: str) -> None:
        """Let the workers know that one of them is dead."""
        ...


class SeekPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seek means.

    Attributes:
        now: the id up to which the group has read.
        then: the id up to which it will have read.
        again: entries it will be given once more.
        skipped: entries it will never be given.
        exact: False if these were too many to count: then there are more.
        position: of ``then``; None where the server keeps none or it was not counted.
    """

    now: str
    then: str
    again: int
    skipped: int
    exact: bool
    position: int | None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What ``claim`` did.

    Attributes:
        pending: how many entries the consumer held.
        how: ``"marked dead"``: it is a worker of ours, and the others take its entries as they do after a crash,
            those alone that may have killed it; ``"released"``: they are free for the next worker.
    """

    pending: int
    how: str


class Controls:
    """Steers ``group`` on ``stream``; made by ``Operator.group``."""

    def __init__(self, observer: Observer, steering: Steering, stream: str, group: str) -> None:
        self._observer = observer
        self._steering = steering
        self.stream = stream
        self.group = group

    def __str__(self) -> str:
        return f"{self.stream}/{self.group}"

    async def pause(self, *, by: str) -> bool:
        """Stop all workers of the group from reading, within a second, until ``resume``; restarts change nothing.

        What they hold already is finished. Returns False if it was paused before.

        Raises:
            ConfigError: there is no such group.
        """
        note = f"{datetime.now(UTC).isoformat(timespec='seconds')} by {by}"
        before = await self._steering.pause(self.stream, self.group, note)
        if before is None:
            raise self._missing()
        return not before

    async def resume(self) -> bool:
        """Let the workers read again. Returns False if the group was not paused."""
        return bool(await self._steering.pause(self.stream, self.group, ""))

    async def range(self, first: Place, last: Place, type: str | None = None) -> Range:
        """What ``replay`` means by two places: nothing behind what the group has read, which comes anyway.

        Raises:
            ConfigError: there is no such group.
        """
        stream, group = await self._seen()
        end = min(upto(last, stream), group.last_delivered)
        return Range(from_(first, stream), end, type)

    async def replay(
        self,
        wanted: Range,
        *,
        rate: float | None = None,
        dry: bool = False,
        anew: bool = False,
        progress: Callable[[Replayed], object] = bool,
    ) -> Replayed:
        """Give a range to the group again, and to no other: each entry once more, with a new count of deliveries.

        Where it stands is kept on the server with each step: interrupted or killed, and called again with the same
        first entry and type, it goes on there, and nothing comes twice.

        Args:
            wanted: the range, see ``range``.
            rate: how many a second; None as fast as it goes.
            dry: only count.
            anew: begin at the beginning, also where an earlier one was interrupted.
            progress: is told how much was done so far.
        """
        pace = Pace(rate)
        total = Replayed(0, 0, 0, None)
        at: str | None = None
        if anew and not dry:
            await self._steering.forget(self.stream, self.group, wanted)
        elif dry and not anew and (place := await self.unfinished(wanted)) is not None:
            at = f"({place}"
        while wanted.first <= wanted.last:
            if dry:
                step = await self._steering.count(self.stream, self.group, wanted, at)
            else:
                most = pace.share(_MOST)
                step = await self._steering.replay(self.stream, self.group, wanted, most, goes_on=at is not None)
                await pace.wait(step.copied)
            total = Replayed(
                total.looked + step.looked, total.copied + step.copied, total.pending + step.pending, step.rest
            )
            progress(total)
            at = step.rest
            if at is None:
                break
        return total

    async def unfinished(self, wanted: Range) -> str | None:
        """The entry behind which an earlier replay of this range stopped; None if there was none."""
        return await self._steering.unfinished(self.stream, self.group, wanted)

    async def plan_seek(self, to: Place) -> SeekPlan:
        """What a seek to this place would mean.

        Raises:
            ConfigError: there is no such group, or the place lies ahead of the stream.
        """
        stream, group = await self._seen()
        then = behind(to, stream)
        if then > stream.last_generated:
            raise ConfigError(
                f"{to} lies ahead of the last entry of {self.stream}: all that is published until then would never be "
                "read. Write end to go to the end; dates are UTC unless they say otherwise"
            )
        after = await self._observer.count(self.stream, then, stream.last_generated, _MOST_COUNTED)
        between = [
            await self._observer.count(self.stream, *ids, _MOST_COUNTED) if ids[0] < ids[1] else 0
            for ids in ((then, group.last_delivered), (group.last_delivered, then))
        ]
        position = None if stream.added is None or after is None else max(0, stream.added - after)
        return SeekPlan(
            now=written(group.last_delivered),
            then=written(then),
            again=between[0] or 0,
            skipped=between[1] or 0,
            exact=None not in between,
            position=position,
        )

    async def seek(self, plan: SeekPlan) -> None:
        """Let the group read on somewhere else: the workers follow with their next read.

        Raises:
            ConfigError: there is no such group (any more), it would go back over what is pending, or it has read past
                the place since it was planned to go forward.
        """
        now, then = parse_id(plan.now), parse_id(plan.then)
        sought = await self._steering.seek(self.stream, self.group, then, plan.position, back=then < now)
        if sought is None:
            raise self._missing()
        if sought.passed is not None:
            raise ConfigError(f"{self} has read past {plan.then} meanwhile, up to {sought.passed}: nothing is skipped")
        if sought.before is None:
            raise ConfigError(
                f"{self} cannot go back to {plan.then}: the entry {sought.pending} behind it is pending with consumer "
                f"{sought.consumer!r}, and would be handled twice at the same time. Wait until it is settled "
                "(streamworker inspect tells), or use streamworker replay, which leaves out what is pending"
            )

    async def claim(self, consumer: str, *, force: bool = False) -> Taken:
        """Let workers take what a consumer holds now, without waiting until it is taken for dead.

        Args:
            consumer: its name.
            force: even if it is alive; then its messages are handled twice.

        Raises:
            ConfigError: there is no such consumer, or it is alive.
        """
        now = await status(self._observer, [self.stream], over=0)
        if self.stream in now.errors:
            raise ConfigError(f"{self.stream}: {now.errors[self.stream]}")
        group = next((one for one in now.groups if one.group == self.group and one.exists), None)
        if group is None:
            raise self._missing()
        member = next((one for one in group.consumers if one.name == consumer), None)
        if member is None:
            names = ", ".join(repr(one.name) for one in group.consumers if one.pending) or "no consumer"
            raise ConfigError(f"{self} has no consumer {consumer!r}; {names} has something pending")
        if consumer == RELEASED:  # whose entries are free already
            return Taken(pending=member.pending, how="released")
        if member.alive and not force:
            raise ConfigError(
                f"{consumer!r} is alive: its last heartbeat is {member.beat_seconds or 0:.1f} s old. What it holds "
                "would be handled twice. Stop it: then it hands back what it has not started"
            )
        if member.alive is False:
            await self._steering.mark_dead(self.stream, self.group, consumer)
            return Taken(pending=member.pending, how="marked dead")
        moved = 0
        while many := await self._steering.hand_over(self.stream, self.group, consumer, _HANDED_OVER):
            moved += many
        return Taken(pending=moved, how="released")

    async def _seen(self) -> tuple[StreamFacts, GroupFacts]:
        stream = (await self._observer.look({self.stream: ()}))[self.stream]
        if not isinstance(stream, StreamFacts):
            raise stream
        for group in stream.groups:
            if group.name == self.group and group.exists:
                return stream, group
        raise self._missing()

    def _missing(self) -> ConfigError:
        return ConfigError(f"there is no group {self.group!r} on stream {self.stream!r}")
