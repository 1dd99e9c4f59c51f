"""The command line: what it says, what it imports, what it takes from the environment, how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import streamworker
from streamworker.alive import AliveFile
from streamworker.child import Birth
from streamworker.cli import cli
from streamworker.cli.dead import dead
from streamworker.cli.given import Settings
from streamworker.cli.run import run
from streamworker.cli.worker import child_command

APP = """
from streamworker import App
app = App("billing")

@app.on("orders")
async def charge(order: dict) -> None: ...
"""

COMMANDS = [*cli.commands.values(), *dead.commands.values()]
OPTIONS = [(command, option) for command in COMMANDS for option in command.params]
# What says which letters or entries are meant, and what they are to hold, is said each time.
SAID = {
    ("dead", "WHERE", "SINCE", "UNTIL", "TYPE", "LIMIT", "ALL", "SET", "UNSET", "OUTPUT"),
    ("replay", "FROM", "TO", "TYPE"),
    ("seek", "TO"),
}
IDS = [f"{command.name} {option.opts[0]}" for command, option in OPTIONS]


def call(*words: str, folder: Path, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """The exit code and what was said of the command, started in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", "streamworker", *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def nobody() -> str:
    """The URL of a port on which nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{place.getsockname()[1]}"


@pytest.mark.parametrize("words", [(), ("run",), ("publish",), ("healthcheck",)])
def test_help_imports_nothing_that_only_a_command_needs(words: tuple[str, ...]) -> None:
    code = f"""
import sys
sys.argv = ["streamworker", *{words!r}, "--help"]
from streamworker.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted({{"redis", "structlog", "uvloop", "anyio", "asyncio", "logging"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "Usage: streamworker" in done.stdout
    assert done.stderr == "[]\n"


def test_healthcheck_imports_neither_redis_nor_structlog(tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["streamworker", "healthcheck", "--health-dir", {str(tmp_path)!r}]
from streamworker.cli import main
try:
    main()
finally:
    print(sorted({{"redis", "structlog", "uvloop", "anyio"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("[]\n")


def test_the_help_of_run_teaches_an_example_and_the_exit_codes(tmp_path: Path) -> None:
    code, out, err = call("run", "--help", folder=tmp_path)
    assert (code, err) == (0, "")
    assert "streamworker run app:app" in out
    for each in ("0", "1", "2", "3", "4", r"128\+"):
        assert re.search(rf"^ +{each} +\w+", out, re.MULTILINE)
    assert "--token" not in out


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    code, out, _ = call("--version", folder=tmp_path)
    assert (code, out) == (0, "streamworker, version 0.1.0\n")


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=IDS)
def test_every_option_names_its_variable_in_the_help(command: click.Command, option: click.Parameter) -> None:
    if not isinstance(option, click.Option) or option.hidden:
        return
    name = option.opts[0].removeprefix("--").replace("-", "_").upper()
    # What loses, changes or leaves out something is said each time, and never by a variable that was forgotten.
    if name in ("FIX", "FORCE", "YES", "RESTART", "SKIP_LINES"):
        assert option.envvar is None
        return
    group = "dead" if command in dead.commands.values() else command.name
    if any(group == one and name in names for one, *names in SAID):
        assert option.envvar is None
        return
    variable = "STREAMWORKER_REDIS_URL" if name == "REDIS" else f"STREAMWORKER_{name}"
    assert option.envvar == (None if name == "REDIS" else variable)
    with click.Context(command, terminal_width=300) as context:
        assert f"env var: {variable}" in " ".join(command.get_help(context).split())


def parsed(*words: str) -> dict[str, Any]:
    return run.make_context("run", list(words)).params


def test_an_option_goes_before_its_variable_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWORKER_SHUTDOWN_TIMEOUT", "7")
    monkeypatch.setenv("STREAMWORKER_ONLY", "a b")
    monkeypatch.setenv("STREAMWORKER_BURST", "1")
    assert parsed("app:app")["shutdown_timeout"] == 7
    assert parsed("app:app", "--shutdown-timeout", "8")["shutdown_timeout"] == 8
    assert parsed("app:app")["only"] == ("a", "b")
    assert parsed("app:app")["burst"] is True
    assert parsed("app:app")["connect_timeout"] == 60


def test_a_child_is_told_everything_its_parent_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(
        names=("-odd:app", "b:app"),
        redis="redis://user:secret@localhost",
        redis_file=Path("secret"),
        workers=4,
        only=("a", "-b"),
        burst=True,
        reload=False,
        shutdown_timeout=3.5,
        connect_timeout=4.5,
        app_dir=str(tmp_path),
        log_format="console",
        log_level="debug",
        tracing=False,
        health_dir=tmp_path / "health",
        http="[::1]:8080",
        token=None,
        replaces=(),
        parent_pipe=None,
        signs_pipe=None,
    )
    for name in ("WORKERS", "SHUTDOWN_TIMEOUT", "CONNECT_TIMEOUT", "RELOAD"):
        monkeypatch.setenv(f"STREAMWORKER_{name}", "9")
    words = child_command(settings, Birth(3, "abcd", ("host-1-x.sw", "host-2-y.sw"), 7, 8))
    assert words[:4] == [sys.executable, "-m", "streamworker", "run"]
    told = Settings(**parsed(*words[4:]))
    differ = {
        name: getattr(told, name) for name in Settings.__slots__ if getattr(told, name) != getattr(settings, name)
    }
    replaces = ("host-1-x.sw", "host-2-y.sw")
    birth = {"token": "abcd", "replaces": replaces, "parent_pipe": 7, "signs_pipe": 8}
    assert differ == {"redis": None, "redis_file": None, "workers": 1, "http": "[::1]:8082", **birth}
    assert not any("secret" in word for word in words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "Missing argument 'MODULE:APP...'"),
        (("run", "app:app", "--workers", "0"), "Invalid value for '--workers'"),
        (("run", "app:app", "--nonsense"), "No such option"),
        (("run", "app"), "Error: 'app' is not an import string; write module:app, for example app:app"),
        (("run", "nowhere:app"), "Error: nowhere:app: there is no module 'nowhere'"),
        (("run", "broken:app"), "ZeroDivisionError"),
        (("run", "app:ap"), "its apps: app:app"),
        (("run", "app:app", "--only", "order"), "did you mean 'orders'?"),
        (("run", "app:app", "--redis", "http://localhost"), "Error: --redis: "),
        (("run", "app:app", "--redis-file", "nowhere"), "Error: --redis-file nowhere: No such file"),
        (("run", "app:app", "--redis-file", "app.py"), "Error: --redis-file app.py: "),
        (("publish", "orders"), "Missing argument 'BODY'"),
        (("publish", "orders", "{}", "--header", "novalue"), "number 1 is not NAME=VALUE"),
        (("publish", "orders", "{}", "--file", "app.py"), "BODY and --file exclude each other"),
        (("publish", "orders", "{}", "--skip-lines", "1"), "--skip-lines is for --file"),
        (("publish", "orders", "--file", "app.py", "--rate", "0"), "Invalid value for '--rate'"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text("1 / 0")
    code, out, err = call(*words, folder=tmp_path)
    assert code == 2
    assert out == ""
    assert said in err
    assert os.path.dirname(streamworker.__file__) not in err


def test_without_any_server_to_be_had_it_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, _, err = call("run", "app:app", folder=tmp_path, STREAMWORKER_EMBEDDED="never")
    assert code == 2
    assert "STREAMWORKER_REDIS_URL" in err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_server_in_time_it_ends_with_3(tmp_path: Path, workers: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = nobody().replace("//", "//:hunter2@")
    words = ("run", "app:app", "--connect-timeout", "0.2", "--workers", workers)
    code, _, err = call(*words, folder=tmp_path, STREAMWORKER_REDIS_URL=url)
    assert code == 3
    assert "redis.waiting" in err
    assert "Redis cannot be reached" in err
    assert "hunter2" not in err


def test_publishing_without_a_server_ends_with_3(tmp_path: Path) -> None:
    code, out, err = call("publish", "orders", "{}", "--redis", nobody(), folder=tmp_path)
    assert (code, out) == (3, "")
    assert "Error: Redis cannot be reached" in err


def test_the_app_dir_is_where_modules_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "app.py").write_text(APP)
    words = ("run", "app:app", "--connect-timeout", "0", "--redis", nobody())
    assert call(*words, folder=tmp_path)[0] == 2
    assert call(*words, "--app-dir", "there", folder=tmp_path)[0] == 3
    assert call(*words, folder=tmp_path, STREAMWORKER_APP_DIR="there")[0] == 3


def test_a_healthy_worker_lets_healthcheck_end_with_0_and_a_stuck_one_with_1(tmp_path: Path) -> None:
    file = AliveFile(tmp_path)
    file.touch()
    assert call("healthcheck", folder=tmp_path, STREAMWORKER_HEALTH_DIR=str(tmp_path)) == (0, "healthy\n", "")
    os.utime(tmp_path / f"{os.getpid()}.alive", (1, 1))
    code, out, err = call("healthcheck", "--health-dir", str(tmp_path), folder=tmp_path)
    assert (code, out) == (1, "")
    assert f"unhealthy: the event loop stands still: process {os.getpid()}" in err
    file.remove()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "soon"])
def test_a_time_that_is_none_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, _, said = call("run", "app:app", "--shutdown-timeout", value, folder=tmp_path)
    assert code == 2
    assert "--shutdown-timeout" in said


@pytest.mark.parametrize("words", [("run", "app:app"), ("publish", "orders", "{}")])
def test_a_url_with_an_option_that_nobody_knows_is_one_message(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, _, said = call(*words, "--redis", nobody() + "?foo=1", folder=tmp_path)
    assert code == 2
    assert "foo" in said
    assert "Traceback" not in said
