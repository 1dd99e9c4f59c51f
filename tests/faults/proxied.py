"""One connection through a fault proxy: two streams, each taken apart, held up, cut and put together again."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from tests.faults.resp import Framer, Request, request
from tests.faults.rules import LABELS, How, Label, Rule, Side

_REPLICATION: Final = ("PSYNC", "SYNC")  # what follows them is no sequence of requests and replies
_NOTHING: Final = (b"*-1\r\n", b"$-1\r\n", b"_\r\n")  # a read that has waited in vain loses nothing
_CHUNK: Final = 65_536


class Faults(Protocol):
    """The proxy, as a connection knows it."""

    @property
    def rules(self) -> Sequence[Rule]: ...

    async def change(self) -> None:
        """Return when the rules have changed."""

    def saw(self, name: str, connection: Proxied) -> None:
        """A command came by."""


@dataclass(slots=True)
class _Piece:
    """What is on its way to one side: bytes, and how the connection ends after them."""

    due: float
    data: bytes = b""
    end: How | None = None
    size: int = 0  # of the pieces in which it is sent; 0 for all at once


class Proxied:
    """A client's connection and the one to the server that was made for it."""

    def __init__(self, faults: Faults, client: Ends, server: Ends) -> None:
        self.labels: set[Label] = set()
        self._faults = faults
        self._ends: dict[Side, Ends] = {"client": client, "server": server}
        self._pieces: dict[Side, asyncio.Queue[_Piece]] = {"client": asyncio.Queue(), "server": asyncio.Queue()}
        self._due: dict[Side, float] = {"client": 0.0, "server": 0.0}
        self._asked: deque[Request] = deque()
        self._raw = False
        self._told = True  # whether the server hears of the client's end
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Forward until both sides are closed."""
        try:
            await asyncio.gather(
                self._receive("client", self._requested),
                self._receive("server", self._replied),
                self._send("client"),
                self._send("server"),
            )
            for ends in self._ends.values():
                await ends.ended()
        finally:
            for ends in self._ends.values():
                ends.abort()

    def end(self, how: How) -> None:
        """End it on both sides, whatever is on its way or held."""
        for ends in self._ends.values():
            ends.end(how)
        for pieces in self._pieces.values():
            pieces.put_nowait(_Piece(0.0, end=how))

    def orphan(self) -> None:
        """Reset the client; the server is not told, and goes on with what it was asked."""
        self._told = False
        self._ends["client"].end("reset")

    async def _receive(self, side: Side, take: Callable[[bytes], None]) -> None:
        framer = Framer()
        reader = self._ends[side].reader
        how: How = "close"
        try:
            while data := await reader.read(_CHUNK):
                if self._raw:
                    self._put(_other(side), framer.rest() + data)
                    continue
                for message in framer.feed(data):
                    take(message)
        except (OSError, ValueError):  # it went away, or what it sends is no RESP
            how = "reset"
        self._put(_other(side), framer.rest(), end=how)

    def _requested(self, raw: bytes) -> None:
        asked = request(raw)
        if asked.name in LABELS:
            self.labels.add(LABELS[asked.name])
        self._faults.saw(asked.name, self)
        self._raw = self._raw or asked.name in _REPLICATION
        delay = 0.0
        for rule in self._faults.rules:
            if rule.fault == "lose-request" and rule.strikes(asked.name, self):
                self._break(rule.how)
                return
            if rule.fault == "hole" and rule.command is not None and rule.strikes(asked.name, self):
                rule.catch(self)
            if rule.fault == "delay" and rule.works("server") and rule.strikes(asked.name, self):
                delay += _seconds(rule)
        self._asked.append(asked)
        self._put("server", raw, delay=delay)

    def _replied(self, raw: bytes) -> None:
        name = self._asked.popleft().name if self._asked else ""
        delay, size = 0.0, 0
        for rule in self._faults.rules:
            if rule.fault in ("lose-reply", "cut-reply"):
                if raw not in _NOTHING and rule.strikes(name, self):
                    self._break(rule.how, raw[: len(raw) // 2] if rule.fault == "cut-reply" else b"")
                    return
            elif rule.fault == "delay" and rule.works("client") and rule.strikes(name, self):
                delay += _seconds(rule)
            elif rule.fault == "split" and rule.strikes(name, self):
                size = rule.size
        self._put("client", raw, delay=delay, size=size)

    def _break(self, how: How, last: bytes = b"") -> None:
        """End both sides; what was on its way to the client, and ``last``, comes first."""
        self._put("client", last, end=how)
        self._ends["server"].end("close")
        self._pieces["server"].put_nowait(_Piece(0.0, end="close"))

    def _put(self, towards: Side, data: bytes, *, delay: float = 0.0, size: int = 0, end: How | None = None) -> None:
        due = self._due[towards] = max(self._due[towards], self._clock() + delay)
        self._pieces[towards].put_nowait(_Piece(due, data, end, size))

    async def _send(self, towards: Side) -> None:
        ends = self._ends[towards]
        while True:
            piece = await self._pieces[towards].get()
            await asyncio.sleep(piece.due - self._clock())
            while not ends.is_ended and any(rule.swallows(self, towards) for rule in self._faults.rules):
                await self._faults.change()
            await ends.write(piece.data, piece.size)
            if piece.end is not None and (self._told or towards == "client"):
                return ends.end(piece.end)


class Ends:
    """One side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.is_ended = False
        self._writer = writer
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def write(self, data: bytes, size: int) -> None:
        """Send ``data``, in pieces of ``size`` bytes if that is not 0; nothing happens if nobody listens."""
        step = size or max(1, len(data))
        try:
            for at in range(0, len(data), step):
                self._writer.write(data[at : at + step])
                await self._writer.drain()
                if size:
                    await asyncio.sleep(0)  # or the kernel joins them
        except OSError:
            pass  # who reads from this side will be told

    def end(self, how: How) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        if how == "reset":
            with suppress(OSError):  # it is closed already
                will_reset(self._writer.get_extra_info("socket"))
            self._writer.transport.abort()
        else:
            self._writer.close()

    def abort(self) -> None:
        """End it whatever was not sent."""
        self.is_ended = True
        self._writer.transport.abort()

    async def ended(self) -> None:
        """Return when it has ended."""
        with suppress(OSError):
            await self._writer.wait_closed()


def will_reset(connection: socket.socket) -> None:
    """Let the end of ``connection`` be a reset, whatever was not read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _other(side: Side) -> Side:
    return "server" if side == "client" else "client"


def _seconds(rule: Rule) -> float:
    return max(0.0, rule.seconds + random.uniform(-rule.jitter, rule.jitter))
