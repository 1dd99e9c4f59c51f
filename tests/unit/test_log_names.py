"""docs/logs.md: every event of the code with its level, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import streamworker

PACKAGE = Path(streamworker.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "logs.md"
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def documented() -> dict[str, set[str]]:
    """The levels of each event."""
    found: dict[str, set[str]] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            for name in re.findall(r"`(.*?)`", cells[0]):
                found.setdefault(name, set()).update(re.findall(r"\w+", cells[1]))
    return found


def strings_in(node: ast.AST) -> list[str]:
    return [
        one.value
        for one in ast.walk(node)
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and EVENT.fullmatch(one.value)
    ]


def in_call(node: ast.Call) -> list[tuple[str, str]]:
    """The events that a call logs, with their levels: one of ``log.LEVEL``, of ``Outage`` or of ``_say``."""
    if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "log":
        return [(name, node.func.attr) for name in strings_in(node.args[0])]
    match getattr(node.func, "id", ""):
        case "Outage":
            return [(ast.literal_eval(node.args[0]), "warning"), (ast.literal_eval(node.args[1]), "info")]
        case "_say":
            return [(ast.literal_eval(node.args[1]), ast.literal_eval(node.args[0]))]
    return []


def in_code() -> dict[str, set[str]]:
    """The events that are logged, with their levels."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
        events = [event for node in calls for event in in_call(node)]
        if path.name == "failing.py":  # the event depends on the outcome; a message that was handled is not logged
            names = [name for name in strings_in(tree) if name.startswith("message.") and name != "message.handled"]
            events += [(name, "warning") for name in names]
        for name, level in events:
            found.setdefault(name, set()).add(level)
    return found


def test_every_event_is_documented_with_its_level_and_nothing_else_is() -> None:
    told, logged = documented(), in_code()
    assert set(told) == set(logged)
    assert {name: levels for name, levels in told.items() if logged[name] != levels} == {}
    assert len(logged) > 30
