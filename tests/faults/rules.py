"""What a fault proxy is told to break: one rule per fault, matched against commands and connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self, TypeAlias

Label: TypeAlias = Literal["reading", "beating", "settling", "publishing"]
How: TypeAlias = Literal["reset", "close"]
Side: TypeAlias = Literal["client", "server"]
Fault: TypeAlias = Literal["lose-request", "lose-reply", "cut-reply", "delay", "hole", "split", "stall", "reset-new"]

# What a connection is for shows when it first sends one of these.
LABELS: Final[dict[str, Label]] = {
    "XREADGROUP": "reading",
    "XREAD": "reading",
    "BEAT": "beating",
    "XADD": "publishing",
    **dict.fromkeys(("XACK", "ACK_RETRIED", "RETRY", "DEAD_LETTER", "DROP", "RELEASE"), "settling"),
}


class Labelled(Protocol):
    """A connection, as a rule knows it."""

    @property
    def labels(self) -> set[Label]: ...


@dataclass(slots=True, eq=False)
class Rule:
    """One fault, in force until ``heal`` or the end of a ``with`` block, or until it has struck ``times`` times.

    Attributes:
        command: strikes this command or script only; None for all.
        on: strikes connections only that were seen to do this; None for all.
        skip: how many are let pass first.
        times: how often it strikes; None for always.
        how: how a connection ends.
        towards: which way it works; None for both.
        hits: how often it has struck.
    """

    fault: Fault
    command: str | None = None
    on: Label | None = None
    skip: int = 0
    times: int | None = None
    how: How = "reset"
    towards: Side | None = None
    seconds: float = 0.0
    jitter: float = 0.0
    size: int = 1
    hits: int = 0
    forget: Callable[[Rule], None] = field(default=lambda _: None, repr=False)
    _caught: set[Labelled] = field(default_factory=set, repr=False)

    def heal(self) -> None:
        """Take it back; what a black hole held flows on."""
        self.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()

    def strikes(self, command: str, connection: Labelled) -> bool:
        """Whether it is about this command; if so, it is counted."""
        if (self.command is not None and command != self.command) or not self.is_about(connection):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True

    def is_about(self, connection: Labelled) -> bool:
        return self.on is None or self.on in connection.labels

    def works(self, towards: Side) -> bool:
        return self.towards is None or self.towards == towards

    def catch(self, connection: Labelled) -> None:
        """The connection has sent the command at which this hole begins."""
        self._caught.add(connection)

    def swallows(self, connection: Labelled, towards: Side) -> bool:
        """Whether this is a hole in which everything ``towards`` one side of the connection is held."""
        if self.fault != "hole" or not self.works(towards):
            return False
        return self.is_about(connection) if self.command is None else connection in self._caught

    def stalls(self, tls: bool) -> bool:
        """Whether new connections get no further than being accepted."""
        everything = self.fault == "hole" and self.command is None and self.on is None
        return self.fault == "stall" or (everything and tls)
