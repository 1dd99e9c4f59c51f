"""Findings: what examining a server came to, as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

Level = Literal["problem", "warning", "unknown", "note", "ok"]

LEVELS: Final[tuple[Level, ...]] = ("problem", "warning", "unknown", "note", "ok")
"""From the worst to the best."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a check found.

    Attributes:
        check: the check's name.
        level: ``"problem"``: messages are lost or stand still, or soon will; ``"warning"``: they may one day;
            ``"unknown"``: it could not be looked at; ``"note"``: good to know; ``"ok"``: all is well.
        text: what it is.
        advice: what to do; empty if nothing needs doing.
        node: of which server, if there are several.
        stream, group: what it is about.
        consumers: what it is about in that group.
        fixable: whether ``Operator.fix`` can put it right.
    """

    check: str = ""
    level: Level
    text: str
    advice: str = ""
    node: str | None = None
    stream: str | None = None
    group: str | None = None
    consumers: tuple[str, ...] = ()
    fixable: bool = False


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a finding that was to be put right: whether it was, and in words."""

    finding: Finding
    done: bool
    text: str


def problem(text: str, advice: str) -> Finding:
    return Finding(level="problem", text=text, advice=advice)


def warning(text: str, advice: str, *, consumers: tuple[str, ...] = (), fixable: bool = False) -> Finding:
    return Finding(level="warning", text=text, advice=advice, consumers=consumers, fixable=fixable)


def unknown(text: str, advice: str = "") -> Finding:
    return Finding(level="unknown", text=text, advice=advice)


def note(text: str, advice: str = "") -> Finding:
    return Finding(level="note", text=text, advice=advice)


def about(found: Iterable[Finding], **what: Any) -> Iterator[Finding]:
    """The findings with their check, and what they are about."""
    return (replace(one, **what) for one in found)
