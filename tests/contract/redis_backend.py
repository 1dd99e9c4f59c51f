"""The Redis broker and its servers, as the contract wants to know them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from streamworker.redisbroker.broker import RedisBroker
from tests.running import Letter, Watched
from tests.servers import Server


class RedisBackend:
    """``contract.backend.Backend`` on one server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def broker(self) -> RedisBroker:
        return RedisBroker(self._server.url)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def restart(self, *, killed: bool = False) -> None:
        self._server.restart(killed=killed)

    def wipe(self) -> None:
        assert self._server.ask("FLUSHALL") == b"+OK\r\n"

    async def pending(self, stream: str, group: str) -> int:
        async with self._watched(stream, group) as watched:
            in_retry = 0
            if await watched.do("EXISTS", watched.keys.retry):
                in_retry = (await watched.do("XPENDING", watched.keys.retry, group))[0]
            return await watched.pending() + int(in_retry)

    async def at_rest(self, stream: str, group: str) -> bool:
        async with self._watched(stream, group) as watched:
            return await watched.is_at_rest()

    async def letters(self, stream: str, group: str) -> list[Letter]:
        async with self._watched(stream, group) as watched:
            return await watched.letters()

    @asynccontextmanager
    async def _watched(self, stream: str, group: str) -> AsyncIterator[Watched]:
        client = Redis.from_url(self._server.url, protocol=2, decode_responses=False, socket_timeout=30)
        try:
            yield Watched(client, stream, group)
        finally:
            await client.aclose()
