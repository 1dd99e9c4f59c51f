"""What ``streamworker init`` does: the files of ``streamworker/starter`` with the project's name in them."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Final

from streamworker.errors import ConfigError, StreamworkerError
from streamworker.logs import clean

FILES: Final = (
    "app.py", "test_app.py", "pyproject.toml", "Dockerfile", "docker-compose.yml", ".gitignore", ".dockerignore",
    "README.md",
)  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # what pyproject.toml allows


class Starter:
    """A project in ``folder``.

    Args:
        folder: where to; made if it is not there.
        name: the project's; None for the name of the folder.

    Raises:
        ConfigError: no name that a project can have.
    """

    def __init__(self, folder: Path, name: str | None) -> None:
        self._folder = folder
        self._name = _checked(Path(os.path.abspath(folder)).name if name is None else name, outright=name is not None)

    def write(self, *, force: bool) -> None:
        """Write the files.

        Raises:
            StreamworkerError: some are there already, and ``force`` does not say to overwrite them: nothing was
                written; or one cannot be written.
        """
        contents = {self._folder / name: self._content(name) for name in FILES}
        there = [path.name for path in contents if os.path.lexists(path)]
        if there and not force:
            raise StreamworkerError(
                f"in {_shown(self._folder)} are already: {', '.join(there)}. Nothing was written; name another folder, "
                "move them away, or overwrite them with --force"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path, content in contents.items():
                # "x": what has come in between is not lost.
                with path.open("w" if force else "x", encoding="utf-8") as file:
                    file.write(content)
        except OSError as error:
            where = os.fsdecode(error.filename or self._folder)
            raise StreamworkerError(f"{_shown(where)} cannot be written: {error.strerror}") from None

    def told(self) -> list[str]:
        """What was made, and what to do with it."""
        here = os.path.abspath(self._folder) == os.getcwd()
        steps = [] if here else [f"cd {_shown(quote(str(self._folder)))}"]
        steps += [line for line in self._content("README.md").splitlines() if line.startswith((".venv/", "python3 "))]
        return [
            f"project {self._name} is in {_shown(os.path.abspath(self._folder))}: {', '.join(FILES)}", "",
            "To install and test it, to run it, and to publish to it from a second terminal:",
            *(f"    {step}" for step in steps),
        ]  # fmt: skip

    def _content(self, name: str) -> str:
        text = (files("streamworker") / "starter" / f"{name.removeprefix('.')}.tmpl").read_text("utf-8")
        # A local version, as of a checkout, is none that a requirement may name.
        return text.replace("{{name}}", self._name).replace("{{version}}", version("streamworker").partition("+")[0])


def _checked(name: str, *, outright: bool) -> str:
    whose = "--name" if outright else "the folder's name"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{whose} '{clean(name)}' cannot be that of a project: letters, digits, '-', '_' and '.' can, between two "
            f"letters or digits{'' if outright else '; give one with --name'}"
        )
    if re.sub(r"[._-]+", "-", name.lower()) == "streamworker":
        raise ConfigError(f"{whose} is {name}, but that is what the project needs to install; give another --name")
    return name


def _shown(path: Path | str) -> str:
    return clean(str(path))
