"""Registry: the handlers and retentions of one app, checked against each other, by stream and group."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from streamworker.errors import ConfigError
from streamworker.handler import Group, Handler, check
from streamworker.retention import Retention
from streamworker.retention import check as check_retention


class Registry:
    """What an app has registered.

    Args:
        unrouted: what becomes of an entry whose type no handler of a group takes.
        max_body: bytes; a larger body is not parsed.
    """

    def __init__(self, unrouted: Literal["dead-letter", "drop"], max_body: int) -> None:
        self.handlers: list[Handler] = []
        self._retentions: dict[str, Retention] = {}
        self._unrouted: Literal["dead-letter", "drop"] = unrouted
        self._max_body = max_body

    def add(self, new: Handler) -> None:
        """Register a handler.

        Raises:
            ConfigError: it makes no sense, or contradicts another handler of its group.
        """
        check(new)
        for other in self.handlers:
            if new.group is not None and (other.stream, other.group) == (new.stream, new.group):
                _check_neighbours(new, other)
        self.handlers.append(new)

    def keep(self, retention: Retention, owner: str) -> None:
        """Register how much of a stream is kept; errors name ``owner``.

        Raises:
            ConfigError: it makes no sense, or the stream is declared already.
        """
        check_retention(retention)
        name = retention.stream
        if name in self._retentions:
            raise ConfigError(
                f"{owner} declares stream {name!r} twice; say all limits in one app.stream({name!r}, ...)"
            )
        self._retentions[name] = retention

    def groups(self) -> list[Group]:
        """The handlers by stream and group, broadcasts left out."""
        found: dict[tuple[str, str], list[Handler]] = {}
        for handler in self.handlers:
            if handler.group is not None:
                found.setdefault((handler.stream, handler.group), []).append(handler)
        return [
            Group(stream, group, tuple(handlers), self._unrouted, self._max_body)
            for (stream, group), handlers in found.items()
        ]

    def broadcasts(self) -> list[Group]:
        """The broadcast handlers, each a group of its own without a name."""
        return [
            Group(handler.stream, "", (handler,), "drop", self._max_body)
            for handler in self.handlers
            if handler.group is None
        ]

    def retentions(self) -> list[Retention]:
        """The declared streams, each with the app's groups on it."""
        groups = self.groups()
        return [
            replace(one, groups=tuple(group.name for group in groups if group.stream == one.stream))
            for one in self._retentions.values()
        ]


def _check_neighbours(new: Handler, other: Handler) -> None:
    """Raise ConfigError if two handlers of one group cannot be together."""
    where = f"both consume stream {new.stream!r} as group {new.group!r}"
    if other.type == new.type:
        raise ConfigError(
            f"handlers {other.name!r} and {new.name!r} {where} and take the same type ({new.type!r}); "
            "give them different type=, or one of them a group= of its own"
        )
    for option in ("lease", "start", "prefetch"):
        mine, theirs = getattr(new, option), getattr(other, option)
        if mine != theirs:
            raise ConfigError(
                f"handlers {other.name!r} and {new.name!r} {where}, but one says {option}={theirs!r} and "
                f"the other {option}={mine!r}; it belongs to the group, so they must agree"
            )
