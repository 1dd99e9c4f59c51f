"""``streamworker workers``: a line for each worker process, whichever groups it is in."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import option
from streamworker.cli.watching import json_option, observing, server_options


@click.command(short_help="Which workers there are, and what they do.")
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@json_option
@option("--all", "everybody", is_flag=True, help="Consumers of other programs too.")
@server_options
def workers(
    streams: tuple[str, ...], as_json: bool, everybody: bool, redis: str | None, redis_file: Path | None
) -> None:
    """Which workers there are, and what they are doing.

    Goes by the heartbeats that they leave on the server, of all streams or of those named. A worker that was killed
    is listed until another one has taken over what it held.

    \b
    STATE    alive; silent: no heartbeat for longer than its lease; unknown: it tells nothing that can
             be read; other: another program's
    HOST     where it runs; where nobody tells, its name in the group
    UP       since it was started
    SILENT   since its last heartbeat
    PENDING  entries it holds
    RUNS     handlers that run, as of the last heartbeat
    LONGEST  of those, the one that has been running for longest: handler, entry, for how long

    \b
    Examples:
        streamworker workers
        streamworker workers orders --json | jq 'select(.state != "alive").worker'

    \b
    Exit codes:
        0  all was seen
        1  a stream could not be seen
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.roster import workers_now  # noqa: PLC0415

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, _):
            return await workers_now(observer, streams, as_json=as_json, everybody=everybody)

    sys.exit(anyio.run(show))
