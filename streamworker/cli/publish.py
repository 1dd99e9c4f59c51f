"""``streamworker publish``: appends one entry, for trying things out and for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from streamworker.cli.options import option, redis_option


def _headers(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name):
            raise click.BadParameter(f"{word!r} is not name=value", context, parameter)
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
def publish(stream: str, body: str, type_: str | None, headers: Mapping[str, str], redis: str | None) -> None:
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

    # What the shell gave, byte for byte, whatever its encoding.
    data = sys.stdin.buffer.read() if body == "-" else os.fsencode(body)
    text: str | bytes
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data
    click.echo(anyio.run(_publish, stream, text, type_, headers, redis))


async def _publish(
    stream: str, body: str | bytes, type_: str | None, headers: Mapping[str, str], redis: str | None
) -> str:
    from streamworker.connect import open_publisher  # noqa: PLC0415  (--help loads nothing)
    from streamworker.endpoint import endpoint  # noqa: PLC0415

    with endpoint(redis, []) as where:
        publisher = await open_publisher(where.url)
        try:
            return await publisher.publish(stream, body, type=type_, headers=headers or None)
        finally:
            await publisher.close()
