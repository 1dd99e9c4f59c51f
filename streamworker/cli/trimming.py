"""What ``streamworker trim`` does once its options are read."""

from __future__ import annotations

from time import monotonic
from typing import Final

import click
import msgspec

from streamworker.cli.printing import agreed, print_json
from streamworker.monitoring.missing import no_stream
from streamworker.monitoring.words import entries, in_shell, name, number, size, span
from streamworker.operating import Operator
from streamworker.operating.trimming import Holder, Loss, Trimmed
from streamworker.retention import Limits

_QUIET: Final = 2.0  # seconds between two signs of progress


class TrimCommand:
    """Trims one stream and tells what came of it.

    Args:
        operator: the server.
        stream: the stream.
        limits: how much of it is kept.
        as_json: one object instead of words.
    """

    def __init__(self, operator: Operator, stream: str, limits: Limits, *, as_json: bool) -> None:
        self._operator = operator
        self._stream = stream
        self._limits = limits
        self._as_json = as_json
        self._told = monotonic()

    async def trim(self, *, force: bool) -> int:
        """Trim; returns the exit code."""
        return self._show(await self._operator.trim(self._stream, self._limits, force=force, progress=self._removed))

    async def foresee(self, *, force: bool) -> int:
        """Tell what ``trim`` would do; returns the exit code."""
        return self._show(await self._foreseen(force=force))

    async def confirmed(self) -> bool:
        """Whether force loses nothing, or the user has been told what it loses and wants that."""
        found = await self._foreseen(force=True)
        if not found.lost:
            return True
        click.echo(f"--force removes {entries(found.removed)} of {name(self._stream)}:", err=True)
        for line in _losses(found.lost, "loses"):
            click.echo(line, err=True)
        return await agreed("Remove them?")

    async def _foreseen(self, *, force: bool) -> Trimmed:
        return await self._operator.trim(self._stream, self._limits, force=force, dry_run=True, progress=self._counted)

    def _show(self, done: Trimmed) -> int:
        if not done.exists:
            raise no_stream(self._stream)
        if self._as_json:
            print_json(msgspec.to_builtins(done))
        else:
            click.echo("\n".join(self._text(done)))
        return 0 if done.kept else 1

    def _text(self, done: Trimmed) -> list[str]:
        verb, left = ("would remove", "would be left") if done.dry_run else ("removed", "left")
        memory = "" if done.dry_run or done.memory_bytes is None else f", {size(done.memory_bytes)}"
        lines = [f"{name(done.stream)}: {verb} {entries(done.removed)}, {number(done.length)} {left}{memory}"]
        lines += _losses(done.lost, "would lose" if done.dry_run else "lost")
        if done.held is not None:
            lines += _held(done.stream, done.held, "would not be" if done.dry_run else "is not")
        elif not done.kept and not done.groups:
            lines.append("nothing goes, since no group reads it, and nobody can say what is finished; --force trims it")
        elif not done.kept:
            lines.append("a limit is not kept, though nothing more can go: what groups have pending takes memory too")
        return lines

    def _removed(self, many: int) -> None:
        self._progress(f"removed {entries(many)} so far")

    def _counted(self, many: int) -> None:
        self._progress(f"counted {entries(many)} so far")

    def _progress(self, text: str) -> None:
        if monotonic() - self._told >= _QUIET:
            self._told = monotonic()
            click.echo(text, err=True)


def _losses(lost: tuple[Loss, ...], verb: str) -> list[str]:
    return [
        f"  {name(one.group)} {verb} {number(one.unread)} that it has not read, and {number(one.pending)} pending"
        for one in lost
    ]


def _held(stream: str, held: Holder, verb: str) -> list[str]:
    group = name(held.group)
    age = "" if held.age_seconds is None else f", published {span(held.age_seconds)} ago"
    if held.consumer is None:
        state = f"{held.id}{age}, has not been read"
    else:
        times = "once" if held.deliveries == 1 else f"{held.deliveries} times"
        state = f"{held.id}{age}, is pending: {name(held.consumer)} got it {span(held.idle_seconds)} ago ({times})"
    return [
        f"a limit {verb} kept: group {group} holds it back",
        f"  {state}",
        f"  {_who_lives(held)}",
        f"  if {group} is wanted: start its workers",
        f"  or let it skip what it has not read: streamworker seek {in_shell(stream, held.group)} --to end --dry-run",
        f"  if nobody needs it any more: redis-cli XGROUP DESTROY {in_shell(stream, held.group)}",
        "  or lose what it has not finished: --force; --force --dry-run says what that is",
    ]


def _who_lives(held: Holder) -> str:
    if not held.members:
        return "it has no consumer"
    living = {0: "none of its workers is alive", 1: "one of its workers is alive"}.get(
        held.workers, f"{held.workers} of its workers are alive"
    )
    return f"{living}; consumers of other programs: {held.others}" if held.others else living
