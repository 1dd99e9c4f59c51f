"""How dead letters look in a terminal: a line for each, a line for those of one cause, all about one."""

from __future__ import annotations

from typing import Final

from streamworker.cli.printing import one_line
from streamworker.logs import clean, for_terminal
from streamworker.monitoring.shown import LetterShown, short_place, why
from streamworker.monitoring.words import counted, label, moment, number, table
from streamworker.operating.desk import LetterGroup

_TIME: Final = "%m-%d %H:%M:%S"


def letters_table(letters: list[LetterShown]) -> str:
    """A line for each."""
    return "\n".join(table([["ID", "DIED", "DLV", "HANDLER", "ENTRY", "WHY"], *map(_row, letters)], {2}))


def causes_table(causes: list[LetterGroup]) -> str:
    """A line for each cause, the most frequent first."""
    rows = [["COUNT", "GROUP", "ERROR-TYPE", "PLACE", "HANDLER", "LAST", "EXAMPLE"]]
    rows += map(_cause_row, sorted(causes, key=lambda one: -one.count))
    return "\n".join(table(rows, {0}))


def letters(many: int) -> str:
    """``1 dead letter``, ``5 000 dead letters``."""
    return counted(many, "dead letter", "dead letters")


def letter_text(letter: LetterShown) -> str:
    """All about it."""
    facts = [
        ["dead letter", letter.id],
        ["died", moment(letter.time)],
        ["why", why(letter)],
        ["place", clean(letter.place or "-")],
        ["handler", clean(letter.handler or "-")],
        ["deliveries", number(letter.deliveries)],
        ["consumer", clean(letter.consumer or "-")],
        ["redriven", number(letter.redriven)],
        ["entry", f"{clean(letter.entry.id, 50)}, published {moment(letter.entry.published)}"],
        ["type", clean(letter.entry.type or "-")],
    ]
    facts += [[f"header {clean(key, 80)}", one_line(value)] for key, value in letter.entry.headers.items()]
    if letter.entry.body is not None:
        facts.append(["body", one_line(letter.entry.body)])
    facts += [[clean(key, 80), one_line(value)] for key, value in (letter.entry.fields or {}).items()]
    if letter.edited is not None:
        facts.append(["edited", clean(letter.edited)])
        facts += [[f"was {clean(key, 80)}", one_line(value)] for key, value in letter.was.items()]
    lines = table(facts, set())
    return "\n".join([*lines, "", for_terminal(letter.traceback)] if letter.traceback else lines)


def _row(letter: LetterShown) -> list[str]:
    return [
        letter.id, moment(letter.time, _TIME), number(letter.deliveries), clean(letter.handler or "-", 30),
        clean(letter.entry.id, 50), why(letter)[:100],
    ]  # fmt: skip


def _cause_row(one: LetterGroup) -> list[str]:
    return [
        number(one.count), label(one), clean(one.error_type, 40), clean(short_place(one.place) or "-", 50),
        clean(one.handler or "-", 30), moment(one.last, _TIME), one.example.id,
    ]  # fmt: skip
