"""What the commands for operators share: their options, and how they connect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from streamworker.cli.options import option, redis_file_option, redis_option

if TYPE_CHECKING:
    from streamworker.endpoint import Endpoint
    from streamworker.monitoring.facts import Observer
    from streamworker.operating import Operator

F = TypeVar("F", bound=Callable[..., Any])

json_option = option("--json", "as_json", is_flag=True, help="One JSON object a line, with names that stay.")


def server_options(command: F) -> F:
    """``--redis`` and ``--redis-file``."""
    return redis_option(redis_file_option(command))


@asynccontextmanager
async def observing(redis: str | None, redis_file: Path | None) -> AsyncIterator[tuple[Observer, Endpoint]]:
    """Somebody who looks at the server that the options name, and where that is."""
    from streamworker.cli.choosing import chosen  # noqa: PLC0415  (--help loads nothing)
    from streamworker.connect import open_observer  # noqa: PLC0415

    with chosen(redis, redis_file) as where:
        observer = await open_observer(where.url)
        try:
            yield observer, where
        finally:
            await observer.close()


@asynccontextmanager
async def steering(redis: str | None, redis_file: Path | None) -> AsyncIterator[tuple[Operator, Endpoint]]:
    """Somebody who steers the server that the options name, and where that is."""
    from streamworker.cli.choosing import chosen  # noqa: PLC0415  (--help loads nothing)
    from streamworker.connect import open_operator  # noqa: PLC0415

    with chosen(redis, redis_file) as where:
        operator = await open_operator(where.url)
        try:
            yield operator, where
        finally:
            await operator.close()
