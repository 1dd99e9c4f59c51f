"""``streamworker healthcheck``: for a container's HEALTHCHECK; looks at the workers, never at Redis."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamworker.cli.options import health_dir_option, option


@click.command(short_help="Whether the workers on this machine are alive.")
@option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    help="Seconds since the last turn of a worker's event loop from which on it counts as stuck.",
)
@health_dir_option
def healthcheck(max_age: float, health_dir: Path | None) -> None:
    """Say whether the workers on this machine are alive.

    Exits with 0 if at least one worker process runs and the event loop of each turns, else with 1 and the
    reason on stderr. Redis is not asked: an outage of Redis is no reason to restart its workers.
    """
    from streamworker.alive import default_folder, sick  # noqa: PLC0415  (--help loads nothing)

    reason = sick(health_dir or default_folder(), max_age)
    if reason is not None:
        click.echo(f"unhealthy: {reason}", err=True)
        sys.exit(1)
    click.echo("healthy")
