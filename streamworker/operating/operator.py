"""Operator: everything that can be done to the streams and groups of one server, in one place."""

from __future__ import annotations

from typing import Protocol

from streamworker.monitoring.facts import Observer
from streamworker.operating.desk import Desk, Letters
from streamworker.operating.steering import Controls, Steering


class Backend(Protocol):
    """The parts of a server's broker that an operator needs."""

    @property
    def observer(self) -> Observer: ...

    @property
    def letters(self) -> Letters: ...

    @property
    def steering(self) -> Steering: ...

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

    def desk(self, stream: str, group: str) -> Desk:
        """The dead letters of ``group``."""
        return Desk(self._backend.observer, self._backend.letters, stream, group)

    def group(self, stream: str, group: str) -> Controls:
        """What ``group`` reads, and whether."""
        return Controls(self._backend.observer, self._backend.steering, stream, group)

    async def close(self) -> None:
        """Drop the connections."""
        await self._backend.close()
