"""Editing: a dead letter with other fields, which keeps how they were published, who changed them and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Final

from streamworker.errors import ConfigError
from streamworker.monitoring.entries import Letter
from streamworker.monitoring.words import moment
from streamworker.operating.places import check_utf8

_OURS: Final = "sw-"


def check_names(names: Iterable[str]) -> None:
    """Whether these fields may be edited.

    Raises:
        ConfigError: one may not.
    """
    for name in names:
        if name.startswith(_OURS) or not name:
            raise ConfigError(f"the field {name!r} cannot be edited: names that begin with sw- are ours")
        check_utf8("the field", name)


def edited_letter(letter: Letter, values: Mapping[str, bytes], without: Sequence[str], by: str) -> Letter:
    """``letter`` with ``values`` in its fields and without some of them, and with what they were; see ``Desk.edit``."""
    wanted = {name.encode(): value for name, value in values.items()}
    left_out = {name.encode() for name in without}
    touched = left_out | wanted.keys()
    marks = letter.marks
    before = list(zip(letter.fields[::2], letter.fields[1::2], strict=False))
    # How it was published is what counts, not what an earlier edit made of it.
    kept = {name for name, _ in marks.was} | {*marks.added}
    was = [(name, value) for name, value in before if name in touched and name not in kept]
    added = [name for name in wanted if name not in kept and name not in dict(before)]
    fields: list[bytes] = []
    for name, value in before:
        if name not in left_out:
            fields += (name, wanted.pop(name, value))
    for name, value in wanted.items():
        fields += (name, value)
    told = ", ".join((*values, *(f"without {name}" for name in without)))
    note = f"{moment(time())} by {by}: {told}"
    return replace(
        letter,
        fields=fields,
        marks=replace(marks, edited=note, was=(*marks.was, *was), added=(*marks.added, *added)),
    )
