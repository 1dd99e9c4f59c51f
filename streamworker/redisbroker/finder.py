"""Finder: single entries for who looks on: the last ones, the next ones, and where one of them is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from streamworker.errors import NotPermitted, WrongType
from streamworker.ids import EntryId, below, parse_id, written
from streamworker.monitoring.entries import Due, Entry, Letter, Page, Sighting, Trace, Waiting
from streamworker.monitoring.facts import Oldest
from streamworker.monitoring.marks import parted
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking, decoded, encoded, pairs
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.packing import unpack
from streamworker.redisbroker.reader import ReplySize, sized

_MOST_BYTES: Final = 16 * 2**20  # of a reply
_PAGE: Final = 500
_SCANNED: Final = 1000  # retries a call
MOST_SEARCHED: Final = 10_000  # of a group's dead letters, and of its retries that are due


class Finder:
    """The part of ``facts.Observer`` that is about entries, on Redis."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._size = ReplySize(_MOST_BYTES)

    async def before_last(self, stream: str, count: int, dead_of: str | None) -> EntryId:
        """See ``facts.Observer``. In pages, since ten entries may be a hundred megabytes."""
        size, place, left = ReplySize(_MOST_BYTES), "+", count + 1
        key = _key(stream, dead_of)
        while True:
            wanted = size.count(min(left, _PAGE))
            page = await self._asking.command(stream, "XREVRANGE", key, place, "-", "COUNT", wanted)
            if not page:
                return (0, 0)
            sized(page, size)
            left -= len(page)
            last = parse_id(page[-1][0])
            if left <= 0:
                return last
            place = written(below(last))

    async def page(self, stream: str, after: EntryId, most: int, dead_of: str | None) -> Page:
        """See ``facts.Observer``."""
        arguments = (written(after), self._size.count(min(most, _PAGE)))
        exists, generated, entries = await self._asking.script(
            stream, scripts.PAGE, (_key(stream, dead_of),), arguments
        )
        if entries:
            sized(entries, self._size)
        found = [Entry(id=str(id, "ascii"), fields=fields) for id, fields in entries]
        return Page(
            exists=bool(exists),
            last_generated=parse_id(generated),
            entries=found if dead_of is None else [],
            letters=[] if dead_of is None else [_letter(entry) for entry in entries],
        )

    async def find(self, stream: str, id: EntryId, also: Collection[str]) -> Sighting:
        """See ``facts.Observer``."""
        seen = await self._asking.script(stream, scripts.FIND, (encoded(stream),), (written(id),))
        now, exists, fields, groups = seen[0] / 1000, bool(seen[1]), seen[2], seen[3]
        traces = [
            Trace(group=decoded(group), last_delivered=parse_id(last), pending=oldest_of(pending))
            for group, last, pending in groups
        ]
        traces += [Trace(group=gone, exists=False) for gone in sorted(set(also) - {trace.group for trace in traces})]
        for at, trace in enumerate(traces):
            traces[at] = await self._beside(stream, trace, id, now)
        entry = Entry(id=written(id), fields=fields) if fields is not None else None
        return Sighting(now=now, exists=exists, entry=entry, traces=tuple(traces))

    async def _beside(self, stream: str, trace: Trace, id: EntryId, now: float) -> Trace:
        """``trace`` with its copies, asked for in the order in which an entry goes through them."""
        try:
            keys = Keys.of(stream, trace.group)
        except UnicodeEncodeError:  # of another program
            return trace
        try:
            waiting = await self._waiting(stream, keys, id)
            due, whole = await self._copies(stream, keys.retry, trace.group, id, "-")
            # A dead letter comes later than its entry, if the entry's id is a time that has been.
            start = f"{id[0]}-0" if id[0] / 1000 <= now else "-"
            letters, all_letters = await self._copies(stream, keys.dead, trace.group, id, start)
        except (NotPermitted, WrongType):  # who may see the stream, but not what we keep beside it
            return replace(trace, whole=False)
        return replace(
            trace,
            waiting=tuple(waiting),
            due=tuple(_due(one) for one in due),
            letters=tuple(_letter(one) for one in letters),
            whole=whole and all_letters,
        )

    async def _waiting(self, stream: str, keys: Keys, id: EntryId) -> list[Waiting]:
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            pattern = f"{written(id)} *"
            words = ("ZSCAN", keys.delayed, cursor, "MATCH", pattern, "COUNT", _SCANNED)
            cursor, flat = await self._asking.command(stream, *words)
            found |= zip(flat[::2], flat[1::2], strict=True)
            if cursor == b"0":
                break
        if not found:
            return []
        seconds, micros = await self._asking.command(stream, "TIME")
        skew = await self._asking.command(stream, "HGET", keys.consumers, "skew")
        clock = int(seconds) * 1000 + int(micros) // 1000 + float(skew or 0)
        return [_waits(member, float(score) - clock) for member, score in found.items()]

    async def _copies(
        self, stream: str, key: bytes, group: str, id: EntryId, start: str
    ) -> tuple[list[list[Any]], bool]:
        found: list[list[Any]] = []
        place: bytes | str | None = start
        looked = 0
        while place is not None and looked < MOST_SEARCHED:
            arguments = (written(id), group, place, _PAGE)
            many, place, copies = await self._asking.script(stream, scripts.COPIES, (key,), arguments)
            looked += many
            found += copies
        return found, place is None


def _key(stream: str, dead_of: str | None) -> bytes:
    return encoded(stream) if dead_of is None else Keys.of(stream, dead_of).dead


def oldest_of(found: list[Any]) -> Oldest | None:
    """A row of XPENDING."""
    if not found:
        return None
    id, consumer, idle, deliveries = found
    return Oldest(id=str(id, "ascii"), consumer=decoded(consumer), idle=max(0, idle) / 1000, deliveries=deliveries)


def _waits(member: bytes, due: float) -> Waiting:
    _, spent, packed = member.split(b" ", 2)
    return Waiting(deliveries=_number(spent), due=due / 1000, fields=unpack(packed))


def _due(copy: list[Any]) -> Due:
    facts = pairs(copy[1])
    spent = _number(facts.get(b"sw-deliveries", b""))
    return Due(deliveries=spent, pending=oldest_of(copy[2]), fields=unpack(facts.get(b"sw-fields", b"")))


def _letter(copy: list[Any]) -> Letter:
    facts = pairs(copy[1])
    fields, marks = parted(unpack(facts.pop(b"sw-fields", b"")))
    told = {decoded(name.removeprefix(b"sw-")): decoded(value) for name, value in facts.items()}
    return Letter(id=str(copy[0], "ascii"), facts=told, fields=fields, marks=marks)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 19 else 0
