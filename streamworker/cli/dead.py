"""``streamworker dead``: the dead-letter desk: what failed and why, and putting it back, editing or dropping it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from streamworker.cli.options import option, rate_option
from streamworker.cli.watching import json_option, server_options, steering

if TYPE_CHECKING:
    from streamworker.cli.desk import DeskCommand

F = TypeVar("F", bound=Callable[..., Any])


def _choosing(command: F) -> F:
    """The options that say which letters are meant; the command gets them as ``chosen``, for a ``Selection``."""

    @functools.wraps(command)
    def choose(
        where: tuple[str, ...], since: str | None, until: str | None, type_: str | None, limit: int | None, **rest: Any
    ) -> None:
        chosen = {"where": where, "since": since, "until": until, "type": type_, "limit": limit}
        command(chosen=chosen, **rest)

    made: Any = choose
    # No variables: one that was forgotten, or is meant for publishing, would choose other letters.
    for add in (
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Of these, the N oldest at most."),
        click.option("--type", "type_", metavar="TYPE", help="Only entries of this type."),
        click.option("--until", metavar="TIME", help="Only those given up before this time, or at least so long ago."),
        click.option("--since", metavar="TIME", help="Only those given up since: 2h (ago), or 2026-11-23T14:00 (UTC)."),
        click.option(
            "--where", multiple=True, metavar="CONDITION",
            help="Only those for which this holds, as in 'error ~ Timeout'; several must hold together.",
        ),
    ):  # fmt: skip
        made = add(made)
    return cast("F", made)


def _run(redis: str | None, redis_file: Path | None, work: Callable[[DeskCommand], Awaitable[int]]) -> None:
    import anyio  # noqa: PLC0415  (--help loads nothing)

    from streamworker.cli.desk import DeskCommand  # noqa: PLC0415

    made: list[DeskCommand] = []

    async def run() -> int:
        async with steering(redis, redis_file) as (operator, _):
            made.append(DeskCommand(operator))
            return await work(made[0])

    try:
        sys.exit(anyio.run(run))
    except KeyboardInterrupt:
        for one in made:
            one.interrupted()
        sys.exit(130)


def _check_choice(ids: tuple[str, ...], chosen: dict[str, Any], *, everything: bool) -> None:
    """Whoever names nothing must say that all are meant; a limit names nothing."""
    some = ids or any(value for option, value in chosen.items() if option != "limit")
    if some and everything:
        raise click.UsageError("--all means all of them: leave it out, or what chooses some")
    if not (everything or some):
        raise click.UsageError("say which ones: by ID, --where, --since, --until or --type; or --all")


@click.group()
def dead() -> None:
    """Dead letters: what failed and why, and what becomes of it.

    A message that cannot be handled ends in the dead-letter stream of its group, with the reason and all its fields,
    and stays there until somebody decides.

    \b
    Find why these failed:             streamworker dead groups orders billing
    Look at some of them, and at one:  streamworker dead list orders billing --where 'error ~ Timeout'
                                       streamworker dead show orders billing 1795378761263-0
    Put only the time-outs back, slowly:
                                       streamworker dead redrive orders billing --where 'error ~ Timeout' --rate 50
    Mend one and put it back:          streamworker dead edit orders billing 1795378761263-0 --set data='{"id": 1}'
                                       streamworker dead redrive orders billing 1795378761263-0

    \b
    A condition is FIELD OPERATOR VALUE:
        error, error-type, reason, handler, place, traceback, consumer, edited, type, body, id, header.NAME
            ~ !~ (regular expression; (?i) in front ignores case)   = !=
        deliveries, redriven, size
            = != < <= > >=
    """


@dead.command("list", short_help="A line for each, the oldest first.")
@click.argument("stream")
@click.argument("group")
@_choosing
@json_option
@server_options
def list_(
    stream: str, group: str, chosen: dict[str, Any], as_json: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """The dead letters of GROUP on STREAM, the oldest first: 100 in a table unless --limit says more, all with --json.

    \b
    Examples:
        streamworker dead list orders billing
        streamworker dead list orders billing --where 'error ~ Timeout' --since 2h
        streamworker dead list orders billing --where 'deliveries >= 5' --json | jq .entry.body

    \b
    Exit codes:
        0  all that was asked for has been shown
        1  there is no such group
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    _run(redis, redis_file, lambda desk: desk.listed(
        stream, group, chosen, as_json=as_json
    ))  # fmt: skip


@dead.command(short_help="What they died of, counted.")
@click.argument("stream", required=False)
@click.argument("group", required=False)
@_choosing
@json_option
@server_options
def groups(
    stream: str | None, group: str | None, chosen: dict[str, Any], as_json: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """What the dead letters died of: how many by error, place and handler, the most frequent first.

    Of GROUP on STREAM, of all groups on STREAM, or of all that there are. --where takes what the columns say:
    'error-type = TimeoutError', 'place = gateway.py:88 in charge'; with ~ a part of what is cut there.

    \b
    Examples:
        streamworker dead groups
        streamworker dead groups orders billing --since 1d
        streamworker dead groups --json | jq 'select(.count > 100)'

    \b
    Exit codes:
        0  all was seen
        1  there is no such stream or group
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    _run(redis, redis_file, lambda desk: desk.groups(
        stream, group, chosen, as_json=as_json
    ))  # fmt: skip


@dead.command(short_help="All about one, with the traceback.")
@click.argument("stream")
@click.argument("group")
@click.argument("id_", metavar="ID")
@json_option
@server_options
def show(stream: str, group: str, id_: str, as_json: bool, redis: str | None, redis_file: Path | None) -> None:
    """All about one dead letter: why, the traceback, its fields, and what was done to it.

    ID is the letter's own, or that of its entry.

    \b
    Exit codes:
        0  it was found
        1  there is none
        2  usage
        3  Redis cannot be reached, or does not accept the credentials
    """
    _run(redis, redis_file, lambda desk: desk.show(stream, group, id_, as_json=as_json))


@dead.command(short_help="Give them to the group once more, byte for byte.")
@click.argument("stream")
@click.argument("group")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_choosing
@click.option("--all", "everything", is_flag=True, help="All of them.")
@rate_option()
@option("--dry-run", is_flag=True, help="Only say how many.")
@server_options
def redrive(
    stream: str, group: str, ids: tuple[str, ...], chosen: dict[str, Any], everything: bool, rate: float | None,
    dry_run: bool, redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Give dead letters to GROUP once more: to no other group, byte for byte, with a new count of deliveries.

    Those that come while it runs are left out. It may be interrupted or killed at any time, and run again: each letter
    is either still a dead letter or with the group.

    \b
    Examples:
        streamworker dead redrive orders billing 1795378761263-0
        streamworker dead redrive orders billing --where 'error ~ Timeout' --since 2h --rate 50
        streamworker dead redrive orders billing --all --dry-run

    \b
    Exit codes:
        0    all that was asked for is with the group
        1    there is no such letter or group, or one is left that holds no copy of an entry
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    _check_choice(ids, chosen, everything=everything)
    chosen["ids"] = ids
    _run(redis, redis_file, lambda desk: desk.redrive(stream, group, chosen, rate=rate, dry_run=dry_run))


@dead.command(short_help="Change fields of one, for when it is redriven.")
@click.argument("stream")
@click.argument("group")
@click.argument("id_", metavar="ID")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="What a field is to hold; repeatable.")
@click.option("--unset", multiple=True, metavar="NAME", help="A field to leave out; repeatable.")
@option("--by", metavar="WHO", help="Who does it.", show_default="user@host")
@json_option
@server_options
def edit(
    stream: str, group: str, id_: str, sets: tuple[str, ...], unset: tuple[str, ...], by: str | None, as_json: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Change fields of a dead letter's entry, for when it is redriven.

    What they held is kept with it, and who changed them and when. The letter gets a new id of its own; its entry keeps
    its id. Other groups see nothing of it.

    \b
    Examples:
        streamworker dead edit orders billing 1795378761263-0 --set data='{"id": 1}'
        streamworker dead edit orders billing 1795378761263-0 --set type=created --unset tenant

    \b
    Exit codes:
        0  done; the letter's new id is on stdout
        1  there is no such letter or group
        2  usage; or there is more than one such letter
        3  Redis cannot be reached, or does not accept the credentials
    """
    values: dict[str, bytes] = {}
    for number, word in enumerate(sets, 1):
        name, equals, value = word.partition("=")
        if not (equals and name):  # not echoed: it may be what belongs into no log
            raise click.UsageError(f"--set number {number} is not NAME=VALUE")
        values[name] = value.encode(errors="surrogateescape")
    if not (values or unset):
        raise click.UsageError("say what to change: --set NAME=VALUE or --unset NAME")
    _run(redis, redis_file, lambda desk: desk.edit(stream, group, id_, values, unset, by=by, as_json=as_json))


@dead.command(short_help="Delete them for good.")
@click.argument("stream")
@click.argument("group")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_choosing
@click.option("--all", "everything", is_flag=True, help="All of them.")
@option("--dry-run", is_flag=True, help="Only say how many.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@server_options
def drop(
    stream: str, group: str, ids: tuple[str, ...], chosen: dict[str, Any], everything: bool, dry_run: bool, yes: bool,
    redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Delete dead letters for good. Export them first, if anybody may want them.

    \b
    Examples:
        streamworker dead drop orders billing --where 'error-type = ValidationError' --until 30d
        streamworker dead drop orders billing --all --dry-run

    \b
    Exit codes:
        0    done
        1    there is no such letter or group, or the answer was no
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    _check_choice(ids, chosen, everything=everything)
    if not (dry_run or yes) and not sys.stdin.isatty():
        raise click.UsageError(
            "dropping is for good, and nobody is here to be asked: look with --dry-run, then say --yes"
        )
    chosen["ids"] = ids
    _run(redis, redis_file, lambda desk: desk.drop(stream, group, chosen, dry_run=dry_run, ask=not yes))


@dead.command(short_help="Write them as JSON, with every byte.")
@click.argument("stream")
@click.argument("group")
@_choosing
@click.option(
    "--output", "-o", type=click.Path(allow_dash=True), default="-", help="A file.", show_default="standard output"
)
@server_options
def export(
    stream: str, group: str, chosen: dict[str, Any], output: str, redis: str | None, redis_file: Path | None,
) -> None:  # fmt: skip
    """Write dead letters as JSON, one object a line: as 'list --json' does, and "raw" with all fields in base64.

    \b
    Examples:
        streamworker dead export orders billing -o letters.jsonl
        streamworker dead export orders billing --since 1d | gzip > letters.jsonl.gz

    \b
    Exit codes:
        0    all has been written; of a file, how many that were is on stderr
        1    there is no such group, or the file cannot be written
        2    usage
        3    Redis cannot be reached, or does not accept the credentials
        130  interrupted
    """
    _run(redis, redis_file, lambda desk: desk.export(stream, group, chosen, output))
