"""Environments: one for each peer, made when it is first needed and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

FOLDER: Final = Path(os.environ.get("STREAMWORKER_BENCHMARKS", Path.home() / ".cache" / "streamworker-benchmarks"))


def interpreter(program: Path, requires: tuple[str, ...]) -> list[str]:
    """The command that runs ``program``: this interpreter, or one with ``requires`` installed."""
    if program.suffix == ".mjs":
        return ["node"]
    if not requires:
        return [sys.executable]
    return [str(_made(requires) / "bin" / "python")]


def _made(requires: tuple[str, ...]) -> Path:
    name = hashlib.sha256("\n".join((sys.version, *requires)).encode()).hexdigest()[:16]
    place = FOLDER / name
    done = place / "installed"
    if not done.exists():
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", *requires], check=True)
        done.write_text("\n".join(requires))
    return place
