"""``streamworker status``: a table of streams and groups, or JSON, or a check for scripts; and ``lag``, one number."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import option, seconds
from streamworker.cli.watching import json_option, observing, server_options


@click.command(short_help="How far behind groups are, and how fast.")
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@json_option
@option("--watch", is_flag=True, help="Again and again, until interrupted.")
@option(
    "--interval", type=seconds, default=1.0,
    help="Seconds over which rates are measured, and between two looks of --watch; 0 leaves out the rates.",
)  # fmt: skip
@option("--check", is_flag=True, help="Say nothing but which limits are exceeded; exit with 1 if one is.")
@option("--max-lag", type=click.IntRange(min=0), help="For --check: entries a group may be behind.")
@option("--max-lag-seconds", type=seconds, help="For --check: how old its first unread entry may be.")
@option("--max-dead", type=click.IntRange(min=0), help="For --check: dead letters a group may have.")
@server_options
def status(
    streams: tuple[str, ...], as_json: bool, watch: bool, interval: float, check: bool,
    max_lag: int | None, max_lag_seconds: float | None, max_dead: int | None,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """How far behind each group is, how fast it is, and what its stream takes.

    Tells of all streams of the server, or of those named, and of all their groups, whoever made them.

    \b
    LAG      entries the group has not been given; * counted, since the server's number is missing or
             wrong; + at least so many
    AGE      of the first of them
    PENDING  delivered and not acknowledged, and how often the oldest of them was delivered
    RETRY    retries that wait
    ACK/s    entries settled in a second
    DRAINED  when the lag is gone, at this speed
    DEAD     dead letters

    \b
    Examples:
        streamworker status
        streamworker status orders --watch
        streamworker status --json | jq 'select(.stream == "orders").groups[].lag'
        streamworker status --check --max-lag 10000 --max-lag-seconds 60 --max-dead 0

    \b
    Exit codes:
        0  all was seen; with --check: all limits are kept
        1  a stream could not be seen; with --check: a limit is exceeded, or nobody can say that it is not
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.looking import Looking  # noqa: PLC0415
    from streamworker.monitoring.remarks import Limits  # noqa: PLC0415

    limits = Limits(lag=max_lag, lag_seconds=max_lag_seconds, dead=max_dead)
    given = [one for one in (max_lag, max_lag_seconds, max_dead) if one is not None]
    if check and not given:
        raise click.UsageError("--check needs a limit: --max-lag, --max-lag-seconds or --max-dead")
    if given and not check:
        raise click.UsageError("limits are for --check")
    if check and (watch or as_json):
        raise click.UsageError("--check looks once, and says what is wrong in words")

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, where):
            looking = Looking(observer, where.masked, streams, interval)
            if check:
                return await looking.check(limits)
            return await looking.show(as_json=as_json, watch=watch)

    sys.exit(anyio.run(show))


@click.command(short_help="How far behind one group is, as one number.")
@click.argument("stream")
@click.argument("group")
@server_options
def lag(stream: str, group: str, redis: str | None, redis_file: Path | None) -> None:
    """Print how many entries of STREAM GROUP has not been given yet: one number.

    Of more than 100,000 entries that the server cannot tell, it prints 100000 and says so on stderr.

    \b
    Exit codes:
        0  it is on stdout
        1  there is no such stream or group
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.looking import lag_now  # noqa: PLC0415

    async def show() -> int:
        async with observing(redis, redis_file) as (observer, _):
            return await lag_now(observer, stream, group)

    sys.exit(anyio.run(show))
