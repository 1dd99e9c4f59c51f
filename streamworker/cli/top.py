"""``streamworker top``: the status as a live picture of the terminal's size."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import option, seconds
from streamworker.cli.watching import observing, server_options


@click.command(short_help="How far behind groups are, live.")
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@option("--interval", type=seconds, default=1.0, help="Seconds between two looks, over which rates are measured.")
@server_options
def top(streams: tuple[str, ...], interval: float, redis: str | None, redis_file: Path | None) -> None:
    """How far behind each group is and how fast it is, live.

    A line for each group of all streams, or of those named; then the workers and what has been running for longest;
    then what should be looked at. The bars are the last looks at the lag, each group by its own highest. While
    Redis is away the last picture stays, and says so. Without a terminal it is 'status --watch'.

    \b
    Keys:
        q  quits
        s  sorts by lag, by name, by dead letters
        p  freezes the picture, and lets it go on

    \b
    Exit codes:
        0    q
        1    nothing may be looked at
        2    usage
        3    Redis cannot be reached at the start, or does not accept the credentials
        128+ the number of the signal that ended it
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.live import Live  # noqa: PLC0415
    from streamworker.cli.looking import Looking  # noqa: PLC0415

    if interval < 0.1:
        raise click.UsageError("--interval must be 0.1 or more")

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, where):
            if sys.stdout.isatty():
                return await Live(observer, where.masked, streams, interval).show()
            return await Looking(observer, where.masked, streams, interval).show(as_json=False, watch=True)

    sys.exit(anyio.run(show))
