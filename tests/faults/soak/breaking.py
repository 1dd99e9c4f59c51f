"""The faults of a soak: each breaks something, holds it for a while, and heals it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from tests.faults.journal import Journal
from tests.faults.proxy import FaultProxy
from tests.faults.rules import Rule
from tests.faults.soak.fleet import Fleet
from tests.servers import Server


class Breaking:
    """One method for each kind of fault, by the names of ``KINDS``.

    Args:
        journal: where each beginning and end is written down.
        server: the server.
        shared: the proxy that nearly all go through.
        own: the proxy of the first lone worker.
        fleet: the workers.
        lease: seconds.
    """

    def __init__(
        self, journal: Journal, server: Server, shared: FaultProxy, own: FaultProxy, fleet: Fleet, *, lease: float
    ) -> None:
        self._journal = journal
        self._server = server
        self._shared = shared
        self._own = own
        self._fleet = fleet
        self._lease = lease

    async def strike(self, kind: str, rng: random.Random) -> None:
        """Break it, hold it, heal it."""
        await KINDS[kind](self, rng)

    # Processes.

    async def kill(self, rng: random.Random) -> None:
        self._fleet.kill(rng.choice(self._fleet.workers[: len(self._fleet.lone)]))
        await asyncio.sleep(self._lease)

    async def kill_supervised(self, rng: random.Random) -> None:
        if children := self._fleet.supervised:
            self._fleet.kill(rng.choice(children))

    async def freeze(self, rng: random.Random) -> None:
        pid = rng.choice(self._fleet.workers)
        async with self._broken("freeze", pid):
            try:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(3 * self._lease)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def deploy(self, rng: random.Random) -> None:
        await self._fleet.deploy(rng.randrange(-1, len(self._fleet.lone)))

    # The server.

    async def restart(self, _: random.Random) -> None:
        async with self._broken("restart"):
            await asyncio.to_thread(self._server.restart, killed=True)

    async def stop(self, _: random.Random) -> None:
        async with self._broken("stop"):
            self._server.pause()
            try:
                await asyncio.sleep(2.5 * self._lease)
            finally:
                self._server.resume()

    async def client_pause(self, _: random.Random) -> None:
        seconds = 1.5 * self._lease
        async with self._broken("client_pause"):
            self._ask("CLIENT", "PAUSE", str(int(seconds * 1000)))
            await asyncio.sleep(seconds)

    async def client_kill(self, _: random.Random) -> None:
        async with self._broken("client_kill"):
            self._ask("CLIENT", "KILL", "TYPE", "normal")

    async def script_flush(self, _: random.Random) -> None:
        async with self._broken("script_flush"):
            self._ask("SCRIPT", "FLUSH")

    async def oom(self, _: random.Random) -> None:
        async with self._broken("oom"):
            self._ask("CONFIG", "SET", "maxmemory", "1mb")
            await asyncio.sleep(2 * self._lease)
            self._ask("CONFIG", "SET", "maxmemory", "0")

    async def read_only(self, _: random.Random) -> None:
        async with self._broken("read_only"):
            self._ask("REPLICAOF", "127.0.0.1", "1")
            await asyncio.sleep(1.5 * self._lease)
            self._ask("REPLICAOF", "NO", "ONE")

    # The network.

    async def cut_replies(self, rng: random.Random) -> None:
        await self._network("cut_replies", self._shared.cut_reply("XREADGROUP", times=rng.randint(1, 6)))

    async def lose_replies(self, rng: random.Random) -> None:
        commands = ("XREADGROUP", "TURN", "XACK", "ACK_RETRIED", "RETRY", "DEAD_LETTER", "XADD", "BEAT")
        await self._network(
            "lose_replies", *(self._shared.lose_reply(one, times=rng.randint(1, 3)) for one in commands)
        )

    async def latency(self, _: random.Random) -> None:
        await self._network("latency", self._shared.delay(0.2, 0.1), self._own.delay(0.2, 0.1))

    async def hole(self, _: random.Random) -> None:
        await self._network("hole", self._shared.black_hole(), self._own.black_hole())

    async def cut(self, _: random.Random) -> None:
        await self._network("cut", self._own.black_hole(), target=self._fleet.lone[0].pid)

    async def _network(self, kind: str, *rules: Rule, target: int | str = "server") -> None:
        async with self._broken(kind, target):
            with ExitStack() as stack:
                for rule in rules:
                    stack.callback(rule.heal)
                await asyncio.sleep(2 * self._lease)

    @asynccontextmanager
    async def _broken(self, kind: str, target: int | str = "server") -> AsyncIterator[None]:
        self._journal.note("fault-on", fault=kind, target=target)
        yield
        self._journal.note("fault-off", fault=kind, target=target)

    def _ask(self, *words: str) -> None:
        reply = self._server.ask(*words)
        if reply.startswith(b"-"):
            raise RuntimeError(f"{words}: {reply.decode()}")


KINDS: Final[dict[str, Callable[[Breaking, random.Random], Awaitable[None]]]] = {
    method.__name__: method
    for method in (
        Breaking.kill, Breaking.kill_supervised, Breaking.freeze, Breaking.deploy, Breaking.restart, Breaking.stop,
        Breaking.client_pause, Breaking.client_kill, Breaking.script_flush, Breaking.oom, Breaking.read_only,
        Breaking.cut_replies, Breaking.lose_replies, Breaking.latency, Breaking.hole, Breaking.cut,
    )
}  # fmt: skip
