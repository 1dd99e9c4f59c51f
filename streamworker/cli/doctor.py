"""``streamworker doctor``: what is wrong with a server and its streams, or will be one day."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamworker.cli.options import option
from streamworker.cli.watching import json_option, server_options, steering

if TYPE_CHECKING:
    from streamworker.operating.doctor import Role


@click.command(short_help="What is wrong with a server, and what to do.")
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@click.option("--fix", is_flag=True, help="Put right what can be put right without harm, and tell what became of it.")
@option(
    "--role", type=click.Choice(["operator", "worker", "reader"]), default="operator",
    help="What the Redis user should be able to do; docs/security.md has these roles.",
)  # fmt: skip
@option("--verbose", "-v", is_flag=True, help="List also what is well.")
@json_option
@server_options
def doctor(
    streams: tuple[str, ...], fix: bool, role: Role, verbose: bool, as_json: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Find what is wrong with the server, its streams and groups, or will be one day; and say what to do.

    Looks at all streams, or at those named. It changes nothing without --fix.

    \b
    eviction     maxmemory, and whether the server may delete streams when it is full
    persistence  what a restart of the server loses
    version      what this server cannot do
    connections  how many there may be, and when the server cuts them
    role         whether it is a primary
    clock        whether it is right
    permissions  what the Redis user lacks for its --role
    groups       whether somebody reads them (within an hour); what is left of those that are gone
    lag          whether the server's own number is right, as KEDA believes (--fix)
    consumers    those silent for an hour, that will not come back (--fix, if they hold nothing)
    growth       streams that nothing trims; a warning from 10,000 entries or 100 MB on
    ids          ids that are ahead of the server's clock
    keys         names whose keys would lie in other slots of a Cluster

    \b
    Levels:
        problem  messages are lost or stand still, or soon will
        warning  they may one day
        unknown  this user may not look
        note     good to know

    \b
    Examples:
        streamworker doctor
        streamworker doctor orders --fix
        streamworker doctor orders --role worker --redis-file /run/secrets/worker-url
        streamworker doctor --json | jq 'select(.level == "problem")'

    \b
    Exit codes:
        0  no problem and no warning, or all of them were put right
        1  there are some
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.examining import DoctorCommand  # noqa: PLC0415

    async def run() -> int:
        async with steering(redis, redis_file) as (operator, where):
            command = DoctorCommand(operator, where.masked, as_json=as_json, verbose=verbose)
            return await command.examine(streams or None, role, fix=fix)

    try:
        sys.exit(anyio.run(run))
    except KeyboardInterrupt:
        sys.exit(130)
