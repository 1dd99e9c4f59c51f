"""Handlers that raise what they should not, block the loop, ignore their end, or use up the process's memory."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.processes.stage import Stage
from tests.faults.quiet import cpu_of
from tests.programs import streamworker_command
from tests.servers import dying_with_us
from tests.waiting import wait_until

_RAISED = {
    "SystemExit": "raise SystemExit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "CancelledError": "raise asyncio.CancelledError",
    "RecursionError": "(recurse := lambda: recurse())()",
    "MemoryError": "raise MemoryError",
    "BaseException": "raise type('Odd', (BaseException,), {})",
    "StopIteration": "raise StopIteration(5)",
    "StopAsyncIteration": "raise StopAsyncIteration",
}
"""What a handler may raise. KeyboardInterrupt is the one that is never swallowed: it ends the worker."""

_UNSPEAKABLE = {
    "__str__ raises": "raise type('Shy', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "__str__ exits": "raise type('Shy', (Exception,), {'__str__': lambda self: sys.exit(5)})()",
    "__repr__ raises": "raise type('Shy', (Exception,), {'__repr__': lambda self: 1 / 0})()",
    "50 MB": "raise ValueError('x' * 50_000_000)",
    "lone surrogates": "raise ValueError('\\ud800' * 10 + '\\x1b[2J\\u202e')",
    "a group of a thousand": "raise ExceptionGroup('many', [ValueError('x' * 1000)] * 1000)",
    "raised from itself": "error = ValueError('x'); error.__cause__ = error; raise error",
}


async def test_whatever_a_handler_raises_is_a_failed_delivery_and_the_worker_stays(stage: Stage) -> None:
    stage.app(lease=10.0, max_deliveries=2, concurrency=4)
    raised = [code for name, code in _RAISED.items() if name != "KeyboardInterrupt"]
    worker = stage.worker()
    await stage.publish_many({"i": i, "do": code} for i, code in enumerate(raised))
    await stage.publish_many({"i": 100 + i} for i in range(20))
    await stage.handles(range(100, 120))
    await stage.all_is_settled(letters=len(raised))
    for i in range(len(raised)):
        assert stage.deliveries(i) == [1, 2]
    assert worker.process.poll() is None
    assert len({event.pid for event in stage.of("start")}) == 1
    await stage.ends(worker)


async def test_a_keyboard_interrupt_inside_a_handler_ends_the_worker_and_its_messages_go_to_another(
    stage: Stage,
) -> None:
    stage.app(lease=1.0)
    first = stage.worker()
    await stage.publish({"i": 0, "do": "raise KeyboardInterrupt", "times": 1}, *({"i": i} for i in range(1, 20)))
    assert await first.ended() != 0
    second = stage.worker()
    await stage.handles(range(20))
    await stage.all_is_settled()
    assert stage.deliveries(0) == [1, 2]
    await stage.ends(second)


async def test_an_exception_that_cannot_be_told_is_told_all_the_same(stage: Stage) -> None:
    stage.app(lease=10.0, max_deliveries=2, concurrency=1)
    worker = stage.worker()
    await stage.publish_many({"i": i, "do": code} for i, code in enumerate(_UNSPEAKABLE.values()))
    await stage.publish({"i": 100})
    await stage.handles([100])
    await stage.all_is_settled(letters=len(_UNSPEAKABLE))
    for letter in await stage.group.letters():
        assert 0 < len(letter.facts["sw-error"].encode()) <= 1000
        assert len(letter.facts["sw-traceback"].encode()) <= 8000
        assert "\x1b" not in "".join(letter.facts.values())
    assert len(worker.log) < 50_000
    assert "\x1b" not in worker.log
    assert stage.told("message.retry"), "and every line is JSON"
    await stage.ends(worker)


async def test_a_handler_that_blocks_the_loop_for_three_leases_runs_once_and_is_named_in_the_log(
    stage: Stage,
) -> None:
    stage.app(lease=1.5, concurrency=1, prefetch=1)
    workers = [stage.worker(), stage.worker()]
    await stage.works(2)
    await stage.publish({"i": 0, "block": 4.5})
    await stage.handles([0])
    blocked = await stage.tells("loop.blocked")
    assert blocked["handler"] == "handle"
    assert "app.py:" in blocked["at"]
    line = int(blocked["at"].partition("app.py:")[2].split()[0])
    assert "time.sleep(body.get" in (stage.folder / "app.py").read_text().splitlines()[line - 1]
    assert 2.0 <= blocked["seconds"] < 5.0
    unblocked = await stage.tells("loop.unblocked")
    assert unblocked["seconds"] >= 4.0
    assert len(stage.told("loop.blocked")) == 1, "once per standstill"
    await stage.all_is_settled()
    assert stage.deliveries(0) == [1]
    await stage.ends(*workers)


async def test_a_library_that_blocks_the_loop_is_told_with_the_handlers_own_line(stage: Stage) -> None:
    stage.app(lease=10.0)
    worker = stage.worker()
    await stage.publish({"i": 0, "do": "import subprocess; subprocess.run(['sleep', '3.5'])"})
    blocked = await stage.tells("loop.blocked")
    assert "subprocess.py" in blocked["at"]
    assert "app.py:" in blocked["called_from"]
    assert blocked["called_from"].endswith("in handle")
    await stage.handles([0])
    await stage.ends(worker)


async def test_a_handler_that_ignores_its_cancellation_is_reported_and_holds_up_nothing_but_its_slot(
    stage: Stage,
) -> None:
    stage.app(lease=2.0, concurrency=2, timeout=0.5, max_deliveries=1)
    worker = stage.worker("--shutdown-timeout", "1")
    await stage.publish({"i": 0, "until": "never", "stubborn": True})
    stuck = await stage.tells("handler.stuck")
    assert stuck["handler"] == "handle"
    assert len(stage.of("cancelled", 0)) == 1, "it is asked once"
    used, begun = cpu_of(worker.pid), time.monotonic()
    await stage.publish_many({"i": i, "s": 0.05} for i in range(1, 30))
    await stage.handles(range(1, 30))
    await wait_until(lambda: time.monotonic() - begun > 3.0)
    assert (cpu_of(worker.pid) - used) / (time.monotonic() - begun) < 0.2
    (letter,) = await stage.group.letters()
    assert "did not end when it was cancelled" in letter.facts["sw-error"]
    worker.sigterm()
    assert await worker.ended(45) == 4, "what still runs is cut short, and that is said"
    await stage.all_is_settled(letters=1)


_KILLING = {"os._exit": "os._exit(9)", "a segfault": "ctypes.string_at(0)", "SIGKILL": "os.kill(os.getpid(), 9)"}


@pytest.mark.parametrize("code", _KILLING.values(), ids=_KILLING)
async def test_a_handler_that_ends_its_process_delays_its_neighbours_and_loses_none(stage: Stage, code: str) -> None:
    stage.app(lease=10.0, concurrency=4, prefetch=10)
    workers = stage.worker("--workers", "2")
    await stage.publish({"i": 0, "do": code, "times": 1, "s": 0.1})
    await stage.publish_many({"i": i, "s": 0.02} for i in range(1, 20))
    await stage.handles(range(20))
    await stage.all_is_settled()
    assert stage.deliveries(0) == [1, 2]
    assert max(len(stage.deliveries(i)) for i in range(1, 20)) <= 2
    await stage.ends(workers)


async def test_a_handler_that_asks_for_more_memory_than_there_is_fails_and_the_worker_stays(stage: Stage) -> None:
    stage.app(lease=10.0, max_deliveries=2)
    worker = stage.worker()
    await stage.publish({"i": 0})
    await stage.handles([0])
    limit = int((Path("/proc") / str(worker.pid) / "statm").read_text().split()[0]) * resource.getpagesize() + 2**27
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
    await stage.publish({"i": 1, "do": "hog = [bytearray(2**20) for _ in range(10_000)]"})
    await stage.publish_many({"i": i, "s": 0.01} for i in range(2, 20))
    await stage.handles(range(2, 20))
    await stage.all_is_settled(letters=1)
    (letter,) = await stage.group.letters()
    assert letter.facts["sw-error"].startswith("MemoryError")
    assert {event.pid for event in stage.of("start")} == {worker.pid}
    await stage.ends(worker)


async def test_a_worker_without_file_descriptors_goes_on_and_reconnects_when_there_are_some(stage: Stage) -> None:
    stage.app(lease=10.0, max_deliveries=3)
    worker = stage.worker()
    await stage.publish({"i": 0})
    await stage.handles([0])
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (64, 4096))
    hog = "global held; held = []\nfor _ in range(200): held.append(open('/dev/null'))"
    await stage.publish({"i": 1, "do": hog, "times": 1})
    await stage.started(1)
    await stage.publish_many({"i": i} for i in range(2, 20))
    await stage.handles(range(2, 20))
    # Its connections are lost while it has no descriptor for new ones.
    await stage.group.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await stage.tells("redis.unavailable")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    await stage.publish({"i": 100})
    await stage.handles([1, 100])
    await stage.all_is_settled()
    assert {event.pid for event in stage.of("start")} == {worker.pid}
    await stage.ends(worker)


async def test_a_log_pipe_that_nobody_reads_costs_no_lease(stage: Stage) -> None:
    """Every log line goes into a full pipe; the handlers go on, and nobody takes their messages over."""
    stage.app(lease=1.0, concurrency=8, max_deliveries=50)
    stage.worker().end()  # writes app.py
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writing, True)
    first = _started_with(stage, stage.folder, writing)
    try:
        await stage.works(1)
        second = stage.worker()
        await stage.works(2)
        noise = "import logging\nfor _ in range(2000): logging.getLogger('noise').error('x' * 5000)"
        await stage.publish_many({"i": i, "do": noise, "s": 3.0} for i in range(4))
        await stage.handles(range(4))
        await stage.all_is_settled()
        assert [stage.deliveries(i) for i in range(4)] == [[1]] * 4
        assert first.poll() is None
        first.terminate()
        await wait_until(lambda: first.poll() is not None, 40)
        assert first.returncode == 0
        await stage.ends(second)
    finally:
        first.kill()
        first.wait()
        os.close(reading)
        os.close(writing)


async def test_a_closed_stdout_and_stderr_end_nothing(stage: Stage) -> None:
    stage.app(lease=10.0)
    stage.worker().end()
    reading, writing = os.pipe()
    worker = _started_with(stage, stage.folder, writing, stdout=writing)
    os.close(writing)
    os.close(reading)  # from now on writing is SIGPIPE
    try:
        await stage.publish({"i": 0, "do": "print('x' * 100000, flush=True)", "times": 1})
        await stage.publish_many({"i": i, "do": "import logging; logging.error('x')"} for i in range(1, 10))
        await stage.handles(range(10))
        await stage.all_is_settled()
        assert stage.deliveries(0) == [1, 2], "what it did itself failed, and was tried again"
        worker.terminate()
        await wait_until(lambda: worker.poll() is not None, 40)
        assert worker.returncode == 0
    finally:
        worker.kill()
        worker.wait()


def _started_with(stage: Stage, folder: Path, stderr: int, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A worker that logs into ``stderr``."""
    environment = {"JOURNAL": str(folder / "journal"), "STREAMWORKER_HEALTH_DIR": str(folder / "health")}
    return subprocess.Popen(
        dying_with_us(streamworker_command(), "run", "app:app", "--redis", stage.url),
        cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
    )  # fmt: skip
