"""One connection to a server, on which commands go strictly in turn."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from inspect import signature
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from streamworker.errors import BrokerError, ConfigError
from streamworker.redisbroker.faults import classify

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = Sequence[Argument]

CONNECT_TIMEOUT: Final = 5.0
_LATE: Final = 0.25  # seconds
# hiredis gives lists of lists and bytes with RESP2; RESP3 would turn some replies into dicts, which lose
# duplicate field names. The driver's own retries are off: a transparent retry runs a command twice.
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_TIMEOUT,
    "socket_keepalive": True,
    "health_check_interval": 0,
}
# What the driver tells about itself costs two commands at each connection, and a right where ACLs are kept.
_NOT_TOLD: Final = {"driver_info"} & set(signature(AbstractConnection).parameters) or {"lib_name", "lib_version"}
_OPTIONS.update(dict.fromkeys(_NOT_TOLD))


class Script:
    """A Lua script and the name the server knows it by."""

    def __init__(self, source: str) -> None:
        self.source: Final = source.encode()
        self.sha: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def by_name(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        return ("EVAL", self.source, len(keys), *keys, *arguments)


def driver_options(url: str) -> tuple[type[Any], dict[str, Any]]:
    """The driver's connection class and arguments for ``url``.

    Raises:
        ConfigError: the URL has an option the driver does not know. The text holds no password.
    """
    try:
        pool = ConnectionPool.from_url(url)
    except ValueError as error:
        raise ConfigError(f"the Redis URL is wrong: {_without(url, str(error))}") from None
    options = {**pool.connection_kwargs, **_OPTIONS}
    if "unix" in url.partition(":")[0]:
        options.pop("socket_keepalive")
    try:
        pool.connection_class(**options)
    except TypeError as error:
        raise ConfigError(f"the Redis URL has an option that the driver does not know: {error}") from None
    return pool.connection_class, options


def _without(url: str, text: str) -> str:
    return text.replace(url, "(the URL)")


class Link:
    """One connection; opened by the first call and again by the first call after it was lost.

    Args:
        url: of the server.
        timeout: seconds a round trip may take, besides what a blocking command waits.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._class, self._options = driver_options(url)
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._known: set[str] = set()

    @property
    def connected(self) -> bool:
        if self._connection is None or not self._connection.is_connected:
            return False
        # The driver does not notice that the server hung up while nobody was asking.
        reader = self._connection._reader
        return reader is not None and not reader.at_eof() and reader.exception() is None

    async def open(self) -> None:
        """Connect and log in, if that is not done.

        Raises:
            AuthFailed: the server does not take the credentials.
            Unavailable: it cannot be reached.
        """
        if self.connected:
            return
        await self.close()
        # An instance of its own per connection: a used one may hold an unread reply.
        connection = self._class(**self._options, retry=Retry(NoBackoff(), 0))
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            raise classify(error) from None
        self._connection = connection
        self._known = set()

    async def close(self) -> None:
        """Drop the connection; nothing is waited for."""
        connection, self._connection = self._connection, None
        if connection is not None:
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
        await self.open()
        known = self._known  # of this connection: the first use sends the source
        commands = [(s.by_name if s.sha in known else s.in_full)(keys, arguments) for s, keys, arguments in calls]
        replies = await self._exchange(commands, 0.0)
        known.update(s.sha for s, _, _ in calls)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # after SCRIPT FLUSH
            again = await self._exchange([calls[at][0].in_full(*calls[at][1:]) for at in unknown], 0.0)
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return [classify(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def pipeline(self, commands: Sequence[Command], *, block: float = 0.0) -> list[Any]:
        """Run commands in one round trip and return their replies; an error stands in the place of its reply.

        Raises:
            Unavailable: not all replies came; the connection is dropped, since what comes late would be
                taken for the answer to another question.
        """
        replies = await self._exchange(commands, block)
        return [classify(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def _exchange(self, commands: Sequence[Command], block: float) -> list[Any]:
        await self.open()
        connection = self._connection
        assert connection is not None
        try:
            async with _limit(self._timeout + block):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await _reply(connection) for _ in commands]
        except (RedisError, OSError, TimeoutError, EOFError) as error:
            await self.close()
            raise classify(error) from None
        except BaseException:
            await self.close()
            raise


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """A timeout that does not take a reply for lost because the event loop stood still.

    After a handler has blocked the loop, timers that ran out meanwhile come before replies that are there.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    timers: list[asyncio.TimerHandle] = []
    async with asyncio.timeout(None) as timeout:

        def expire(again: bool) -> None:
            if again and loop.time() - end > _LATE:
                timers.append(loop.call_later(_LATE, expire, False))
            else:
                timeout.reschedule(loop.time())

        timers.append(loop.call_at(end, expire, True))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()


async def _reply(connection: AbstractConnection) -> Any:
    """The next reply; an error that the server answered with is one. The driver raises the rest."""
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
