"""Programs at work: subjects on a server, each in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import Redis

from benchmarks.environments import Environments, NotInstalled

SUBJECTS: Final = Path(__file__).parent / "subjects"
_LONGEST: Final = 120.0  # seconds that a program may take


class Failed(Exception):
    """A subject did not do its job; the text has the end of what it wrote."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: in tables.
        program: a file in ``subjects/``.
        requires: what is installed for it, a peer; nothing for what runs in this environment.
        filler: the program that fills its stream.
        options: of its job, besides those of the scenario.
        workers: processes that work together.
    """

    name: str
    program: str
    requires: tuple[str, ...] = ()
    filler: str = "bare.py"
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1


class Program:
    """A subject's program, started."""

    def __init__(self, command: Sequence[str], job: Mapping[str, Any]) -> None:
        self.process = subprocess.Popen(
            [*command, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SUBJECTS.parent.parent)},
        )

    def result(self) -> dict[str, Any]:
        """What it printed at its end. Its standard input is closed, a sign to those who wait for one.

        Raises:
            Failed: it ended badly, or not at all.
        """
        try:
            out, err = self.process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"it did not end within {_LONGEST:.0f} s") from None
        lines = out.strip().splitlines()
        if self.process.returncode or not lines:
            raise Failed(f"it ended with {self.process.returncode}: {err.strip()[-1000:]}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    @property
    def cpu(self) -> float:
        """Seconds of processor time it has used so far."""
        with open(f"/proc/{self.process.pid}/stat") as status:
            fields = status.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as a machine that loses power would."""
        self.process.kill()
        self.process.communicate()


class Bench:
    """A server, and what is done on it.

    Args:
        port: of the server, which is emptied again and again.
        seconds: that a measurement is to take, about.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self.client = Redis(port=port)
        self.seconds = seconds
        self.environments = Environments()
        self._url = f"redis://127.0.0.1:{port}/0"
        self.paces: dict[str, float] = {}  # messages in a second, as the first tries have shown

    def start(self, subject: Subject, job: Mapping[str, Any], program: str | None = None) -> Program:
        """Start a subject's program, or another one in its environment.

        Raises:
            Failed: its environment cannot be made.
        """
        path = SUBJECTS / (program or subject.program)
        given = {**job, **({} if program else subject.options), "url": self._url}
        try:
            command = self.environments.command(path, subject.requires)
        except NotInstalled as error:
            raise Failed(str(error)) from None
        return Program([*command, str(path)], given)

    def run(self, subject: Subject, job: Mapping[str, Any], program: str | None = None) -> dict[str, Any]:
        """Run a subject's program to its end and return its result."""
        return self.start(subject, job, program).result()

    def fill(self, subject: Subject, job: Mapping[str, Any]) -> None:
        """Empty the server, and put in what the subject is to work on."""
        self.client.flushall()
        self.run(subject, {**job, "do": "fill"}, subject.filler)
