"""Reading for one group: the commands of the acquirer, on its own connection, strictly in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from streamworker.broker import Abandoned, Convicted, Dead, EntryName, Joined, Left, Suspect, Turn
from streamworker.errors import BrokerError, GroupMissing, WrongType
from streamworker.handler import Start
from streamworker.identity import RELEASED, SUFFIX
from streamworker.message import Delivery
from streamworker.redisbroker import scripts
from streamworker.redisbroker.join import join
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Command, Link
from streamworker.redisbroker.packing import unpack

MOVE_BYTES: Final = 2**20  # what a script moves per call at most: it holds up the whole server
_PAGE: Final = 1000
_RANGE: Final = 100
_STRANGERS_PAGE: Final = 100
_GAP: Final = 0.05  # seconds


class ReplySize:
    """How many entries to ask for, so that a reply stays below a number of bytes.

    Goes by the mean size of the last replies; the first ones are small, and none is more than four
    times as many as the last, since nothing is known about what comes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._mean = 0.0
        self._last = 1

    def count(self, room: int) -> int:
        by_bytes = int(self._max_bytes / self._mean) if self._mean else room
        return max(1, min(room, by_bytes, self._last * 4))

    def saw(self, count: int, size: int) -> None:
        """A reply brought ``count`` entries of ``size`` bytes in all."""
        mean = size / count
        self._mean = max(mean, (self._mean + mean) / 2)
        self._last = max(count, self._last // 2, 1)


def sized(entries: list[list[Any]], size: ReplySize) -> None:
    """Let ``size`` learn from a reply of ``[id, fields]`` pairs."""
    total = 0
    for _, fields in entries:
        total += len(fields[1]) if len(fields) == 2 else sum(map(len, fields))
    size.saw(len(entries), total)


class RedisGroupReader:
    """``broker.GroupReader`` on Redis."""

    def __init__(self, link: Link, keys: Keys, group: str, consumer: str, max_bytes: int) -> None:
        self._link = link
        self._keys = keys
        self._group = group
        self._me = consumer
        self._size = ReplySize(max_bytes)
        self._behind = False  # the last read brought all that was asked for: there is a backlog
        self._read = 0.0  # when
        self._skipped = 0
        self.stream_key = keys.stream
        self.retry_key = keys.retry
        self._both = (keys.stream, keys.retry)

    async def join(self, start: Start, joined_before: bool) -> Joined:
        return await join(self._link, self._keys, self._group, start, joined_before)

    async def mark_dead(self, name: str) -> None:
        await self._link.call("HSET", self._keys.consumers, name, "dead")

    async def turn(self, room: int, dead: Sequence[Dead], suspect_from: int) -> Turn:
        keys = self._keys
        # Half of the room for retries, three quarters for retries and claims: a backlog of each starves nobody.
        victims: list[bytes | str] = [RELEASED, b""]
        for one in dead:
            victims += (one.name, one.value)
        now, paused, waiting, more, retries, claims, trimmed, suspect = await self._link.script(
            scripts.TURN,
            (keys.stream, keys.retry, keys.delayed, keys.consumers),
            (self._group, self._me, (room + 1) // 2, room - room // 4, MOVE_BYTES, suspect_from, *victims),
        )
        claimed, gone = await self.fetch({(self._both[which - 1], id): count for which, id, count in claims})
        return Turn(
            now=now / 1000,
            paused=bool(paused),
            waiting=waiting,
            more=bool(more),
            retries=[Delivery(keys.retry, id, origin, unpack(packed), count) for id, origin, count, packed in retries],
            claims=claimed,
            trimmed=trimmed + gone,
            suspect=self._suspect(*suspect) if suspect else None,
        )

    def _suspect(self, which: int, id: bytes, victim: bytes, value: bytes) -> Suspect:
        return Suspect((self._both[which - 1], id), Dead(victim.decode(), value))

    async def read(self, room: int, block: float) -> list[Delivery]:
        stream = self._keys.stream
        waiting: tuple[str | int, ...] = ("BLOCK", max(1, int(block * 1000))) if block > 0 else ()
        count = self._size.count(room)
        commands: list[Command] = [
            ("XREADGROUP", "GROUP", self._group, self._me, "COUNT", count, *waiting, "STREAMS", stream, ">")
        ]
        # What is trimmed unread must be counted before the read leaps over it. Nothing is while one read follows
        # another that has waited for the newest entry; but while there was no room, a cap may have trimmed.
        if self._behind or monotonic() - self._read > _GAP:
            # In full, since a server that has forgotten its scripts must not cost the count.
            commands.insert(0, scripts.SKIPPED.in_full(*self._about_skipped))
        *skipped, reply = await self._link.pipeline(commands, block=block)
        if isinstance(reply, BrokerError):
            raise reply
        self._skipped += sum(found for found in skipped if isinstance(found, int))
        self._read = monotonic()
        self._behind = bool(reply) and len(reply[0][1]) >= count
        if not reply:
            return []
        entries = reply[0][1]
        sized(entries, self._size)
        return [Delivery(stream, id, id, fields, 1) for id, fields in entries]

    async def skipped(self) -> int:
        self._skipped += await self._link.script(scripts.SKIPPED, *self._about_skipped)
        found, self._skipped = self._skipped, 0
        return found

    @property
    def _about_skipped(self) -> tuple[tuple[bytes, bytes], tuple[str]]:
        return (self._keys.stream, self._keys.consumers), (self._group,)

    async def own(self) -> dict[EntryName, int]:
        found: dict[EntryName, int] = {}
        starts = dict.fromkeys(self._both, b"-")
        while starts:
            asked: list[Command] = [
                ("XPENDING", key, self._group, start, "+", _PAGE, self._me) for key, start in starts.items()
            ]
            for key, page in zip(list(starts), await self._link.pipeline(asked), strict=True):
                del starts[key]
                if isinstance(page, GroupMissing | WrongType) and key == self._keys.retry:
                    continue  # no retry yet, so no retry stream; or it is no stream, of which the turn tells
                if isinstance(page, BrokerError):
                    raise page
                for id, _owner, _idle, count in page:
                    found[key, id] = count
                if len(page) == _PAGE:
                    starts[key] = b"(" + page[-1][0]
        return found

    async def fetch(self, names: Mapping[EntryName, int]) -> tuple[list[Delivery], int]:
        found: list[Delivery] = []
        gone: list[Command] = []
        wanted = list(names)
        while wanted:
            most = max(1, self._size.count(_PAGE) // 2)  # see _entries
            page, wanted = wanted[:most], wanted[most:]
            entries = await self._entries(page)
            for name in page:
                if name in entries:
                    found.append(self._delivery(*name, entries[name], names[name]))
                else:
                    gone.append(("XACK", name[0], self._group, name[1]))
        if gone:
            await self._pipeline(gone)
        return found, len(gone)

    async def _entries(self, names: list[EntryName]) -> dict[EntryName, list[bytes]]:
        """The fields of those that are still in their stream.

        What is pending together mostly stands together: so it is asked for by range, half as much again to allow for
        entries in between, and then one by one what lies beyond that.
        """
        entries: dict[EntryName, list[bytes]] = {}
        ranges: list[tuple[bytes, bytes, bytes, int]] = []
        for key in self._both:
            ids = [id for each, id in names if each == key]
            parts = (ids[at : at + _RANGE] for at in range(0, len(ids), _RANGE))
            ranges += [(key, part[0], part[-1], len(part) + len(part) // 2) for part in parts]
        for _ in range(2):
            replies = await self._pipeline([("XRANGE", *one[:3], "COUNT", one[3]) for one in ranges])
            for (key, *_rest), reply in zip(ranges, replies, strict=True):
                if reply:
                    sized(reply, self._size)
                    entries.update(((key, id), fields) for id, fields in reply)
            ranges = [(key, id, id, 1) for key, id in names if (key, id) not in entries]
            if not ranges:
                break
        return entries

    def _delivery(self, key: bytes, id: bytes, fields: list[bytes], count: int) -> Delivery:
        if key == self._keys.stream:
            return Delivery(key, id, id, fields, count)
        own = dict(zip(fields[::2], fields[1::2], strict=False))
        return Delivery(key, id, own.get(b"sw-id", id), unpack(own.get(b"sw-fields", b"")), count)

    async def owners(self, names: Sequence[EntryName]) -> list[str | None]:
        replies = await self._link.pipeline([("XPENDING", key, self._group, id, id, 1) for key, id in names])
        return [
            reply[0][1].decode(errors="replace") if not isinstance(reply, BrokerError) and reply else None
            for reply in replies
        ]

    async def claim_alone(self, suspect: Suspect, highest: int) -> Convicted | None:
        key, id = suspect.entry
        count, idle = suspect.untouched or (0, 0.0)
        reply = await self._link.script(
            scripts.CLAIM_ALONE,
            (key, self._keys.consumers),
            (
                self._group,
                self._me,
                id,
                suspect.dead.name.encode(errors="surrogateescape"),
                suspect.dead.value,
                highest,
                count,
                int(idle * 1000),
            ),
        )
        if not reply:
            return None
        if len(reply) == 1:
            return Convicted(None, False, reply[0])
        before, guilty, count = reply
        found, _ = await self.fetch({suspect.entry: count})
        return Convicted(found[0] if found else None, bool(guilty), before)

    async def unmark(self) -> None:
        await self._link.call("HDEL", self._keys.consumers, self._me + "!")

    async def abandoned(self, idle: float) -> list[Abandoned]:
        stream = self._keys.stream
        reply = await self._link.script(
            scripts.ABANDONED, (stream,), (self._group, SUFFIX, int(idle * 1000), _STRANGERS_PAGE)
        )
        return [Abandoned((stream, id), owner.decode(errors="surrogateescape"), count) for id, owner, count in reply]

    async def claim_abandoned(self, found: Sequence[Abandoned]) -> tuple[list[Delivery], int]:
        arguments: list[bytes | str | int] = [self._group, self._me]
        for one in found:
            arguments += (one.entry[1], one.owner.encode(errors="surrogateescape"), one.count)
        claimed = await self._link.script(scripts.CLAIM_ABANDONED, (self._keys.stream,), arguments)
        return await self.fetch({(self._keys.stream, id): count for id, count in claimed})

    async def left(self, horizon: float) -> Left:
        keys = self._keys
        pending, ready, waiting, next_in = await self._link.script(
            scripts.LEFT, (keys.stream, keys.retry, keys.delayed, keys.consumers), (self._group, int(horizon * 1000))
        )
        return Left(pending, ready, waiting, next_in / 1000)

    async def leave(self) -> None:
        keys = self._keys
        await self._link.script(scripts.LEAVE, (keys.stream, keys.retry, keys.consumers), (self._group, self._me))

    async def close(self) -> None:
        await self._link.close()

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, BrokerError):
                raise reply
        return replies
