"""A link so slow that what is asked for does not come within a round trip's limit: less is asked for then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from streamworker import App
from tests.running import Watched, working
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("server_kind", ["valkey-9.1"])

_CHUNK = 2**16
_BYTES_PER_SECOND = 4 * 2**20


@asynccontextmanager
async def _slow(url: str) -> AsyncIterator[str]:
    """The URL of a port that passes everything on, and replies no faster than that."""
    target = urlsplit(url)
    writers: list[asyncio.StreamWriter] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.hostname, target.port)
        writers.extend((writer, back))
        await asyncio.gather(_pass(reader, back, 0.0), _pass(there, writer, 1 / _BYTES_PER_SECOND))

    async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, pause: float) -> None:
        try:
            while chunk := await source.read(_CHUNK):
                await asyncio.sleep(len(chunk) * pause)
                sink.write(chunk)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=_CHUNK)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_large_entries_come_through_a_slow_link(redis: Redis, redis_url: str, stream: str) -> None:
    app, watched, seen = App("group", lease=3.0), Watched(redis, stream, "group"), set[bytes]()

    @app.on(stream)
    async def handle(body: bytes) -> None:
        seen.add(body[:2])

    for number in range(48):
        await watched.add("data", b"%02d" % number + bytes(2**20))
    async with _slow(redis_url) as url, working(app, url=url):
        await wait_until(lambda: len(seen) == 48, 45, lambda: f"{len(seen)} came")
        await watched.rests()
    await watched.do("DEL", stream)
