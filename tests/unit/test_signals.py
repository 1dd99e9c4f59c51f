"""Signals, in processes of their own: under both event loops, idle, busy and with a loop that stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from streamworker.signals import Signals, when_closed
from tests.waiting import wait_until_sync

PROGRAM = """
import asyncio, ctypes, os, signal, sys, threading, time
from streamworker.signals import Signals, end_now, when_closed

def say(text):
    print(text, flush=True)

async def main(signals, body):
    stop = asyncio.Event()
    signals.attach(asyncio.get_running_loop(), stop)
    await body(stop)

async def idle(stop):
    say("ready")
    await stop.wait()
    say("drained")

async def blocked(stop):
    say("ready")
    time.sleep(60)

async def deaf(stop):
    # Waits for a lock as a C library does: no signal interrupts that, so Python's handlers do not run.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    say("ready")
    libc.pthread_mutex_lock(mutex)

async def spinning(stop):
    say("ready")
    while True:
        pass

async def endless(stop):
    say("ready")
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass

async def thread_that_never_ends(stop):
    threading.Thread(target=time.sleep, args=(60,)).start()
    say("ready")
    await stop.wait()
    end_now(4, lambda: say("last words"))

async def thread_after_the_end(stop):
    threading.Thread(target=time.sleep, args=(60,)).start()
    say("ready")
    await stop.wait()

async def full_pipe(stop):
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    sys.stderr = os.fdopen(writing, "w")
    say("ready")
    await stop.wait()
    end_now(4, lambda: os.write(writing, b"x" * 10_000_000))

async def forked(stop):
    if not (child := os.fork()):
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    await asyncio.sleep(0.1)
    assert not stop.is_set()
    say("ready")
    await stop.wait()
    say("drained")

async def own_signal(stop):
    told = asyncio.Event()
    if sys.argv[4] == "the loop's":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)
    else:
        wake = asyncio.get_running_loop().call_soon_threadsafe
        signal.signal(signal.SIGUSR1, lambda signum, frame: wake(told.set))
    say("ready")
    await told.wait()
    say("told")
    await stop.wait()
    say("drained")

async def orphan(stop):
    when_closed(0, signals.begin)
    say("ready")
    await stop.wait()
    say("drained")
    await asyncio.sleep(float(sys.argv[4]))

def factory():
    if sys.argv[1] == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop()

before = signal.getsignal(signal.SIGTERM)
with Signals(float(sys.argv[3])) as signals:
    if sys.argv[2] == "unattached":
        say("ready")
        time.sleep(60)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(signals, globals()[sys.argv[2]]))
assert signal.getsignal(signal.SIGTERM) is before
"""


class Running:
    """The program, once it has said that it is ready."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, timeout: float = 10.0) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out + err


@contextmanager
def running(*words: str) -> Iterator[Running]:
    program = Running(*words)
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)  # what it has forked holds its pipes open
        program.process.communicate()


both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@both_loops
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_wakes_an_idle_loop_and_drains(loop: str, signum: signal.Signals) -> None:
    with running(loop, "idle", "60") as program:
        wait_until_sync(lambda: waits_for_events(program.process.pid))
        program.process.send_signal(signum)
        assert program.end() == (0, "drained\n")


@both_loops
@pytest.mark.parametrize("body", ["blocked", "deaf", "spinning", "endless"])
def test_a_drain_that_does_not_end_is_ended_with_4_and_says_why(loop: str, body: str) -> None:
    with running(loop, body, "0.1") as program:
        begun = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        code, text = program.end()
        assert code == 4
        assert 2 <= time.monotonic() - begun < 6
        assert "worker.killed" in text


@both_loops
@pytest.mark.parametrize("body", ["blocked", "deaf", "spinning", "endless"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once(loop: str, body: str, second: signal.Signals) -> None:
    with running(loop, body, "60") as program:
        program.process.send_signal(signal.SIGINT)
        # Of one kind, the second could be taken together with the first: it must have been seen.
        wait_until_sync(lambda: not pending(program.process.pid, signal.SIGINT))
        program.process.send_signal(second)
        assert program.end(5) == (128 + second, "")


def waits_for_events(pid: int) -> bool:
    """Whether its main thread sleeps: only then a signal has to wake it, and not just to be seen in the next turn."""
    with open(f"/proc/{pid}/stat") as status:
        return status.read().rpartition(")")[2].split()[0] == "S"


def pending(pid: int, signum: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        masks = dict(line.split(":\t") for line in status.read().splitlines() if line.startswith(("SigPnd", "ShdPnd")))
    return any(int(mask, 16) >> (signum - 1) & 1 for mask in masks.values())


@both_loops
@pytest.mark.parametrize("kind", ["the loop's", "Python's"])
def test_a_signal_of_the_users_own_is_heard_by_an_idle_loop(loop: str, kind: str) -> None:
    with running(loop, "own_signal", "60", kind) as program:
        wait_until_sync(lambda: waits_for_events(program.process.pid))
        program.process.send_signal(signal.SIGUSR1)
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "told\n"
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (0, "drained\n")


@both_loops
def test_a_forked_process_dies_of_a_signal_and_its_parent_does_not_hear_of_it(loop: str) -> None:
    with running(loop, "forked", "60") as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (0, "drained\n")


def test_a_signal_before_anything_has_started_ends_the_process_with_0() -> None:
    with running("asyncio", "unattached", "60") as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (0, "")


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    with running("asyncio", "thread_that_never_ends", "60") as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (4, "last words\n")


def test_a_thread_that_outlives_the_drain_keeps_the_process_no_longer_than_the_limit() -> None:
    with running("asyncio", "thread_after_the_end", "0.1") as program:
        program.process.send_signal(signal.SIGTERM)
        code, text = program.end()
        assert code == 4
        assert "worker.killed" in text


def test_a_full_pipe_does_not_keep_the_process() -> None:
    with running("asyncio", "full_pipe", "60") as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.end()[0] == 4


@both_loops
def test_the_end_of_the_parent_drains_like_a_signal(loop: str) -> None:
    with running(loop, "orphan", "60", "0") as program:
        assert program.process.stdin is not None
        program.process.stdin.close()
        program.process.stdin = None
        assert program.end() == (0, "drained\n")


def test_a_signal_after_the_end_of_the_parent_is_still_the_first() -> None:
    with running("asyncio", "orphan", "60", "1") as program:
        assert program.process.stdin is not None
        program.process.stdin.close()
        program.process.stdin = None
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "drained\n"
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (0, "")


def test_the_handlers_that_were_there_before_are_put_back() -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    with Signals(1.0):
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert {signum: signal.getsignal(signum) for signum in before} == before


def test_a_pipe_that_was_never_open_counts_as_closed() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    seen: list[bool] = []
    when_closed(reading, lambda: seen.append(True))
    wait_until_sync(lambda: seen)
