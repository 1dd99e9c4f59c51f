"""How commands print: JSON and text of what others wrote, in characters that do nothing to a terminal."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import sys
from typing import Any, NoReturn

import click

from streamworker.logs import clean
from streamworker.monitoring.shown import EntryShown
from streamworker.monitoring.words import cut


def columns() -> int:
    """How wide the terminal is; what is no terminal is as wide as anybody wants, unless COLUMNS says otherwise."""
    return shutil.get_terminal_size((10_000, 24)).columns


def print_json(value: Any) -> None:
    """One line of JSON. It is ASCII: what turns the direction of writing, lone surrogates and the like are escaped."""
    click.echo(json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f"))


def print_line(text: str, *, full: bool = False) -> None:
    """A line that is printable already, cut where the terminal ends, if it is one and not all is wanted."""
    click.echo(text if full or not sys.stdout.isatty() else cut(text, columns()))


async def agreed(question: str) -> bool:
    """Whether the user says yes; whoever interrupts it there ends the command."""
    # The loop's own way of being interrupted would come to pass only when there is an answer.
    before = signal.signal(signal.SIGINT, _unanswered)
    try:
        answer = click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
    # While nobody read from them, the server may have closed connections; the loop is told that only now.
    await asyncio.sleep(0.01)
    return answer


def _unanswered(*_: object) -> NoReturn:
    click.echo("\ninterrupted: nothing was changed", err=True)
    sys.exit(130)


def print_unattended(why: str | None) -> None:
    """Tell why nobody handles what a group was just given."""
    if why is not None:
        click.echo(f"nobody handles them yet: {why}", err=True)


def one_line(text: str, *, full: bool = False) -> str:
    """``text`` on one line, escaped; of more than 4,096 characters the beginning, if not all is wanted."""
    return clean(text, 16 * len(text) + 100) if full else clean(text)


def body_of(entry: EntryShown) -> str:
    """The body as text; what is not UTF-8 with its bytes escaped; of a flat record its fields."""
    if entry.body is not None and entry.encoding == "base64":
        return base64.b64decode(entry.body).decode(errors="backslashreplace")
    if entry.body is not None:
        return entry.body
    return " ".join(f"{name}={value}" for name, value in (entry.fields or {}).items() if name != "type")
