"""Workers of one app that does what its messages say; what they left in the journal, the log and on the server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from redis.asyncio import Redis

from streamworker.redisbroker.packing import unpack
from tests.programs import Event, Program, read_journal
from tests.running import Watched
from tests.waiting import wait_until

Body: TypeAlias = dict[str, Any]

_ROOT = Path(__file__).parents[3]

# What a message wants is in its body: "do" (code, run at the first "times" deliveries, or at all), "until" a file is
# there (stubbornly: whatever cancels it), "s" seconds of sleep, "block" seconds of a loop that stands still, "then"
# (code, as the last of all). All that "only" in one process, if it is named.
_APP = """
import asyncio, ctypes, re, signal, sys
from streamworker import App, Backoff, Message

app = App("group", lease={lease}, stuck_after={stuck_after})


@app.on("{stream}", retry=Backoff(first=0.2, factor=1.5){options})
async def handle(body: dict, message: Message) -> None:
    i = body["i"]
    journal("start", i, message.deliveries)
    if body.get("only", os.getpid()) != os.getpid():
        return journal("end", i, message.deliveries)
    try:
        if "do" in body and message.deliveries <= body.get("times", 99):
            exec(body["do"])
        while "until" in body and not os.path.exists(body["until"]):
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                journal("cancelled", i)
                if not body.get("stubborn"):
                    raise
        await asyncio.sleep(body.get("s", 0))
        time.sleep(body.get("block", 0))
        exec(body.get("then", ""))
    except asyncio.CancelledError:
        journal("stopped", i)
        raise
    journal("end", i, message.deliveries)
"""


class Stage:
    """One stream with one group, and the worker processes of the test.

    Args:
        redis: a plain client.
        url: of the server.
        stream: the stream.
        program: starts programs that end with the test.
        folder: where they run.
    """

    def __init__(self, redis: Redis, url: str, stream: str, program: Callable[..., Program], folder: Path) -> None:
        self.group = Watched(redis, stream, "group")
        self.url = url
        self.folder = folder
        self._redis = redis
        self._stream = stream
        self._program = program
        self.source: str | None = None
        self.app(lease=2.0)

    def app(self, *, lease: float, stuck_after: float = 600.0, **options: object) -> None:
        """The app of the workers started from now on; ``options`` are those of ``App.on``."""
        told = "".join(f", {name}={value!r}" for name, value in options.items())
        self.source = _APP.format(stream=self._stream, lease=lease, stuck_after=stuck_after, options=told)

    def worker(self, *args: str, **options: Any) -> Program:
        """Start ``streamworker run``."""
        source, self.source = self.source, None
        return self._program(source, *args, url=self.url, folder=self.folder, **options)

    def dying_worker(self, point: str, *args: str) -> Program:
        """Start one that is killed at a fault point."""
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        runner = (sys.executable, "-m", "tests.faults.worker", point)
        return self.worker(*args, runner=runner, env={"PYTHONPATH": path})

    async def publish(self, *bodies: Body) -> None:
        await self.publish_many(bodies)

    async def publish_many(self, bodies: Iterable[Body]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for body in bodies:
            pipeline.xadd(self._stream, {"data": json.dumps(body)})
        await pipeline.execute()

    @staticmethod
    def number_in(fields: list[bytes]) -> int:
        """The number of the message in an entry of the user's stream or of the retry stream."""
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        body = named[b"data"] if b"data" in named else unpack(named[b"sw-fields"])[1]
        return int(json.loads(body)["i"])

    @property
    def journal(self) -> list[Event]:
        return read_journal(self.folder / "journal")

    def of(self, word: str, i: int | None = None) -> list[Event]:
        """The journal's events of one kind, of one message or all."""
        return [e for e in self.journal if e.words[0] == word and (i is None or e.words[1] == str(i))]

    def deliveries(self, i: int) -> list[int]:
        """The delivery counts with which a message was started."""
        return [int(event.words[2]) for event in self.of("start", i)]

    @property
    def handled(self) -> set[int]:
        return {int(event.words[1]) for event in self.of("end")}

    async def started(self, i: int, times: int = 1) -> Event:
        """Wait for the start of a message, and return it."""
        await wait_until(lambda: len(self.of("start", i)) >= times, 30, lambda: f"{i} starts\n{self.logs()}")
        return self.of("start", i)[times - 1]

    async def starts(self, count: int) -> None:
        """Wait until so many messages were started."""
        await wait_until(lambda: len(self.of("start")) >= count, 30, lambda: f"{count} start\n{self.logs()}")

    async def handles(self, wanted: Iterable[int], timeout: float = 30.0) -> None:
        """Wait until all these messages were handled."""
        expected = set(wanted)
        await wait_until(
            lambda: expected <= self.handled,
            timeout,
            lambda: f"handled; missing are {sorted(expected - self.handled)[:20]}\n{self.logs()}",
        )

    async def works(self, workers: int = 1) -> None:
        """Wait until this many workers have sent a heartbeat, and the group is there."""

        async def beating() -> bool:
            if await self.group.info() is None:
                return False
            names: list[bytes] = await self.group.do("HKEYS", self.group.keys.consumers)
            return sum(name.endswith(b".sw") for name in names) == workers

        await wait_until(beating, 30, lambda: f"{workers} workers beat\n{self.logs()}")

    async def all_is_settled(self, letters: int = 0, timeout: float = 30.0) -> None:
        """Everything published was handled or is one of ``letters`` dead letters, and nothing is pending."""
        await self.group.rests(timeout)
        found = await self.group.letters()
        assert len(found) == letters, [letter.reason for letter in found]

    async def ends(self, *workers: Program, code: int = 0) -> None:
        """Have the workers drain; they must end with ``code``, and leave nothing and nobody behind."""
        for worker in workers:
            worker.sigterm()
        for worker in workers:
            assert await worker.ended(40) == code, worker.log
        await self.group.check_nothing_is_left()

    def logs(self) -> str:
        """The ends of what all programs wrote."""
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in self._logs())

    def told(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, of all programs, as JSON objects."""
        lines = [line for path in self._logs() for line in path.read_text(errors="replace").splitlines(keepends=True)]
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [line for line in parsed if line.get("message") == event]

    async def tells(self, event: str, times: int = 1) -> dict[str, Any]:
        """Wait for a log line, and return it."""
        await wait_until(lambda: len(self.told(event)) >= times, 30, lambda: f"{event} is told\n{self.logs()}")
        return self.told(event)[times - 1]

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("program-*.err"))

    def touch(self, name: str) -> None:
        """Make the file that some handlers wait for."""
        (self.folder / name).touch()
