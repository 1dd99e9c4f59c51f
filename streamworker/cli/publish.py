"""``streamworker publish``: appends entries, for trying things out and for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamworker.cli.options import option, rate_option, redis_file_option, redis_option

if TYPE_CHECKING:
    from streamworker.endpoint import Endpoint


def _headers(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for number, word in enumerate(words, 1):
        name, equals, value = word.partition("=")
        if not (equals and name):  # not echoed: it may be what belongs into no log
            raise click.BadParameter(f"number {number} is not NAME=VALUE", context, parameter)
        headers[name] = value
    return headers


@click.command(short_help="Append an entry, or one for each line of a file.")
@click.argument("stream")
@click.argument("body", required=False)
@option("--type", "type_", metavar="TYPE", help="The entry's type, for handlers that say type=.")
@option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_headers,
    help="A further field of the entry; repeatable.",
)
@option("--file", metavar="FILE", type=click.Path(), help='Each line of FILE is a body; "-" is the standard input.')
@rate_option("With --file: so many a second, evenly.")
@option("--limit", type=click.IntRange(min=1), metavar="N", help="With --file: publish N at most.")
# No variable says what leaves something out: it would be forgotten there.
@click.option(
    "--skip-lines", type=click.IntRange(min=0), metavar="N", default=0, help="With --file: begin behind line N."
)
@redis_option
@redis_file_option
@click.pass_context
def publish(
    context: click.Context, /, stream: str, body: str | None, type_: str | None, headers: Mapping[str, str],
    file: str | None, rate: float | None, limit: int | None, skip_lines: int,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Append an entry with BODY to STREAM and print its id; with --file, an entry for each line of FILE.

    BODY is sent as it is; "-" reads it from the standard input.

    FILE holds JSON lines. Each is checked, sent as it is, and gets --type and --header; empty ones are left out.
    Lines of a pipe are published as they come. If it stops, by an error or by Ctrl-C, it says how many were
    published, of how many that is unknown, and with which --skip-lines it goes on without leaving one out.

    \b
    Examples:
        streamworker publish orders '{"id": 1}'
        streamworker publish orders --type created --header tenant=acme - < order.json
        streamworker publish orders --file events.jsonl --rate 100
        zcat events.jsonl.gz | streamworker publish orders --file - --limit 1000

    \b
    Exit codes:
        0    published; the id is on stdout, with --file how many
        1    Redis refused it, the connection was lost on the way, or a line is no JSON
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    _check_source(context)
    from streamworker.cli.choosing import chosen  # noqa: PLC0415  (--help loads nothing)

    if body is not None:
        import anyio  # noqa: PLC0415

        click.echo(anyio.run(_publish, stream, _text(body), type_, headers, chosen(redis, redis_file)))
        return

    from streamworker.cli.publishing import FileCommand, Order  # noqa: PLC0415

    assert file is not None
    order = Order(stream=stream, file=file, type=type_, headers=headers, rate=rate, limit=limit, skip=skip_lines)
    sys.exit(FileCommand(order).run(chosen(redis, redis_file)))


def _check_source(context: click.Context) -> None:
    """What stands in a variable or in pyproject.toml is a default, and a default contradicts nothing."""
    said = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    }
    if "body" not in said and context.params["file"] is None:
        raise click.UsageError("Missing argument 'BODY': give one, or --file FILE")
    if "body" not in said:
        return
    if "file" in said:
        raise click.UsageError("BODY and --file exclude each other: leave one of the two out")
    for one in ("rate", "limit", "skip_lines"):
        if one in said:
            raise click.UsageError(f"{said[one]} is for --file: leave it out, or give a file instead of BODY")


def _text(body: str) -> str | bytes:
    """What the shell gave, byte for byte, whatever its encoding."""
    data = sys.stdin.buffer.read() if body == "-" else os.fsencode(body)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


async def _publish(
    stream: str,
    body: str | bytes,
    type_: str | None,
    headers: Mapping[str, str],
    server: AbstractContextManager[Endpoint],
) -> str:
    from streamworker.connect import open_publisher  # noqa: PLC0415  (--help loads nothing)

    with server as where:
        publisher = await open_publisher(where.url)
        try:
            return await publisher.publish(stream, body, type=type_, headers=headers or None)
        finally:
            await publisher.close()
