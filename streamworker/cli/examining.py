"""What ``streamworker doctor`` does once its options are read."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import click
import msgspec

from streamworker.cli.looking import server_of
from streamworker.cli.printing import columns, print_json
from streamworker.logs import clean
from streamworker.monitoring.words import counted, name
from streamworker.operating import Operator
from streamworker.operating.doctor import Role
from streamworker.operating.findings import LEVELS, Finding, Fixed, Level

_BAD: Final = ("problem", "warning")
_COLORS: Final[dict[Level, str]] = {"problem": "red", "warning": "yellow", "unknown": "cyan", "ok": "green"}
_INDENT: Final = 23  # columns: the level, the check
_WIDEST: Final = 110


class DoctorCommand:
    """Examines a server and tells what was found.

    Args:
        operator: the server.
        where: its address, as it may be shown.
        as_json: one object for each finding instead of words.
        verbose: tell also what is well.
    """

    def __init__(self, operator: Operator, where: str, *, as_json: bool, verbose: bool) -> None:
        self._operator = operator
        self._where = where
        self._as_json = as_json
        self._verbose = verbose

    async def examine(self, streams: Sequence[str] | None, role: Role, *, fix: bool) -> int:
        """Examine and, if wanted, fix; returns the exit code."""
        found = await self._operator.examine(streams, role=role)
        fixed = {one.finding: one for one in await self._operator.fix(found)} if fix else {}
        if self._as_json:
            for one in found:
                print_json({**msgspec.to_builtins(one), **_became_of(fixed.get(one))})
        else:
            await self._tell(found, fixed)
        return 1 if any(one.level in _BAD and not (one in fixed and fixed[one].done) for one in found) else 0

    async def _tell(self, found: Sequence[Finding], fixed: dict[Finding, Fixed]) -> None:
        server = await server_of(self._operator.observer)
        words = [f"{server.name} {server.version}"] if server is not None else []
        click.echo(clean(" · ".join([*words, self._where])))
        for one in found:
            if one.level != "ok" or self._verbose:
                self._tell_one(one, fixed.get(one))
        counts = {level: sum(one.level == level for one in found) for level in LEVELS}
        told = [counted(counts[level], level, f"{level}s") for level in LEVELS[:2] + LEVELS[3:4] if counts[level]]
        told += [f"{counts['unknown']} unknown"] if counts["unknown"] else []
        done = [f"{sum(one.done for one in fixed.values())} fixed"] if fixed else []
        click.echo(", ".join([*told, f"{counts['ok']} well", *done]))

    @staticmethod
    def _tell_one(one: Finding, fixed: Fixed | None) -> None:
        style = click.style(f"{one.level:<8}", fg=_COLORS.get(one.level), bold=one.level == "problem")
        text = f"{_subject(one)}{one.text}"
        lines = _wrapped(text)
        click.echo(f"{style}  {one.check:<13}{lines[0].lstrip()}")
        for line in lines[1:]:
            click.echo(line)
        if fixed is not None:
            state = click.style("fixed", fg="green") if fixed.done else click.style("not fixed", fg="red")
            click.echo(f"{'':{_INDENT}}{state}: {clean(fixed.text, 300)}")
        elif one.advice:
            for line in _wrapped(f"→ {one.advice}"):
                click.echo(line)


def _subject(one: Finding) -> str:
    if one.node is not None:
        return f"{one.node}: "
    if one.stream is None:
        return ""
    return f"{name(one.stream)}/{name(one.group)}: " if one.group is not None else f"{name(one.stream)}: "


def _wrapped(text: str) -> list[str]:
    width = min(_WIDEST, columns())
    margin = " " * _INDENT
    return textwrap.wrap(
        clean(text, 1000), max(width, _INDENT + 40), initial_indent=margin, subsequent_indent=margin,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _became_of(fixed: Fixed | None) -> dict[str, object]:
    return {"fixed": None if fixed is None else fixed.done, "fix": None if fixed is None else fixed.text}
