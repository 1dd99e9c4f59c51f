"""``streamworker run`` as it is deployed: real processes, a real server, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProgramOf, ServerOf
from tests.programs import JOURNAL, Program, read_journal, streamworker_command
from tests.servers import dying_with_us
from tests.waiting import wait_until_sync

APP = """
import asyncio, logging, time
from streamworker import App

app = App("billing")

@app.on("{stream}")
async def charge(order: dict) -> None:
    journal("starts", order["id"])
    logging.getLogger("users").warning("charging")
    await asyncio.sleep(order.get("sleep", 0))
    time.sleep(order.get("block", 0))
    journal("ends", order["id"])

@app.on("{stream}-other")
async def other(order: dict) -> None:
    journal("other", order["id"])
"""


@pytest.fixture
def url(shared_server: ServerOf) -> str:
    """What is tested here does not depend on the server."""
    return shared_server("valkey-9.1").url


def publish(url: str, stream: str, body: str, *words: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [streamworker_command(), "publish", stream, body, "--redis", url, *words],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return done.stdout.decode().strip()


def lines(program: Program, event: str) -> list[dict[str, Any]]:
    whole = [line for line in program.log.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in map(json.loads, whole) if line["message"] == event]


def told(program: Program, event: str, count: int = 1) -> list[dict[str, Any]]:
    """The lines of this event, as soon as there are so many."""
    wait_until_sync(lambda: len(lines(program, event)) >= count, 20, lambda: f"{event} in the log\n{program.log}")
    return lines(program, event)


def happened(program: Program, *words: str) -> None:
    wait_until_sync(
        lambda: any(event.words == words for event in program.journal), 20, lambda: f"{words}\n{program.log}"
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_published_is_handled_and_sigterm_ends_it_drained_with_0(
    program: ProgramOf, url: str, stream: str
) -> None:
    worker = program(APP.format(stream=stream), url=url.replace("//", "//default:@"))
    (started,) = told(worker, "worker.started")
    assert started["apps"] == ["billing"]
    assert started["handlers"] == ["charge", "other"]
    assert started["streams"] == [stream, f"{stream}-other"]
    assert started["redis"].startswith("redis://127.0.0.1:")
    assert started["pid"] == worker.pid
    entry = publish(url, stream, '{"id": 1}')
    happened(worker, "ends", "1")
    worker.sigterm()
    assert worker.wait() == 0
    assert len(lines(worker, "worker.drained")) == 1
    (charging,) = lines(worker, "charging")
    about = {"stream": stream, "group": "billing", "message_id": entry, "deliveries": 1, "handler": "charge"}
    assert about.items() <= charging.items()
    assert worker.out == ""


def test_a_running_handler_finishes_before_the_end(program: ProgramOf, url: str, stream: str) -> None:
    worker = program(APP.format(stream=stream), url=url)
    publish(url, stream, '{"id": 1, "sleep": 1}')
    happened(worker, "starts", "1")
    worker.sigint()
    assert worker.wait() == 0
    happened(worker, "ends", "1")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('await asyncio.sleep(order.get("sleep", 0))', "await asyncio.to_thread(time.sleep, 60)"),
        ("async def charge(order: dict)", "def charge(order: dict)"),
    ],
    ids=["its own thread", "a plain def"],
)
def test_a_thread_that_does_not_end_cannot_hold_up_the_end(
    program: ProgramOf, url: str, stream: str, before: str, after: str
) -> None:
    source = APP.format(stream=stream).replace(before, after)
    if after.startswith("def"):
        source = source.replace('await asyncio.sleep(order.get("sleep", 0))', "time.sleep(60)")
    worker = program(source, "--shutdown-timeout", "0.5", url=url)
    publish(url, stream, '{"id": 1}')
    happened(worker, "starts", "1")
    worker.sigterm()
    assert worker.wait(8) == 4


def test_a_handler_that_blocks_the_loop_cannot_hold_up_the_end(program: ProgramOf, url: str, stream: str) -> None:
    worker = program(APP.format(stream=stream), "--shutdown-timeout", "0.5", url=url)
    publish(url, stream, '{"id": 1, "block": 60}')
    happened(worker, "starts", "1")
    worker.sigterm()
    assert worker.wait(8) == 4
    assert "worker.killed" in worker.log


def test_the_second_signal_ends_it_at_once(program: ProgramOf, url: str, stream: str) -> None:
    worker = program(APP.format(stream=stream), url=url)
    publish(url, stream, '{"id": 1, "sleep": 60}')
    happened(worker, "starts", "1")
    worker.sigterm()
    told(worker, "worker.draining")
    worker.sigint()
    assert worker.wait(5) == 128 + signal.SIGINT


def test_wrong_credentials_end_it_with_3_at_once(program: ProgramOf, url: str, stream: str) -> None:
    begun = time.monotonic()
    worker = program(APP.format(stream=stream), url=url.replace("//", "//nobody:hunter2@"))
    assert worker.wait() == 3
    assert time.monotonic() - begun < 10  # of the 60 s that a missing server gets
    assert "no log-in to Redis" in worker.log
    assert "hunter2" not in worker.log


def test_a_signal_while_it_waits_for_a_server_ends_it_with_0(program: ProgramOf, stream: str) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        worker = program(APP.format(stream=stream), url=f"redis://127.0.0.1:{place.getsockname()[1]}")
        told(worker, "redis.waiting")
        worker.sigterm()
        assert worker.wait(5) == 0


def test_a_crash_ends_it_with_1_and_a_traceback(program: ProgramOf, url: str, stream: str) -> None:
    lifespan = """
from contextlib import asynccontextmanager

@app.lifespan
@asynccontextmanager
async def life():
    raise RuntimeError("no database")
    yield
"""
    worker = program(APP.format(stream=stream) + lifespan, url=url)
    assert worker.wait() == 1
    (crash,) = lines(worker, "worker.crashed")
    assert "RuntimeError: no database" in crash["exception"]
    assert 'app.py", line' in crash["exception"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_burst_handles_what_is_there_and_ends_with_0(program: ProgramOf, url: str, stream: str, workers: str) -> None:
    for number in range(3):
        publish(url, stream, json.dumps({"id": number}))
    worker = program(APP.format(stream=stream), "--burst", "--workers", workers, url=url)
    assert worker.wait(30) == 0
    ended = [event.words[1] for event in worker.journal if event.words[0] == "ends"]
    assert sorted(ended) == ["0", "1", "2"]


def test_only_the_chosen_streams_are_consumed(program: ProgramOf, url: str, stream: str) -> None:
    publish(url, stream, '{"id": 1}')
    publish(url, f"{stream}-other", '{"id": 2}')
    worker = program(APP.format(stream=stream), "--burst", "--only", f"{stream}-other", url=url)
    assert worker.wait(30) == 0
    assert [event.words for event in worker.journal] == [("other", "2")]


def test_a_killed_worker_is_replaced_and_what_it_held_is_handled(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(APP.format(stream=stream), "--workers", "2", url=url)
    told(parent, "worker.started", 2)
    publish(url, stream, '{"id": 1, "sleep": 2}')
    happened(parent, "starts", "1")
    os.kill(parent.journal[0].pid, signal.SIGKILL)
    begun = time.monotonic()
    happened(parent, "ends", "1")
    assert time.monotonic() - begun < 12  # the lease is 15 s: the replacement has marked it dead
    told(parent, "worker.started", 3)
    parent.sigterm()
    assert parent.wait() == 0


def test_the_workers_of_a_killed_parent_drain_by_themselves(program: ProgramOf, url: str, stream: str) -> None:
    parent = program(APP.format(stream=stream), "--workers", "2", url=url)
    pids = [line["pid"] for line in told(parent, "worker.started", 2)]
    publish(url, stream, '{"id": 1, "sleep": 1}')
    happened(parent, "starts", "1")
    parent.sigkill()
    try:
        happened(parent, "ends", "1")
        wait_until_sync(lambda: not any(alive(pid) for pid in pids), what=lambda: f"the workers end\n{parent.log}")
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    assert len(lines(parent, "worker.drained")) == 2


def test_the_secret_of_the_url_is_in_no_argument_of_a_worker(program: ProgramOf, url: str, stream: str) -> None:
    variables = {"STREAMWORKER_REDIS_URL": url.replace("//", "//default:hunter2@")}
    parent = program(APP.format(stream=stream), "--workers", "2", env=variables)
    wait_until_sync(lambda: parent.children)
    for pid in [parent.pid, *parent.children]:
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_running_worker_is_healthy_and_an_ended_one_is_not(
    program: ProgramOf, url: str, stream: str, tmp_path: Path
) -> None:
    def health() -> tuple[int, bytes]:
        command = [str(streamworker_command()), "healthcheck", "--health-dir", str(tmp_path / "health")]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        return done.returncode, done.stderr

    worker = program(APP.format(stream=stream), "--health-dir", str(tmp_path / "health"), url=url)
    told(worker, "worker.started")
    assert health() == (0, b"")
    worker.sigterm()
    worker.wait()
    code, reason = health()
    assert code == 1
    assert b"no worker is running" in reason


def test_a_log_pipe_that_nobody_reads_stops_no_handler(url: str, stream: str, tmp_path: Path) -> None:
    noisy = APP.format(stream=stream).replace('warning("charging")', 'warning("%s", ["x" * 4000] * 50)')
    (tmp_path / "app.py").write_text(JOURNAL + noisy)
    journal = tmp_path / "journal"
    with subprocess.Popen(
        dying_with_us(streamworker_command(), "run", "app:app", "--redis", url),
        cwd=tmp_path,
        env={**os.environ, "JOURNAL": str(journal)},
        stderr=subprocess.PIPE,
    ) as worker:
        for number in range(3):
            publish(url, stream, json.dumps({"id": number}))
        wait_until_sync(lambda: [event.words[0] for event in read_journal(journal)].count("ends") == 3, 20)
        worker.terminate()
        wait_until_sync(lambda: worker.poll() is not None)
        assert worker.returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_url_one_line_says_that_the_server_is_an_embedded_one(
    program: ProgramOf, stream: str, workers: str
) -> None:
    worker = program(APP.format(stream=stream), "--burst", "--workers", workers)
    assert worker.wait(30) == 0
    assert len(lines(worker, "server.embedded")) == 1


def test_a_published_entry_holds_the_body_as_it_is(shared_server: ServerOf, stream: str) -> None:
    server = shared_server("valkey-9.1")
    body = b'{"id":  1}\n\xff'
    entry = publish(server.url, stream, "-", "--type", "created", "--header", "tenant=a=b", stdin=body)
    answer = server.ask("XRANGE", stream, entry, entry)
    assert body in answer
    assert b"created" in answer
    assert b"a=b" in answer
