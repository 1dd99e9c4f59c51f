"""Finds the apps that import strings name, and says in one message what is wrong with them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType
from typing import Any

from streamworker.app import App
from streamworker.errors import ConfigError

_FRAMES = 8
_OURS = os.path.dirname(__file__) + os.sep
_IMPORTLIB = (os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")


def load(names: Sequence[str], *, app_dir: str = ".", only: Collection[str] = ()) -> list[App]:
    """Import the apps and check that they can be run.

    Args:
        names: import strings, ``module:app``.
        app_dir: a folder that is put first on ``sys.path``.
        only: the streams to consume; empty for all.

    Raises:
        ConfigError: one message that says what is wrong, and where in the user's code.
    """
    folder = os.path.abspath(app_dir)
    if not os.path.isdir(folder):
        raise ConfigError(f"--app-dir {app_dir!r} is not a folder")
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    found = [_find(name, folder) for name in names]
    apps = list({id(app): app for app in found}.values())
    for name, app in zip(names, found, strict=True):
        if not app.handlers:
            raise ConfigError(
                f"{name}: {app!r} has no handlers, so there is nothing to run; decorate a function with "
                "@app.on('stream'), and if handlers live in another module, import it where the app is made"
            )
    _check_streams(apps, only)
    _check_handlers(apps)
    return apps


def _find(name: str, folder: str) -> App:
    if "://" in name:  # not echoed: it may hold a password
        raise ConfigError("a URL is no import string: write module:app, and the URL after --redis or into a variable")
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigError(f"{name!r} is not an import string; write module:app, for example {_suggestion(name)}")
    if "/" in module_name or module_name.endswith(".py"):
        raise ConfigError(f"{name!r} names a file; write it as a module: {_suggestion(module_name)[:-4]}:{attribute}")
    module = _import(module_name, name, folder)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{name}: {_missing(module, found, part)}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise ConfigError(f"{name}: {_not_an_app(module, attribute, found)}")
    return found


def _suggestion(name: str) -> str:
    parts = name.strip(":").replace("\\", "/").removesuffix(".py").split("/")
    return ".".join(part for part in parts if part not in ("", ".", "..")).strip(".") + ":app"


def _import(module_name: str, name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a user's module may raise anything)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module_name == missing or module_name.startswith(f"{missing}.")):
            raise ConfigError(f"{name}: {_no_module(missing, folder)}") from None
        if isinstance(error, SystemExit):
            what = f"importing {module_name!r} ended the program (SystemExit: {error.code})"
        else:
            what = f"importing {module_name!r} failed inside your code"
        raise ConfigError(f"{name}: {what}\n\n{_their_traceback(error)}") from None


def _no_module(missing: str, folder: str) -> str:
    text = f"there is no module {missing!r} in {folder}, and none is installed"
    parent, _, last = missing.rpartition(".")
    where = os.path.join(folder, *parent.split("."))
    try:
        there = [entry.removesuffix(".py") for entry in os.listdir(where) if _importable(where, entry)]
    except OSError:
        there = []
    near = difflib.get_close_matches(last, there, n=3)
    if near:
        prefix = f"{parent}." if parent else ""
        return f"{text}; did you mean {_any_of(prefix + each for each in near)}?"
    return f"{text}; --app-dir says where to look"


def _importable(folder: str, entry: str) -> bool:
    name = entry.removesuffix(".py")
    return name.isidentifier() and (entry != name or os.path.isdir(os.path.join(folder, entry)))


def _their_traceback(error: BaseException) -> str:
    """The traceback from the user's first line on: neither our frames nor those of the import machinery."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    chain: list[traceback.TracebackException | None] = [shown]
    while chain:
        link = chain.pop()
        if link is not None:
            theirs = [frame for frame in link.stack if not frame.filename.startswith((_OURS, *_IMPORTLIB))]
            link.stack = traceback.StackSummary.from_list(theirs[-_FRAMES:])
            chain += [link.__cause__, link.__context__]
    return "".join(shown.format()).rstrip()


def _missing(module: ModuleType, holder: object, attribute: str) -> str:
    where = f"module {module.__name__!r}" if holder is module else repr(holder)
    text = f"{where} ({module.__file__}) has no attribute {attribute!r}"
    apps = _apps_in(module)
    near = [each for each in difflib.get_close_matches(attribute, dir(holder), n=3) if each not in apps]
    if apps:
        return f"{text}; its apps: {', '.join(f'{module.__name__}:{each}' for each in apps)}"
    if near:
        return f"{text}; did you mean {_any_of(near)}?"
    return f"{text}, and no App either"


def _not_an_app(module: ModuleType, attribute: str, found: object) -> str:
    apps = _apps_in(module)
    there = f"; its apps: {', '.join(f'{module.__name__}:{each}' for each in apps)}" if apps else ""
    if inspect.isclass(found) and issubclass(found, App):
        return f"{attribute!r} is the class App, not an app; make one: app = App('name'){there}"
    if inspect.isfunction(found):
        return (
            f"{attribute!r} is a function, not an App; if it makes the app, call it in the module "
            f"(app = {attribute}()) and name the result{there}"
        )
    return f"{attribute!r} is a {type(found).__name__}, not an App{there}"


def _apps_in(module: ModuleType) -> list[str]:
    return sorted(name for name, value in vars(module).items() if isinstance(value, App))


def _check_streams(apps: Sequence[App], only: Collection[str]) -> None:
    streams = sorted({handler.stream for app in apps for handler in app.handlers})
    for stream in only:
        if stream not in streams:
            near = difflib.get_close_matches(stream, streams, n=3)
            hint = f"did you mean {_any_of(near)}?" if near else f"there are: {', '.join(streams)}"
            raise ConfigError(f"--only {stream}: no handler consumes this stream; {hint}")


def _check_handlers(apps: Sequence[App]) -> None:
    """A handler that cannot be called with what its annotations say is found now, not at its first message."""
    # Here and not above: it loads decoders, which only a run needs.
    from streamworker.invocation import compile as compile_handler  # noqa: PLC0415

    for app in apps:
        for handler in app.handlers:
            compile_handler(handler)


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)
