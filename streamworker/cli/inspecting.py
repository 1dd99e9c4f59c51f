"""What ``streamworker inspect`` does once its options are read."""

from __future__ import annotations

import click
import msgspec

from streamworker.cli.printing import one_line, print_json
from streamworker.ids import EntryId, written
from streamworker.logs import clean
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.shown import LetterShown
from streamworker.monitoring.whereabouts import Whereabouts, whereabouts
from streamworker.monitoring.words import in_shell, moment, name, number, size, span, table


async def inspect_now(observer: Observer, stream: str, id: EntryId, *, as_json: bool) -> int:
    """Print all about the entry; returns the exit code."""
    found = await whereabouts(observer, stream, id)
    if found is None:
        click.echo(
            f"Error: nothing knows an entry {written(id)} of stream {name(stream)}; if it is a dead letter's id: "
            f"streamworker dead show {in_shell(stream)} GROUP {written(id)}",
            err=True,
        )
        return 1
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        click.echo("\n".join(_text(found)))
    return 0


def _text(found: Whereabouts) -> list[str]:
    facts = [["entry", f"{found.id} of {name(found.stream)}"]]
    published = found.entry.published if found.entry is not None else None
    facts.append(["published", f"{moment(published)}, {span(found.age_seconds)} ago" if published else "unknown"])
    if not found.in_stream:
        copy = "this is a copy that was kept" if found.entry is not None else "nothing is left of what it said"
        facts.append(["", f"not in the stream any more: {copy}"])
    if found.entry is not None:
        facts.append(["size", size(found.entry.size)])
    lines = table(facts, set())
    if found.fields:
        fields = [[clean(key, 80), one_line(value)] for key, value in found.fields]
        lines += ["", *table([["FIELD", "VALUE"], *fields], set())]
    lines += ["", *table([["GROUP", "STATE"], *([name(one.group), one.text] for one in found.groups)], set())]
    for group in found.groups:
        for letter in group.dead_letters:
            lines += ["", *_letter(group.group, letter)]
    return lines if found.groups else [*lines, "no groups"]


def _letter(group: str, letter: LetterShown) -> list[str]:
    rows = [["dead letter", f"{clean(letter.id, 50)} of {name(group)}, {moment(letter.time)}"]]
    told = {"reason": letter.reason, "error": letter.error, "handler": letter.handler}
    rows += [[key, one_line(value)] for key, value in told.items() if value]
    return table([*rows, ["deliveries", number(letter.deliveries)]], set())
