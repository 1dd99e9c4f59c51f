"""Ways to make a server answer with an error or not at all, each for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

from tests.servers import Server
from tests.waiting import wait_until

Trouble: TypeAlias = Callable[[Server], AbstractAsyncContextManager[None]]
_LONG: Final = 9.0  # seconds: longer than a worker needs to notice, and a lease besides


def _tell(server: Server, *words: str) -> None:
    answer = server.ask(*words)
    assert not answer.startswith(b"-"), f"{words}: {answer!r}"


async def _answers(server: Server) -> None:
    def works() -> bool:
        try:
            return server.ask("SET", "does-it-write", "1", timeout=1.0).startswith(b"+OK")
        except TimeoutError:
            return False

    await wait_until(works, 20, "the server writes")
    _tell(server, "DEL", "does-it-write")


@asynccontextmanager
async def paused_for_all(server: Server) -> AsyncIterator[None]:
    _tell(server, "CLIENT", "PAUSE", str(int(_LONG * 1000)), "ALL")  # which is not taken back before its time
    yield
    await asyncio.to_thread(server.ask, "PING", timeout=2 * _LONG)


@asynccontextmanager
async def paused_for_writes(server: Server) -> AsyncIterator[None]:
    _tell(server, "CLIENT", "PAUSE", "60000", "WRITE")
    yield
    _tell(server, "CLIENT", "UNPAUSE")


@asynccontextmanager
async def asleep(server: Server) -> AsyncIterator[None]:
    sleep = asyncio.create_task(asyncio.to_thread(server.ask, "DEBUG", "SLEEP", str(_LONG), timeout=2 * _LONG))
    yield
    assert (await sleep).startswith(b"+OK")


@asynccontextmanager
async def stopped(server: Server) -> AsyncIterator[None]:
    server.pause()
    yield
    server.resume()


@asynccontextmanager
async def read_only(server: Server) -> AsyncIterator[None]:
    """A replica of nobody, as an old primary is after a failover."""
    _tell(server, "REPLICAOF", "127.0.0.1", "1")
    yield
    _tell(server, "REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def without_its_primary(server: Server) -> AsyncIterator[None]:
    """MASTERDOWN: a replica that answers nothing while it has no primary."""
    _tell(server, "CONFIG", "SET", "replica-serve-stale-data", "no")
    async with read_only(server):
        yield


@asynccontextmanager
async def unable_to_save(server: Server) -> AsyncIterator[None]:
    """MISCONF: what it would be renamed to is a folder, so the snapshot fails."""
    in_the_way = server.folder / "dump.rdb"
    in_the_way.mkdir()
    _tell(server, "CONFIG", "SET", "save", "3600 1000000")
    _tell(server, "BGSAVE", "SCHEDULE")

    def saved() -> bytes:
        return server.ask("INFO", "persistence")

    await wait_until(lambda: b"rdb_last_bgsave_status:err" in saved(), 10, "a snapshot fails")
    yield
    in_the_way.rmdir()
    _tell(server, "CONFIG", "SET", "save", "")


@asynccontextmanager
async def short_of_replicas(server: Server) -> AsyncIterator[None]:
    _tell(server, "CONFIG", "SET", "min-replicas-to-write", "1")
    yield
    _tell(server, "CONFIG", "SET", "min-replicas-to-write", "0")


@asynccontextmanager
async def busy(server: Server) -> AsyncIterator[None]:
    """Somebody else's script does not end."""
    _tell(server, "CONFIG", "SET", "lua-time-limit", "100")
    endless = asyncio.create_task(asyncio.to_thread(server.ask, "EVAL", "while true do end", "0", timeout=60))
    await wait_until(lambda: server.ask("PING").startswith(b"-BUSY"), 10, "the server is busy")
    yield
    _tell(server, "SCRIPT", "KILL")
    assert b"killed" in (await endless).lower()


@asynccontextmanager
async def over(trouble: Trouble, server: Server) -> AsyncIterator[None]:
    """``trouble`` for as long as the block lasts; afterwards the server writes again."""
    async with trouble(server):
        yield
    await _answers(server)
