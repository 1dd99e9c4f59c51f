"""What ``streamworker run`` does once its options are read: one worker in this process, or several supervised."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import click

from streamworker.alive import default_folder, keep_alive
from streamworker.app import App
from streamworker.child import Birth
from streamworker.cli.choosing import url_of_project
from streamworker.cli.ending import CRASHED, ending
from streamworker.cli.logging import configure, is_console
from streamworker.cli.options import explicit_url
from streamworker.endpoint import Endpoint, NamedUrl, endpoint
from streamworker.errors import ConfigError, StreamworkerError, Unavailable
from streamworker.identity import consumer_name, new_token, version
from streamworker.loader import load
from streamworker.logs import for_terminal, log
from streamworker.signals import DRAIN_TIMED_OUT, Signals, end_now, when_closed
from streamworker.supervisor import Supervisor
from streamworker.vitals import ALIVE, ALIVE_ON_EMBEDDED

if TYPE_CHECKING:
    from streamworker.cli.given import Settings

# How a supervisor tells its children the URL: argument vectors can be read by everybody on the machine.
CHILD_URL = "STREAMWORKER_CHILD_URL"
CHILD_PROJECT_URL = "STREAMWORKER_CHILD_PROJECT_URL"  # what counts last; children do not read pyproject.toml
_LAST_WORDS = 5.0  # seconds that a stuck child gets to say so and end itself


def work(settings: Settings, signals: Signals) -> int:
    """Run the apps to their end, and return the exit code.

    Raises:
        ConfigError: an app cannot be loaded.
        Unavailable: no Redis at the start.
    """
    if settings.parent_pipe is not None:
        when_closed(settings.parent_pipe, signals.begin)
        with _told_by_log(settings):
            return _work(settings, signals)
    return _work(settings, signals)


@contextmanager
def _told_by_log(settings: Settings) -> Iterator[None]:
    """What keeps a child from starting stands in the same log as all else; for people, as text of several lines."""
    try:
        yield
    except StreamworkerError as error:
        text, code = ending(error)
        if is_console(settings.log_format):
            click.echo(for_terminal(f"Error: {text}"), err=True)
        else:
            configure(settings.log_format, settings.log_level)
            log.critical("worker.start_failed", reason=text, exit_code=code)
        end_now(code)


def _work(settings: Settings, signals: Signals) -> int:
    inherited = os.environ.pop(CHILD_URL, None)
    named_last = os.environ.pop(CHILD_PROJECT_URL, None)
    apps = load(settings.names, app_dir=settings.app_dir, only=settings.only)
    configure(settings.log_format, settings.log_level)
    explicit = inherited or explicit_url(settings.redis, settings.redis_file)

    def project() -> NamedUrl | None:
        return NamedUrl(named_last, "redis in pyproject.toml") if named_last is not None else url_of_project()

    with endpoint(explicit, [app.url for app in apps], project) as where:
        warn_of_password(settings)
        if where.embedded and settings.parent_pipe is None:
            tell_embedded(where)
        if settings.workers > 1:
            return _supervise(settings, apps, where)
        return _work_alone(settings, apps, where, signals)


def warn_of_password(settings: Settings) -> None:
    """Say that others can read the password in ``--redis``, if there is one."""
    if settings.redis is not None and _has_password(settings.redis):
        log.warning("redis.password_in_arguments", reason="others can read them; use --redis-file or a variable")


def tell_embedded(where: Endpoint) -> None:
    """Say that the server is the embedded one."""
    log.info("server.embedded", redis=str(where), reason="no Redis URL is given; --redis or a variable names one")


def _has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password=" in parts.query


def _work_alone(settings: Settings, apps: Sequence[App], where: Endpoint, signals: Signals) -> int:
    fast = importlib.util.find_spec("uvloop") is not None
    try:
        anyio.run(_worker, settings, apps, where, signals, backend="asyncio", backend_options={"use_uvloop": fast})
    except (ConfigError, Unavailable):
        raise
    except Exception:  # noqa: BLE001  (a crash must leave a line in the log, whatever it was)
        log.critical("worker.crashed", exc_info=True)
        end_now(CRASHED)
    return 0


async def _worker(settings: Settings, apps: Sequence[App], where: Endpoint, signals: Signals) -> None:
    from streamworker.launch import RunOptions, run_worker  # noqa: PLC0415  (a supervisor loads no driver)

    stop = asyncio.Event()
    signals.attach(asyncio.get_running_loop(), stop)
    options = RunOptions(
        only=frozenset(settings.only),
        burst=settings.burst,
        shutdown_timeout=settings.shutdown_timeout,
        connect_timeout=settings.connect_timeout,
        token=settings.token or new_token(),
        replaces=settings.replaces,
        http=settings.http,
        tracing=settings.tracing,
    )

    def started() -> None:
        gc.freeze()  # what is there by now stays: looking through all of it again and again costs a tenth of the speed
        log.info("worker.started", **_who(settings, apps, where), consumer=consumer_name(options.token or ""))

    sign = ALIVE_ON_EMBEDDED if where.embedded else ALIVE
    alive = asyncio.create_task(keep_alive(settings.health_dir or default_folder(), settings.signs_pipe, sign))
    try:
        drained = await run_worker(apps, where.url, options, stop, started)
    finally:
        alive.cancel()
        await asyncio.wait([alive])
    if not drained:
        end_now(DRAIN_TIMED_OUT)


def _supervise(settings: Settings, apps: Sequence[App], where: Endpoint) -> int:
    # An embedded server ends with its last user: children that outlive this process must find it as users.
    environment = dict(os.environ) if where.embedded else {**os.environ, CHILD_URL: where.url}
    supervisor = Supervisor(
        lambda birth: child_command(settings, birth),
        settings.workers,
        shutdown_timeout=settings.shutdown_timeout,
        stuck_after=min(app.stuck_after for app in apps) + _LAST_WORDS,
        burst=settings.burst,
        environment=environment,
    )
    log.info("supervisor.started", version=version(), workers=settings.workers, redis=str(where), pid=os.getpid())
    code = supervisor.run()
    log.info("supervisor.ended", exit_code=code)
    end_now(code)  # a thread that a user's module has started must not keep this process


def child_command(settings: Settings, birth: Birth) -> list[str]:
    """The argument vector of a child; it says everything outright, since the child inherits the variables too."""
    given: Mapping[str, object] = {
        "--workers": 1,
        "--shutdown-timeout": settings.shutdown_timeout,
        "--connect-timeout": settings.connect_timeout,
        "--app-dir": os.path.abspath(settings.app_dir),
        "--log-format": settings.log_format,
        "--log-level": settings.log_level,
        "--health-dir": settings.health_dir,
        "--http": None if settings.http is None else _next_port(settings.http, birth.number - 1),
        "--token": birth.token,
        "--parent-pipe": birth.pipe,
        "--signs-pipe": birth.signs,
    }
    words = [f"{name}={value}" for name, value in given.items() if value is not None]
    words += [f"--only={stream}" for stream in settings.only]
    words += [f"--replaces={name}" for name in birth.replaces]
    if settings.burst:
        words.append("--burst")
    if settings.tracing is not None:
        words.append("--tracing" if settings.tracing else "--no-tracing")
    return [sys.executable, "-m", "streamworker", "run", "--no-reload", *words, "--", *settings.names]


def _next_port(where: str, by: int) -> str:
    host, colon, port = where.rpartition(":")
    return f"{host}{colon}{int(port) + by}" if port.isdigit() else where  # what is no port the child will tell


def _who(settings: Settings, apps: Sequence[App], where: Endpoint) -> dict[str, object]:
    chosen = [
        handler for app in apps for handler in app.handlers if not settings.only or handler.stream in settings.only
    ]
    return {
        "version": version(),
        "apps": [app.name for app in apps],
        "handlers": [handler.name for handler in chosen],
        "streams": sorted({handler.stream for handler in chosen}),
        "redis": str(where),
        "pid": os.getpid(),
    }
