"""Workers that are told to end: idle, busy, failing, blocked, without a server, once and again, as PID 1."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.faults.conftest import NEWER
from tests.faults.processes.stage import Stage
from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.programs import children_of, streamworker_command
from tests.servers import Server
from tests.waiting import wait_until

_SLACK = 2.0  # seconds that two noisy cores may take
on_two_servers = pytest.mark.parametrize("server_kind", NEWER)


async def test_an_idle_worker_ends_at_once_and_leaves_nothing(stage: Stage) -> None:
    worker = stage.worker()
    await stage.works(1)
    told = time.monotonic()
    await stage.ends(worker)
    assert time.monotonic() - told < 1.5 + _SLACK


@on_two_servers
async def test_a_drain_in_the_middle_of_a_failing_batch_strands_nothing(stage: Stage) -> None:
    stage.app(lease=10.0, concurrency=8, prefetch=60)
    worker = stage.worker()
    await stage.publish_many({"i": i, "do": "raise ValueError", "times": 1, "s": 0.01} for i in range(300))
    await wait_until(lambda: len(stage.of("start")) > 30, 30, stage.logs)
    worker.sigterm()
    assert await worker.ended() == 0
    assert await stage.group.pending() == await stage.group.pending("released"), "what is pending is handed back"
    another = stage.worker()
    await stage.handles(range(300))
    await stage.all_is_settled()
    assert {tuple(deliveries) for deliveries in _deliveries(stage).values()} == {(1, 2)}
    await stage.ends(another)


async def test_a_drain_that_cuts_handlers_short_hands_them_back_and_another_takes_them_at_once(stage: Stage) -> None:
    stage.app(lease=20.0, concurrency=2, prefetch=10)
    worker = stage.worker("--shutdown-timeout", "1")
    await stage.publish_many({"i": i, "until": "go"} for i in range(20))
    await stage.started(1)
    another = stage.worker()
    await stage.works(2)
    worker.sigterm()
    assert await worker.ended() == 4
    ended = time.monotonic()
    stage.touch("go")
    await stage.handles(range(20))
    assert time.monotonic() - ended < 1.0 + _SLACK, "not after its lease"
    assert {event.words[2] for event in stage.of("end")} == {"1"}, "and it cost no delivery"
    await stage.all_is_settled()
    await stage.ends(another)


async def test_a_drain_while_the_server_is_away_ends_in_time_and_says_that_work_is_left(
    own_stage: Stage, own_server: Server
) -> None:
    stage = own_stage
    stage.app(lease=2.0, concurrency=4, prefetch=20)
    worker = stage.worker("--shutdown-timeout", "2")
    await stage.publish_many({"i": i, "s": 0.3} for i in range(20))
    await stage.started(3)
    own_server.kill()
    await stage.tells("redis.unavailable")
    worker.sigterm()
    told = time.monotonic()
    assert await worker.ended(30) == 4
    assert time.monotonic() - told < 2 + 2 + _SLACK
    own_server.start()
    another = stage.worker()
    await stage.handles(range(20))
    await stage.all_is_settled()
    assert max(map(len, _deliveries(stage).values())) <= 2
    await stage.works(1)
    await stage.ends(another)


@pytest.mark.parametrize("blocking", ["time.sleep(60)", "while True: pass"])
async def test_a_drain_with_a_loop_that_stands_still_ends_in_time(stage: Stage, blocking: str) -> None:
    stage.app(lease=1.5, concurrency=1, prefetch=3)
    worker = stage.worker("--shutdown-timeout", "1")
    await stage.publish({"i": 0, "do": blocking, "times": 1}, {"i": 1}, {"i": 2})
    await stage.started(0)
    worker.sigterm()
    told = time.monotonic()
    assert await worker.ended(30) == 4
    assert time.monotonic() - told < 1 + 2 + _SLACK
    another = stage.worker()
    await stage.handles(range(3))
    await stage.all_is_settled()
    assert stage.deliveries(0) == [1, 2]
    await stage.ends(another)


async def test_a_supervised_drain_ends_although_a_handler_keeps_the_interpreter(stage: Stage) -> None:
    """Then no thread of the worker's runs that could keep the limit: its supervisor does."""
    stage.app(lease=1.5, concurrency=1, prefetch=3)
    workers = stage.worker("--workers", "2", "--shutdown-timeout", "1")
    await stage.works(2)
    await stage.publish({"i": 0, "do": "re.match('(a|aa)+$', 'a' * 60 + 'b')", "times": 1})
    await stage.started(0)
    workers.sigterm()
    assert await workers.ended(30) == 4
    another = stage.worker()
    await stage.handles([0])
    await stage.all_is_settled()
    await stage.ends(another)


async def test_the_second_signal_ends_a_worker_whose_loop_stands_still_and_a_third_changes_nothing(
    stage: Stage,
) -> None:
    stage.app(lease=1.5, concurrency=1, prefetch=3)
    worker = stage.worker()
    await stage.publish({"i": 0, "do": "time.sleep(60)", "times": 1}, {"i": 1})
    await stage.started(0)
    told = time.monotonic()
    worker.sigterm()
    worker.sigint()
    worker.sigterm()
    assert await worker.ended(30) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert time.monotonic() - told < _SLACK
    assert "worker.drained" not in worker.log
    another = stage.worker()
    await stage.handles(range(2))
    await stage.all_is_settled()
    await stage.ends(another)


async def test_the_second_signal_to_a_supervisor_ends_all_and_nothing_is_lost(stage: Stage) -> None:
    stage.app(lease=1.5, concurrency=2, prefetch=6)
    workers = stage.worker("--workers", "2")
    await stage.works(2)
    await stage.publish_many({"i": i, "until": "go"} for i in range(12))
    await stage.starts(4)
    workers.sigterm()
    await stage.tells("worker.draining", times=2)
    workers.sigterm()
    workers.sigterm()
    assert await workers.ended(30) == 128 + signal.SIGTERM
    stage.touch("go")
    another = stage.worker()
    await stage.handles(range(12))
    await stage.all_is_settled()
    await stage.works(1)
    await stage.ends(another)


async def test_a_drain_after_the_stream_was_deleted_has_nothing_to_hand_back(
    own_stage: Stage, own_server: Server
) -> None:
    stage = own_stage
    stage.app(lease=10.0, concurrency=2, prefetch=10)
    with FaultProxy(own_server.port) as proxy:
        stage.url = proxy.url
        worker = stage.worker()
        await stage.publish_many({"i": i, "until": "go"} for i in range(10))
        await stage.starts(2)
        # In one step, so that no read makes the group again in between.
        gone = time.monotonic()
        worker.sigterm()
        await stage.group.do("DEL", stage.group.keys.stream)
        await stage.tells("worker.draining")
        await keep_quiet(proxy, [worker], healthy=True)
        stage.touch("go")
        assert await worker.ended(30) == 0, worker.log
        released = [one for one in proxy.commands(since=gone, until=time.monotonic()) if one.name == "RELEASE"]
    assert len(released) <= 2, "once is enough to know"
    assert len(stage.of("end")) == 2


@on_two_servers
async def test_a_drain_on_a_server_that_takes_no_writes_is_patient_and_ends_well_when_it_does(
    own_stage: Stage, own_server: Server
) -> None:
    stage = own_stage
    stage.app(lease=30.0, concurrency=4, prefetch=20)
    with FaultProxy(own_server.port) as proxy:
        stage.url = proxy.url
        worker = stage.worker("--shutdown-timeout", "60")
        await stage.publish_many({"i": i, "until": "go" if i >= 2 else "ack"} for i in range(20))
        await stage.starts(4)
        await stage.group.do("REPLICAOF", "127.0.0.1", "1")
        stage.touch("ack")  # something to settle, besides what is to be handed back
        await wait_until(lambda: len(stage.of("end")) == 2)
        worker.sigterm()
        await stage.tells("worker.draining")
        await keep_quiet(proxy, [worker])
        await stage.group.do("REPLICAOF", "NO", "ONE")
        stage.touch("go")
        assert await worker.ended(30) == 0, worker.log
    stage.url = own_server.url
    another = stage.worker()
    await stage.handles(range(20))
    await stage.all_is_settled()
    assert {event.words[2] for event in stage.of("end")} == {"1"}
    await stage.ends(another)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_drains_a_worker_that_is_pid_1(stage: Stage, workers: str) -> None:
    """The kernel sends PID 1 of a container no signal that it has not asked for."""
    apart: tuple[str, ...] = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        print("no namespaces here: tried without")
        apart = ("env", "--")
    stage.app(lease=10.0, concurrency=2, prefetch=10)
    outside = stage.worker("--workers", workers, runner=(*apart, str(streamworker_command())))
    await stage.works(int(workers))
    await stage.publish_many({"i": i, "until": "go"} for i in range(20))
    await stage.started(1)
    inside = children_of(outside.pid)[0] if apart[0] == "unshare" else outside.pid
    signal_at = time.monotonic()
    subprocess.run(["kill", "-TERM", str(inside)], check=True)
    await stage.tells("worker.draining", times=int(workers))
    stage.touch("go")
    assert await outside.ended(30) == 0, outside.log
    assert time.monotonic() - signal_at < 20
    assert await stage.group.pending() == await stage.group.pending("released")
    stage.app(lease=10.0)
    another = stage.worker()
    await stage.handles(range(20))
    await stage.all_is_settled()
    await stage.ends(another)


def _deliveries(stage: Stage) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in stage.of("start"):
        found.setdefault(event.words[1], []).append(int(event.words[2]))
    return found
