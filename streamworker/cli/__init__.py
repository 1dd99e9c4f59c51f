"""The command line. Nothing that a command needs is imported before it runs, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import click

from streamworker.cli.completion import completion
from streamworker.cli.dead import dead
from streamworker.cli.doctor import doctor
from streamworker.cli.ending import ending
from streamworker.cli.entries import inspect, tail
from streamworker.cli.healthcheck import healthcheck
from streamworker.cli.init import init
from streamworker.cli.project import read_defaults
from streamworker.cli.publish import publish
from streamworker.cli.run import run
from streamworker.cli.status import lag, status
from streamworker.cli.steer import claim, pause, replay, resume, seek
from streamworker.cli.top import top
from streamworker.cli.trim import trim
from streamworker.cli.workers import workers
from streamworker.errors import ConfigError, StreamworkerError

__all__ = ["main"]


class _Commands(click.Group):
    """Hands the defaults of the project to the command that is to run."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if not ctx.resilient_parsing and name != "completion" and not _is_child(rest):
            try:
                ctx.default_map = read_defaults(self)
            except ConfigError:
                if not any(word in ctx.help_option_names for word in rest):
                    raise
        return name, command, rest


def _is_child(words: list[str]) -> bool:
    """Whether a supervisor has started this: then everything is said outright, and the file may have changed."""
    return any(word.startswith("--parent-pipe=") for word in words)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="streamworker", prog_name="streamworker")
def cli() -> None:
    """Run handlers for Redis Streams.

    \b
    Write app.py:
        from streamworker import App
        app = App("billing")
        @app.on("orders")
        async def charge(order: dict) -> None:
            print(order)
    \b
    and then:
        streamworker run app:app
        streamworker publish orders '{"id": 1}'
    \b
    or let "streamworker init shop" write a project to start from.
    """


cli.add_command(init)
cli.add_command(run)
cli.add_command(publish)
cli.add_command(status)
cli.add_command(lag)
cli.add_command(top)
cli.add_command(workers)
cli.add_command(tail)
cli.add_command(inspect)
cli.add_command(dead)
cli.add_command(pause)
cli.add_command(resume)
cli.add_command(replay)
cli.add_command(seek)
cli.add_command(claim)
cli.add_command(trim)
cli.add_command(doctor)
cli.add_command(healthcheck)
cli.add_command(completion)


def main() -> None:
    """The entry point of ``streamworker``; ends the process with the exit code."""
    try:
        cli(prog_name="streamworker")
    except StreamworkerError as error:
        from streamworker.logs import for_terminal  # noqa: PLC0415  (--help loads nothing)

        text, code = ending(error)
        click.echo(for_terminal(f"Error: {text}"), err=True)
        sys.exit(code)
