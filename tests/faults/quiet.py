"""Whether workers keep quiet while something is broken (invariant I11): few commands, few log lines, little CPU."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.faults.proxy import FaultProxy
from tests.programs import Program

COMMANDS: Final = 5.0  # a second and worker, heartbeats apart
CONNECTIONS: Final = 4.0  # likewise, those of heartbeats included: with a lease of 2 s they come 2.5 times a second
LINES: Final = 0.5  # likewise
CPU: Final = 0.2  # of a core
_FIRST_TRIES: Final = 1.5  # seconds
_LOGGING_IN: Final = ("AUTH", "HELLO", "SELECT", "CLIENT")  # connections are counted on their own
_EDGES: Final = 1.0  # seconds; a try that falls on an edge of the window belongs to what is outside of it too

Log: TypeAlias = "pytest.LogCaptureFixture | Sequence[Program]"


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    lines: list[str]
    cpu: float
    opened: int


async def keep_quiet(
    proxy: FaultProxy, log: Log, *, seconds: float = 3.0, workers: int = 1, healthy: bool = False
) -> None:
    """Look on for ``seconds`` while something is broken; AssertionError with what was too much.

    To be called once the fault was noticed: the first tries come quickly, so that a blip is over soon, and
    the first line about it is not counted either.

    Args:
        proxy: through which all that the workers say goes.
        log: where they log; the programs, or ``caplog`` for workers inside the test's process, whose CPU is
            then that of the whole test.
        seconds: how long to look.
        workers: how many there are.
        healthy: the reading connections are well: turns and reads, four a second at rest, are not counted.
    """
    await asyncio.sleep(_FIRST_TRIES)
    before = _read(proxy, log)
    await asyncio.sleep(seconds)
    after = _read(proxy, log)
    span = after.at - before.at  # the machine may be slow
    seen = proxy.commands(since=before.at, until=after.at, apart="beating")
    seen = [one for one in seen if one.name not in _LOGGING_IN]
    if healthy:
        seen = [one for one in seen if one.name not in ("TURN", "XREADGROUP")]
    said = after.lines[len(before.lines) :]
    names = dict(Counter(one.name for one in seen))
    assert len(seen) <= COMMANDS * (span + _EDGES) * workers, f"{len(seen)} commands in {span:.1f} s: {names}"
    opened = after.opened - before.opened
    assert opened <= CONNECTIONS * (span + _EDGES) * workers, f"{opened} connections in {span:.1f} s"
    assert len(said) <= LINES * (span + _EDGES) * workers, f"{len(said)} log lines in {span:.1f} s:\n" + "\n".join(said)
    used = (after.cpu - before.cpu) / span
    assert used <= CPU * workers, f"{used:.0%} of a core were used over {span:.1f} s"


def _read(proxy: FaultProxy, log: Log) -> _Reading:
    if isinstance(log, pytest.LogCaptureFixture):
        lines = [record.getMessage() for record in log.records if record.name == "streamworker"]
        cpu = time.process_time()
    else:
        lines = [line for program in log for line in program.log.splitlines()]
        cpu = sum(map(cpu_of, (program.pid for program in log)))
    return _Reading(time.monotonic(), lines, cpu, len(proxy.opened))


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
