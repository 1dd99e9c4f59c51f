"""What a server says about single entries: where they are, and for which group."""

from __future__ import annotations

from dataclasses import dataclass

from streamworker.ids import EntryId
from streamworker.monitoring.facts import Oldest
from streamworker.monitoring.marks import UNMARKED, Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a stream.

    Attributes:
        id: its id.
        fields: flat: name, value, name, value …
    """

    id: str
    fields: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A retry that waits for its time.

    Attributes:
        deliveries: how many there were.
        due: seconds until it comes; negative if it is late.
        fields: the original fields.
    """

    deliveries: int
    due: float
    fields: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A retry whose time has come, or a redriven dead letter.

    Attributes:
        deliveries: how many there were.
        pending: who has been given it; None while it waits for a worker.
        fields: the original fields.
    """

    deliveries: int
    pending: Oldest | None
    fields: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter.

    Attributes:
        id: its own id in the dead stream, which tells when it came.
        facts: what stands beside the original fields: ``reason``, ``error`` and so on.
        fields: the original fields.
        marks: what operators did to it.
    """

    id: str
    facts: dict[str, str]
    fields: list[bytes]
    marks: Marks = UNMARKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some entries of a stream that follow each other.

    Attributes:
        exists: whether there is such a stream.
        last_generated: the highest id it ever had.
        entries: the entries, in order; none in a page of dead letters.
        letters: the dead letters, in order, if they were asked for.
    """

    exists: bool
    last_generated: EntryId
    entries: list[Entry]
    letters: list[Letter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one group has of an entry.

    Attributes:
        group: its name.
        exists: False if only our keys beside the stream are left of it.
        last_delivered: up to where it has read.
        pending: who has been given it, of the stream itself.
        waiting, due, letters: its copies.
        whole: False if more retries or dead letters are kept than were looked through.
    """

    group: str
    exists: bool = True
    last_delivered: EntryId = (0, 0)
    pending: Oldest | None = None
    waiting: tuple[Waiting, ...] = ()
    due: tuple[Due, ...] = ()
    letters: tuple[Letter, ...] = ()
    whole: bool = True

    @property
    def found(self) -> bool:
        """Whether the group has anything of it."""
        return bool(self.pending or self.waiting or self.due or self.letters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Everything that is known of one entry.

    Attributes:
        now: the server's time, Unix time in seconds.
        exists: whether there is such a stream.
        entry: the entry; None if it is not in the stream.
        traces: of each group.
    """

    now: float
    exists: bool
    entry: Entry | None
    traces: tuple[Trace, ...]
