"""The supervisor, over real processes that stand in for workers: restarts, drains, exit codes, orphans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamworker.child import Child
from streamworker.identity import consumer_name
from tests.waiting import wait_until_sync

# Each child appends one JSON line to the journal when it starts, and one when it drains, and then does as told.
CHILD = """
import json, os, signal, sys, threading, time
folder, token, replaces, pipe, signs = sys.argv[1:6]

def journal(what):
    with open(folder + "/journal", "a") as file:
        file.write(json.dumps({"pid": os.getpid(), "sid": os.getsid(0), "what": what, "token": token,
                               "replaces": replaces or None, "at": time.monotonic()}) + "\\n")

def drained():
    while os.read(int(pipe), 1):
        pass
    journal("drains")

with open(folder + "/lives") as file:
    lives = file.read()
journal("starts")
starts = [json.loads(line)["pid"] for line in open(folder + "/journal") if '"starts"' in line]
number = starts.index(os.getpid())
exec(lives)
"""

PARENT = """
import logging, sys
from streamworker.cli.logging import configure
from streamworker.supervisor import Supervisor
import streamworker.supervisor as module
configure("json", "debug")
folder, workers, timeout, burst, long_life, stuck_after = sys.argv[1:7]
module.MARGIN, module._LONG_LIFE = 0.2, float(long_life)
child = open(folder + "/child.py").read()
supervisor = Supervisor(
    lambda birth: [
        sys.executable, "-c", child, folder,
        birth.token, " ".join(birth.replaces), str(birth.pipe), str(birth.signs),
    ],
    int(workers), shutdown_timeout=float(timeout), burst=burst == "burst", stuck_after=float(stuck_after),
)
code = supervisor.run()
logging.shutdown()
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Line:
    pid: int
    sid: int
    what: str
    token: str
    replaces: str | None
    at: float


class Supervised:
    """A supervisor in a process of its own, whose children live as the given code says."""

    def __init__(
        self,
        folder: Path,
        lives: str,
        *,
        workers: int,
        timeout: float,
        burst: bool,
        long_life: float,
        stuck_after: float,
    ) -> None:
        self.folder = folder
        (folder / "child.py").write_text(CHILD)
        (folder / "lives").write_text(lives)
        words = [str(folder), str(workers), str(timeout), "burst" if burst else "-", str(long_life), str(stuck_after)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can send a signal to its whole group
        )

    def journal(self, what: str) -> list[Line]:
        path = self.folder / "journal"
        text = path.read_text() if path.exists() else ""
        lines = [Line(**json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line.what == what]

    def started(self, count: int) -> list[Line]:
        wait_until_sync(lambda: len(self.journal("starts")) >= count, what=f"{count} children started")
        return self.journal("starts")

    def end(self, timeout: float = 15.0) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, err


Start = Callable[..., Supervised]
DRAIN = "drained()\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(lives)``; no child outlives the test."""
    made: list[Supervised] = []

    def supervise(
        lives: str,
        *,
        workers: int = 2,
        timeout: float = 10.0,
        burst: bool = False,
        long_life: float = 60.0,
        stuck_after: float = 60.0,
    ) -> Supervised:
        one = Supervised(
            tmp_path, lives, workers=workers, timeout=timeout, burst=burst, long_life=long_life, stuck_after=stuck_after
        )
        made.append(one)
        return one

    yield supervise
    for one in made:
        one.process.kill()
        one.process.wait()
        left = [line.pid for line in one.journal("starts") if runs(line.pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        one.process.communicate()
        assert not left, "children outlived their supervisor"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_every_child_drains_once_and_the_whole_ends_with_0(start: Start, signum: signal.Signals) -> None:
    supervised = start(DRAIN, workers=3)
    supervised.started(3)
    supervised.process.send_signal(signum)
    assert supervised.end()[0] == 0
    assert sorted(line.pid for line in supervised.journal("drains")) == sorted(
        line.pid for line in supervised.started(3)
    )


def test_a_signal_to_the_whole_group_does_not_reach_the_children_twice(start: Start) -> None:
    supervised = start("signal.signal(signal.SIGINT, lambda *_: journal('signalled'))\n" + DRAIN)
    pids = [line.pid for line in supervised.started(2)]
    os.killpg(supervised.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert supervised.end()[0] == 0
    assert supervised.journal("signalled") == []
    assert {line.sid for line in supervised.journal("starts")} == set(pids)


def test_a_dead_child_is_replaced_at_once_by_one_that_knows_its_name(start: Start) -> None:
    supervised = start(DRAIN)
    first, second = supervised.started(2)
    os.kill(first.pid, signal.SIGKILL)
    third = supervised.started(3)[-1]
    assert third.replaces == consumer_name(first.token, first.pid)
    assert len({first.token, second.token, third.token}) == 3
    assert first.replaces is None
    supervised.process.terminate()
    code, log = supervised.end()
    assert code == 0
    assert '"worker.died"' in log
    assert '"exit_code": -9, "restart_in": 0.0' in log


def test_a_child_that_dies_again_and_again_is_started_with_growing_pauses(start: Start) -> None:
    supervised = start("if number < 4: sys.exit(1)\n" + DRAIN, workers=1)
    births = supervised.started(5)
    pauses = [later.at - earlier.at for earlier, later in pairwise(births)]
    assert all(pause >= least for pause, least in zip(pauses, (0, 0.5, 1.0, 2.0), strict=True))
    names = [consumer_name(line.token, line.pid) for line in births[:-1]]
    # Nobody knows whether a replacement came to marking its predecessor before it died.
    assert [(line.replaces or "").split() for line in births] == [names[:count] for count in range(5)]
    supervised.process.terminate()
    code, log = supervised.end()
    assert code == 0
    assert [line["restart_in"] for line in deaths(log)] == [0.0, 0.5, 1.0, 2.0]


def deaths(log: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.splitlines()) if line["message"] == "worker.died"]


def test_after_a_long_life_a_death_counts_as_the_first_again(start: Start) -> None:
    supervised = start("if number < 3: sys.exit(1)\n" + DRAIN, workers=1, long_life=0.0)
    supervised.started(4)
    supervised.process.terminate()
    assert [line["restart_in"] for line in deaths(supervised.end()[1])] == [0.0, 0.0, 0.0]


def test_a_child_whose_event_loop_shows_no_sign_of_life_any_more_is_killed_and_replaced(start: Start) -> None:
    lives = "os.write(int(signs), b'.')\nif number == 0: time.sleep(60)\n" + DRAIN
    supervised = start(lives, workers=1, stuck_after=1.0)
    first, second = supervised.started(2)[:2]
    assert second.at - first.at >= 1.0
    assert second.replaces == consumer_name(first.token, first.pid)
    supervised.process.kill()
    log = supervised.end()[1]
    assert '"exit_code": -9' in log
    assert log.count('"worker.killed"') >= 1
    # The last child drains, once it sees that the pipe is closed.
    wait_until_sync(lambda: not any(runs(line.pid) for line in supervised.journal("starts")))


def test_a_child_that_has_not_come_to_its_first_sign_of_life_may_take_its_time(start: Start) -> None:
    supervised = start("if number == 0: time.sleep(3)\njournal('ready')\n" + DRAIN, workers=1, stuck_after=0.5)
    wait_until_sync(lambda: supervised.journal("ready"))
    assert len(supervised.journal("starts")) == 1
    supervised.process.terminate()
    assert supervised.end()[0] == 0


def test_a_signal_during_a_pause_ends_the_whole_at_once(start: Start) -> None:
    supervised = start("sys.exit(1)\n", workers=1)
    third = supervised.started(3)[-1]
    wait_until_sync(lambda: not runs(third.pid))
    supervised.process.terminate()
    assert supervised.end(5)[0] == 0
    assert len(supervised.journal("starts")) == 3


def test_children_that_have_finished_a_burst_are_not_started_again(start: Start) -> None:
    supervised = start("sys.exit(0)\n", burst=True)
    assert supervised.end()[0] == 0
    assert len(supervised.journal("starts")) == 2


def test_a_child_that_crashes_in_a_burst_is_replaced_and_the_burst_still_ends_with_0(start: Start) -> None:
    supervised = start("sys.exit(1 if number == 0 else 0)\n", burst=True)
    assert supervised.end()[0] == 0
    assert len(supervised.journal("starts")) == 3


def test_a_child_that_somebody_else_told_to_end_is_replaced_and_leaves_nothing_to_take_over(start: Start) -> None:
    supervised = start("if number == 0: sys.exit(0)\n" + DRAIN, workers=1)
    assert supervised.started(2)[-1].replaces is None
    supervised.process.terminate()
    assert supervised.end()[0] == 0


@pytest.mark.parametrize("code", [2, 3])
def test_what_no_restart_can_mend_ends_the_whole_with_the_childs_code(start: Start, code: int) -> None:
    supervised = start(f"if number == 0: sys.exit({code})\n" + DRAIN)
    assert supervised.end()[0] == code
    assert len(supervised.journal("starts")) <= 2


def test_a_replacement_that_finds_no_redis_is_tried_again(start: Start) -> None:
    supervised = start("if number < 2: sys.exit((1, 3)[number])\n" + DRAIN, workers=1)
    supervised.started(3)
    supervised.process.terminate()
    assert supervised.end()[0] == 0


@pytest.mark.parametrize(
    ("codes", "whole"), [((0, 0), 0), ((0, 4), 4), ((1, 4), 4), ((0, 1), 1), ((0, 77), 1), ((0, -9), 1), ((0, -15), 0)]
)
def test_the_exit_code_is_the_worst_of_the_children(start: Start, codes: tuple[int, int], whole: int) -> None:
    lives = f"""
try:
    os.open(folder + "/first", os.O_CREAT | os.O_EXCL)
    code = {codes[0]}
except FileExistsError:
    code = {codes[1]}
journal("ready")
drained()
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
    supervised = start(lives)
    wait_until_sync(lambda: len(supervised.journal("ready")) == 2)
    supervised.process.terminate()
    assert supervised.end()[0] == whole


def test_a_child_that_does_not_drain_is_killed_and_the_whole_ends_with_4(start: Start) -> None:
    supervised = start(DRAIN + "time.sleep(60)\n", timeout=0.3)
    supervised.started(2)
    supervised.process.terminate()
    code, log = supervised.end()
    assert code == 4
    assert log.count('"worker.killed"') == 2


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_all_at_once(start: Start, second: signal.Signals) -> None:
    supervised = start(DRAIN + "time.sleep(60)\n", timeout=60)
    supervised.started(2)
    supervised.process.send_signal(signal.SIGINT)
    wait_until_sync(lambda: len(supervised.journal("drains")) == 2)
    supervised.process.send_signal(second)
    assert supervised.end(5)[0] == 128 + second
    assert not any(runs(line.pid) for line in supervised.journal("starts"))


def test_the_children_of_a_killed_supervisor_drain_by_themselves(start: Start) -> None:
    supervised = start(DRAIN, workers=3)
    pids = [line.pid for line in supervised.started(3)]
    supervised.process.kill()
    wait_until_sync(lambda: not any(runs(pid) for pid in pids), what="the children end")
    assert len(supervised.journal("drains")) == 3


def test_a_dead_process_that_nobody_waits_for_is_taken_notice_of() -> None:
    # In a process of its own: it would take the children of other tests.
    code = """
import os, subprocess, sys, time
from streamworker.child import reap_stranger
assert not reap_stranger(())
ours = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)
assert reap_stranger({ours.pid})
assert ours.poll() == 7
stranger = os.fork()
if not stranger:
    os._exit(0)
os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOWAIT)
assert reap_stranger({1})
try:
    os.waitpid(stranger, os.WNOHANG)
except ChildProcessError:
    print("gone")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("gone\n", "")


def test_a_child_that_has_ended_leaves_no_descriptor_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    child = Child(lambda birth: [sys.executable, "-c", "pass"])
    assert len(set(os.listdir("/proc/self/fd")) - before) == 2
    wait_until_sync(lambda: child.ended() == 0)
    child.close()
    with pytest.raises(FileNotFoundError):
        Child(lambda birth: ["/nowhere"])
    assert set(os.listdir("/proc/self/fd")) == before
