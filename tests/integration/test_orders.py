"""The README's first program, run and published to with the README's words."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.conftest import ProgramOf
from tests.programs import streamworker_command
from tests.waiting import wait_until_sync

ROOT = Path(__file__).parents[2]


def test_the_first_program_handles_what_a_second_terminal_publishes(program: ProgramOf, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    run, publish = (
        shlex.split(re.findall(rf"^\.venv/bin/streamworker ({word}.*)$", readme, re.MULTILINE)[0])
        for word in ("run examples.orders", "publish")
    )
    (tmp_path / "pyproject.toml").touch()  # so that the embedded server keeps its files here
    worker = program(None, "--app-dir", str(ROOT), command=tuple(run), env={"PYTHONUNBUFFERED": "1"})
    wait_until_sync(lambda: "worker.started" in worker.log, 20, lambda: f"the worker runs\n{worker.log}")
    published = subprocess.run([streamworker_command(), *publish], cwd=tmp_path, capture_output=True, check=False)
    assert published.returncode == 0, published.stderr
    wait_until_sync(lambda: worker.out == "order 1: charged 9.50\n", 20, lambda: f"it is handled\n{worker.log}")
    worker.sigterm()
    assert worker.wait() == 0, worker.log
