"""``streamworker publish``: appends one entry, for trying things out and for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamworker.cli.options import option, redis_file_option, redis_option

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


@click.command()
@click.argument("stream")
@click.argument("body")
@option("--type", "type_", metavar="TYPE", help="The entry's type, for handlers that say type=.")
@option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_headers,
    help="A further field of the entry; repeatable.",
)
@redis_option
@redis_file_option
def publish(
    stream: str, body: str, type_: str | None, headers: Mapping[str, str], redis: str | None, redis_file: Path | None
) -> None:
    """Append an entry with BODY to STREAM and print its id.

    BODY is sent as it is; "-" reads it from the standard input.

    \b
    Examples:
        streamworker publish orders '{"id": 1}'
        streamworker publish orders --type created --header tenant=acme - < order.json

    \b
    Exit codes:
        0  published; its id is on stdout
        1  Redis refused it, or the connection was lost on the way
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.choosing import chosen  # noqa: PLC0415

    # What the shell gave, byte for byte, whatever its encoding.
    data = sys.stdin.buffer.read() if body == "-" else os.fsencode(body)
    text: str | bytes
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data
    click.echo(anyio.run(_publish, stream, text, type_, headers, chosen(redis, redis_file)))


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
