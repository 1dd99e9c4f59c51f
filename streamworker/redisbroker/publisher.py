"""Publishing: entries appended over connections that all callers share."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any, Final

from streamworker.body import encode
from streamworker.broker import Written
from streamworker.errors import BrokerError, ConfigError, PublishError, PublishFailed, PublishUnknown, Unavailable
from streamworker.redisbroker.driver import Place
from streamworker.redisbroker.faults import Asked, Moved
from streamworker.redisbroker.link import Command, Link
from streamworker.redisbroker.shared import NotSent, SharedLinks
from streamworker.redisbroker.topology import Topology

_BATCH: Final = 500
_BATCH_BYTES: Final = 2**20
_REDIRECTIONS: Final = 2


async def exchange(link: Link, questions: list[list[Command]]) -> list[list[Any]]:
    """All commands in one round trip; the replies of each question in its order."""
    replies = iter(await link.pipeline([command for commands in questions for command in commands]))
    return [[next(replies) for _ in commands] for commands in questions]


class _Lost(Unavailable):
    """The connection was lost on the way: it may have been written, or not."""


class RedisPublisher:
    """``broker.Publisher`` on Redis. What may have been written is never tried again: that could write twice."""

    def __init__(self, topology: Topology, timeout: float) -> None:
        self.written = Written()
        self._topology = topology
        self._links = SharedLinks(topology, exchange, timeout=timeout)

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        key = _key(stream)
        fields = encode(body, type=type, headers=headers)
        (reply,) = await self._write(key, [("XADD", key, "*", *fields)], _size(fields))
        if isinstance(reply, _Lost):
            raise PublishUnknown(f"publishing to {stream!r}: {reply}; it may have been written, or not")
        if isinstance(reply, BrokerError):
            raise PublishError(f"not published to {stream!r}: {reply}")
        self.written.add(stream, 1, _size(fields))
        return str(reply, "ascii")

    async def publish_many(
        self,
        stream: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        key = _key(stream)
        published = 0
        batch: list[Command] = []
        size = 0
        try:
            async for body in _each(bodies):
                fields = encode(body, type=type, headers=headers)
                batch.append(("XADD", key, "*", *fields))
                size += _size(fields)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    published += await self._append(stream, batch, size, published)
                    batch, size = [], 0
        except PublishFailed:
            raise
        except Exception as error:  # a body that cannot be encoded, or what the user's iterable raised
            if not published:
                raise
            raise PublishFailed(f"publishing to {stream!r}: {builtins.type(error).__name__}", published, 0) from error
        if batch:
            published += await self._append(stream, batch, size, published)
        return published

    async def _append(self, stream: str, batch: list[Command], size: int, before: int) -> int:
        replies = await self._write(_key(stream), batch, size)
        errors = [reply for reply in replies if isinstance(reply, BrokerError)]
        if errors:
            unknown = sum(isinstance(error, _Lost) for error in errors)
            leading = next(at for at, reply in enumerate(replies) if isinstance(reply, BrokerError))
            raise PublishFailed(
                f"publishing to {stream!r}: {errors[0]}", before + len(batch) - len(errors), unknown, before + leading
            )
        self.written.add(stream, len(batch), size)
        return len(batch)

    async def _write(self, key: bytes, commands: list[Command], size: int) -> list[Any]:
        """The replies, with an error in the place of its reply.

        What a node of a cluster has not done because the stream is elsewhere, or is just moving there, is asked there.
        """
        replies = await _outcome(self._links.ask(key, commands, size), len(commands))
        for _ in range(_REDIRECTIONS):
            away = [at for at, reply in enumerate(replies) if isinstance(reply, Moved | Asked)]
            if not away:
                break
            again = [commands[at] for at in away]
            last = replies[away[-1]]
            if isinstance(last, Asked):
                there = self._topology.at(Place(last.host, last.port))
                asked: list[Command] = [command for one in again for command in (("ASKING",), one)]
                told = (await _outcome(self._links.ask_at(there, asked, size), len(asked)))[1::2]
            else:
                told = await _outcome(self._links.ask(key, again, size), len(again))
            for at, reply in zip(away, told, strict=True):
                replies[at] = reply
        return replies

    async def close(self) -> None:
        await self._links.close()


async def _outcome(asking: Awaitable[list[Any]], count: int) -> list[Any]:
    """The replies; if there are none, what became of the ``count`` commands."""
    try:
        return await asking
    except NotSent as error:
        return [error] * count
    except Unavailable as error:
        return [_Lost(str(error))] * count


def _key(stream: str) -> bytes:
    """The stream's name as bytes; what is no name is its caller's trouble, not that of the others in the batch."""
    try:
        key = stream.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ConfigError(f"publish(stream=...) takes the name of a stream as text, not {stream!a}") from None
    if not key:
        raise ConfigError("publish(stream=...) takes the name of a stream, not an empty text")
    return key


def _size(fields: list[bytes]) -> int:
    return sum(map(len, fields))


async def _each(bodies: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(bodies, AsyncIterable):
        async for body in bodies:
            yield body
    else:
        for body in bodies:
            yield body
