"""What ``streamworker workers`` does once its options are read."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from streamworker.cli.printing import print_json, print_line
from streamworker.logs import clean
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.fleet import WorkerStatus, workers_of
from streamworker.monitoring.snapshots import status
from streamworker.monitoring.status import Running
from streamworker.monitoring.words import UNKNOWN, name, number, span, table

_COLUMNS = ["STATE", "HOST", "PID", "VERSION", "UP", "SILENT", "PENDING", "GROUPS", "RUNS", "LONGEST"]
_RIGHT = {2, 4, 5, 6, 7, 8}


async def workers_now(observer: Observer, streams: Sequence[str], *, as_json: bool, everybody: bool) -> int:
    """Print the workers of ``streams``, or of all; returns the exit code."""
    seen = await status(observer, streams or None, over=0.0)
    found = [one for one in workers_of(seen) if everybody or one.state != "other"]
    if as_json:
        for one in found:
            print_json({"at": seen.at, **msgspec.to_builtins(one)})
    elif found:
        for line in table([_COLUMNS, *map(_row, found)], _RIGHT):
            print_line(line)
    else:
        click.echo("no workers")
    for stream, text in seen.errors.items():
        click.echo(f"{name(stream)} cannot be seen: {clean(text)}", err=True)
    return 1 if seen.errors else 0


def longest_of(running: Sequence[Running]) -> str:
    """The handler that has been running for longest."""
    if not running:
        return "-"
    return f"{name(running[0].handler)} {clean(running[0].id, 50)} for {span(running[0].seconds)}"


def _row(worker: WorkerStatus) -> list[str]:
    return [
        worker.state,
        name(worker.worker if worker.host is None else worker.host),
        UNKNOWN if worker.pid is None else str(worker.pid),
        UNKNOWN if worker.version is None else name(worker.version),
        span(worker.uptime_seconds),
        span(worker.silent_seconds),
        number(worker.pending),
        str(len(worker.groups)),
        number(worker.running),
        longest_of(worker.longest),
    ]
