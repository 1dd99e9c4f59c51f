"""``[tool.streamworker]`` of the nearest pyproject.toml: what counts before it, and what it says when it is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from streamworker.cli import cli
from streamworker.cli.project import apps_of_project, server_of_project
from streamworker.errors import ConfigError

APP = """
from streamworker import App
app = App("billing"{url})

@app.on("orders")
async def charge(order: dict) -> None: ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of each test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, folder: Path = Path(), table: str = "[tool.streamworker]") -> None:
    (folder / "pyproject.toml").write_text(f"[project]\nname = 'shop'\n{table}\n{text}\n")


def parsed(*words: str) -> click.Context:
    """The context of the command with these words, not invoked."""
    with click.Context(cli, info_name="streamworker") as root:
        name, command, rest = cli.resolve_command(root, list(words))
        assert command is not None
        return command.make_context(name, rest, parent=root)


def options(*words: str) -> dict[str, Any]:
    return parsed(*words).params


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(*(words or ("run", "app:app")))
    return str(caught.value)


def call(*words: str, folder: Path, **environment: str) -> tuple[int, str]:
    """The exit code and what was said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "streamworker", *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def nobody(name: str = "") -> str:
    """The URL of a port on which nobody listens, with a login of this name."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return f"redis://{name}:hunter2@127.0.0.1:{place.getsockname()[1]}"


def test_an_option_goes_before_its_variable_that_before_the_file_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert options("run", "app:app")["workers"] == 1
    write("workers = 2")
    assert options("run", "app:app")["workers"] == 2
    monkeypatch.setenv("STREAMWORKER_WORKERS", "3")
    assert options("run", "app:app")["workers"] == 3
    assert options("run", "app:app", "--workers", "4")["workers"] == 4


def test_flags_lists_numbers_and_choices_follow_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    write('burst = true\ntracing = false\nonly = ["a", "b c"]\nshutdown-timeout = 7\nlog-format = "json"')
    told = options("run", "app:app")
    assert told["burst"] is True
    assert told["tracing"] is False
    assert told["only"] == ("a", "b c")
    assert told["shutdown_timeout"] == 7.0
    assert told["log_format"] == "json"
    words = ("--tracing", "--only", "d", "--shutdown-timeout", "8", "--log-format", "console")
    told = options("run", "app:app", *words)
    assert (told["tracing"], told["only"], told["shutdown_timeout"]) == (True, ("d",), 8.0)
    assert told["log_format"] == "console"
    for name, value in (("BURST", "0"), ("TRACING", "1"), ("ONLY", "e f"), ("SHUTDOWN_TIMEOUT", "9")):
        monkeypatch.setenv(f"STREAMWORKER_{name}", value)
    told = options("run", "app:app")
    assert (told["burst"], told["tracing"], told["only"]) == (False, True, ("e", "f"))
    assert told["shutdown_timeout"] == 9.0


def test_what_the_file_says_for_one_command_goes_before_what_it_says_for_all() -> None:
    write("interval = 2\njson = true\n[tool.streamworker.top]\ninterval = 3")
    assert (options("status")["interval"], options("status")["as_json"]) == (2.0, True)
    assert options("top")["interval"] == 3.0


def test_the_nearest_file_counts_from_any_folder_below_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "src" / "deep"
    below.mkdir(parents=True)
    write("workers = 2")
    monkeypatch.chdir(below)
    assert options("run", "app:app")["workers"] == 2
    (folder / "src" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert options("run", "app:app")["workers"] == 1


def test_a_folder_in_the_file_is_one_of_the_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    write('app-dir = "src"\nhealth-dir = "/run/health"')
    monkeypatch.chdir(folder / "below")
    told = options("run", "app:app")
    assert told["app_dir"] == str(folder / "src")
    assert told["health_dir"] == Path("/run/health")


def test_the_help_shows_the_defaults_of_the_file(folder: Path) -> None:
    write("workers = 17")
    done = subprocess.run(
        [sys.executable, "-m", "streamworker", "run", "--help"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "default: 17" in done.stdout


def test_a_file_of_another_user_in_a_folder_where_anybody_writes_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("workers = 2")
    folder.chmod(0o1777)
    assert options("run", "app:app")["workers"] == 2
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    if os.getuid() == 0:  # whose files are always taken
        os.chown(folder / "pyproject.toml", 4712, -1)
    assert options("run", "app:app")["workers"] == 1


def test_a_broken_file_that_has_nothing_for_us_stops_nothing(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("this is no TOML")
    assert options("run", "app:app")["workers"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "worker = 2",
            "[tool.streamworker] worker: there is no such option, or it must be said each time; did you mean workers",
        ),
        (
            "shutdown_timeout = 2",
            "shutdown_timeout: there is no such option, or it must be said each time; did you mean shutdown-timeout?",
        ),
        ("token = 'x'", "token: there is no such option, or it must be said each time; "),
        ("force = true", "force: there is no such option, or it must be said each time; "),
        (
            "[tool.streamworker.trim]\nyes = true",
            "[tool.streamworker.trim] yes: there is no such option, or it must be",
        ),
        ("[tool.streamworker.doctor]\nfix = true", "[tool.streamworker.doctor] fix: there is no such option, or it"),
        ("nonsense = 2", "nonsense: there is no such option, or it must be said each time; known are "),
        ("run = 2", "run: this is a command; write its defaults under [tool.streamworker.run]"),
        ("[tool.streamworker.rum]\nworkers = 2", "rum: there is no such command; did you mean run?"),
        ("[tool.streamworker.run]\ninterval = 2", "[tool.streamworker.run] interval: there is no such option"),
        ("[tool.streamworker.run.more]\nworkers = 2", "[tool.streamworker.run] more: there is no such command"),
        ("[tool.streamworker.status]\napp = 'a:b'", "[tool.streamworker.status] app: there is no such option"),
        ("workers = '2'", "workers: run wants a whole number, not a text"),
        ("workers = true", "workers: run wants a whole number, not true"),
        ("workers = 2.0", "workers: run wants a whole number, not 2.0"),
        ("workers = 0", "workers: 0 is not in the range x>=1"),
        ("burst = 'yes'", "burst: run wants true or false, not a text"),
        ("burst = 1", "burst: run wants true or false, not 1"),
        ("only = 'orders'", "only: run wants a list of texts, not a text"),
        ("only = ['orders', 1]", "only: run wants a list of texts, not a list"),
        ("shutdown-timeout = true", "shutdown-timeout: run wants a number or a text, not true"),
        ("shutdown-timeout = -1", "shutdown-timeout: '-1' is not a number of seconds, 0 or more"),
        ("shutdown-timeout = 1979-05-27", "not a date or time"),
        ("log-format = 'jsn'", "log-format: 'jsn' is not one of"),
        ("header = ['novalue']", "header: number 1 is not NAME=VALUE"),
        ("redis = 6379", "redis: it must be a text, not 6379"),
        ("redis = 'a'\nredis-file = 'b'", "redis: redis-file is given as well"),
        ("app = ['app:app']", 'app: it must be a text such as "app:app", not a list'),
        ("app = ''", 'app: it must be a text such as "app:app", not empty'),
        ("apps = 'app:app'", 'apps: it must be a list such as ["app:app"], not a text'),
        ("app = 'a:b'\napps = ['a:b']", "app: apps is given as well"),
        ("workers =", "is not valid TOML: Invalid value (at line 4"),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_key(text: str, said: str, folder: Path) -> None:
    write(text)
    message = refusal()
    assert message.startswith(f"{folder / 'pyproject.toml'}")
    assert said in message


def test_a_streamworker_that_is_no_table_is_refused() -> None:
    write("streamworker = 2", table="[tool]")
    assert "write [tool.streamworker]" in refusal()


def test_a_file_that_is_wrong_ends_a_command_with_2_but_its_help_with_0(folder: Path) -> None:
    write("nonsense = 2")
    code, said = call("status", folder=folder)
    assert code == 2
    assert said.startswith(f"Error: {folder / 'pyproject.toml'}: [tool.streamworker] nonsense: ")
    assert call("status", "--help", folder=folder) == (0, "")


def test_the_file_names_the_apps_and_their_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    write('app = "app:app"', folder)
    apps = apps_of_project(parsed("run"))
    assert apps is not None
    assert (apps.names, apps.folder) == (("app:app",), folder)
    write('app = "app:app"\n[tool.streamworker.run]\napps = ["a:app", "b:app"]', folder)
    apps = apps_of_project(parsed("run"))
    assert apps is not None
    assert apps.names == ("a:app", "b:app")
    assert apps_of_project(parsed("status")) is None


def test_a_run_without_arguments_runs_the_app_of_the_file(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "app.py").write_text(APP.format(url=""))
    (folder / "below" / "other.py").write_text(APP.format(url=""))
    words = ("run", "--connect-timeout", "0", "--redis", nobody())
    code, said = call(*words, folder=folder / "below")
    assert code == 2
    assert "Missing argument 'MODULE:APP...'" in said
    assert 'app = "app:app" under [tool.streamworker]' in said
    write('app = "app:app"', folder)
    assert call(*words, folder=folder / "below")[0] == 3
    assert call(*words, "--app-dir", ".", folder=folder / "below")[0] == 2
    # Who names an app means one of the current folder, as without the file.
    assert call(*words, "other:app", folder=folder / "below")[0] == 3


def test_the_redis_of_the_file_comes_after_everything_else_that_names_one(folder: Path) -> None:
    words = ("run", "app:app", "--connect-timeout", "0")
    urls = {name: nobody(name) for name in ("option", "app", "variable", "file")}
    write(f'redis = "{urls["file"]}"')
    (folder / "app.py").write_text(APP.format(url=""))

    def used(*more: str, **environment: str) -> str:
        code, said = call(*words, *more, folder=folder, STREAMWORKER_EMBEDDED="never", **environment)
        assert code == 3, said
        assert "hunter2" not in said
        (name,) = [name for name, url in urls.items() if url.rpartition("@")[2] in said]
        return name

    assert used() == "file"
    assert used("--workers", "2") == "file"
    assert used(REDIS_URL=urls["variable"]) == "variable"
    (folder / "app.py").write_text(APP.format(url=f", url={urls['app']!r}"))
    assert used() == "app"
    assert used(REDIS_URL=urls["variable"]) == "app"
    assert used("--redis", urls["option"]) == "option"


@pytest.mark.parametrize("words", [("publish", "orders", "{}"), ("status",), ("tail", "orders")])
def test_every_command_takes_the_redis_of_the_file_last(words: tuple[str, ...], folder: Path) -> None:
    file, variable = nobody(), nobody()
    write(f'redis = "{file}"')
    code, said = call(*words, folder=folder)
    assert code == 3
    assert file.rpartition("@")[2] in said
    code, said = call(*words, folder=folder, REDIS_URL=variable)
    assert code == 3
    assert variable.rpartition("@")[2] in said
    assert "hunter2" not in said


def test_a_wrong_redis_of_the_file_names_the_file_and_no_secret(folder: Path) -> None:
    write('redis = "http://user:hunter2@localhost"')
    code, said = call("status", folder=folder)
    assert code == 2
    assert f"{folder / 'pyproject.toml'}: [tool.streamworker] redis: " in said
    assert "hunter2" not in said


def test_a_redis_file_of_the_file_is_read_beside_it_and_only_where_it_counts(folder: Path) -> None:
    (folder / "below").mkdir()
    write('redis-file = "url.txt"')
    code, said = call("status", folder=folder / "below")
    assert code == 2
    assert f"redis-file {folder / 'url.txt'}: No such file" in said
    url = nobody()
    assert call("status", folder=folder / "below", REDIS_URL=url)[0] == 3
    (folder / "url.txt").write_text(url + "\n")
    code, said = call("status", folder=folder / "below")
    assert code == 3
    assert url.rpartition("@")[2] in said


def test_a_command_of_its_own_redis_forgets_the_one_of_all() -> None:
    write('redis = "redis://all"\n[tool.streamworker.status]\nredis-file = "url.txt"')
    server = server_of_project(parsed("status"))
    assert server is not None
    assert (server.redis, server.redis_file) == (None, Path.cwd() / "url.txt")
    server = server_of_project(parsed("top"))
    assert server is not None
    assert server.redis == "redis://all"
    assert "redis://all" not in repr(server)


def test_a_child_of_a_supervisor_does_not_read_the_file() -> None:
    write('only = ["a"]\nhttp = "0.0.0.0:8080"\nnonsense = 1')
    told = options("run", "--workers=1", "--parent-pipe=7", "--", "app:app")
    assert (told["only"], told["http"]) == ((), None)
