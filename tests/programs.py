"""Real ``streamworker`` commands for tests, and the journal in which their handlers say what they did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.roles import as_role
from tests.servers import dying_with_us
from tests.waiting import wait_until, wait_until_sync

# Goes in front of an app's source. One write() to a file opened with O_APPEND is whole and in its place
# whatever other processes write, and is in the file although the process is killed right after it.
JOURNAL = """\
import os, time

_journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def journal(*words):
    line = " ".join(str(word) for word in (time.monotonic_ns(), os.getpid(), *words))
    os.write(_journal, line.encode() + b"\\n")


"""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a journal; ``at`` is seconds on this machine's monotonic clock, the same in all processes."""

    at: float
    pid: int
    words: tuple[str, ...]


def read_journal(path: Path) -> list[Event]:
    """What the handlers wrote, in the order of their clocks; empty while there is no file."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]  # a reader may see the first part of a line that is just being written
    lines = [line.split(" ") for line in whole.splitlines()]
    return sorted((Event(int(at) / 1e9, int(pid), tuple(words)) for at, pid, *words in lines), key=lambda e: e.at)


class Program:
    """One ``streamworker run`` in a folder, started at once; killed by ``end`` or with the test process.

    Args:
        source: the app's source, written to ``app.py`` with the journal in front; None leaves the folder as it is.
        args: further words of the command line.
        folder: where it runs; several programs may share it, and with it the app and the journal.
        url: given as ``--redis``, with the worker's user; None leaves the choice to the command.
        env: more environment variables.
        command: the words before ``args``.
        runner: what is run instead of ``streamworker``.
    """

    def __init__(
        self,
        source: str | None,
        *args: str,
        folder: Path,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        command: tuple[str, ...] = ("run", "app:app"),
        runner: tuple[str, ...] = (),
    ) -> None:
        if source is not None:
            (folder / "app.py").write_text(JOURNAL + source)
        self.folder = folder
        self.journal_path = folder / "journal"
        number = len(list(folder.glob("program-*.err")))
        self._out, self._err = folder / f"program-{number}.out", folder / f"program-{number}.err"
        words = [*command, *(("--redis", as_role(url)) if url else ()), *args]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                dying_with_us(*(runner or (streamworker_command(),)), *words),
                cwd=folder,
                env={**os.environ, **self._own_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _own_environment(self) -> dict[str, str]:
        # Healthcheck must not see the workers of other tests.
        return {"JOURNAL": str(self.journal_path), "STREAMWORKER_HEALTH_DIR": str(self.folder / "health")}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return self._err.read_text(errors="replace")

    @property
    def out(self) -> str:
        """What it wrote to stdout so far."""
        return self._out.read_text(errors="replace")

    @property
    def journal(self) -> list[Event]:
        return read_journal(self.journal_path)

    @property
    def children(self) -> list[int]:
        """The process ids of its running children, oldest first: the workers of ``--workers``."""
        return children_of(self.pid)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code (negative for a signal); AssertionError with its log if it takes longer."""
        wait_until_sync(lambda: self.process.poll() is not None, timeout, lambda: f"the program ends\n{self.log}")
        return int(self.process.returncode)

    async def ended(self, timeout: float = 20.0) -> int:
        """As ``wait``, while the event loop goes on."""
        await wait_until(lambda: self.process.poll() is not None, timeout, lambda: f"the program ends\n{self.log}")
        return int(self.process.returncode)

    def sigterm(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def sigint(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def sigkill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    @contextmanager
    def stop_cont(self) -> Iterator[None]:
        """SIGSTOP for as long as the block lasts, then SIGCONT."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it with all its descendants, and wait; for the end of a test."""
        family = _descendants(self.pid) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(10)
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def streamworker_command() -> Path:
    """The console script that pip installed beside this Python."""
    command = Path(sys.executable).with_name("streamworker")
    if not command.exists():
        raise FileNotFoundError(f"no {command}; pip install -e '.[test]'")
    return command


def children_of(pid: int) -> list[int]:
    """The running children of a process, oldest first; none if it is gone."""
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return sorted(found)


def _descendants(pid: int) -> list[int]:
    return [one for child in children_of(pid) for one in (child, *_descendants(child))]
