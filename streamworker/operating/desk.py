"""The dead-letter desk: the dead letters of one group, chosen, grouped, redriven, edited and dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from streamworker.errors import ConfigError
from streamworker.ids import EntryId
from streamworker.monitoring.entries import Letter
from streamworker.monitoring.facts import Observer, StreamFacts
from streamworker.monitoring.missing import no_letter
from streamworker.monitoring.shown import LetterShown, entry_id, error_type, letter_shown
from streamworker.operating.conditions import Condition, condition
from streamworker.operating.editing import check_names, edited_letter
from streamworker.operating.pace import Pace

_PAGE: Final = 500
_BATCH: Final = 100  # letters in one round trip
_BATCH_BYTES: Final = 2**20

Progress = Callable[[int], object]
"""Told again and again how many letters have been looked at so far."""


class Letters(Protocol):
    """What a server does to dead letters; each letter in one step, done or not done."""

    async def redrive(self, stream: str, group: str, letters: Sequence[Letter]) -> list[bool]:
        """Move the letters into the group's retry stream; False for those that are not there any more."""
        ...

    async def amend(self, stream: str, group: str, letter: Letter) -> str | None:
        """Put ``letter`` in the place of the one with its id; the new id, None if that is not there any more."""
        ...

    async def drop(self, stream: str, group: str, ids: Sequence[str]) -> int:
        """Delete the letters; how many were there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters are meant: those that fulfil everything that is said.

    Attributes:
        ids: these; the letters' own ids, or those of their entries.
        where: conditions, see ``conditions.condition``.
        since, until: Unix times in seconds between which they were given up.
        type: the entry's type.
        limit: so many of the oldest at most.
        last: of those that had come when ``Desk.last`` told this id.

    Raises:
        ConfigError: a condition or an id cannot be understood.
    """

    ids: Sequence[str] = ()
    where: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    type: str | None = None
    limit: int | None = None
    last: EntryId | None = None
    _conditions: list[Condition] = field(init=False, repr=False)
    _ids: frozenset[EntryId] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_conditions", [condition(text) for text in self.where])
        ids = [(text, entry_id(text)) for text in self.ids]
        for text, id in ids:
            if id is None:
                raise ConfigError(f"{text!r} is no id: write milliseconds-sequence, as in 1795378761263-0")
        object.__setattr__(self, "_ids", frozenset(id for _, id in ids))

    @property
    def everything(self) -> bool:
        """Whether nothing was said but perhaps a limit."""
        return not (self.ids or self.where or self.type) and self.since is None and self.until is None

    def met(self, letter: LetterShown) -> set[EntryId]:
        """Which of ``ids`` are those of ``letter``."""
        return {id for id in (entry_id(letter.id), entry_id(letter.entry.id)) if id in self._ids}

    def missing(self, met: set[EntryId]) -> list[str]:
        """Those of ``ids`` that were not met."""
        return [text for text in self.ids if entry_id(text) not in met]

    def takes(self, letter: LetterShown) -> bool:
        """Whether ``letter`` is meant, the limit apart."""
        if self._ids and not self.met(letter):
            return False
        if self.type is not None and letter.entry.type != self.type:
            return False
        if self.since is not None and (letter.time is None or letter.time < self.since):
            return False
        if self.until is not None and (letter.time is None or letter.time > self.until):
            return False
        return all(holds(letter) for holds in self._conditions)


class LetterGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that died of the same.

    Attributes:
        stream, group: whose.
        error_type: the error's class; without an error the reason, its numbers replaced by N.
        place: where it was raised, ``file:line in function``; None without a traceback.
        handler: the handler.
        count: how many.
        first, last: when the first and the last of them came, Unix time in seconds.
        example: the newest of them.
    """

    stream: str
    group: str
    error_type: str
    place: str | None
    handler: str | None
    count: int
    first: float | None
    last: float | None
    example: LetterShown


@dataclass(slots=True)
class Done:
    """What has been done so far: it is kept up to date, so that whoever is interrupted can tell.

    Attributes:
        done: letters that were redriven or dropped.
        gone: letters that somebody else had taken meanwhile.
        left: letters that were left where they are, since they hold no copy of an entry: nothing of ours wrote them.
        met: of the ids that were asked for, those that there were.
    """

    done: int = 0
    gone: int = 0
    left: int = 0
    met: set[EntryId] = field(default_factory=set)


class Desk:
    """The dead letters of ``group`` on ``stream``; made by ``Operator.desk``."""

    def __init__(self, observer: Observer, letters: Letters, stream: str, group: str) -> None:
        self._observer = observer
        self._letters = letters
        self.stream = stream
        self.group = group

    async def count(self) -> int | None:
        """How many there are; None if there is neither such a group nor anything left of it.

        Raises:
            BrokerError: the stream cannot be looked at.
        """
        seen = (await self._observer.look({self.stream: (self.group,)}))[self.stream]
        if not isinstance(seen, StreamFacts):
            raise seen
        found = [group for group in seen.groups if group.name == self.group]
        return found[0].beside.dead if found and (found[0].exists or found[0].beside.ours) else None

    async def last(self) -> EntryId:
        """The id of the last letter that came."""
        return (await self._observer.page(self.stream, (0, 0), 1, self.group)).last_generated

    async def chosen(
        self, selection: Selection, progress: Progress = bool
    ) -> AsyncIterator[tuple[Letter, LetterShown]]:
        """The letters that are meant, oldest first: as they are kept, and as they are shown.

        Letters that come while this runs are left out: a message that fails again is not met again.
        """
        place, end, looked, found = (0, 0), None, 0, 0
        while selection.limit is None or found < selection.limit:
            page = await self._observer.page(self.stream, place, _PAGE, self.group)
            end = min(page.last_generated, selection.last or page.last_generated) if end is None else end
            for letter in page.letters:
                place = entry_id(letter.id) or place
                if place > end:
                    return
                looked += 1
                progress(looked)
                shown = letter_shown(letter)
                if selection.takes(shown):
                    yield letter, shown
                    found += 1
                    if found == selection.limit:
                        return
            if not page.letters:
                return

    async def groups(self, selection: Selection | None = None, progress: Progress = bool) -> list[LetterGroup]:
        """The letters by what they died of, the most frequent first."""
        found: dict[tuple[str, str | None, str | None], LetterGroup] = {}
        async for _, shown in self.chosen(selection or Selection(), progress):
            key = (error_type(shown), shown.place, shown.handler)
            before = found.get(key)
            found[key] = LetterGroup(
                stream=self.stream,
                group=self.group,
                error_type=key[0],
                place=key[1],
                handler=key[2],
                count=before.count + 1 if before is not None else 1,
                first=before.first if before is not None else shown.time,
                last=shown.time,
                example=shown,
            )
        return sorted(found.values(), key=lambda one: -one.count)

    async def redrive(
        self, selection: Selection, *, rate: float | None = None, done: Done | None = None, progress: Progress = bool
    ) -> Done:
        """Give the letters to the group once more: as they are, with a new count of deliveries.

        Each moves in one step, so that whoever is killed, interrupted or cut off in between neither loses nor doubles
        one; called again, it goes on with what is left.

        Args:
            selection: which letters.
            rate: how many a second; None as fast as it goes.
            done: is kept up to date.
            progress: is told how many letters have been looked at.

        Raises:
            BrokerError: the server refused, or cannot be reached; what was done before stays done.
        """
        done = done if done is not None else Done()
        pace = Pace(rate)
        async for batch in self._batches(selection, pace.share(_BATCH), done, progress):
            await pace.wait(len(batch))
            again = [_redriven(letter) for letter in batch if letter.fields]
            done.left += len(batch) - len(again)
            results = await self._letters.redrive(self.stream, self.group, again)
            done.done += sum(results)
            done.gone += len(results) - sum(results)
        return done

    async def drop(self, selection: Selection, *, done: Done | None = None, progress: Progress = bool) -> Done:
        """Delete the letters for good."""
        done = done if done is not None else Done()
        async for batch in self._batches(selection, _BATCH, done, progress):
            many = await self._letters.drop(self.stream, self.group, [letter.id for letter in batch])
            done.done += many
            done.gone += len(batch) - many
        return done

    async def find(self, id: str) -> list[tuple[Letter, LetterShown]]:
        """The letters with this id, their own or their entry's."""
        return [found async for found in self.chosen(Selection(ids=(id,)))]

    async def edit(self, id: str, values: Mapping[str, bytes], without: Sequence[str] = (), *, by: str) -> LetterShown:
        """Change fields of a letter's entry, for when it is redriven. What they were is kept, byte for byte.

        Args:
            id: the letter's own id, or its entry's.
            values: fields and what they are to hold; of a field that stands there several times, the first.
            without: fields to be left out.
            by: who does it.

        Returns:
            The letter as it is now; it has a new id.

        Raises:
            NotFound: there is no such letter.
            ConfigError: there is more than one, a field may not be changed, or none would be left.
        """
        check_names((*values, *without))
        found = await self.find(id)
        if not found:
            raise no_letter(self.stream, self.group, id)
        if len(found) > 1:
            ids = ", ".join(letter.id for letter, _ in found)
            raise ConfigError(f"{id} has {len(found)} dead letters; name one by its own id: {ids}")
        if not found[0][0].fields:
            raise ConfigError(f"the dead letter {id} holds no copy of an entry: nothing of ours wrote it")
        edited = edited_letter(found[0][0], values, without, by)
        if not edited.fields:
            raise ConfigError(f"the dead letter {id} would have no field left; to be rid of it, drop it")
        new = await self._letters.amend(self.stream, self.group, edited)
        if new is None:
            raise ConfigError(f"the dead letter {id} is not there any more: somebody was faster")
        return letter_shown(replace(edited, id=new))

    async def _batches(
        self, selection: Selection, most: int, done: Done, progress: Progress
    ) -> AsyncIterator[list[Letter]]:
        batch: list[Letter] = []
        size = 0
        async for letter, shown in self.chosen(selection, progress):
            done.met |= selection.met(shown)
            batch.append(letter)
            size += shown.entry.size
            if len(batch) >= most or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _redriven(letter: Letter) -> Letter:
    return replace(letter, marks=replace(letter.marks, redriven=letter.marks.redriven + 1))
