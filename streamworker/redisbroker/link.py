"""One connection to a server, on which commands go strictly in turn."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from streamworker.errors import BrokerError, Unavailable
from streamworker.redisbroker.driver import Place
from streamworker.redisbroker.faults import Asked, Elsewhere, Moved, classify
from streamworker.redisbroker.topology import Topology

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument, ...]

_LATE: Final = 0.25  # seconds
_LARGE: Final = 2**16  # bytes
# In C; the driver's own asyncio connection packs in Python, argument by argument.
_pack: Final[Callable[[Command], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # it says one argument


class Script:
    """A Lua script and the name the server knows it by."""

    def __init__(self, source: str) -> None:
        self.source: Final = source.encode()
        self.sha: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def by_name(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        return ("EVAL", self.source, len(keys), *keys, *arguments)


class Link:
    """One connection; opened by the first call and again by the first call after it was lost.

    Args:
        topology: says where to connect, anew each time.
        key: the key whose server this is for; None for any server.
        timeout: seconds a server may say nothing in a round trip, besides what a blocking command waits. A reply
            that is coming, over a link however slow, is waited for: asked for again, it would take as long.
    """

    def __init__(self, topology: Topology, key: bytes | None = None, *, timeout: float) -> None:
        self._topology = topology
        self._key = key
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._place: Place | None = None
        self._known: set[str] = set()
        self._heard = 0.0  # when the last bytes came, by the event loop's clock

    @property
    def connected(self) -> bool:
        """Whether there is a connection, to the server that is still the right one."""
        if self._connection is None or not self._connection.is_connected or self._has_moved:
            return False
        # The driver does not notice that the server hung up while nobody was asking.
        reader = self._connection._reader
        return reader is not None and not reader.at_eof() and reader.exception() is None

    @property
    def _has_moved(self) -> bool:
        return self._place is not None and not self._topology.holds(self._key, self._place)

    async def open(self) -> None:
        """Find the server, connect and log in, if that is not done.

        Raises:
            AuthFailed: the server does not take the credentials.
            Unavailable: it cannot be reached.
        """
        if self.connected:
            return
        await self.close()
        place = await self._topology.locate(self._key)
        connection = self._topology.connection(place)
        try:
            async with asyncio.timeout(self._topology.connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                if self._topology.needs_primary:
                    await _check_role(connection)
        except (RedisError, OSError, TimeoutError, BrokerError) as error:
            await connection.disconnect(nowait=True)
            failure = classify(error)
            self._topology.failed(place, failure)
            raise failure from None
        except BaseException:  # whoever gave up the wait
            await connection.disconnect(nowait=True)
            self._topology.failed(place, Unavailable("not connected in time"))
            raise
        self._connection = connection
        self._place = place
        self._known = set()
        self._listen(connection)

    def _listen(self, connection: AbstractConnection) -> None:
        """Note when bytes come: neither the driver nor its parser tells before a reply is complete."""
        reader, now = connection._reader, asyncio.get_running_loop().time
        assert reader is not None
        feed = reader.feed_data

        def fed(data: bytes) -> None:
            self._heard = now()
            feed(data)

        reader.feed_data = fed  # type: ignore[method-assign, assignment]

    async def close(self) -> None:
        """Drop the connection; nothing is waited for."""
        connection, self._connection, self._place = self._connection, None, None
        if connection is not None:
            if connection._writer is not None:  # TLS would wait for the server to say goodbye
                connection._writer.transport.abort()
            await connection.disconnect(nowait=True)

    async def call(self, *command: Argument, block: float = 0.0) -> Any:
        """Run one command, which may block for ``block`` seconds, and return its reply.

        Raises:
            BrokerError: the server's error, or Unavailable if the reply did not come.
        """
        (reply,) = await self.pipeline([command], block=block)
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def script(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
        """Run a script by its name; the server is given the source where it does not know it."""
        (reply,) = await self.scripts([(script, keys, arguments)])
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def scripts(self, calls: Sequence[tuple[Script, Sequence[bytes], Sequence[Argument]]]) -> list[Any]:
        """Run several scripts in one round trip; an error stands in the place of its reply."""
        await self._ready()
        known = self._known  # of this connection: the first use sends the source
        commands = [(s.by_name if s.sha in known else s.in_full)(keys, arguments) for s, keys, arguments in calls]
        replies = await self._exchange(commands, 0.0, whole_entries=True)
        known.update(s.sha for s, _, _ in calls)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # after SCRIPT FLUSH
            again = await self._exchange(
                [calls[at][0].in_full(*calls[at][1:]) for at in unknown], 0.0, whole_entries=True
            )
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return await self._told(replies)

    async def pipeline(self, commands: Sequence[Command], *, block: float = 0.0) -> list[Any]:
        """Run commands in one round trip and return their replies; an error stands in the place of its reply.

        Raises:
            Unavailable: not all replies came; the connection is dropped, since what comes late would be
                taken for the answer to another question.
        """
        await self._ready()
        return await self._told(await self._exchange(commands, block))

    async def _ready(self) -> None:
        """Connect; but whoever goes on at another server has to look around there first."""
        if self._has_moved:
            await self.close()
            raise Elsewhere("another server has taken over")
        await self.open()

    async def _told(self, replies: list[Any]) -> list[Any]:
        """The replies with the driver's errors translated; a server that is not the right one is left."""
        told = [classify(reply) if isinstance(reply, Exception) else reply for reply in replies]
        away = False
        for reply in told:
            if isinstance(reply, Moved | Asked) and self._place is not None:
                reply.host = reply.host or self._place.host
            if isinstance(reply, Elsewhere):
                away = True
                self._failed(reply)
        if away:
            await self.close()
        return told

    def _failed(self, error: BrokerError) -> None:
        if self._place is not None:
            self._topology.failed(self._place, error)

    async def _exchange(self, commands: Sequence[Command], block: float, whole_entries: bool = False) -> list[Any]:
        connection = self._connection
        assert connection is not None
        # In C, every argument is copied three times: not where retries and dead letters carry megabytes.
        large = whole_entries and any(len(one) > _LARGE for each in commands for one in each if type(one) is bytes)
        packed = connection.pack_commands(commands) if large else b"".join(map(_pack, commands))
        try:
            async with _Limit(self._timeout + block, lambda: self._heard):
                await connection.send_packed_command(packed, check_health=False)
                return [await _reply(connection) for _ in commands]
        except (RedisError, OSError, TimeoutError, EOFError) as error:
            failure = classify(error)
            self._failed(failure)
            await self.close()
            raise failure from None
        except BaseException:
            self._failed(Unavailable("no answer in time"))
            await self.close()
            raise


class _Limit:
    """A timeout that begins anew whenever something is heard, and takes no reply for lost because the loop stood still.

    After a handler has blocked the loop, timers that ran out meanwhile come before replies that are there.
    A class, since a worker at rest does little else than to enter it and leave it.
    """

    __slots__ = ("_end", "_heard", "_loop", "_seconds", "_timeout", "_timer")

    def __init__(self, seconds: float, heard: Callable[[], float]) -> None:
        self._seconds = seconds
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._end = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._end, self._expire, True)

    async def __aexit__(self, *exc_info: Any) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(*exc_info)

    def _expire(self, again: bool) -> None:
        now, heard = self._loop.time(), self._heard()
        if heard + self._seconds > max(self._end, now):
            self._end = heard + self._seconds
            self._timer = self._loop.call_at(self._end, self._expire, True)
        elif again and now - self._end > _LATE:
            self._timer = self._loop.call_later(_LATE, self._expire, False)
        else:
            self._timeout.reschedule(now)


async def _check_role(connection: AbstractConnection) -> None:
    """Sentinels name a server before it is promoted, and one that was demoted for a while."""
    await connection.send_command("ROLE", check_health=False)
    reply = await _reply(connection)
    if not isinstance(reply, Exception) and reply[0] != b"master":  # who may not ask is told when it writes
        raise Elsewhere(f"the sentinels name a server that says it is a {reply[0].decode()}")


async def _reply(connection: AbstractConnection) -> Any:
    """The next reply; an error that the server answered with is one. The driver raises the rest."""
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
