"""``streamworker run --reload``: real processes whose code changes while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProgramOf, ServerOf
from tests.programs import JOURNAL, Program, streamworker_command
from tests.roles import as_role
from tests.waiting import wait_until_sync

APP = """
import asyncio
from streamworker import App

app = App("billing"{url})

@app.on("{stream}")
async def charge(order: dict) -> None:
    journal("{version}", "starts", order["id"])
    while order.get("until") and not os.path.exists(order["until"]):
        await asyncio.sleep(0.01)
    journal("{version}", "ends", order["id"])
"""


@pytest.fixture
def url(shared_server: ServerOf) -> str:
    """What is tested here does not depend on the server."""
    return shared_server("valkey-9.1").url


def app(stream: str, version: str, url: str = "") -> str:
    return APP.format(stream=stream, version=version, url=f", url={url!r}" if url else "")


def change(program: Program, source: str, name: str = "app.py") -> None:
    """Write the file as editors do: whole, in its place at once."""
    draft = program.folder / "draft.txt"
    draft.write_text(JOURNAL + source)
    draft.rename(program.folder / name)


def publish(url: str, stream: str, body: dict[str, Any]) -> None:
    words = ["publish", stream, json.dumps(body), "--redis", url]
    subprocess.run([streamworker_command(), *words], capture_output=True, timeout=30, check=True)


def lines(program: Program, event: str) -> list[dict[str, Any]]:
    whole = [line for line in program.log.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in map(json.loads, whole) if line["message"] == event]


def told(program: Program, event: str, count: int = 1) -> list[dict[str, Any]]:
    """The lines of this event, as soon as there are so many."""
    wait_until_sync(lambda: len(lines(program, event)) >= count, 30, lambda: f"{event} in the log\n{program.log}")
    return lines(program, event)


def happened(program: Program, *words: str) -> None:
    wait_until_sync(
        lambda: any(event.words == words for event in program.journal), 30, lambda: f"{words}\n{program.log}"
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_change_drains_what_runs_and_the_new_code_goes_on(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    told(parent, "worker.started")
    gate = parent.folder / "gate"
    publish(url, stream, {"id": 1, "until": str(gate)})
    happened(parent, "old", "starts", "1")
    change(parent, app(stream, "new"))
    told(parent, "worker.draining")
    assert told(parent, "reload.changed")[0]["files"] == ["app.py"]
    gate.touch()
    happened(parent, "old", "ends", "1")
    told(parent, "worker.started", 2)
    publish(url, stream, {"id": 2})
    happened(parent, "new", "ends", "2")
    assert [event.words for event in parent.journal if event.words[2] == "1"] == [
        ("old", "starts", "1"),
        ("old", "ends", "1"),
    ]
    parent.sigterm()
    assert parent.wait() == 0
    assert len(lines(parent, "worker.drained")) == 2


def test_a_second_change_during_the_drain_kills_nobody_and_is_loaded_with_the_first(
    program: ProgramOf, url: str, stream: str
) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    told(parent, "worker.started")
    gate = parent.folder / "gate"
    publish(url, stream, {"id": 1, "until": str(gate)})
    happened(parent, "old", "starts", "1")
    for number, version in enumerate(("newer", "newest"), 1):
        change(parent, app(stream, version))
        told(parent, "reload.changed", number)
    (child,) = parent.children
    assert child == lines(parent, "worker.started")[0]["pid"]
    gate.touch()
    happened(parent, "old", "ends", "1")
    told(parent, "worker.started", 2)
    publish(url, stream, {"id": 2})
    happened(parent, "newest", "ends", "2")
    assert len(lines(parent, "worker.started")) == 2


def test_code_that_cannot_be_imported_is_told_and_the_next_change_tries_again(
    program: ProgramOf, url: str, stream: str
) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    told(parent, "worker.started")
    change(parent, "def broken(:")
    assert "SyntaxError" in told(parent, "worker.start_failed")[0]["reason"]
    assert told(parent, "reload.waiting")[0]["exit_code"] == 2
    assert parent.children == []
    change(parent, app(stream, "new"))
    told(parent, "worker.started", 2)
    publish(url, stream, {"id": 1})
    happened(parent, "new", "ends", "1")


def test_code_that_is_broken_at_the_start_is_waited_out_and_ctrl_c_ends_with_its_code(
    program: ProgramOf, url: str
) -> None:
    parent = program("1 / 0", "--reload", "--log-format", "console", url=url)
    wait_until_sync(lambda: "reload.waiting" in parent.log, 30, lambda: parent.log)
    # For people the traceback has lines of its own.
    assert "\nZeroDivisionError: division by zero\n" in parent.log
    parent.sigint()
    assert parent.wait() == 2


def test_ctrl_c_drains_and_a_handler_that_outlasts_the_drain_makes_it_4(
    program: ProgramOf, url: str, stream: str
) -> None:
    parent = program(app(stream, "old"), "--reload", "--shutdown-timeout", "0.2", url=url)
    told(parent, "worker.started")
    publish(url, stream, {"id": 1, "until": "/never"})
    happened(parent, "old", "starts", "1")
    parent.sigint()
    assert parent.wait() == 4
    told(parent, "worker.drain_timed_out")


def test_the_second_signal_ends_it_and_its_worker_at_once(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    pid = told(parent, "worker.started")[0]["pid"]
    publish(url, stream, {"id": 1, "until": "/never"})
    happened(parent, "old", "starts", "1")
    parent.sigint()
    told(parent, "worker.draining")
    parent.sigterm()
    assert parent.wait() == 128 + signal.SIGTERM
    assert not alive(pid)


def test_a_worker_that_crashes_is_not_started_before_the_next_change(program: ProgramOf, url: str, stream: str) -> None:
    # Its lease is longer than the test: what it held is taken over at once only since the new one is told of it.
    patient = app(stream, "old").replace('App("billing"', 'App("billing", lease=600')
    parent = program(patient + '    os._exit(7) if order["id"] == 1 else None\n', "--reload", url=url)
    told(parent, "worker.started")
    publish(url, stream, {"id": 1})
    assert told(parent, "reload.waiting")[0]["exit_code"] == 7
    assert parent.children == []
    change(parent, patient.replace("old", "new"))
    happened(parent, "new", "ends", "1")


def test_the_worker_of_a_killed_parent_drains_by_itself(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    pid = told(parent, "worker.started")[0]["pid"]
    parent.sigkill()
    try:
        wait_until_sync(lambda: not alive(pid), 20, lambda: f"the worker ends\n{parent.log}")
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert len(lines(parent, "worker.drained")) == 1


def test_only_python_files_of_the_user_count(program: ProgramOf, url: str, stream: str, tmp_path: Path) -> None:
    for name in (".venv", "node_modules", "package"):
        (tmp_path / name).mkdir()
    parent = program(app(stream, "old"), "--reload", url=url)
    told(parent, "worker.started")
    for name in ("notes.txt", ".venv/code.py", "node_modules/code.py", "package/code.py"):
        (tmp_path / name).write_text("")
    told(parent, "worker.started", 2)
    assert [line["files"] for line in lines(parent, "reload.changed")] == [["package/code.py"]]


def test_the_secret_of_the_url_is_in_no_argument_of_the_worker(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(app(stream, "old"), "--reload", url=url)
    pid = told(parent, "worker.started")[0]["pid"]
    secret = as_role(url).partition("@")[0].rpartition(":")[2]
    assert secret in Path(f"/proc/{parent.pid}/cmdline").read_text()
    assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
    told(parent, "redis.password_in_arguments")
    assert secret not in parent.log


def test_the_embedded_server_outlives_the_workers_and_goes_with_the_parent(
    program: ProgramOf, stream: str, tmp_path: Path
) -> None:
    parent = program(app(stream, "old"), "--reload")
    told(parent, "worker.started")
    assert told(parent, "server.embedded")[0]["redis"].startswith("redis://127.0.0.1:")
    (state,) = tmp_path.glob(".streamworker/server.state")
    before = state.read_text()  # port and run id
    change(parent, "def broken(:")
    told(parent, "reload.waiting")
    # With nobody else there, a server that only the worker held would be gone within a second.
    subprocess.run(
        [streamworker_command(), "publish", stream, '{"id": 1}'], cwd=tmp_path, capture_output=True, check=True
    )
    change(parent, app(stream, "new"))
    happened(parent, "new", "ends", "1")
    assert state.read_text() == before
    parent.sigterm()
    assert parent.wait() == 0


def test_the_url_of_the_app_goes_before_that_of_pyproject_toml_and_needs_no_embedded_server(
    program: ProgramOf, url: str, stream: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.streamworker]\napp = "app:app"\nredis = "redis://:hunter2@127.0.0.1:1"\nconnect-timeout = 0\n'
    )
    parent = program(app(stream, "old", url=as_role(url)), "--reload", command=("run",))
    assert as_role(url).rpartition("@")[2] in told(parent, "worker.started")[0]["redis"]
    assert not (tmp_path / ".streamworker").exists()
    # Without one the file counts, for as long as the parent runs: it was read once.
    (tmp_path / "pyproject.toml").write_text("")
    change(parent, app(stream, "new"))
    assert "127.0.0.1:1" in told(parent, "worker.start_failed")[0]["reason"]
    assert told(parent, "reload.waiting")[0]["exit_code"] == 3
    assert "hunter2" not in parent.log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "2"), "--reload runs one worker, but --workers is 2: say --workers 1"),
        (("--burst",), "--reload runs for ever, and --burst ends"),
        (("--app-dir", "nowhere"), "--app-dir 'nowhere' is not a folder"),
    ],
)
def test_what_does_not_go_with_reload_is_wrong_usage(words: tuple[str, ...], said: str, program: ProgramOf) -> None:
    parent = program("", "--reload", *words)
    assert parent.wait() == 2
    assert said in parent.log


def test_without_watchfiles_the_error_names_what_to_install(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["watchfiles"] = None
sys.argv = ["streamworker", "run", "app:app", "--reload"]
from streamworker.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: --reload needs the package watchfiles: pip install 'streamworker[dev]'\n"
