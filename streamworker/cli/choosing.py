"""Which Redis a command talks to: its options first, what pyproject.toml names last."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import click

from streamworker.cli.options import explicit_url, url_in
from streamworker.cli.project import server_of_project
from streamworker.endpoint import Endpoint, NamedUrl, endpoint


def chosen(redis: str | None, redis_file: Path | None) -> AbstractContextManager[Endpoint]:
    """The endpoint of the command that runs; see ``endpoint``."""
    return endpoint(explicit_url(redis, redis_file), project=url_of_project)


def url_of_project() -> NamedUrl | None:
    """What pyproject.toml names for the command that runs.

    Raises:
        ConfigError: it names a file that does not hold a URL.
    """
    server = server_of_project(click.get_current_context())
    if server is None:
        return None
    if server.redis_file is not None:
        return NamedUrl(url_in(server.redis_file, f"{server.source} {server.redis_file}"), server.source)
    return NamedUrl(server.redis or "", server.source)
