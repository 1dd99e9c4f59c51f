"""``streamworker tail``: the last entries of a stream and those that come; and ``inspect``: all about one of them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import option
from streamworker.cli.watching import json_option, observing, server_options


@click.command(short_help="The last entries of a stream, and those that come.")
@click.argument("stream")
@option("--last", "-n", "last", type=click.IntRange(min=0), default=10, help="How many of those that are there.")
@option("--follow/--no-follow", default=True, help="Go on with new ones until interrupted.")
@option("--dead", metavar="GROUP", help="The dead letters of this group instead.")
@option("--full", is_flag=True, help="Whole entries, not cut at the terminal's width or 4,096 characters.")
@json_option
@server_options
def tail(
    stream: str, last: int, follow: bool, dead: str | None, full: bool, as_json: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """The last entries of STREAM, one a line, and then those that are published.

    A line has the id, the time in it (UTC), the type, headers and the body; of a dead letter its own id and
    time, the reason, the error, and the entry. What a terminal would obey is escaped. While Redis is away it waits,
    and then goes on where it was.

    \b
    Examples:
        streamworker tail orders
        streamworker tail orders -n 100 --no-follow --json | jq .body
        streamworker tail orders --dead billing

    \b
    Exit codes:
        0    all that was asked for has been shown
        1    there is no such stream, or it may not be read
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.tailing import Tail  # noqa: PLC0415

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, _):
            return await Tail(observer, stream, dead, as_json=as_json, full=full).show(last, follow=follow)

    try:
        sys.exit(anyio.run(show))
    except KeyboardInterrupt:
        sys.exit(130)


@click.command(short_help="All about one entry, and what has become of it.")
@click.argument("stream")
@click.argument("id_", metavar="ID")
@json_option
@server_options
def inspect(stream: str, id_: str, as_json: bool, redis: str | None, redis_file: Path | None) -> None:
    """All about the entry ID of STREAM: what it says, and what has become of it in each group.

    It is found also when it was trimmed, as long as a retry or a dead letter keeps a copy. Of a group's dead letters
    and due retries 10,000 each are looked through.

    \b
    Examples:
        streamworker inspect orders 1795378761263-0
        streamworker inspect orders 1795378761263-0 --json | jq '.groups[] | {group, state}'

    \b
    Exit codes:
        0  it was found
        1  nothing knows it
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.inspecting import inspect_now  # noqa: PLC0415
    from streamworker.monitoring.shown import entry_id  # noqa: PLC0415

    id = entry_id(id_)
    if id is None:
        raise click.UsageError("ID is not an entry's id: write milliseconds-sequence, as in 1795378761263-0")

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, _):
            return await inspect_now(observer, stream, id, as_json=as_json)

    sys.exit(anyio.run(show))
