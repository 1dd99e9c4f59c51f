"""What the runtime wants from a backend, as Protocols; nothing here knows Redis."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Protocol


class Publisher(Protocol):
    """Appends entries; see ``App.publish`` and ``App.publish_many`` for arguments and errors."""

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str: ...

    async def publish_many(
        self,
        stream: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int: ...

    async def close(self) -> None: ...
