"""What consumers of other programs in the same group hold: watched one by one, and taken over late."""

from __future__ import annotations

import asyncio
import itertools

from redis.asyncio import Redis

from streamworker import App, Backoff, Message
from tests.running import Watched, working
from tests.waiting import wait_until

_LONG_AGO = 120_000  # ms
_OTHER = b"other-program\xff"  # a name may be any bytes


class Taking:
    """An app that notes what it was given, and how often that had been delivered."""

    def __init__(self, stream: str) -> None:
        self.app = App("group", lease=1.0)
        self.seen: dict[str, list[int]] = {}
        self.app.on(stream, retry=Backoff(first=0.05))(self.handle)

    async def handle(self, body: str, message: Message) -> None:
        self.seen.setdefault(body, []).append(message.deliveries)


async def _held_by_another(watched: Watched, bodies: list[str], *, idle: int, deliveries: int = 1) -> list[str]:
    """Entries that another program read some time ago and has not acked."""
    await watched.do("XGROUP", "CREATE", watched.keys.stream, "group", "0", "MKSTREAM")
    ids = [await watched.add("data", body) for body in bodies]
    await watched.do("XREADGROUP", "GROUP", "group", _OTHER, "STREAMS", watched.keys.stream, ">")
    await watched.do(
        "XCLAIM", watched.keys.stream, "group", _OTHER, 0, *ids, "IDLE", idle, "RETRYCOUNT", deliveries, "JUSTID"
    )
    return ids


async def test_what_another_program_let_lie_is_taken_over_and_what_it_touches_is_not(
    redis: Redis, redis_url: str, stream: str
) -> None:
    taking, watched = Taking(stream), Watched(redis, stream, "group")
    ids = await _held_by_another(watched, ["left", "touched", "young"], idle=_LONG_AGO)
    await watched.do("XCLAIM", stream, "group", _OTHER, 0, ids[2], "JUSTID")  # idle for less than a minute

    async def touch() -> None:
        for count in itertools.count(2):  # seen idle for long each time, but never twice at the same count
            await watched.do(
                "XCLAIM", stream, "group", _OTHER, 0, ids[1], "IDLE", _LONG_AGO, "RETRYCOUNT", count, "JUSTID"
            )
            await asyncio.sleep(0.2)

    touching = asyncio.create_task(touch())
    async with working(taking.app, url=redis_url):
        await wait_until(lambda: "left" in taking.seen, 10)
        await watched.add("data", "new")
        await wait_until(lambda: "new" in taking.seen)
    touching.cancel()
    assert taking.seen == {"left": [2], "new": [1]}
    assert await watched.pending() == 2


async def test_what_another_program_may_have_died_of_runs_alone(redis: Redis, redis_url: str, stream: str) -> None:
    taking, watched = Taking(stream), Watched(redis, stream, "group")
    await _held_by_another(watched, ["twice", "twice too"], idle=_LONG_AGO, deliveries=2)
    async with working(taking.app, url=redis_url):
        await wait_until(lambda: len(taking.seen) == 2, 15)
        await watched.rests()
    assert taking.seen == {"twice": [3], "twice too": [3]}


async def test_what_was_trimmed_while_another_program_held_it_is_counted(
    redis: Redis, redis_url: str, stream: str
) -> None:
    taking, watched = Taking(stream), Watched(redis, stream, "group")
    ids = await _held_by_another(watched, ["kept", "gone"], idle=_LONG_AGO)
    await watched.do("XDEL", stream, ids[1])
    async with working(taking.app, url=redis_url):
        await wait_until(lambda: "kept" in taking.seen, 10)
        await watched.rests()
    assert taking.seen == {"kept": [2]}
