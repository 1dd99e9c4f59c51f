"""Environments: one for each peer, made when it is first needed and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(os.environ.get("STREAMWORKER_BENCHMARKS", Path.home() / ".cache" / "streamworker-benchmarks"))
_OURS: Final = ("streamworker", "redis", "hiredis", "uvloop", "msgspec", "anyio")
_LIST: Final = """
import importlib.metadata, json, platform
found = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **found}))
"""


class NotInstalled(Exception):
    """An environment cannot be made; the text says why in one line."""


class Environments:
    """What programs run in. What could not be installed once is not tried again."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, ...], str] = {}

    def command(self, program: Path, requires: tuple[str, ...]) -> list[str]:
        """The command that runs ``program``: this interpreter, or one with ``requires`` installed.

        Args:
            program: a file for Python, or for Node if it ends on ``.mjs``.
            requires: packages; one may be as ``"python>=3.12"`` where a package does not run on an older one.

        Raises:
            NotInstalled: it was tried in vain.
        """
        if not requires:
            return [sys.executable]
        place = self._made(program.suffix == ".mjs", requires)
        if program.suffix == ".mjs":
            return ["env", f"NODE_PATH={place / 'node_modules'}", "node"]
        return [str(place / "bin" / "python")]

    def versions(self, program: Path, requires: tuple[str, ...]) -> dict[str, str]:
        """What is installed where ``program`` runs, by name.

        Raises:
            NotInstalled: it was tried in vain.
        """
        command = self.command(program, requires)
        if program.suffix == ".mjs":
            found = {"node": _run(["node", "--version"]).strip().lstrip("v")}
            for name in requires:
                path = self._made(True, requires) / "node_modules" / name / "package.json"
                found[name] = json.loads(path.read_text())["version"]
            return found
        every: dict[str, str] = json.loads(_run([*command, "-c", _LIST]))
        if requires:
            return {name: version for name, version in sorted(every.items()) if name not in ("pip", "setuptools")}
        return {name: every[name] for name in ("python", *_OURS) if name in every}

    def _made(self, node: bool, requires: tuple[str, ...]) -> Path:
        name = hashlib.sha256("\n".join((sys.version, *requires)).encode()).hexdigest()[:16]
        place = FOLDER / name
        done = place / "installed"
        if done.exists():
            return place
        if requires not in self._failed:
            try:
                _make(place, node, requires)
                done.write_text("\n".join(requires))
            except NotInstalled as error:
                self._failed[requires] = str(error)
            else:
                return place
        raise NotInstalled(f"not installed: {self._failed[requires]}")


def _make(place: Path, node: bool, requires: tuple[str, ...]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if node:
        place.mkdir(parents=True)
        _run(["npm", "install", "--prefix", str(place), "--no-audit", "--no-fund", "--loglevel=error", *requires])
        return
    wanted = [one for one in requires if one.startswith("python>=")]
    _run([_python(wanted[0].partition(">=")[2] if wanted else "3.11"), "-m", "venv", str(place)])
    packages = [one for one in requires if one not in wanted]
    _run([str(place / "bin" / "python"), "-m", "pip", "install", "-q", *packages])


def _python(least: str) -> str:
    """An interpreter that is at least so new: this one, one of the path's, or one of pyenv's."""
    first, second = (int(part) for part in least.split("."))
    if sys.version_info >= (first, second):
        return sys.executable
    names = [f"python{first}.{number}" for number in range(second, second + 5)]
    others = [path for name in names for path in _pyenv().glob(f"{name.removeprefix('python')}.*/bin/python")]
    for found in (*(shutil.which(name) for name in names), *map(str, others)):
        if found is not None and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    raise NotInstalled(f"it needs Python {least} or newer, and there is none")


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


def _run(command: Sequence[str]) -> str:
    """Its output; if it fails, the line of its errors that tells most."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise NotInstalled(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error:", "npm error"))] or lines
        raise NotInstalled(errors[-1] if errors else f"{command[0]} ended with {done.returncode}")
    return done.stdout
