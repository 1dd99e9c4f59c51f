"""``streamworker completion``: the scripts, and what the shells are answered when they ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def call(*words: str, **environment: str) -> str:
    """What the installed command says on stdout."""
    done = subprocess.run(
        [BIN / "streamworker", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def completed(line: str) -> set[str]:
    """What bash is answered at the end of this line."""
    words = line.split(" ")
    asked = {"_STREAMWORKER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return {answer.partition(",")[2] for answer in call(**asked).splitlines()}


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("bash", "complete -o nosort -F _streamworker_completion streamworker"),
        ("zsh", "#compdef streamworker"),
        ("fish", "complete --no-files --command streamworker"),
    ],
)
def test_each_shell_gets_a_script_that_asks_the_command(shell: str, said: str) -> None:
    script = call("completion", shell)
    assert said in script
    assert f"_STREAMWORKER_COMPLETE={shell}_complete" in script


def test_commands_and_options_are_completed() -> None:
    assert completed("streamworker sta") == {"status"}
    assert completed("streamworker run --shut") == {"--shutdown-timeout"}
    assert "--parent-pipe" not in completed("streamworker run --")


def test_bash_completes_with_the_script() -> None:
    program = """
        source <(streamworker completion bash)
        COMP_WORDS=(streamworker run --burs) COMP_CWORD=2
        _streamworker_completion streamworker
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("--burst\n", "")


def test_a_project_that_is_wrong_does_not_keep_a_shell_from_its_script(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.streamworker]\nnonsense = 1\n")
    done = subprocess.run([BIN / "streamworker", "completion", "fish"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
