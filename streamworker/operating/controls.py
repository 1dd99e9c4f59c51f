"""Controls: what a group reads, and whether: pause, resume, replay, seek, and claim."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Final

import msgspec

from streamworker.errors import ConfigError
from streamworker.identity import RELEASED
from streamworker.ids import parse_id, written
from streamworker.monitoring.facts import GroupFacts, Observer, StreamFacts
from streamworker.monitoring.missing import no_consumer, no_group
from streamworker.monitoring.remarks import unattended
from streamworker.monitoring.snapshots import status
from streamworker.monitoring.status import GroupStatus
from streamworker.monitoring.words import moment
from streamworker.operating.pace import Pace
from streamworker.operating.places import Place, behind, from_, upto
from streamworker.operating.steering import Range, Replayed, Steering

_MOST: Final = 1000  # entries copied in one call
_MOST_COUNTED: Final = 10_000_000
_HANDED_OVER: Final = 1000  # entries a call


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

    async def pause(self, *, by: str) -> str:
        """Stop all workers of the group from reading, within a second, until ``resume``; restarts change nothing.

        What they hold already is finished.

        Returns:
            Since when it has been paused, and by whom, as ``GroupStatus.paused_note`` tells it; ``""`` if it was not.

        Raises:
            NotFound: there is no such group.
        """
        note = f"{moment(time())} by {by}"
        before = await self._steering.pause(self.stream, self.group, note)
        if before is None:
            raise no_group(self.stream, self.group)
        return before

    async def resume(self) -> bool:
        """Let the workers read again. Returns False if the group was not paused."""
        return bool(await self._steering.pause(self.stream, self.group, ""))

    async def range(self, first: Place, last: Place, type: str | None = None) -> Range:
        """What ``replay`` means by two places: nothing behind what the group has read, which comes anyway.

        Raises:
            NotFound: there is no such group.
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
            NotFound: there is no such group.
            ConfigError: the place lies ahead of the stream.
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
            NotFound: there is no such group any more.
            ConfigError: it would go back over what is pending, or it has read past the place since it was planned to
                go forward.
        """
        now, then = parse_id(plan.now), parse_id(plan.then)
        sought = await self._steering.seek(self.stream, self.group, then, plan.position, back=then < now)
        if sought is None:
            raise no_group(self.stream, self.group)
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
            NotFound: there is no such group or consumer.
            ConfigError: the consumer is alive.
        """
        group = await self._status()
        if not group.exists:
            raise no_group(self.stream, self.group)
        member = next((one for one in group.consumers if one.name == consumer), None)
        if member is None:
            names = ", ".join(repr(one.name) for one in group.consumers if one.pending) or "no consumer"
            raise no_consumer(self.stream, self.group, consumer, f"{names} has something pending")
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

    async def unattended(self) -> str | None:
        """Why nobody handles what the group is given now, and what to do; None if somebody does.

        Raises:
            NotFound: there is no such group, and nothing is left of it.
        """
        return unattended(await self._status())

    async def _status(self) -> GroupStatus:
        now = await status(self._observer, [self.stream], over=0)
        if self.stream in now.errors:
            raise ConfigError(f"{self.stream}: {now.errors[self.stream]}")
        for group in now.groups:
            if group.group == self.group:
                return group
        raise no_group(self.stream, self.group)

    async def _seen(self) -> tuple[StreamFacts, GroupFacts]:
        stream = (await self._observer.look({self.stream: ()}))[self.stream]
        if not isinstance(stream, StreamFacts):
            raise stream
        for group in stream.groups:
            if group.name == self.group and group.exists:
                return stream, group
        raise no_group(self.stream, self.group)
