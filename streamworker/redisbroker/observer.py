"""RedisObserver: the facts that monitoring is made of, read from one server or all nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from streamworker.errors import BrokerError, NotPermitted, Unavailable
from streamworker.identity import SUFFIX
from streamworker.ids import EntryId, parse_id, written
from streamworker.monitoring.entries import Page, Sighting
from streamworker.monitoring.facts import Beside, ConsumerFacts, GroupFacts, ServerFacts, StreamFacts
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking, decoded, encoded, pairs
from streamworker.redisbroker.finder import Finder, oldest_of
from streamworker.redisbroker.keys import Keys, owner_of
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.scripts.observing import MOST_CONSUMERS
from streamworker.redisbroker.settler import exchange
from streamworker.redisbroker.shared import SharedLinks
from streamworker.redisbroker.topology import Topology

_TIMEOUT: Final = 5.0  # seconds that a server may say nothing
_SCANNED: Final = 1000  # keys a call
_WEIGHED: Final = 20  # entries at each end of a stream
_COUNT_PAGE: Final = 500  # a script builds the entries that it counts, and holds up the whole server meanwhile


class RedisObserver:
    """``facts.Observer`` on Redis."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._links = SharedLinks(topology, exchange, timeout=_TIMEOUT)
        self._asking = Asking(self._links)
        self._finder = Finder(self._asking)

    async def server(self) -> ServerFacts:
        link = Link((await self._topology.parts())[0], timeout=_TIMEOUT)
        try:
            info = info_of(await link.call("INFO"))
        finally:
            await link.close()
        append_only = info.get("aof_enabled")
        valkey = info.get("valkey_version")
        return ServerFacts(
            name="valkey" if valkey else "redis",
            version=valkey or info.get("redis_version", "?"),
            append_only=None if append_only is None else append_only == "1",
            eviction=info.get("maxmemory_policy"),
        )

    async def streams(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for part in await self._topology.parts():
            link = Link(part, timeout=_TIMEOUT)
            try:
                cursor = b"0"
                while True:
                    cursor, keys = await link.call("SCAN", cursor, "COUNT", _SCANNED, "TYPE", "stream")
                    for key in keys:
                        name = decoded(key)
                        owner = owner_of(name)
                        if owner is None:
                            found.setdefault(name, set())
                        else:
                            found.setdefault(owner[0], set()).add(owner[1])
                    if cursor == b"0":
                        break
            finally:
                await link.close()
        return dict(sorted(found.items()))

    async def look(self, streams: Mapping[str, Collection[str]]) -> dict[str, StreamFacts | BrokerError]:
        looks = await asyncio.gather(*(self._stream(name, also) for name, also in streams.items()))
        return dict(zip(streams, looks, strict=True))

    async def count(self, stream: str, after: EntryId, upto: EntryId, most: int) -> int | None:
        if after >= upto:
            return 0
        place, total = written(after), 0
        while total <= most:
            count, last = await self._asking.script(
                stream, scripts.COUNT, (encoded(stream),), (place, written(upto), _COUNT_PAGE)
            )
            total += int(count)
            if int(count) < _COUNT_PAGE:
                return total if total <= most else None
            place = str(last, "ascii")
        return None

    async def before_last(self, stream: str, count: int, dead_of: str | None = None) -> EntryId:
        return await self._finder.before_last(stream, count, dead_of)

    async def page(self, stream: str, after: EntryId, most: int, dead_of: str | None = None) -> Page:
        return await self._finder.page(stream, after, most, dead_of)

    async def find(self, stream: str, id: EntryId, also: Collection[str] = ()) -> Sighting:
        return await self._finder.find(stream, id, also)

    async def close(self) -> None:
        await self._links.close()

    async def _stream(self, name: str, also: Collection[str]) -> StreamFacts | BrokerError:
        try:
            reply = await self._asking.script(name, scripts.OBSERVE, (encoded(name),), (_WEIGHED, MOST_CONSUMERS))
            groups = [_group(flat) for flat in reply[8]] if len(reply) > 1 else []
            names = {group.name for group in groups}
            groups += [GroupFacts(name=gone, exists=False) for gone in sorted(set(also) - names)]
            beside = await asyncio.gather(*(self._beside(name, group.name) for group in groups))
        except Unavailable:
            raise
        except BrokerError as error:
            return error
        return _stream(name, reply, tuple(map(_with, groups, beside)))

    async def _beside(self, stream: str, group: str) -> Beside:
        try:
            keys = Keys.of(stream, group)
        except UnicodeEncodeError:  # other programs may use any bytes; no app of ours has such a name
            return Beside()
        try:
            reply = await self._asking.script(stream, scripts.BESIDE, keys.beside, (group,))
        except NotPermitted:  # who may see the stream, but not what we keep beside it
            return Beside()
        return _beside(reply)


def _stream(name: str, reply: list[Any], groups: tuple[GroupFacts, ...]) -> StreamFacts:
    now = reply[0] / 1000
    if len(reply) == 1:
        return StreamFacts(name=name, now=now, exists=False, groups=groups)
    _, length, added, last_generated, first, last, memory, (old, old_bytes, new, new_bytes), _ = reply
    return StreamFacts(
        name=name,
        now=now,
        length=length,
        memory=memory,
        first=_id(first),
        last=_id(last),
        last_generated=parse_id(last_generated),
        added=added,
        old_size=old_bytes / old if old else None,
        new_size=new_bytes / new if new else None,
        groups=groups,
    )


def _group(flat: list[Any]) -> GroupFacts:
    name, pending, last_delivered, read, lag, next_id, oldest, members, consumers = flat
    return GroupFacts(
        name=decoded(name),
        pending=pending,
        last_delivered=parse_id(last_delivered),
        entries_read=read,
        server_lag=lag,
        next_id=_id(next_id),
        oldest=oldest_of(oldest),
        members=members,
        consumers=tuple(
            ConsumerFacts(
                name=decoded(consumer),
                pending=held,
                idle=None if idle is None else idle / 1000,
                inactive=None if inactive is None or inactive < 0 else inactive / 1000,
            )
            for consumer, held, idle, inactive in consumers
        ),
    )


def _beside(reply: list[Any]) -> Beside:
    length, retried, oldest, delayed, due, dead, first, last, flat, there = reply
    hash_ = pairs(flat)
    trimmed, before = hash_.get(b"trimmed", b"0"), hash_.get(b"skipped", b"")
    return Beside(
        ours=bool(there),
        delayed=delayed,
        ready=max(0, length - retried),
        retried=retried,
        oldest_retried=oldest_of(oldest),
        next_due=None if due is None else due / 1000,
        dead=dead,
        oldest_dead=_time(first),
        newest_dead=_time(last),
        paused=b"paused" in hash_,
        paused_note=decoded(hash_.get(b"paused", b"")),
        trimmed=int(trimmed) if trimmed.isdigit() else 0,
        trimmed_before=int(before) if before.isdigit() else None,
        values={decoded(name): value for name, value in hash_.items() if name.endswith(SUFFIX.encode())},
    )


def _with(group: GroupFacts, beside: Beside) -> GroupFacts:
    return replace(group, beside=beside)


def _id(found: bytes | None) -> EntryId | None:
    return parse_id(found) if found is not None else None


def _time(found: bytes | None) -> float | None:
    return parse_id(found)[0] / 1000 if found is not None else None


def info_of(info: bytes) -> dict[str, str]:
    """The values of ``INFO`` by name."""
    pairs = (line.partition(":")[::2] for line in info.decode(errors="replace").splitlines() if ":" in line)
    return dict(pairs)
