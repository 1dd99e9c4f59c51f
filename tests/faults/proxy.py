"""A TCP proxy in front of a server that understands Redis commands and breaks connections as a test says."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Self, TypeVar

from tests.faults.proxied import Ends, Proxied, will_reset
from tests.faults.rules import How, Label, Rule, Side

_HISTORY: Final = 200_000  # commands remembered one by one; a soak sends millions
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Seen:
    """A command that came by: when, on the monotonic clock, its name, and the labels of its connection, as of now."""

    at: float
    name: str
    labels: set[Label]


class FaultProxy:
    """Listens on a loopback port of its own and forwards to a server, in a thread with an event loop of its own.

    Methods may be called from any thread and have taken effect when they return. A fault is chosen by the
    ``command`` (or a script's name in ``redisbroker/scripts.py``, such as RETRY), by what a connection is
    used for (``on``: it was seen to read, beat, settle or publish), or by both. ``skip`` lets the first
    ones pass; ``times`` is how often it strikes, None for always. Each fault is a ``Rule``: ``hits`` says
    how often it has struck, ``heal`` or the end of a ``with`` block takes it back.

    Args:
        port: of the server, on loopback.
        tls: ends TLS here; to the server it goes on in plain.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = port  # may be changed at any time, for the connections that follow
        self.tls = tls  # likewise
        self.port = 0
        self.opened: list[float] = []  # when each connection was accepted
        self.seen: deque[Seen] = deque(maxlen=_HISTORY)
        self.totals: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._proxied: set[Proxied] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # Faults.

    def lose_reply(
        self, command: str, *, on: Label | None = None, skip: int = 0, times: int | None = 1, how: How = "reset"
    ) -> Rule:
        """The server carries the command out, then the connection breaks; replies that say nil do not count."""
        return self._add(Rule("lose-reply", command, on, skip, times, how))

    def lose_request(
        self, command: str, *, on: Label | None = None, skip: int = 0, times: int | None = 1, how: How = "reset"
    ) -> Rule:
        """The connection breaks before the server sees the command."""
        return self._add(Rule("lose-request", command, on, skip, times, how))

    def cut_reply(
        self, command: str, *, on: Label | None = None, skip: int = 0, times: int | None = 1, how: How = "close"
    ) -> Rule:
        """Half of the reply comes through, then the connection breaks; replies that say nil do not count."""
        return self._add(Rule("cut-reply", command, on, skip, times, how))

    def delay(
        self,
        seconds: float,
        jitter: float = 0.0,
        *,
        command: str | None = None,
        on: Label | None = None,
        times: int | None = None,
        towards: Side | None = "client",
    ) -> Rule:
        """What goes ``towards`` a side (None: both) is late by ``seconds`` ± ``jitter``, in its order."""
        return self._add(Rule("delay", command, on, 0, times, "reset", towards, seconds, jitter))

    def black_hole(
        self,
        *,
        command: str | None = None,
        on: Label | None = None,
        times: int | None = None,
        towards: Side | None = None,
    ) -> Rule:
        """Nothing goes ``towards`` a side (None: both) and nobody is told, not even of a connection's end.

        For connections that are there and new ones; with ``command``, for those that send it from now on.
        What was held flows on once it is healed, as when a cable is put back.
        """
        return self._add(Rule("hole", command, on, 0, times, "reset", towards))

    def split(self, size: int = 1, *, command: str | None = None, on: Label | None = None) -> Rule:
        """Replies come in pieces of ``size`` bytes."""
        return self._add(Rule("split", command, on, size=size))

    def stall_handshakes(self) -> Rule:
        """New connections are accepted, and nothing more: no TLS handshake, no connection to the server."""
        return self._add(Rule("stall"))

    def reset_new(self) -> Rule:
        """New connections are accepted, counted in ``opened``, and reset."""
        return self._add(Rule("reset-new"))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens on the port; connections that are there stay."""
        self._do(self._close_port())
        try:
            yield
        finally:
            self._do(self._listen())

    def break_all(self, on: Label | None = None, how: How = "reset") -> int:
        """End the connections of now; returns how many they were."""

        async def end() -> int:
            found = [one for one in self._proxied if on is None or on in one.labels]
            for one in found:
                one.end(how)
            return len(found)

        return self._do(end())

    def orphan(self, on: Label | None = None) -> int:
        """Reset the clients of now, and leave the server with connections that nobody listens to; returns how many."""

        async def orphan() -> int:
            found = [one for one in self._proxied if on is None or on in one.labels]
            for one in found:
                one.orphan()
            return len(found)

        return self._do(orphan())

    # What was seen.

    def commands(self, *, since: float = 0.0, until: float = inf, apart: Label | None = None) -> list[Seen]:
        """What came by in a span of time, connections labelled ``apart`` excepted."""
        seen = self._do(self._history())
        return [one for one in seen if since <= one.at < until and (apart is None or apart not in one.labels)]

    def connected(self, on: Label | None = None) -> int:
        """How many connections there are now."""
        return sum(on is None or on in labels for labels in self._do(self._labels()))

    # In the thread.

    @property
    def rules(self) -> Sequence[Rule]:
        return self._rules

    async def change(self) -> None:
        """Return when the rules have changed."""
        await self._changed.wait()

    def saw(self, name: str, connection: Proxied) -> None:
        """A command came by."""
        self.totals[name] += 1
        self.seen.append(Seen(time.monotonic(), name, connection.labels))

    async def _history(self) -> list[Seen]:
        return list(self.seen)

    async def _labels(self) -> list[set[Label]]:
        return [set(one.labels) for one in self._proxied]

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _add(self, rule: Rule) -> Rule:
        rule.forget = lambda rule: self._do(self._set([one for one in self._rules if one is not rule]))
        self._do(self._set([*self._rules, rule]))
        return rule

    async def _set(self, rules: list[Rule]) -> None:
        self._rules = rules
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(512)
        self.port = int(listener.getsockname()[1])
        self._listening = asyncio.create_task(self._accept_loop(listener))

    async def _accept_loop(self, listener: socket.socket) -> None:
        with listener:
            while True:
                connection, _ = await self._loop.sock_accept(listener)
                self.opened.append(time.monotonic())
                task = asyncio.create_task(self._accepted(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _close_port(self) -> None:
        await _cancelled([self._listening] if self._listening else [])

    async def _accepted(self, connection: socket.socket) -> None:
        with suppress(OSError, asyncio.TimeoutError):  # a client that goes away is no trouble of ours
            try:
                while any(rule.stalls(self.tls is not None) for rule in self._rules):
                    await self.change()
            except asyncio.CancelledError:
                connection.close()
                raise
            if any(rule.fault == "reset-new" for rule in self._rules):
                return _reset(connection)
            client = await self._client(connection)
            try:
                server = Ends(*await asyncio.open_connection("127.0.0.1", self.target))
                proxied = Proxied(self, client, server)
                self._proxied.add(proxied)
                try:
                    await proxied.run()
                finally:
                    self._proxied.discard(proxied)
            finally:
                client.end("reset")  # where there is no server
                client.abort()

    async def _client(self, connection: socket.socket) -> Ends:
        # By hand: where a stream becomes a TLS one later, the beginning of the handshake may be read before.
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.tls)
        return Ends(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))

    async def _end(self) -> None:
        await self._close_port()
        await _cancelled(list(self._tasks))
        for _ in range(5):  # transports close in the rounds of the loop that follow
            await asyncio.sleep(0)


def _reset(connection: socket.socket) -> None:
    will_reset(connection)
    connection.close()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
