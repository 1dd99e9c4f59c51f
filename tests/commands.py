"""The command line as operators use it: as the reader of docs/security.md, its tables and its JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.roles import as_role


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of stdout as JSON, strictly one object each."""
        return [json.loads(line) for line in self.out.splitlines()]

    def rows(self, header: str = "STREAM") -> list[dict[str, str]]:
        """The table below the line that begins with ``header``: its cells by column; rows without gaps only."""
        lines = self.out.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.startswith(header)]
        names = re.split(r"\s{2,}", lines[at].strip())
        cells = [re.split(r"\s{2,}", line.strip()) for line in lines[at + 1 :] if line[:1] not in ("!", "")]
        return [dict(zip(names, row, strict=True)) for row in cells if len(row) == len(names)]

    @property
    def remarks(self) -> list[str]:
        return [line[2:] for line in self.out.splitlines() if line.startswith("! ")]


def command(*words: str, url: str, role: str = "reader") -> list[str]:
    """The words of ``streamworker …`` as that role."""
    return [sys.executable, "-m", "streamworker", *words, "--redis", as_role(url, role)]


def call(*words: str, url: str, role: str = "reader", columns: int = 200, **environment: str) -> Said:
    """Run ``streamworker …`` to its end."""
    return _run(command(*words, url=url, role=role), columns, environment)


def call_plainly(*words: str) -> Said:
    """Run ``streamworker …`` to its end with these words alone."""
    return _run([sys.executable, "-m", "streamworker", *words], 200, {})


def _run(words: list[str], columns: int, environment: dict[str, str]) -> Said:
    done = subprocess.run(
        words,
        env={**os.environ, "COLUMNS": str(columns), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())
