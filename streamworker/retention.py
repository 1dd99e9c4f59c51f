"""Retention: how much of a stream is kept, as it is declared, and what trimming to that came to."""

from __future__ import annotations

from dataclasses import dataclass

from streamworker.errors import ConfigError
from streamworker.handler import number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a stream is kept; None is no limit.

    Attributes:
        max_length: entries.
        max_age: seconds since publishing, by the time in the id.
        max_bytes: of the server's memory, as that estimates it.
    """

    max_length: int | None = None
    max_age: float | None = None
    max_bytes: int | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.max_length, self.max_age, self.max_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What ``App.stream`` declares for one stream.

    Attributes:
        stream: its name.
        limits: how much of it is kept.
        force: whether that holds also for what groups have not finished.
        dead: how much is kept of the dead letters of each of the app's groups; by number and age.
        groups: the app's groups on the stream.
    """

    stream: str
    limits: Limits
    force: bool = False
    dead: Limits = Limits()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """The group that keeps a stream from being trimmed, and the first entry that it has not finished.

    Attributes:
        group: its name.
        entry: the entry's id.
        age: seconds since it was published, by the server's clock; None if its id is no time.
        consumer: who has it; None if the group has not been given it.
        idle: seconds since it was delivered.
        deliveries: how often it was.
    """

    group: str
    entry: str
    age: float | None
    consumer: str | None = None
    idle: float | None = None
    deliveries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """What one step of trimming came to.

    Attributes:
        exists: whether there is such a stream.
        removed: entries.
        length: entries that are left.
        memory: bytes that they take; None if nobody asked, or the server does not tell.
        more: there is more to remove: do it again.
        kept: the limits are kept.
        groups: the stream's groups, whoever made them.
        held: the first entry that a group has not finished; None if all is. If the limits are not kept and there is
            no more to remove, this is why, or there is no group at all.
    """

    exists: bool = True
    removed: int = 0
    length: int = 0
    memory: int | None = None
    more: bool = False
    kept: bool = True
    groups: tuple[str, ...] = ()
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """What a group loses: entries that it had not been given, and entries that it had not finished."""

    group: str
    unread: int
    pending: int


@dataclass(frozen=True, slots=True)
class Forced:
    """What one step of trimming by force came to, or would.

    Attributes:
        removed: entries.
        finished: of them, those below the first entry that any group has not finished.
        last: the id of the last of them.
        lost: what groups lose by it.
    """

    removed: int
    finished: int
    last: str
    lost: tuple[Lost, ...]


def check(retention: Retention) -> None:
    """Raise ConfigError if it makes no sense, with a sentence that says what is wrong and what would be right."""
    where = f"app.stream({retention.stream!r})"
    if not (isinstance(retention.stream, str) and retention.stream and retention.stream.isprintable()):
        raise ConfigError(f"{where}: a stream's name must be a text of printable characters")
    for prefix, limits in (("", retention.limits), ("dead_", retention.dead)):
        for name, least, what in (
            ("max_length", 1, "a whole number of entries, 1 or more"),
            ("max_age", 1.0, "seconds, 1 or more: 7 * 86400 is a week"),
            ("max_bytes", 1, "a whole number of bytes, 1 or more: 500 * 10**6 is 500 MB"),
        ):
            value = getattr(limits, name)
            right = number(value) if isinstance(least, float) else isinstance(value, int)
            if value is not None and (isinstance(value, bool) or not right or value < least):
                raise ConfigError(f"{where}: {prefix}{name}={value!r}, but it must be {what}")
    if not isinstance(retention.force, bool):
        raise ConfigError(f"{where}: force={retention.force!r}, but it must be True or False")
    if not retention.limits and not retention.dead:
        raise ConfigError(
            f"{where} says nothing about how much is kept; give at least one of max_length, max_age, max_bytes, "
            "dead_max_age and dead_max_length: app.stream('orders', max_age=7 * 86400) keeps a week"
        )
    if retention.force and not retention.limits:
        raise ConfigError(f"{where}: force=True needs one of max_length, max_age and max_bytes to enforce")
