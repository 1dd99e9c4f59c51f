"""Publishing: entries appended over a connection that all callers share."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, Final

from streamworker.body import encode
from streamworker.errors import BrokerError, ConfigError, PublishError, PublishFailed, PublishUnknown, Unavailable
from streamworker.redisbroker.link import Command, Link
from streamworker.redisbroker.shared import NotSent, SharedLink

_BATCH: Final = 500
_BATCH_BYTES: Final = 2**20


async def exchange(link: Link, questions: list[list[Command]]) -> list[list[Any]]:
    """All commands in one round trip; the replies of each question in its order."""
    replies = iter(await link.pipeline([command for commands in questions for command in commands]))
    return [[next(replies) for _ in commands] for commands in questions]


class RedisPublisher:
    """``broker.Publisher`` on Redis. Nothing is tried again by itself: that could write twice."""

    def __init__(self, link: Link) -> None:
        self._shared = SharedLink(link, exchange)

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        key = _key(stream)
        fields = encode(body, type=type, headers=headers)
        try:
            (reply,) = await self._shared.ask([("XADD", key, "*", *fields)], _size(fields))
        except NotSent as error:
            raise PublishError(f"not published to {stream!r}: {error}") from None
        except Unavailable as error:
            raise PublishUnknown(f"publishing to {stream!r}: {error}; it may have been written, or not") from None
        if isinstance(reply, BrokerError):
            raise PublishError(f"not published to {stream!r}: {reply}")
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
        try:
            replies = await self._shared.ask(batch, size)
        except Unavailable as error:
            unknown = 0 if isinstance(error, NotSent) else len(batch)
            raise PublishFailed(f"publishing to {stream!r}: {error}", before, unknown) from None
        errors = [reply for reply in replies if isinstance(reply, BrokerError)]
        if errors:
            written = before + len(replies) - len(errors)
            raise PublishFailed(f"publishing to {stream!r}: {errors[0]}", written, 0)
        return len(batch)

    async def close(self) -> None:
        await self._shared.close()


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
