"""Numbers as people read them, in few characters; names as a terminal can show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from shlex import quote
from typing import Final, Protocol

from streamworker.logs import clean

UNKNOWN: Final = "?"
_FEW: Final = 3
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_SPANS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "m"))


def number(value: float | None) -> str:
    """``104 233``, ``0.4``, or ``?``."""
    if value is None:
        return UNKNOWN
    if isinstance(value, int) or value >= 10 or value == 0:
        return f"{round(value):,}".replace(",", " ")
    return f"{value:.1f}"


def counted(many: int, one: str, more: str) -> str:
    """``1 entry``, ``104 233 entries``."""
    return f"{number(many)} {one if many == 1 else more}"


class OfGroup(Protocol):
    """What belongs to a group on a stream."""

    @property
    def stream(self) -> str: ...

    @property
    def group(self) -> str: ...


def label(one: OfGroup) -> str:
    """``orders/billing``."""
    return f"{name(one.stream)}/{name(one.group)}"


def entries(many: int) -> str:
    """``1 entry``, ``104 233 entries``."""
    return counted(many, "entry", "entries")


def size(value: float | None) -> str:
    """``184 MB``."""
    if value is None:
        return UNKNOWN
    unit = 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 10 else f"{value:.0f} {_UNITS[unit]}"


def span(seconds: float | None) -> str:
    """``41s``, ``3m12s``, ``2d4h``."""
    if seconds is None:
        return UNKNOWN
    for at, (length, unit) in enumerate(_SPANS):
        if seconds >= length:
            smaller, name = _SPANS[at + 1] if at + 1 < len(_SPANS) else (1.0, "s")
            return f"{int(seconds // length)}{unit}{int(seconds % length // smaller)}{name}"
    return f"{seconds:.0f}s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.0f}ms"


def name(value: str, most: int = 40) -> str:
    """A stream's, group's or consumer's name: in one line, without control characters, not too long."""
    return clean(value, most)


def in_shell(*names: str) -> str:
    """Names as words of a command to be copied."""
    return " ".join(quote(name(one, 200)) for one in names)


def few(names: Iterable[str]) -> str:
    """``a, b, c``, and ``…`` if there are more."""
    first = list(islice(names, _FEW + 1))
    return ", ".join([*first[:_FEW], *(["…"] if len(first) > _FEW else [])])


def table(rows: list[list[str]], right: set[int]) -> list[str]:
    """Lines with the cells below each other; the columns in ``right`` are flushed right."""
    widths = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(pad(cell, wide, right=at in right)
                  for at, (cell, wide) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def width(text: str) -> int:
    """How many columns of a terminal printable text takes, at most."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def pad(text: str, wide: int, *, right: bool = False) -> str:
    """``text`` with spaces up to ``wide`` columns, behind it or in front of it."""
    spaces = " " * (wide - width(text))
    return spaces + text if right else text + spaces


def cut(text: str, most: int) -> str:
    """``text`` in at most ``most`` columns, with ``…`` where something is left out."""
    if width(text) <= most:
        return text
    taken = at = 0
    while at < len(text) and taken + _columns(text[at]) < most:
        taken += _columns(text[at])
        at += 1
    return text[:at] + "…" if most > 0 else ""


def moment(time: float | None, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A Unix time in seconds."""
    return UNKNOWN if time is None else datetime.fromtimestamp(time, UTC).strftime(form)


def _columns(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
