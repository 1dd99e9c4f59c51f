"""Real workers of one app behind a proxy, everything published to them, and what must hold once a fault is over."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.programs import Event, Program, read_journal
from tests.running import Watched
from tests.waiting import wait_until

FIRST: Final = 5.0  # seconds after it healed in which the first message must be handled

# What becomes of a message is in its body: "hold" waits until the file `go` is there, "fail" fails so many
# deliveries, "reject" dead-letters, "s" sleeps, "kill" ends the process.
_APP: Final = """
import asyncio
from streamworker import App, Backoff, Message, Reject

app = App("group", lease={lease})


@app.on(
    "{stream}", concurrency={concurrency}, prefetch={prefetch},
    retry=Backoff(first={retry}, factor=1, jitter=0), {options}
)
async def handle(body: dict, message: Message) -> None:
    journal("start", body["name"], message.deliveries)
    while body.get("hold") and not os.path.exists("go"):
        await asyncio.sleep(0.02)
    await asyncio.sleep(body.get("s", 0))
    if body.get("kill"):
        os._exit(9)
    if body.get("reject"):
        raise Reject(body["name"])
    if message.deliveries <= body.get("fail", 0):
        raise ValueError(body["name"])
    journal("end", body["name"], message.deliveries)
"""


class Fleet:
    """Workers, each a process of its own, with the group they serve.

    Args:
        watched: the group, as the server sees it without the proxy.
        proxy: between the workers and the server.
        program: starts a worker.
        folder: where they run.
    """

    def __init__(self, watched: Watched, proxy: FaultProxy, program: Callable[..., Program], folder: Path) -> None:
        self.watched = watched
        self.proxy = proxy
        self.workers: list[Program] = []
        self.published: set[str] = set()
        self.rejected: set[str] = set()
        self.lost: set[str] = set()  # by the server, as the test knows
        self.fails: dict[str, int] = {}  # so many deliveries of it fail
        self._program = program
        self._folder = folder

    async def start(
        self,
        workers: int = 1,
        *,
        url: str | None = None,
        lease: float = 2.0,
        concurrency: int = 10,
        prefetch: int = 100,
        retry: float = 0.2,
        env: dict[str, str] | None = None,
        options: str = "",
    ) -> None:
        """Start so many workers more, with further ``options`` of the handler, and wait until all of them beat."""
        stream = self.watched.keys.stream.decode()
        source = _APP.format(
            lease=lease, stream=stream, concurrency=concurrency, prefetch=prefetch, retry=retry, options=options
        )
        self.workers += [self._program(source, url=url or self.proxy.url, env=env) for _ in range(workers)]
        await wait_until(self._all_read, 20, lambda: f"all workers read\n{self.log}")

    async def publish(self, *names: str, **does: Any) -> None:
        """Append a message for each name."""
        for name in names:
            await self.watched.add("data", json.dumps({"name": name, **does}))
        self.published.update(names)
        if does.get("reject"):
            self.rejected.update(names)
        self.fails.update(dict.fromkeys(names, does.get("fail", 0)))

    def go(self) -> None:
        """What is held may end, now and from now on."""
        (self._folder / "go").touch()

    @property
    def journal(self) -> list[Event]:
        return read_journal(self._folder / "journal")

    @property
    def log(self) -> str:
        return "\n".join(worker.log for worker in self.workers)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event of all workers, in JSON."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("message") == event]

    @property
    def starts(self) -> Counter[str]:
        """How often each message was started."""
        return Counter(event.words[1] for event in self.journal if event.words[0] == "start")

    @property
    def handled(self) -> set[str]:
        return {event.words[1] for event in self.journal if event.words[0] == "end"}

    async def got(self, *names: str, timeout: float = 15.0) -> None:
        """Wait until these were started."""
        await wait_until(lambda: set(names) <= self.starts.keys(), timeout, lambda: f"{names} started\n{self.log}")

    async def noticed(self, event: str = "redis.unavailable") -> None:
        """Wait until every worker has told of it."""
        await wait_until(
            lambda: all(event in worker.log for worker in self.workers), 20, lambda: f"{event} is told\n{self.log}"
        )

    async def keep_quiet(self, seconds: float = 3.0, *, healthy: bool = False) -> None:
        """See ``quiet.keep_quiet``."""
        await keep_quiet(self.proxy, self.workers, seconds=seconds, workers=len(self.workers), healthy=healthy)

    async def heals(self, *, twice: Collection[str] = (), within: float = FIRST) -> None:
        """The fault is over now: work goes on in time, nothing was lost, and nothing ran twice unexplained.

        Args:
            twice: what may have run more often than it says itself.
            within: seconds until the first message is handled.
        """
        over = time.monotonic()
        await self.publish("first")
        await wait_until(lambda: "first" in self.handled, within + 10, lambda: f"first is handled\n{self.log}")
        took = next(event.at for event in self.journal if event.words[:2] == ("start", "first")) - over
        assert took < within, f"the first message took {took:.1f} s"
        self.go()
        await self.settles(twice=twice)

    async def settles(self, *, twice: Collection[str] = ()) -> None:
        """Everything published is handled or a dead letter, nothing is left, nobody has ended."""
        wanted = self.published - self.rejected - self.lost
        await wait_until(
            lambda: wanted <= self.handled, 30, lambda: f"lost: {sorted(wanted - self.handled)[:20]}\n{self.log}"
        )
        await self.watched.rests(20)
        letters = await self.watched.letters()
        assert sorted(letter.reason for letter in letters) == sorted(self.rejected - self.lost)
        runs = self.starts
        extra = {name: runs[name] for name in self.published if runs[name] > 1 + self.fails[name] and name not in twice}
        assert not extra, f"started too often: {extra}\n{self.log}"
        assert all(worker.process.poll() is None for worker in self.workers), f"a worker has ended\n{self.log}"

    async def _all_read(self) -> bool:
        if any(worker.process.poll() is not None for worker in self.workers):
            raise AssertionError(f"a worker has ended\n{self.log}")
        names: list[bytes] = await self.watched.do("HKEYS", self.watched.keys.consumers)
        return sum(name.endswith(b".sw") for name in names) >= len(self.workers)
