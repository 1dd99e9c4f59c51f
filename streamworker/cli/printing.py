"""How commands print: JSON and text of what others wrote, in characters that do nothing to a terminal."""

from __future__ import annotations

import json
from typing import Any

import click


def print_json(value: Any) -> None:
    """One line of JSON. It is ASCII: what turns the direction of writing, lone surrogates and the like are escaped."""
    click.echo(json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f"))
