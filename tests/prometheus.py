"""``python -m tests.prometheus``: Prometheus itself checks the rules, and scrapes a real worker.

Not a part of the tests, since it does not come from PyPI: it is taken from the PATH, or else from Debian.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import streamworker_command
from tests.servers import Server, dying_with_us, free_port
from tests.waiting import wait_until_sync

RULES = Path(__file__).parents[1] / "deploy" / "prometheus"
APP = """
import asyncio
from contextlib import asynccontextmanager
from streamworker import App, Reject

app = App("billing")

@app.on("orders")
async def charge(order: dict) -> None:
    await asyncio.sleep(0.01)
    if order["id"] % 10 == 0:
        raise Reject("every tenth")

@app.lifespan
@asynccontextmanager
async def publish():
    await app.publish_many("orders", ({"id": number} for number in range(500)))
    yield
"""
QUERIES = {
    'up{job="streamworker"}': 1,
    'sum(streamworker_messages_acked_total{stream="orders",group="billing"})': 450,
    'sum(streamworker_messages_dead_lettered_total{reason="rejected"})': 50,
    'sum(streamworker_process_duration_seconds_count{handler="charge"})': 500,
    "streamworker_group_lag": 0,
    "streamworker_dead_letters": 50,
    "streamworker_published_total": 500,
}


def main() -> None:
    """Check, scrape and ask; ends with an error at the first thing that is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        promtool, prometheus = programs(folder)
        run(promtool, "check", "rules", RULES / "alerts.yaml")
        run(promtool, "test", "rules", RULES / "alerts_test.yaml")
        run(promtool, "check", "config", "--syntax-only", RULES / "prometheus.yml")
        with worker(folder) as site:
            wait_until_sync(lambda: "streamworker_group_lag{" in scrape(site), 30)
            run(promtool, "check", "metrics", text=scrape(site))
            with scraping(prometheus, site, folder) as asked:
                for query, expected in QUERIES.items():
                    answers(asked, query, expected)


def programs(folder: Path) -> tuple[Path, Path]:
    """promtool and prometheus."""
    found = [shutil.which(name) for name in ("promtool", "prometheus")]
    if found[0] and found[1]:
        return Path(found[0]), Path(found[1])
    subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "debian"], check=True)
    return folder / "debian/usr/bin/promtool", folder / "debian/usr/bin/prometheus"


def run(*command: str | Path, text: str = "") -> None:
    """Run a command that must succeed, and show what it prints."""
    print("$", *command)
    done = subprocess.run(list(map(str, command)), input=text, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}")


@contextmanager
def worker(folder: Path) -> Iterator[str]:
    """A server and a worker that serves metrics at the address that is given."""
    server = Server("valkey-9.1", folder).start()
    (folder / "app.py").write_text(APP)
    site = f"127.0.0.1:{free_port()}"
    command = dying_with_us(streamworker_command(), "run", "app:app", "--redis", server.outright_url, "--http", site)
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            yield site
        finally:
            process.terminate()
            process.wait(30)
            server.stop()


@contextmanager
def scraping(prometheus: Path, site: str, folder: Path) -> Iterator[str]:
    """Prometheus, which scrapes ``site`` every second; gives its own address."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: streamworker, static_configs: [{{targets: ['{site}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    command = dying_with_us(
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    )
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield address
        finally:
            process.terminate()
            process.wait(30)


def answers(address: str, query: str, expected: float) -> None:
    """Wait until Prometheus answers ``query`` with that."""
    wait_until_sync(lambda: ask(address, query) == [expected], 30, lambda: f"{query}: {ask(address, query)}")
    print(f"{query}: {expected}")


def scrape(site: str) -> str:
    """The metrics; empty while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://{site}/metrics", timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except OSError:
        return ""


def ask(address: str, query: str) -> list[float]:
    """What Prometheus answers to a query now."""
    try:
        with urllib.request.urlopen(
            f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=5
        ) as answer:
            return [float(one["value"][1]) for one in json.load(answer)["data"]["result"]]
    except OSError:
        return []


if __name__ == "__main__":
    main()
