"""``streamworker init``: a project to start from."""

from __future__ import annotations

from pathlib import Path

import click

from streamworker.cli.options import option


@click.command(short_help="Write a project to start from.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@option("--name", metavar="NAME", show_default="the folder's name", help="The project, and its consumer group.")
# No variable says what loses something: it would be forgotten there.
@click.option("--force", is_flag=True, help="Overwrite the files that are in the way.")
def init(folder: Path, name: str | None, force: bool) -> None:
    """Write a project to start from into FOLDER, the current one by default.

    It is an app with one handler, its tests, pyproject.toml, a Dockerfile, docker-compose.yml with a Valkey, and a
    README.md with the commands. If any of these files is there already, nothing is written.

    \b
    Examples:
        streamworker init shop
        cd shop && streamworker init --name billing

    \b
    Exit codes:
        0  written
        1  a file is in the way, or cannot be written
        2  usage
    """
    from streamworker.cli.starter import Starter  # noqa: PLC0415  (--help loads nothing)

    made = Starter(folder, name)
    made.write(force=force)
    click.echo("\n".join(made.told()))
