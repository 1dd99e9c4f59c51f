"""What the commands for operators share: their options, and how they connect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from streamworker.cli.options import option, redis_file_option, redis_option

if TYPE_CHECKING:
    from streamworker.endpoint import Endpoint
    from streamworker.operating import Operator
    from streamworker.redisbroker.observer import RedisObserver

F = TypeVar("F", bound=Callable[..., Any])


class _Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)

json_option = option("--json", "as_json", is_flag=True, help="One JSON object a line, with names that stay.")


def server_options(command: F) -> F:
    """``--redis`` and ``--redis-file``."""
    return redis_option(redis_file_option(command))


def observing(
    redis: str | None, redis_file: Path | None
) -> AbstractAsyncContextManager[tuple[RedisObserver, Endpoint]]:
    """Somebody who looks at the server that the options name, and where that is."""
    from streamworker.connect import open_observer  # noqa: PLC0415  (--help loads nothing)

    return _connected(redis, redis_file, open_observer)


def steering(redis: str | None, redis_file: Path | None) -> AbstractAsyncContextManager[tuple[Operator, Endpoint]]:
    """Somebody who steers the server that the options name, and where that is."""
    from streamworker.connect import open_operator  # noqa: PLC0415  (--help loads nothing)

    return _connected(redis, redis_file, open_operator)


@asynccontextmanager
async def _connected(
    redis: str | None, redis_file: Path | None, opened: Callable[[str], Awaitable[C]]
) -> AsyncIterator[tuple[C, Endpoint]]:
    from streamworker.cli.choosing import chosen  # noqa: PLC0415  (--help loads nothing)

    with chosen(redis, redis_file) as where:
        if where.embedded:
            click.echo("no Redis URL is set, so this is the folder's own server; --redis URL names another", err=True)
        one = await opened(where.url)
        try:
            yield one, where
        finally:
            await one.close()
