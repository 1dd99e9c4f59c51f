"""The HTTP server: in a thread and an event loop of its own, so that it answers when the worker's stands still."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import uvicorn

from streamworker.errors import ConfigError
from streamworker.http.exposition import Exposition
from streamworker.http.sampler import Sampler
from streamworker.http.site import Site
from streamworker.http.view import View
from streamworker.monitoring.facts import Observer

_END: Final = 2.0  # seconds that connections get when the worker ends
_BACKLOG: Final = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Raises:
        ConfigError: ``of`` was given something else than HOST:PORT.
    """

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        """``127.0.0.1:8080``, ``[::1]:8080``, ``:8080`` for all interfaces."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ConfigError(f"--http {text!r}: give HOST:PORT, such as 127.0.0.1:8080")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def listen(self) -> socket.socket:
        """A socket that listens there."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            where = f"{self.host or '*'}:{self.port}"
            raise ConfigError(f"--http: nothing can listen on {where}: {error.strerror or error}") from None


@asynccontextmanager
async def serving(address: Address, view: View, observer: Observer) -> AsyncIterator[None]:
    """Listen at ``address`` for as long as the block lasts.

    Args:
        address: where.
        view: the worker.
        observer: of its server, for this alone.

    Raises:
        ConfigError: nothing can listen there.
    """
    listening = address.listen()
    view.worker.measure()
    server = _Server(listening, view, observer)
    server.start()
    try:
        yield
    finally:
        server.stop()
        await asyncio.to_thread(server.join, _END + 1.0)
        listening.close()


class _Server(threading.Thread):
    def __init__(self, listening: socket.socket, view: View, observer: Observer) -> None:
        super().__init__(name="streamworker-http", daemon=True)
        self._listening = listening
        self._observer = observer
        self._sampler = Sampler(view, observer)
        site = Site(view, self._sampler, Exposition(view, self._sampler).registry())
        config = uvicorn.Config(
            site.app(),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=int(_END),
            timeout_keep_alive=30,
        )
        self._server = uvicorn.Server(config)

    def stop(self) -> None:
        """Let the thread end; does not wait."""
        self._server.should_exit = True

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        sampling = asyncio.create_task(self._sampler.sample_loop(), name="sampler")
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            sampling.cancel()
            await asyncio.wait([sampling])
            await self._observer.close()
