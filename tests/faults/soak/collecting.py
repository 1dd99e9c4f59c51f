"""What the server holds at the end of a soak, written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from redis.asyncio import Redis

from streamworker.redisbroker.keys import Keys
from tests.faults.journal import Journal
from tests.faults.soak.kinds import GROUPS, digest
from tests.running import Watched
from tests.waiting import wait_until

_FIELDS = {b"floor", b"clock", b"skew", b"skipped"}  # of the hash of consumers, when nobody is there


async def settle(redis: Redis, workers: Callable[[], list[int]], timeout: float) -> str:
    """Wait until nothing waits and the dead are cleaned up; what is still missing at the timeout, or ''.

    A number of consumers would not do: a worker that is just being replaced leaves room for a dead one.
    """
    try:
        for watched in _all(redis):
            await watched.rests(timeout)

            async def only_the_living(group: Watched = watched) -> bool:
                pids = {int(name.split("-")[-2]) for name in await group.consumers() if name != "released"}
                return pids == set(workers())

            await wait_until(only_the_living, timeout, "all workers are consumers, and nobody else")
    except AssertionError as error:
        return str(error)
    return ""


async def collect(redis: Redis, journal: Journal, logs: Sequence[str]) -> None:
    """Note the dead letters, whatever is left, and what workers say was trimmed; the workers have ended."""
    for (stream, group), watched in zip(_names(), _all(redis), strict=True):
        where = {"stream": stream, "group": group}
        for letter in await watched.letters():
            fields = dict(zip(letter.fields[::2], letter.fields[1::2], strict=True))
            facts = letter.facts
            journal.note(
                "letter", **where, id=facts["sw-id"], body=digest(fields[b"data"]), n=facts["sw-deliveries"],
                reason=facts["sw-reason"],
            )  # fmt: skip
        await _note_left(watched, journal, where)
    documented = {key for keys in _keys() for key in (keys.stream, keys.retry, keys.delayed, keys.dead, keys.consumers)}
    for key in await _all(redis)[0].do("KEYS", "*"):
        if key not in documented:
            journal.note("left", stream="-", group="-", what="key", id=str(key, errors="replace"))
    for line in "\n".join(logs).splitlines():
        if '"entries.trimmed"' in line:
            said = json.loads(line)
            lost = int(said.get("pending") or 0) + int(said.get("unread") or 0)
            journal.note("lost", stream=said["stream"], group=said["group"], count=lost)


async def _note_left(watched: Watched, journal: Journal, where: dict[str, str]) -> None:
    group, keys = where["group"], watched.keys
    for id, owner, *_ in await watched.do("XPENDING", keys.stream, group, "-", "+", 100_000):
        journal.note("left", **where, what="pending", id=id.decode(), owner=owner.decode())
    for _, fields in await watched.do("XRANGE", keys.retry, "-", "+"):
        journal.note("left", **where, what="retry", id=fields[fields.index(b"sw-id") + 1].decode())
    for member in await watched.do("ZRANGE", keys.delayed, 0, -1):
        journal.note("left", **where, what="delayed", id=member.split(b" ", 1)[0].decode())
    for consumer in await watched.consumers():
        journal.note("left", **where, what="consumer", name=consumer)
    for field in set(await watched.do("HKEYS", keys.consumers)) - _FIELDS:
        journal.note("left", **where, what="field", name=field.decode())
    if not await watched.is_at_rest():
        journal.note("left", **where, what="unread")


def _names() -> list[tuple[str, str]]:
    return [(stream, group) for stream, groups in GROUPS.items() for group in groups]


def _keys() -> list[Keys]:
    return [Keys.of(stream, group) for stream, group in _names()]


def _all(redis: Redis) -> list[Watched]:
    return [Watched(redis, stream, group) for stream, group in _names()]
