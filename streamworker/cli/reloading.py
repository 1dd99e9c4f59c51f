"""What ``streamworker run --reload`` does: it never imports the app itself, so that each child loads it anew."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from streamworker.changes import Changes
from streamworker.cli.choosing import url_of_project
from streamworker.cli.logging import configure
from streamworker.cli.options import explicit_url
from streamworker.cli.worker import CHILD_PROJECT_URL, CHILD_URL, child_command, tell_embedded, warn_of_password
from streamworker.endpoint import endpoint
from streamworker.errors import ConfigError
from streamworker.identity import version
from streamworker.logs import log
from streamworker.reloader import Reloader
from streamworker.settings import read_settings
from streamworker.signals import end_now

if TYPE_CHECKING:
    from streamworker.cli.given import Settings


def reload(settings: Settings) -> NoReturn:
    """Run workers, one after the other, and end the process with the code of the last.

    Raises:
        ConfigError: the folder cannot be watched, or watchfiles is missing.
    """
    folder = Path(settings.app_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--app-dir {settings.app_dir!r} is not a folder")
    environment = _environment(settings)
    with ExitStack() as stack:
        changes = stack.enter_context(Changes(folder))
        configure(settings.log_format, settings.log_level)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes that are told here by name
        warn_of_password(settings)

        def hold_embedded() -> None:
            try:
                where = stack.enter_context(endpoint(None))
            except ConfigError as error:
                log.warning("server.not_held", reason=error)
            else:
                tell_embedded(where)

        log.info("reload.started", version=version(), folder=str(folder), pid=os.getpid())
        reloader = Reloader(
            lambda birth: child_command(settings, birth),
            changes,
            shutdown_timeout=settings.shutdown_timeout,
            environment=environment,
            on_embedded=hold_embedded,
        )
        code = reloader.run()
        log.info("reload.ended", exit_code=code)
        end_now(code)


def _environment(settings: Settings) -> dict[str, str]:
    """The children's; what App(url=) says stands between the two URLs, and only they know it."""
    environment = dict(os.environ)
    explicit = explicit_url(settings.redis, settings.redis_file)
    if explicit is not None:
        return {**environment, CHILD_URL: explicit}
    if read_settings().redis_url is None and (named := url_of_project()) is not None:
        return {**environment, CHILD_PROJECT_URL: named.url}
    return environment
