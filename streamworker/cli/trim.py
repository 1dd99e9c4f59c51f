"""``streamworker trim``: shortens a stream, but takes from no group what it has not finished."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import duration, option, size
from streamworker.cli.watching import json_option, server_options, steering


@click.command(short_help="Shorten a stream; nothing unfinished is removed.")
@click.argument("stream")
@option("--max-length", type=click.IntRange(min=0), metavar="N", help="Keep the last N entries.")
@option("--max-age", type=duration, metavar="SPAN", help="Keep what was published within SPAN: 90s, 12h, 7d, 1h30m.")
@option("--max-bytes", type=size, metavar="SIZE", help="Keep at most SIZE of the server's memory: 500MB, 1GiB.")
# No variable says what loses something: it would be forgotten there.
@click.option("--force", is_flag=True, help="Remove also what groups have not finished, after asking.")
@option("--dry-run", is_flag=True, help="Remove nothing; say what would be.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@json_option
@server_options
def trim(
    stream: str, max_length: int | None, max_age: float | None, max_bytes: int | None,
    force: bool, dry_run: bool, yes: bool, as_json: bool, redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Remove the oldest entries of STREAM, up to the limits.

    An entry goes only when every group has finished it, also groups of other programs: when each of them was given
    it, and it is pending in none. If a limit cannot be kept because of that, it says which group holds it back, and
    what to do. A stream without any group is not trimmed. Retries and dead letters have copies of their own, and lose
    nothing.

    It may be interrupted at any time and done again. On a dry run sizes are estimates.

    \b
    Examples:
        streamworker trim orders --max-length 100000
        streamworker trim orders --max-age 7d --max-bytes 2GB --dry-run
        streamworker trim orders --max-length 100000 --force
        streamworker trim orders --max-age 30d --json | jq .held.group

    \b
    Exit codes:
        0  the limits are kept
        1  a group holds a limit back, there is no such stream, or the answer to --force was no
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.trimming import TrimCommand  # noqa: PLC0415
    from streamworker.retention import Limits  # noqa: PLC0415

    limits = Limits(max_length=max_length, max_age=max_age, max_bytes=max_bytes)
    if not limits:
        raise click.UsageError(
            "trim needs a limit: --max-length N keeps the last N entries, --max-age SPAN those of the last 7d, "
            "--max-bytes SIZE as many as fit into 500MB; for example: streamworker trim orders --max-age 7d"
        )
    if force and not (dry_run or yes) and not sys.stdin.isatty():
        raise click.UsageError(
            "--force may lose what groups have not finished, and nobody is here to be asked; see what with --dry-run, "
            "and then say --yes"
        )

    async def run() -> int:
        async with steering(redis, redis_file) as (operator, _):
            trimming = TrimCommand(operator, stream, limits, as_json=as_json)
            if dry_run:
                return await trimming.foresee(force=force)
            if force and not yes and not await trimming.confirmed():
                return 1
            return await trimming.trim(force=force)

    try:
        sys.exit(anyio.run(run))
    except KeyboardInterrupt:
        sys.exit(130)
