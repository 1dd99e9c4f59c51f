"""Metrics, probes and /scale of real workers, as Prometheus, Kubernetes and autoscalers see them."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from tests.conftest import ProgramOf, ServerOf
from tests.programs import Program
from tests.servers import Server, free_port
from tests.waiting import wait_until_sync

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SOURCE = """
import asyncio
from streamworker import App, Backoff, Drop, Reject, Retry

app = App("billing", lease={lease})
app.stream("{stream}", max_length=1_000_000, force=True, dead_max_length=1_000_000)

@app.on("{stream}", concurrency=4, timeout=0.5, max_deliveries=2, retry=Backoff(first=0.1))
async def charge(order: dict) -> None:
    journal("starts", order.get("do", ""))
    match order.get("do"):
        case "fail":
            raise ValueError("CANARY")
        case "reject":
            raise Reject("no")
        case "drop":
            raise Drop("no")
        case "hang":
            await asyncio.sleep(60)
        case "publish":
            await app.publish("{stream}-out", {{"text": "CANARY"}})
        case "wait":
            await asyncio.sleep(order["seconds"])
        case "block":
            import time
            time.sleep(order["seconds"])

@app.on("{stream}-all", broadcast=True)
async def heard(order: dict) -> None:
    journal("heard")
"""


@dataclass(frozen=True)
class Site:
    """What listens at a port."""

    port: int

    def get(self, path: str, accept: str = "text/plain") -> tuple[int, str]:
        """The status code, 0 if nothing listens, and the text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Each sample by name and sorted labels."""
        code, text = self.get("/metrics")
        assert code == 200, text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics().get((f"streamworker_{name}", tuple(sorted(labels.items()))))

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200


Start = Callable[..., tuple[Program, Site]]


@pytest.fixture
def start(program: ProgramOf, stream: str) -> Start:
    """``start(url, *words)``: a worker that listens, once it is ready; the first one writes the app."""
    known: list[Program] = []

    def begin(url: str, *words: str, lease: float = 15.0, ready: bool = True) -> tuple[Program, Site]:
        port = free_port()
        source = None if known else SOURCE.format(stream=stream, lease=lease)
        started = program(source, "--http", f"127.0.0.1:{port}", *words, url=url)
        known.append(started)
        site = Site(port)
        if ready:
            wait_until_sync(site.is_ready, 20, lambda: f"ready: {site.get('/readyz')}\n{started.log}")
        return started, site

    return begin


@pytest.fixture
def url(shared_server: ServerOf) -> str:
    return shared_server("valkey-9.1").url


def add(url: str, stream: str, **body: object) -> None:
    with Redis.from_url(url) as client:
        client.xadd(stream, {"data": json.dumps(body), "secret": "CANARY"})


def documented() -> dict[str, tuple[str, ...]]:
    """The metrics of docs/metrics.md with their labels."""
    found: dict[str, tuple[str, ...]] = {}
    common: tuple[str, ...] = ()
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            common = ("stream", "group") if line == "## Of this worker" else ()
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`streamworker_"):
            found[cells[0].strip("`")] = (*common, *re.findall(r"`(\w+)`", cells[2]))
    return found


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2", "redis-6.2"])
def test_what_is_documented_is_there_with_these_labels_and_nothing_else(
    start: Start, stream: str, server_kind: str, admin_url: str
) -> None:
    _, site = start(admin_url)
    for do in ("", "fail", "reject", "drop", "publish"):
        add(admin_url, stream, do=do)
    add(admin_url, f"{stream}-all")
    labels = {"stream": stream, "group": "billing"}
    wait_until_sync(lambda: site.value("dead_letters", **labels) == 2.0, 30)
    found = Counter[str]()
    told = documented()
    for name, pairs in site.metrics():
        if name.startswith("process_"):
            continue
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        base = name if base not in told and name in told else base
        assert base in told, f"{name} is not documented"
        assert {label for label, _ in pairs} - {"le"} == set(told[base]), name
        found[base] += 1
    missing = set(told) - set(found)
    unknown = {"streamworker_stream_entries_added_total", "streamworker_group_trimmed"}
    assert missing == (unknown if server_kind == "redis-6.2" else set())


def test_the_numbers_are_what_happened(start: Start, stream: str, url: str) -> None:
    _, site = start(url)
    for do in ("", "", "fail", "reject", "drop", "hang", "publish", "wait"):
        add(url, stream, do=do, seconds=0.3)
    with Redis.from_url(url) as client:
        client.xadd(stream, {"data": "{"})
    labels = {"stream": stream, "group": "billing"}
    wait_until_sync(lambda: site.value("messages_dead_lettered_total", **labels, reason="max_deliveries") == 2.0, 30)
    handler = {**labels, "handler": "charge"}
    expected = {
        ("messages_received_total", (), 11.0), ("messages_acked_total", (), 4.0), ("messages_retried_total", (), 2.0),
        ("messages_dropped_total", (), 1.0),
        ("messages_dead_lettered_total", (("reason", "rejected"),), 1.0),
        ("messages_dead_lettered_total", (("reason", "undecodable"),), 1.0),
        ("messages_processed_total", (("handler", "charge"), ("status", "ok")), 4.0),
        ("messages_processed_total", (("handler", "charge"), ("status", "error")), 4.0),
        ("messages_processed_total", (("handler", "charge"), ("status", "timeout")), 2.0),
        ("messages_processed_total", (("handler", "charge"), ("status", "undecodable")), 1.0),
        ("process_duration_seconds_count", (("handler", "charge"),), 10.0),
        ("queue_wait_seconds_count", (), 10.0), ("end_to_end_seconds_count", (), 4.0),
        ("delivery_count_count", (), 11.0), ("delivery_count_sum", (), 13.0), ("payload_bytes_count", (), 11.0),
        ("in_flight", (), 0.0), ("running", (), 0.0), ("concurrency_limit", (), 4.0), ("paused", (), 0.0),
    }  # fmt: skip
    wrong = {
        (name, more, value, site.value(name, **labels, **dict(more)))
        for name, more, value in expected
        if site.value(name, **labels, **dict(more)) != value
    }
    assert not wrong
    assert site.value("published_total", stream=f"{stream}-out") == 1.0
    assert site.value("published_bytes_total", stream=f"{stream}-out") == float(len('data{"text":"CANARY"}'))
    ran = site.value("process_duration_seconds_sum", **handler)
    assert ran is not None
    assert 1.2 < ran < 5.0, "two timeouts of 0.5 s and 0.3 s of waiting"
    code, text = site.get("/metrics", "application/openmetrics-text")
    assert code == 200
    assert "CANARY" not in text
    list(openmetrics(text))  # type: ignore[no-untyped-call]


def test_one_worker_of_the_fleet_tells_about_a_stream_and_after_its_death_another_one(
    start: Start, program: ProgramOf, stream: str, url: str
) -> None:
    fleet = [start(url, lease=2.0) for _ in range(3)]
    program(None, url=url)  # serves no metrics, so it does not count, whatever its name
    program(None, url=url)
    labels = {"stream": stream, "group": "billing"}

    def telling() -> list[Program]:
        return [
            one for one, site in fleet if one.process.poll() is None and site.value("group_lag", **labels) is not None
        ]

    wait_until_sync(lambda: len(telling()) == 1, 30)
    (first,) = telling()
    first.sigkill()
    first.wait()
    wait_until_sync(lambda: len(telling()) == 1 and telling() != [first], 30)


def test_a_lag_that_the_server_does_not_know_is_told_and_marked(start: Start, stream: str, url: str) -> None:
    with Redis.from_url(url) as client:
        client.xadd(stream, {"data": "{}"})
        client.xadd(stream, {"data": "{}"})
        client.xgroup_create(stream, "others", "$")
        client.xadd(stream, {"data": "{}"})
        assert client.xinfo_groups(stream)[0]["lag"] is None
    _, site = start(url)
    labels = {"stream": stream, "group": "others"}
    wait_until_sync(lambda: site.value("group_lag", **labels) == 1.0, 30)
    assert site.value("group_lag_exact", **labels) == 0.0


def test_while_redis_is_away_the_worker_lives_but_is_not_ready(
    start: Start, make_server: ServerOf, stream: str
) -> None:
    server: Server = make_server("valkey-9.1")
    _, site = start(server.url)
    server.pause()
    wait_until_sync(lambda: site.get("/readyz")[0] == 503, 30)
    assert f"{stream}/billing: there is no connection, or no group" in site.get("/readyz")[1]
    wait_until_sync(lambda: f"{stream}/billing: Redis does not answer" in site.get("/readyz")[1], 30)
    assert site.get("/livez") == (200, "ok\n")
    assert site.get(f"/scale?stream={stream}&group=billing")[0] == 503
    server.resume()
    wait_until_sync(site.is_ready, 30)
    assert (site.value("redis_errors_total", kind="unavailable") or 0) > 0


def test_it_listens_while_it_waits_for_redis_at_the_start(start: Start) -> None:
    _, site = start(f"redis://127.0.0.1:{free_port()}", ready=False)
    wait_until_sync(lambda: site.get("/livez") == (200, "ok\n"), 20)
    assert site.get("/readyz")[0] == 503


def test_a_worker_that_drains_is_not_ready_and_tells_about_streams_no_more(start: Start, stream: str, url: str) -> None:
    worker, site = start(url)
    labels = {"stream": stream, "group": "billing"}
    wait_until_sync(lambda: site.value("group_lag", **labels) is not None, 20)
    add(url, stream, do="wait", seconds=0.4)
    add(url, stream, do="block", seconds=0.4)
    wait_until_sync(lambda: len(worker.journal) == 2, 20)
    worker.sigterm()
    wait_until_sync(lambda: "draining" in site.get("/readyz")[1] or worker.process.poll() is not None, 20)
    assert worker.wait() == 0
    assert site.get("/livez")[0] == 0


def test_an_event_loop_that_stands_still_is_seen_and_probes_are_answered(start: Start, stream: str, url: str) -> None:
    worker, site = start(url)
    add(url, stream, do="block", seconds=3)
    wait_until_sync(lambda: (site.value("event_loop_lag_seconds") or 0) > 1.0, 20)
    assert site.get("/livez") == (200, "ok\n"), "it may, up to stuck_after"
    assert worker.process.poll() is None


def test_scale_tells_the_backlog_of_what_this_worker_consumes(start: Start, stream: str, url: str) -> None:
    worker, site = start(url, "--only", stream)
    for _ in range(6):
        add(url, stream, do="wait", seconds=0.4)
    wait_until_sync(lambda: len(worker.journal) >= 1, 20)
    code, text = site.get(f"/scale?stream={stream}&group=billing")
    assert code == 200
    found = json.loads(text)
    assert set(found) == {"backlog", "lag", "pending", "retries"}
    assert found["backlog"] == found["lag"] + found["pending"] + found["retries"]
    assert site.get(f"/scale?stream={stream}&group=nobody")[0] == 404
    assert site.get("/scale")[0] == 400
    assert site.get("/elsewhere")[0] == 404


def test_of_several_workers_each_listens_on_a_port_of_its_own(program: ProgramOf, stream: str, url: str) -> None:
    port = free_port(2)
    program(SOURCE.format(stream=stream, lease=15.0), "--workers", "2", "--http", f"127.0.0.1:{port}", url=url)
    for site in (Site(port), Site(port + 1)):
        wait_until_sync(site.is_ready, 30)


def test_a_port_that_is_taken_and_a_wrong_address_are_told(program: ProgramOf, stream: str, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = program(SOURCE.format(stream=stream, lease=15.0), "--http", f"127.0.0.1:{port}", url=url)
        assert worker.wait() == 2
        assert f"nothing can listen on 127.0.0.1:{port}: Address already in use" in worker.log
    wrong = program(None, "--http", "8080", url=url)
    assert wrong.wait() == 2
    assert "give HOST:PORT" in wrong.log


def test_without_the_extra_it_says_what_to_install(program: ProgramOf, stream: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('No module named uvicorn')")
    worker = program(
        SOURCE.format(stream=stream, lease=15.0), "--http", "127.0.0.1:1", url=url, env={"PYTHONPATH": str(tmp_path)}
    )
    assert worker.wait() == 2
    assert "pip install 'streamworker[http]'" in worker.log


def test_without_http_nothing_of_it_is_loaded_or_measured(program: ProgramOf, stream: str, url: str) -> None:
    source = (
        SOURCE.format(stream=stream, lease=15.0)
        + """
@app.on("{stream}-modules")
async def loaded(order: dict) -> None:
    import sys
    journal(*[name for name in ("starlette", "uvicorn", "prometheus_client") if name in sys.modules] or ["none"])
""".replace("{stream}", stream)
    )
    add(url, f"{stream}-modules")
    worker = program(source, "--burst", url=url)
    assert worker.wait() == 0
    assert [event.words for event in worker.journal] == [("none",)]


def test_a_signal_still_drains_with_a_connection_open(start: Start, url: str) -> None:
    worker, site = start(url)
    with socket.create_connection(("127.0.0.1", site.port)):
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
