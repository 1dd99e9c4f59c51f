"""Plants eight bugs in copies of the runtime, one at a time, and sees that the fault tests notice each.

    python -m tests.faults.planted            # for each bug the one test that is known to notice it
    python -m tests.faults.planted --full     # for each bug all fault tests, until the first that fails
    python -m tests.faults.planted --only 3   # one bug alone

Exits with 1 if a bug survives, if a text to be replaced is not there exactly once, or if a copy does not work at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.plant import BUGS, Bug

ROOT = Path(__file__).parents[2]
# A copy that cannot even do this fails for another reason than its bug.
WORKS = "tests/contract/test_working.py::test_one_worker_with_one_slot_keeps_the_order[valkey-9.1]"
_LIMIT = 900  # seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one bug: the test that noticed it, or why none did."""

    bug: Bug
    caught_by: str
    trouble: str
    seconds: float


def try_bug(bug: Bug, folder: Path, full: bool) -> Verdict:
    """Plant ``bug`` in a copy below ``folder``, and run tests against it until one fails."""
    began = time.monotonic()
    try:
        copy = plant(bug, folder)
        tests = ["tests/faults", "-n", "4"] if full else [bug.caught_by, "-n", "0"]
        works = run_tests(copy, WORKS, "-n", "0")
        if works:
            raise RuntimeError(f"the copy does not work at all: {works}")
        failed = run_tests(copy, *tests, "-x")
        trouble = "" if failed else "it survived"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        failed, trouble = "", str(error)
    return Verdict(bug, failed, trouble, time.monotonic() - began)


def plant(bug: Bug, folder: Path) -> Path:
    """A copy of the runtime and its tests with ``bug`` in it.

    Raises:
        RuntimeError: a text is not there exactly once, or the copy would not be what is run.
    """
    copy = folder / bug.name.replace(" ", "-")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for file, old, new in bug.changes:
        path = copy / "streamworker" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise RuntimeError(f"{file} has the text to be replaced {text.count(old)} times:\n{old}")
        path.write_text(text.replace(old, new))
    where = subprocess.run(
        [sys.executable, "-c", "import streamworker; print(streamworker.__file__)"],
        cwd=copy, env=_environment(copy), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if not Path(where.strip()).is_relative_to(copy):
        raise RuntimeError(f"the copy is not what would be run, but {where.strip()}")
    return copy


def run_tests(copy: Path, *words: str) -> str:
    """The first test that failed by its assertion; empty if all passed.

    Raises:
        RuntimeError: no test ran, or one failed by anything else.
    """
    report = copy / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words, "-p", "no:cacheprovider", "--junitxml", str(report),
         "--basetemp", str(copy / "temporary")],
        cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False, timeout=_LIMIT,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    for case in cases:
        for failure in case.findall("failure"):
            text = f"{failure.get('message')}\n{failure.text}"
            if not any(sign in text for sign in ("AssertionError", "E       assert", "E   TimeoutError")):
                raise RuntimeError(f"{case.get('name')} failed by something else: {failure.get('message')}")
            return str(case.get("name"))
    raise RuntimeError(
        f"no test failed, but pytest ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
    )


def _environment(copy: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "STREAMWORKER_"))}
    return {**kept, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> int:
    arguments = argparse.ArgumentParser(description="plant bugs and see that the fault tests notice each")
    arguments.add_argument("--full", action="store_true", help="run all fault tests against each, until one fails")
    arguments.add_argument("--only", type=int, choices=range(1, len(BUGS) + 1), help="the number of one bug")
    chosen = arguments.parse_args()
    bugs = BUGS if chosen.only is None else BUGS[chosen.only - 1 : chosen.only]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, ThreadPoolExecutor(1 if chosen.full else 2) as pool:
        verdicts = list(pool.map(lambda bug: try_bug(bug, Path(folder), chosen.full), bugs))
    for verdict in verdicts:
        said = verdict.caught_by or f"NOT CAUGHT: {verdict.trouble}"
        print(f"{verdict.bug.name:34}{verdict.seconds:6.1f} s  {said}")
    caught = sum(bool(verdict.caught_by) for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
