"""Operator: everything that can be done to the streams and groups of one server, in one place."""

from __future__ import annotations

from typing import Protocol

from streamworker.monitoring.facts import Observer


class Backend(Protocol):
    """The parts of a server's broker that an operator needs."""

    @property
    def observer(self) -> Observer: ...

    async def close(self) -> None: ...


class Operator:
    """Steers streams and groups; made by ``App.operator``.

    Args:
        backend: the server.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def observer(self) -> Observer:
        """Who only looks."""
        return self._backend.observer

    async def close(self) -> None:
        """Drop the connections."""
        await self._backend.close()
