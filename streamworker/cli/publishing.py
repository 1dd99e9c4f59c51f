"""What ``streamworker publish --file`` does once its options are read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import anyio
import click

from streamworker.body import decoder
from streamworker.broker import Publisher
from streamworker.cli.ending import CRASHED
from streamworker.cli.lines import Line, Lines, LineTooLong
from streamworker.connect import open_publisher
from streamworker.endpoint import Endpoint
from streamworker.errors import ConfigError, PublishFailed, UndecodableBody
from streamworker.logs import clean, for_terminal
from streamworker.monitoring.words import entries, name, number
from streamworker.operating.pace import Pace

_BATCH: Final = 500  # lines
_is_json: Final = decoder(Any, "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line said; see the options."""

    stream: str
    file: str
    type: str | None
    headers: Mapping[str, str]
    rate: float | None
    limit: int | None
    skip: int


class FileCommand:
    """Publishes each line of a file, and knows at any time how far it has come.

    Args:
        order: what is wanted.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._file = "the standard input" if order.file == "-" else clean(order.file)
        self._pace = Pace(order.rate)
        self._published = 0
        self._unknown = 0
        self._done_up_to = order.skip  # the line up to which nothing is missing
        self._doubles = False  # whether something behind that line was, or may have been, written
        self._ended = False

    def run(self, server: AbstractContextManager[Endpoint]) -> int:
        """Publish, and tell what came of it; returns the exit code."""
        try:
            with _opened(self._order.file) as file:  # outside of the event loop: a named pipe may let it wait for long
                return anyio.run(self._run, file, server)
        except KeyboardInterrupt:
            click.echo(f"interrupted: {self._so_far()}; {self._next()}", err=True)
            return 130

    async def _run(self, file: BinaryIO, server: AbstractContextManager[Endpoint]) -> int:
        with server as where:
            publisher = await open_publisher(where.url)
            try:
                lines = Lines(file.fileno(), self._order.skip)
                with self._progress(lines.size, shown=not file.isatty()) as progress:
                    await self._publish(lines, publisher, progress)
            except PublishFailed as error:
                return self._failed(error.reason, self._next())
            except OSError as error:
                return self._failed(f"{self._file} cannot be read: {error.strerror}", self._next())
            except _WrongLine as error:
                return self._failed(f"line {error.line} of {self._file} {error.why}", self._mend(error.line))
            finally:
                await publisher.close()
        rest = "" if self._ended else f"; {self._next()}"
        click.echo(f"{self._count()} published to {name(self._order.stream)}{rest}")
        return 0

    async def _publish(self, lines: Lines, publisher: Publisher, progress: Callable[[int], object]) -> None:
        most = self._pace.share(_BATCH)
        while room := most if self._order.limit is None else min(most, self._order.limit - self._published):
            try:
                found = await lines.some(room)
            except LineTooLong as error:
                raise _WrongLine(error.number, str(error)) from None
            if not found:
                self._ended = True
                return
            right, wrong = _checked(found)
            if right:
                await self._pace.wait(len(right))
                await self._send(publisher, right)
                progress(right[-1].end)
            if wrong is not None:
                raise wrong

    async def _send(self, publisher: Publisher, batch: Sequence[Line]) -> None:
        order = self._order
        bodies = [line.text.decode() for line in batch]  # as text, which needs no content-type
        self._unknown = len(batch)
        sending = asyncio.ensure_future(
            publisher.publish_many(order.stream, bodies, type=order.type, headers=order.headers or None)
        )
        sending.add_done_callback(lambda _: self._account(batch, sending))
        await asyncio.shield(sending)  # after Ctrl-C the server has until the publisher is closed to answer

    def _account(self, batch: Sequence[Line], sent: asyncio.Future[int]) -> None:
        if sent.cancelled():  # by the second Ctrl-C: all of it stays unknown
            return
        error = sent.exception()
        if isinstance(error, PublishFailed):
            published, unknown, leading = error.published, error.unknown, error.leading
        else:
            published = leading = len(batch) if error is None else 0
            unknown = 0
        self._published += published
        self._unknown = unknown
        self._doubles = unknown > 0 or published > leading
        if leading:
            self._done_up_to = batch[leading - 1].number

    def _failed(self, why: str, what_now: str) -> int:
        click.echo(for_terminal(f"Error: {why}\n{self._so_far()}; {what_now}"), err=True)
        return CRASHED

    def _count(self) -> str:
        return entries(self._published)

    def _so_far(self) -> str:
        return f"{self._count()} published, {number(self._unknown)} unknown"

    def _next(self) -> str:
        twice = ", which may write some twice" if self._doubles or self._unknown else ""
        return f"--skip-lines {self._done_up_to} goes on with line {self._done_up_to + 1}{twice}"

    def _mend(self, line: int) -> str:
        return f"mend it and go on with --skip-lines {self._done_up_to}, or leave it out with --skip-lines {line}"

    @contextmanager
    def _progress(self, size: int | None, *, shown: bool) -> Iterator[Callable[[int], object]]:
        """A bar, or where the end is not known a count, on a terminal; nothing elsewhere, nor where lines are typed."""
        if not (shown and sys.stderr.isatty()):
            yield bool
            return
        label = f"publishing to {name(self._order.stream)}"
        with click.progressbar(
            iter(int, 1),  # has no length, and is not asked for anything
            length=size,
            label=label,
            bar_template="%(label)s  %(info)s" if size is None else "%(label)s  [%(bar)s]  %(info)s",
            item_show_func=lambda _: self._count(),
            file=sys.stderr,
        ) as bar:
            yield lambda end: bar.update(end - bar.pos)


class _WrongLine(Exception):
    """What is not published, nor anything behind it."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line = line
        self.why = why


def _checked(found: Sequence[Line]) -> tuple[Sequence[Line], _WrongLine | None]:
    """The lines before the first that is no JSON, and what is wrong with that one."""
    for at, line in enumerate(found):
        try:
            _is_json([b"data", line.text])
        except UndecodableBody as error:
            return found[:at], _WrongLine(line.number, f"is no JSON: {error}; each line must be one JSON value")
    return found, None


def _opened(file: str) -> BinaryIO:
    try:
        # Unbuffered: what is read must be what the event loop waits for.
        return open(0 if file == "-" else file, "rb", buffering=0, closefd=file != "-")
    except OSError as error:
        raise ConfigError(f"--file {clean(file)}: {error.strerror}") from None
