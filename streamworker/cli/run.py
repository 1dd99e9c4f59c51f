"""``streamworker run``: reads the options, loads the apps, and works or supervises."""

from __future__ import annotations

import sys
from typing import Any

import click

from streamworker.cli.given import Settings
from streamworker.cli.options import health_dir_option, option, redis_file_option, redis_option, seconds
from streamworker.cli.project import apps_of_project


@click.command(short_help="Run the handlers of an app until SIGTERM.")
@click.argument("names", metavar="[MODULE:APP...]", nargs=-1)
@redis_option
@redis_file_option
@option("--workers", type=click.IntRange(min=1), default=1, help="Processes; several are supervised and replaced.")
@option("--only", metavar="STREAM", multiple=True, help="Consume this stream only; repeatable.")
@option("--burst", is_flag=True, help="End when all there is has been handled and settled, retries included.")
@option(
    "--reload/--no-reload",
    default=False,
    help="For development: when a Python file below --app-dir changes, drain and start anew. Needs the extra 'dev'.",
)
@option(
    "--shutdown-timeout",
    type=seconds,
    metavar="SECONDS",
    default=25.0,
    help="Seconds that running handlers get after SIGTERM or SIGINT; then they are cancelled and handed back.",
)
@option(
    "--connect-timeout",
    type=seconds,
    metavar="SECONDS",
    default=60.0,
    help="Seconds to wait for Redis at the start; later it is waited for without a limit.",
)
@option(
    "--app-dir",
    type=click.Path(),
    metavar="FOLDER",
    default=".",
    help="The folder in which MODULE is looked for first.",
)
@option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    help="auto: console on a terminal, else JSON. An app that configures logging itself is left alone.",
)
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    default="info",
    help="The lowest level that is logged.",
)
@option(
    "--tracing/--no-tracing",
    default=None,
    show_default="on where the app sets a tracer provider",
    help="OpenTelemetry spans of what is published and handled; see docs/tracing.md.",
)
@health_dir_option
@option(
    "--http",
    metavar="HOST:PORT",
    help="Listen there: /metrics for Prometheus, /livez, /readyz, /scale. Of several workers the second one takes the "
    "next port, and so on. Needs the extra 'http'.",
)
# What a supervisor tells its children.
@click.option("--token", hidden=True)
@click.option("--replaces", multiple=True, hidden=True)
@click.option("--parent-pipe", type=int, hidden=True)
@click.option("--signs-pipe", type=int, hidden=True)
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Run the handlers of one app or several until SIGTERM or SIGINT.

    MODULE:APP is where the app is: "app:app" is the variable app in app.py of the current folder. It may be left
    out where pyproject.toml says it, with app = "app:app" under [tool.streamworker].

    \b
    Examples:
        streamworker run app:app
        streamworker run billing.app:app search.app:app --workers 4
        streamworker run app:app --only orders --burst
        streamworker run app:app --reload

    The first SIGTERM or SIGINT drains: nothing new is started, running handlers finish, and what has not
    started is handed back. The second one ends the process at once.

    \b
    Exit codes:
        0    drained, or finished (--burst)
        1    crashed
        2    usage, or the app cannot be imported
        3    no Redis within --connect-timeout, or wrong credentials
        4    the drain took longer than --shutdown-timeout: what still ran was cancelled and handed back
        128+ the number of the second signal
    """
    # A signal must find a handler as early as possible: PID 1 of a container is sent no other.
    from streamworker.signals import Signals  # noqa: PLC0415  (--help loads nothing)

    if not options["names"]:
        options |= _apps_of_project(context)
    settings = Settings(**options)
    _check_reload(settings)
    with Signals(settings.shutdown_timeout) as signals:
        if settings.reload:
            from streamworker.cli.reloading import reload  # noqa: PLC0415

            reload(settings)
        from streamworker.cli.worker import work  # noqa: PLC0415

        code = work(settings, signals)
    sys.exit(code)


def _check_reload(settings: Settings) -> None:
    if settings.reload and settings.workers > 1:
        raise click.UsageError(
            f"--reload runs one worker, but --workers is {settings.workers}: say --workers 1, or leave --reload out"
        )
    if settings.reload and settings.burst:
        raise click.UsageError("--reload runs for ever, and --burst ends: leave one of the two out")


def _apps_of_project(context: click.Context) -> dict[str, Any]:
    apps = apps_of_project(context)
    if apps is None:
        raise click.UsageError(
            "Missing argument 'MODULE:APP...'. Name the app, as in 'streamworker run app:app', or write "
            'app = "app:app" under [tool.streamworker] in pyproject.toml.'
        )
    if context.get_parameter_source("app_dir") is not click.core.ParameterSource.DEFAULT:
        return {"names": apps.names}
    return {"names": apps.names, "app_dir": str(apps.folder)}
