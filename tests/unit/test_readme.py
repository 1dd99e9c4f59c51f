"""What the README says is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from streamworker import App

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_program_is_the_example() -> None:
    assert blocks("python")[0] == (ROOT / "examples/orders.py").read_text()


@pytest.mark.parametrize("source", blocks("python"))
def test_each_program_runs(source: str) -> None:
    # The lines of "When a handler fails" stand for themselves: each is run, and raises what it names.
    verdicts = re.findall(r"^raise (\w+)\(.*$", source, re.MULTILINE)
    for line in re.findall(r"^raise .*$", source, re.MULTILINE):
        source = source.replace(line, f"try:\n    {line}\nexcept Exception as e:\n    print(type(e).__name__)")
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verdict in verdicts:
        assert verdict in done.stdout.split()


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python3 -m venv")]
    ci = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert len(commands) == 2
    assert [command for command in commands if command not in ci] == []


def test_the_table_of_options_names_every_option_of_on_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.MULTILINE))
    parameters = signature(App.on).parameters
    assert set(rows) == {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    for name, shown in rows.items():
        default = parameters[name].default
        if isinstance(default, int | str) and not isinstance(default, bool):
            assert shown.strip("`").strip('"') == str(default)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
