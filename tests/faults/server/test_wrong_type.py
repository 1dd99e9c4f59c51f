"""Keys over which somebody has put something else: what needs the key stops, all else goes on at full pace."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from dataclasses import fields
from time import monotonic
from typing import Final

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Message, Reject
from streamworker.redisbroker.keys import Keys
from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.faults.server.fleet import FIRST
from tests.running import Watched, events, working
from tests.waiting import wait_until

_KINDS: Final = [one.name for one in fields(Keys)]  # stream, retry, delayed, dead, consumers


class Streams:
    """One worker's app with a stream for each of our keys, and one more that stays well."""

    def __init__(self, redis: Redis, stream: str) -> None:
        self.app = App("group", lease=2.0)
        self.groups = {kind: Watched(redis, f"{stream}-{kind}", "group") for kind in (*_KINDS, "well")}
        self.seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for kind, group in self.groups.items():
            self._add(kind, group.keys.stream.decode())

    def _add(self, kind: str, stream: str) -> None:
        @self.app.on(stream, retry=Backoff(first=0.1, factor=1))
        async def handle(body: str, message: Message) -> None:
            self.seen[kind][body] += 1
            if body.startswith("rejects"):
                raise Reject(body)
            if body.startswith("fails") and message.deliveries == 1:
                raise ValueError(body)

    async def publish(self, kind: str, suffix: str) -> None:
        for body in ("fine", "fails", "rejects"):
            await self.groups[kind].add("data", f"{body}-{suffix}")

    async def handled(self, kind: str, suffix: str, timeout: float = 10.0) -> None:
        """Wait until what was published with this suffix has come to its end."""
        wanted = {f"fine-{suffix}": 1, f"fails-{suffix}": 2, f"rejects-{suffix}": 1}

        async def done() -> bool:
            seen = self.seen[kind]
            letters = [letter.reason for letter in await self.groups[kind].letters()]
            return all(seen[body] == times for body, times in wanted.items()) and f"rejects-{suffix}" in letters

        await wait_until(done, timeout, lambda: f"{kind}, {suffix}: {self.seen[kind]}")


async def test_something_else_under_each_of_our_keys_stops_only_what_needs_it_until_it_is_put_right(
    own_redis: Redis, own_proxy: FaultProxy, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamworker")
    streams = Streams(own_redis, stream)
    async with working(streams.app, url=own_proxy.url, patient=True):
        for kind, group in streams.groups.items():
            await streams.publish(kind, "before")
            await streams.handled(kind, "before")
            await group.rests()
        for kind in _KINDS:
            keys = streams.groups[kind].keys
            await own_redis.execute_command("SET", getattr(keys, kind), "something else")  # type: ignore[no-untyped-call]
            if kind != "stream":
                await streams.publish(kind, "meanwhile")
        await _is_well(streams)
        await wait_until(lambda: _told(caplog, stream) >= {"stream", "retry", "delayed", "dead"})
        await wait_until(lambda: events(caplog, "heartbeat.refused"))
        for kind in ("retry", "delayed", "dead"):  # they are read and run, and what succeeded is acked
            await wait_until(lambda: streams.seen[kind]["fine-meanwhile"])  # noqa: B023
        await keep_quiet(own_proxy, caplog, workers=len(_KINDS), healthy=True)
        await _is_well(streams)
        for kind in _KINDS:
            await own_redis.delete(getattr(streams.groups[kind].keys, kind))
        began = monotonic()
        await asyncio.gather(*(streams.publish(kind, "afterwards") for kind in _KINDS))
        for kind in _KINDS:
            await wait_until(lambda: streams.seen[kind]["fine-afterwards"], 15)  # noqa: B023
        assert monotonic() - began < FIRST
        for kind, group in streams.groups.items():
            for suffix in ("meanwhile", "afterwards"):
                if (kind, suffix) != ("stream", "meanwhile") and kind != "well":
                    await streams.handled(kind, suffix, 40)
            await group.rests()


async def _is_well(streams: Streams) -> None:
    """One after the other, so each waits for its own read: no pause of the others slows it down."""
    group, seen = streams.groups["well"], streams.seen["well"]
    before = sum(seen.values())
    began = monotonic()
    for number in range(20):
        await group.add("data", "well")
        await wait_until(lambda: sum(seen.values()) > before + number)  # noqa: B023
    assert monotonic() - began < 20 * 0.25, "a message takes its time as if nothing were broken"


def _told(caplog: pytest.LogCaptureFixture, stream: str) -> set[str]:
    """The kinds whose stream is named by a warning or an error about a wrong type."""
    texts = [str(getattr(record, "streamworker", "")) for record in caplog.records if record.levelno >= logging.WARNING]
    return {kind for kind in _KINDS for text in texts if "WRONGTYPE" in text and f"{stream}-{kind}" in text}
