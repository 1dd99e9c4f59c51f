"""``streamworker pause``, ``resume``, ``replay``, ``seek`` and ``claim``: what a group reads, and whether."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamworker.cli.options import option, rate_option
from streamworker.cli.watching import server_options, steering

if TYPE_CHECKING:
    from streamworker.operating.controls import Controls

# What says which entries are meant has no variable: one that was forgotten would mean others.
_PLACE = "PLACE"


def _run(
    redis: str | None, redis_file: Path | None, stream: str, group: str, work: Callable[[Controls], Awaitable[int]]
) -> None:
    import anyio  # noqa: PLC0415  (--help loads nothing)

    async def run() -> int:
        async with steering(redis, redis_file) as (operator, _):
            return await work(operator.group(stream, group))

    try:
        sys.exit(anyio.run(run))
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)


@click.command(short_help="Stop a group from reading, until 'resume'.")
@click.argument("stream")
@click.argument("group")
@option("--by", metavar="WHO", help="Who does it; 'status' shows it.", show_default="user@host")
@server_options
def pause(stream: str, group: str, by: str | None, redis: str | None, redis_file: Path | None) -> None:
    """Stop all workers of GROUP from reading STREAM, within a second, until 'resume'.

    What they hold already is finished. The pause is kept on the server: workers that are started later keep it as well.

    \b
    Examples:
        streamworker pause orders billing
        streamworker resume orders billing

    \b
    Exit codes:
        0  paused, now or before
        1  there is no such group
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    from streamworker.cli.steering import pause_now  # noqa: PLC0415  (--help loads nothing)

    _run(redis, redis_file, stream, group, lambda controls: pause_now(controls, by))


@click.command(short_help="Let a paused group read again.")
@click.argument("stream")
@click.argument("group")
@server_options
def resume(stream: str, group: str, redis: str | None, redis_file: Path | None) -> None:
    """Let the workers of GROUP read STREAM again, within a second.

    \b
    Exit codes:
        0  resumed, or it was not paused
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    from streamworker.cli.steering import resume_now  # noqa: PLC0415  (--help loads nothing)

    _run(redis, redis_file, stream, group, resume_now)


@click.command(short_help="Give a range of a stream to one group again.")
@click.argument("stream")
@click.argument("group")
@click.option(
    "--from", "first", required=True, metavar=_PLACE, help="beginning, an id, a time (2026-11-23T14:00), or 2h (ago)."
)
@click.option(
    "--to", "last", default="end", show_default=True, metavar=_PLACE, help="The last one, written in the same way."
)
@click.option("--type", "type_", metavar="TYPE", help="Only entries of this type.")
@rate_option()
@option("--dry-run", is_flag=True, help="Only say how many.")
@click.option("--restart", is_flag=True, help="Begin anew where an earlier replay of this range was interrupted.")
@server_options
def replay(
    stream: str, group: str, first: str, last: str, type_: str | None, rate: float | None, dry_run: bool,
    restart: bool, redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Give a range of STREAM to GROUP again, and to no other group.

    Each entry that is still in the stream is handled once more, with a new count of deliveries, beside what is read
    meanwhile. Entries that the group has not read yet, or has pending, are left out: they are handled anyway. A retry
    that waits is not noticed: its entry comes twice.

    It may be interrupted or killed at any time: until it has come to its end, it goes on where it was with the same
    --from and --type. "2h" is another place each time: to be able to go on, name an id or a date.

    \b
    Examples:
        streamworker replay orders billing --from 2026-11-23T14:00 --to 2026-11-23T15:00 --dry-run
        streamworker replay orders billing --from 1795378761263-0 --type created --rate 200

    \b
    Exit codes:
        0    all of it is with the group
        1    there is no such group
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    from streamworker.cli.steering import replay_now  # noqa: PLC0415  (--help loads nothing)

    _run(redis, redis_file, stream, group, lambda controls: replay_now(
        controls, (first, last, type_), rate=rate, dry_run=dry_run, restart=restart
    ))  # fmt: skip


@click.command(short_help="Let a group read on somewhere else in its stream.")
@click.argument("stream")
@click.argument("group")
@click.option(
    "--to", required=True, metavar=_PLACE, help="beginning, end, an id, a time (2026-11-23T14:00), or 2h (ago)."
)
@option("--dry-run", is_flag=True, help="Only say what it means.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@server_options
def seek(
    stream: str, group: str, to: str, dry_run: bool, yes: bool, redis: str | None, redis_file: Path | None
) -> None:
    """Let GROUP read on somewhere else in STREAM, with the entry at this place.

    Forward, it skips what it has not read. Back, it is given everything from there on once more, which is refused while
    something behind the place is pending; 'replay' is gentler. Retries and dead letters stay what they are.

    \b
    Examples:
        streamworker seek orders billing --to end --dry-run
        streamworker seek orders billing --to 2026-11-23T14:00

    \b
    Exit codes:
        0    it reads on there
        1    there is no such group, or the answer was no
        2    usage; or it cannot go back
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    from streamworker.cli.steering import seek_now  # noqa: PLC0415  (--help loads nothing)

    if not (dry_run or yes) and not sys.stdin.isatty():
        raise click.UsageError("a seek skips or repeats entries, and nobody is here to be asked: --dry-run, then --yes")
    _run(redis, redis_file, stream, group, lambda controls: seek_now(controls, to, dry_run=dry_run, ask=not yes))


@click.command(short_help="Free what a consumer holds for the workers, now.")
@click.argument("stream")
@click.argument("group")
@click.argument("consumer")
@click.option("--force", is_flag=True, help="Even if it is alive: what it runs is then handled twice.")
@server_options
def claim(stream: str, group: str, consumer: str, force: bool, redis: str | None, redis_file: Path | None) -> None:
    """Let the workers of GROUP take what CONSUMER holds now, instead of waiting until it is taken for dead.

    For consumers that will not come back, of workers that were killed and of other programs. A worker counts as alive
    until its lease is over. 'workers --all' and 'status --json' name them.

    \b
    Exit codes:
        0  the workers take it
        1  there is no such group or consumer
        2  usage; or it is alive
        3  Redis cannot be reached, or does not accept the credentials
    """
    from streamworker.cli.steering import claim_now  # noqa: PLC0415  (--help loads nothing)

    _run(redis, redis_file, stream, group, lambda controls: claim_now(controls, consumer, force=force))
