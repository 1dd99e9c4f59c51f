"""Marks: what operators did to a copy of an entry. They stand among its fields, so that later copies carry them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REDRIVEN: Final = b"sw-redriven"  # how often
EDITED: Final = b"sw-edited"  # when, by whom, which fields
ADDED: Final = b"sw-added-"  # and the name of a field that the entry did not have
WAS: Final = b"sw-was-"  # and a field's name: what it held before it was edited for the first time


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one copy.

    Attributes:
        redriven: how often it was redriven.
        edited: when it was edited last, by whom, and which fields; None if it never was.
        was: the fields as they were published, those that were edited, byte for byte.
        added: the names of those that were not published.
    """

    redriven: int = 0
    edited: str | None = None
    was: tuple[tuple[bytes, bytes], ...] = ()
    added: tuple[bytes, ...] = ()


UNMARKED: Final = Marks()


def parted(fields: list[bytes]) -> tuple[list[bytes], Marks]:
    """The entry's own fields, flat, and the marks among ``fields``."""
    own: list[bytes] = []
    redriven, edited = 0, None
    was: list[tuple[bytes, bytes]] = []
    added: list[bytes] = []
    for at in range(0, len(fields) - 1, 2):
        name, value = fields[at], fields[at + 1]
        if name == REDRIVEN:
            redriven = int(value) if value.isdigit() and len(value) < 10 else 0
        elif name == EDITED:
            edited = value.decode(errors="replace")
        elif name.startswith(WAS):
            was.append((name.removeprefix(WAS), value))
        elif name.startswith(ADDED):
            added.append(name.removeprefix(ADDED))
        else:
            own += (name, value)
    return own, Marks(redriven, edited, tuple(was), tuple(added))


def marked(own: list[bytes], marks: Marks) -> list[bytes]:
    """The fields again, with ``marks`` behind them."""
    fields = list(own)
    if marks.redriven:
        fields += (REDRIVEN, b"%d" % marks.redriven)
    if marks.edited is not None:
        fields += (EDITED, marks.edited.encode(errors="replace"))
    for name, value in marks.was:
        fields += (WAS + name, value)
    for name in marks.added:
        fields += (ADDED + name, b"")
    return fields
