"""The verdicts: what becomes of a delivery, as exceptions a handler raises and as an outcome to settle.

A handler asks for a verdict by raising ``Retry``, ``Reject`` or ``Drop``; ``on_failure`` returns one.
The runtime turns every end of a handler into one ``Outcome`` first and settles it afterwards, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from streamworker.message import Message


class Verdict(Exception):
    """What ``Retry``, ``Reject`` and ``Drop`` have in common; not raised itself."""


class Retry(Verdict):
    """Deliver again.

    Args:
        after: seconds to wait; ``None`` takes the handler's backoff.
        counted: ``False`` spends no delivery, so it can go on for ever.
    """

    def __init__(self, after: float | None = None, counted: bool = True) -> None:
        if after is not None and not 0 <= after < float("inf"):
            raise ValueError(f"Retry(after={after!r}): give the seconds to wait, 0 or more")
        super().__init__(after, counted)
        self.after = after
        self.counted = counted


class Reject(Verdict):
    """Dead-letter now: trying again cannot help.

    Args:
        reason: what a person will read in the dead stream.
    """

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason


class Drop(Verdict):
    """Acknowledge without having done the work; counted as dropped.

    Args:
        reason: what the log will say.
    """

    def __init__(self, reason: str = "dropped") -> None:
        super().__init__(reason)
        self.reason = reason


FailureKind: TypeAlias = Literal["error", "timeout", "undecodable"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed delivery, as ``on_failure`` sees it.

    Attributes:
        kind: ``"error"`` (the handler raised), ``"timeout"`` or ``"undecodable"``.
        exception: what was raised.
        message: the message; its ``deliveries`` counts this delivery.
        deliveries: the same count.
        age: seconds since the entry was published, by the server's clock, never below 0.
        size: bytes of the body.
        fields: the raw entry, ``(name, value)`` pairs in their order, duplicates kept.
    """

    kind: FailureKind
    exception: BaseException
    message: Message
    deliveries: int
    age: float
    size: int
    fields: tuple[tuple[bytes, bytes], ...]


Cause: TypeAlias = Literal["max_deliveries", "max_age", "rejected", "undecodable", "unrouted", "worker_died"]
"""Why a delivery is dead-lettered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one delivery is settled.

    Attributes:
        kind: ``"ack"``, ``"retry"``, ``"dead-letter"`` or ``"drop"``.
        reason: why, in words for a person; empty for an ack.
        delay: seconds until the next delivery (``"retry"`` only).
        counted: whether the retry spends a delivery (``"retry"`` only).
        exception: what the handler raised, if it did.
        cause: of a dead letter: the reason in one word, for counting.
    """

    kind: Literal["ack", "retry", "dead-letter", "drop"]
    reason: str = ""
    delay: float = 0.0
    counted: bool = True
    exception: BaseException | None = None
    cause: Cause = "rejected"


ACK = Outcome("ack")
