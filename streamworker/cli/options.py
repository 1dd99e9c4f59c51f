"""How the commands declare options: each names its environment variable, without the command's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from streamworker.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_SIZES: Final = {"": 1, **{unit: 1000**at for at, unit in enumerate("kmgt", 1)},
                 **{f"{unit}i": 1024**at for at, unit in enumerate("kmgt", 1)}}  # fmt: skip


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """``click.option`` with the variable ``STREAMWORKER_…`` and the default shown in the help."""
    variable = "STREAMWORKER_" + names[0].partition("/")[0].removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", True)
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def seconds(value: str) -> float:
    """A finite number of seconds, 0 or more."""
    number = float(value)  # click tells of a ValueError
    if not 0 <= number < 10**9:
        raise click.BadParameter(f"{value!r} is not a number of seconds, 0 or more")
    return number


def duration(value: str) -> float:
    """``90s``, ``2h``, ``7d`` or ``1h30m``, as seconds; who writes ``7`` may mean days."""
    from streamworker.operating.places import seconds_of  # noqa: PLC0415  (--help loads nothing)

    total = seconds_of(value.lower())
    if total is None and re.fullmatch(r"[0-9]+([.][0-9]+)?", value):
        raise click.BadParameter(f"{value} of what? Write {value}s, {value}m, {value}h or {value}d")
    if total is None or not 0 <= total < 10**9:
        raise click.BadParameter(f"{value!r} is not a duration: write 90s, 15m, 2h, 7d or 1h30m")
    return total


def rate(value: str) -> float:
    """``50`` or ``50/s``: so many a second, more than none."""
    found = re.fullmatch(r"([0-9]*[.]?[0-9]+) ?(/s)?", value)
    if found is None or not 0 < (number := float(found[1])) < 10**9:
        raise click.BadParameter(f"{value!r} is not how many a second: write 50, or 0.5 for one in two seconds")
    return number


def size(value: str) -> int:
    """``500MB``, ``1GiB``, or a number of bytes."""
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?) ?(|[kmgt]i?)b?", value.lower())
    if found is None or not 0 <= (total := float(found[1]) * _SIZES[found[2]]) < 2**53:
        raise click.BadParameter(f"{value!r} is not a size: write 500MB, 2GB, 1GiB or a number of bytes")
    return int(total)


# No variable of click's: App(url=) comes between the option and the variables.
redis_option = click.option(
    "--redis",
    metavar="URL",
    help=(
        "Where Redis is: redis://[user:password@]host:port/db, sentinel://host:port,host:port/service/db or "
        "cluster://host:port,host:port; rediss://, sentinels:// and clusters:// with TLS. Otherwise App(url=), "
        "STREAMWORKER_REDIS_URL, REDIS_URL or pyproject.toml says so, in this order; without any, a server is started "
        "for this folder.  "
        "[env var: STREAMWORKER_REDIS_URL, REDIS_URL]"
    ),
)

redis_file_option = option(
    "--redis-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file that holds the URL alone. Arguments can be read by everybody on the machine, a password in them too.",
)


def rate_option(help: str = "So many a second, evenly.") -> Callable[[F], F]:
    """``--rate``."""
    return option("--rate", type=rate, metavar="N", help=help)


def explicit_url(redis: str | None, redis_file: Path | None) -> str | None:
    """What ``--redis`` says, or else the file.

    Raises:
        ConfigError: the file cannot be read, or does not hold one line. The text holds nothing of it.
    """
    if redis is not None or redis_file is None:
        return redis
    return url_in(redis_file, f"--redis-file {redis_file}")


def url_in(file: Path, source: str) -> str:
    """The URL that a file holds; ``source`` says in errors who names the file."""
    try:
        words = file.read_text().split()
    except UnicodeDecodeError:
        words = []
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from None
    if len(words) != 1 or "://" not in words[0]:
        raise ConfigError(f"{source}: it must hold a Redis URL, and nothing else")
    return words[0]


health_dir_option = option(
    "--health-dir",
    type=click.Path(path_type=Path),
    show_default="streamworker-UID in the temporary folder",
    help="Where workers keep their signs of life for 'streamworker healthcheck'.",
)
