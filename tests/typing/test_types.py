"""What the decorators do to a function's type, as mypy sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(file: Path, cache: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    # A cache of its own: two runs of mypy on one cache, as under xdist, can spoil it for each other.
    command += ["--cache-dir", str(cache), "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)  # the first run of mypy reads everything
def test_a_handlers_type_is_what_it_was_and_results_have_theirs(tmp_path: Path) -> None:
    assert mypy(HERE / "samples.py", tmp_path / "cache") == (0, "")


@pytest.mark.timeout(300)
def test_wrong_use_is_found_by_a_type_checker(tmp_path: Path) -> None:
    # Kept as text, so that the checks of the whole tree do not stumble over it.
    sample = tmp_path / "broken.py"
    sample.write_text((HERE / "broken.txt").read_text())
    lines = sample.read_text().splitlines()
    expected = {(at, found[1]) for at, line in enumerate(lines, 1) if (found := re.search(r"# E: ([\w-]+)$", line))}
    status, output = mypy(sample, tmp_path / "cache")
    got = {
        (int(at), code) for at, code in re.findall(r"broken\.py:(\d+): error: .*\[([\w-]+)\]$", output, re.MULTILINE)
    }
    assert (status, got) == (1, expected), output
