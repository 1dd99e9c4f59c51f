"""Operator: everything that can be done to the streams and groups of one server, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from streamworker.broker import Trimming
from streamworker.errors import ConfigError
from streamworker.monitoring.facts import Observer
from streamworker.operating.controls import Controls
from streamworker.operating.desk import Desk, Letters
from streamworker.operating.doctor import Doctor, Examining, Role
from streamworker.operating.findings import Finding, Fixed
from streamworker.operating.places import check_utf8
from streamworker.operating.steering import Steering
from streamworker.operating.trimming import Progress, StreamTrimmer, Trimmed
from streamworker.retention import Limits


class Backend(Protocol):
    """The parts of a server's broker that an operator needs."""

    @property
    def observer(self) -> Observer: ...

    @property
    def letters(self) -> Letters: ...

    @property
    def steering(self) -> Steering: ...

    @property
    def trimming(self) -> Trimming: ...

    @property
    def examining(self) -> Examining: ...

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
        """The dead letters of ``group``.

        Raises:
            ConfigError: a name is not UTF-8.
        """
        _check(stream, group)
        return Desk(self._backend.observer, self._backend.letters, stream, group)

    def group(self, stream: str, group: str) -> Controls:
        """What ``group`` reads, and whether.

        Raises:
            ConfigError: a name is not UTF-8.
        """
        _check(stream, group)
        return Controls(self._backend.observer, self._backend.steering, stream, group)

    async def trim(
        self, stream: str, limits: Limits, *, force: bool = False, dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Trimmed:  # fmt: skip
        """Shorten a stream to ``limits``, but remove nothing that a group has not finished.

        A stream without groups is not trimmed. Interrupted and done again, it goes on where it was.

        Args:
            stream: the stream.
            limits: how much of it is kept.
            force: remove also what groups have not finished, and of a stream without groups.
            dry_run: remove nothing, and say what would be.
            progress: called again and again with the number of entries removed, or counted, so far.

        Raises:
            ConfigError: no limit is given.
            Unavailable: the server cannot be reached.
        """
        if not limits:
            raise ConfigError("trimming needs a limit: Limits(max_length=...), Limits(max_age=...) or max_bytes")
        trimmer = StreamTrimmer(self._backend.trimming, self.observer, stream, limits, progress)
        return await (trimmer.foresee(force=force) if dry_run else trimmer.trim(force=force))

    async def examine(self, streams: Iterable[str] | None = None, *, role: Role = "operator") -> tuple[Finding, ...]:
        """Look for what is wrong, or will be one day: the server, its streams and groups, and this user's rights.

        Args:
            streams: names; None for all.
            role: a user of docs/security.md; what it needs is compared with what this connection's user may do.

        Returns:
            The findings, the worst first; one ``"ok"`` for each check that found nothing.

        Raises:
            Unavailable: the server cannot be reached.
        """
        return await Doctor(self.observer, self._backend.examining).examine(streams, role)

    async def fix(self, findings: Iterable[Finding]) -> tuple[Fixed, ...]:
        """Put right what ``examine`` found, where that is harmless: the lags that the server tells, and consumers
        that were left behind with nothing pending. Each is looked at again before.

        Raises:
            Unavailable: the server cannot be reached.
        """
        return await Doctor(self.observer, self._backend.examining).fix(findings)

    async def close(self) -> None:
        """Drop the connections."""
        await self._backend.close()


def _check(stream: str, group: str) -> None:
    check_utf8("the stream", stream)
    check_utf8("the group", group)
