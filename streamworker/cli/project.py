"""What ``[tool.streamworker]`` of the nearest pyproject.toml says, as defaults for the options of the commands.

It goes into click's default map, which counts less than an option and its variable. Two things do not go that way:
the server, which counts less than ``App(url=)`` and the variables, and the apps, which are no option.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from streamworker.errors import ConfigError

# Beside the names of parameters in a default map; no parameter is called so.
_APPS, _SERVER = "(apps)", "(server)"
_SERVER_KEYS = ("redis", "redis-file")
_APP_KEYS = ("app", "apps")


@dataclass(frozen=True, slots=True)
class Apps:
    """The apps that the file names, and the folder in which their modules are looked for."""

    names: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Server:
    """The Redis that the file names: one of ``redis`` and ``redis_file``, and where it says so."""

    redis: str | None = field(repr=False)
    redis_file: Path | None
    source: str


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the file."""

    file: Path
    name: str
    values: Mapping[str, Any] = field(repr=False)

    def error(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.file}: [{self.name}] {key}: {what}")


def read_defaults(root: click.Group) -> dict[str, Any]:
    """The default map of ``root``, for all its commands; empty if there is no such file or table.

    Raises:
        ConfigError: the file cannot be read, or says what no command knows. The text holds no text of the file's.
    """
    file = _nearest()
    table = None if file is None else _read(file)
    if table is None:
        return {}
    _check(table, {key for command in root.commands.values() for key in _known(command)}, set(root.commands))
    return {name: _of_command(command, _tables(table, name, command)) for name, command in root.commands.items()}


def apps_of_project(context: click.Context) -> Apps | None:
    """The apps that the file names for the command of ``context``."""
    return (context.default_map or {}).get(_APPS)


def server_of_project(context: click.Context) -> Server | None:
    """The Redis that the file names for the command of ``context``."""
    return (context.default_map or {}).get(_SERVER)


def _nearest() -> Path | None:
    try:
        folder = Path.cwd()
    except OSError:  # it was deleted
        return None
    for each in (folder, *folder.parents):
        file = each / "pyproject.toml"
        try:
            if file.is_file() and _is_ours(file):
                return file
        except OSError:  # a folder above that is not ours to look into
            continue
    return None


def _is_ours(file: Path) -> bool:
    """Anybody may put one into /tmp, and it says where our messages go and which code runs."""
    anybody = file.parent.stat().st_mode & stat.S_IWOTH
    return not anybody or file.stat().st_uid in (os.geteuid(), 0)


def _read(file: Path) -> _Table | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; it may hold defaults under [tool.streamworker]") from None
    if b"streamworker" not in content:  # most have nothing for us, and need not even be right
        return None
    import tomllib  # noqa: PLC0415  (only where there is something to read)

    try:
        tool = tomllib.loads(content.decode()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    values = tool.get("streamworker") if isinstance(tool, dict) else None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: streamworker under [tool] must be a table: write [tool.streamworker]")
    return _Table(file, "tool.streamworker", values)


def _tables(table: _Table, name: str, command: click.Command) -> list[_Table]:
    """The tables that count for a command; its own, which counts more than that of all, is the last."""
    values = table.values.get(name)
    if not isinstance(values, dict):
        return [table]
    own = _Table(table.file, f"{table.name}.{name}", values)
    _check(own, _known(command))
    return [table, own]


def _of_command(command: click.Command, tables: Sequence[_Table]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    context = click.Context(command, info_name=command.name)
    for table in tables:
        for key, option in _options(command):
            if key in table.values and key not in _SERVER_KEYS and not isinstance(table.values[key], dict):
                found[str(option.name)] = _value(table, key, option, context)
        if _takes_apps(command) and (names := _apps(table)):
            found[_APPS] = Apps(names, table.file.parent)
        if (server := _server(table)) is not None:
            found[_SERVER] = server
    return found


def _options(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Those that have a variable, and ``--redis``: what says what is lost or changed is said each time."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden and option.expose_value:
            key = option.opts[0].removeprefix("--")
            if option.envvar is not None or key in _SERVER_KEYS:
                yield key, option


def _takes_apps(command: click.Command) -> bool:
    return any(isinstance(one, click.Argument) and one.name == "names" for one in command.params)


def _known(command: click.Command) -> set[str]:
    return {key for key, _ in _options(command)} | (set(_APP_KEYS) if _takes_apps(command) else set())


def _check(table: _Table, options: set[str], commands: Collection[str] = ()) -> None:
    """Every key must be known, and no two may contradict each other."""
    for key, value in table.values.items():
        if key in commands and not isinstance(value, dict) and key not in options:
            raise table.error(key, f"this is a command; write its defaults under [{table.name}.{key}]")
        if isinstance(value, dict) and key not in commands:
            raise table.error(key, f"there is no such command; {_near(key, commands)}")
        if key not in options and key not in commands:
            raise table.error(key, f"there is no such option, or it must be said each time; {_near(key, options)}")
    for pair in (_SERVER_KEYS, _APP_KEYS):
        if set(pair) <= set(table.values):
            raise table.error(pair[0], f"{pair[1]} is given as well; leave one of the two out")


def _near(key: str, known: Collection[str]) -> str:
    import difflib  # noqa: PLC0415  (only for a mistake)

    close = difflib.get_close_matches(key.removeprefix("--").replace("_", "-"), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are {', '.join(sorted(known))}" if known else "the table of a command holds options alone"


def _value(table: _Table, key: str, option: click.Option, context: click.Context) -> object:
    value = table.values[key]
    items: Sequence[object] = value if option.multiple and isinstance(value, list) else [value]
    kinds, one, many = _kinds(option)
    if (option.multiple and not isinstance(value, list)) or not all(_is_one_of(item, kinds) for item in items):
        wanted = f"a list of {many}" if option.multiple else one
        raise table.error(key, f"{context.info_name} wants {wanted}, not {_kind(value)}")
    if isinstance(option.type, click.types.FuncParamType):  # it reads what is written on a command line
        value = str(value)
    if isinstance(option.type, click.Path):  # of this project, from whichever of its folders the command is run
        value = str(table.file.parent / str(value))
    try:
        option.process_value(context, value)
    except click.UsageError as error:
        raise table.error(key, error.message) from None
    return value


def _kinds(option: click.Option) -> tuple[tuple[type, ...], str, str]:
    """What TOML may say for one value of the option, in types and in words, for one and for many."""
    if option.is_flag:
        return (bool,), "true or false", "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return (int,), "a whole number", "whole numbers"
    if isinstance(option.type, click.types.FloatParamType):
        return (int, float), "a number", "numbers"
    if isinstance(option.type, click.types.FuncParamType):
        return (int, float, str), "a number or a text", "numbers or texts"
    return (str,), "a text", "texts"


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (kinds == (bool,) or not isinstance(value, bool))


def _kind(value: object) -> str:
    """What a value is. Texts are not quoted: one in the wrong place may hold a password."""
    match value:
        case bool() | int() | float():
            return str(value).lower()
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a table"
    return "a date or time"


def _apps(table: _Table) -> tuple[str, ...]:
    match table.values:
        case {"app": str() as name} if name:
            return (name,)
        case {"apps": [_, *_] as names} if all(isinstance(name, str) for name in names):
            return tuple(names)
        case {"app": value}:
            raise table.error("app", f'it must be a text such as "app:app", not {_kind(value) if value else "empty"}')
        case {"apps": value}:
            raise table.error("apps", f'it must be a list such as ["app:app"], not {_kind(value)}')
    return ()


def _server(table: _Table) -> Server | None:
    key = next((key for key in _SERVER_KEYS if key in table.values), None)
    if key is None:
        return None
    value = table.values[key]
    if not isinstance(value, str):
        raise table.error(key, f"it must be a text, not {_kind(value)}")
    source = f"{table.file}: [{table.name}] {key}"
    if key == "redis":
        return Server(value, None, source)
    return Server(None, table.file.parent / value, source)
