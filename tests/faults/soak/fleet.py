"""The processes of a soak: lone workers, one of them behind a proxy of its own, and a supervisor with two more."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.faults.journal import Journal
from tests.programs import Program, children_of
from tests.waiting import wait_until

_APPS = ("tests.faults.soak.app:billing", "tests.faults.soak.app:audit")
_ROOT = Path(__file__).parents[3]
_TICK = 0.05


class Fleet:
    """Starts the workers, replaces those that end, and writes down how each of them ended.

    Args:
        folder: of logs and journal.
        journal: where ends are written down.
        urls: one for each lone worker.
        url: for the supervisor.
        lease: seconds.
        shutdown: seconds.
    """

    def __init__(
        self, folder: Path, journal: Journal, urls: list[str], url: str, *, lease: float, shutdown: float
    ) -> None:
        self.peak = 0  # KiB of the largest worker
        self._folder = folder
        self._journal = journal
        self._urls = urls
        self._url = url
        self._lease = lease
        self._shutdown = shutdown
        self.lone: list[Program] = []
        self.supervisor: Program | None = None
        self._asked: dict[int, tuple[str, float]] = {}  # how each process was asked to end, and when
        self._children: set[int] = set()
        self._programs: list[Program] = []
        self._ending: list[Program] = []

    def start(self) -> None:
        self.lone = [self._start(url) for url in self._urls]
        self.supervisor = self._start(self._url, "--workers", "2")

    @property
    def workers(self) -> list[int]:
        """The process ids of all that handle something now."""
        return [program.pid for program in self.lone] + self.supervised

    @property
    def supervised(self) -> list[int]:
        return children_of(self.supervisor.pid) if self.supervisor is not None else []

    def kill(self, pid: int) -> None:
        """SIGKILL one of the workers; what watches over it replaces it."""
        self._asked[pid] = ("kill", time.monotonic())
        self._journal.note("fault-on", fault="kill", target=pid)
        os.kill(pid, signal.SIGKILL)
        self._journal.note("fault-off", fault="kill", target=pid)

    async def deploy(self, place: int) -> None:
        """Replace a lone worker (or the supervisor, by -1) as a deploy does: both at once, then the old one ends."""
        old = self.lone[place] if place >= 0 else self.supervisor
        assert old is not None
        if place >= 0:
            self.lone[place] = self._start(self._urls[place])
        else:
            self.supervisor = self._start(self._url, "--workers", "2")
        await self._end(old)

    async def end(self) -> None:
        """SIGTERM all, and wait until they have ended."""
        programs = [*self.lone, *([self.supervisor] if self.supervisor is not None else [])]
        self.lone, self.supervisor = [], None
        await asyncio.gather(*(self._end(program) for program in programs))
        self._look()

    def clear(self) -> None:
        """Whatever still runs is killed: nothing is left behind."""
        for program in self._programs:
            program.end()

    async def watch_loop(self) -> None:
        """Note the end of every process, and replace lone workers that ended."""
        while True:
            self._look()
            await asyncio.sleep(_TICK)

    def logs(self) -> list[str]:
        return [program.log for program in self._programs]

    def _start(self, url: str, *words: str) -> Program:
        program = Program(
            None, *words, "--shutdown-timeout", str(self._shutdown), "--app-dir", str(_ROOT),
            folder=self._folder, url=url, command=("run", *_APPS),
            env={"SOAK_LEASE": str(self._lease), "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        self._programs.append(program)
        return program

    async def _end(self, program: Program) -> None:
        pids = [*children_of(program.pid), program.pid]
        for pid in pids:
            self._asked.setdefault(pid, ("term", time.monotonic()))
            self._journal.note("fault-on", fault="deploy", target=pid)
        self._ending.append(program)
        program.sigterm()
        await wait_until(lambda: program.process.poll() is not None, self._shutdown + 30)
        self._ending.remove(program)
        self._ended(program.pid, program.process.returncode)
        self._look()
        for pid in pids:
            self._journal.note("fault-off", fault="deploy", target=pid)

    def _look(self) -> None:
        for place, program in enumerate(self.lone):
            if (code := program.process.poll()) is not None:
                self._ended(program.pid, code)
                self.lone[place] = self._start(self._urls[place])
        supervisors = [*self._ending, *([self.supervisor] if self.supervisor is not None else [])]
        children = {pid for one in supervisors for pid in children_of(one.pid)} - {one.pid for one in self._ending}
        for pid in self._children - children:
            self._ended(pid, {"kill": -9, "term": 0}.get(self._asked.get(pid, ("", 0.0))[0], 1))
        self._children = children
        for pid in self.workers:
            self.peak = max(self.peak, _peak_of(pid))

    def _ended(self, pid: int, code: int) -> None:
        asked, since = self._asked.get(pid, ("nobody", time.monotonic()))
        took = round(time.monotonic() - since, 3)
        self._journal.note("ended", target=pid, code=code, asked=asked, took=took)


def _peak_of(pid: int) -> int:
    """KiB that a process has used at most; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
