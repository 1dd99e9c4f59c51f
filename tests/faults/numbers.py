"""Large numbers on a server: streams filled by the server itself, and how long it keeps others waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.running import Watched
from tests.servers import Server

DEAD = "gone-1-00000000.sw"  # a consumer of ours that has no heartbeat

# In pages, so that no script runs for as long as a lease of the tests.
_FILL = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'data', ARGV[2] + i) end"
_DELIVER = """
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1000, 'STREAMS', KEYS[1], '>')
if not reply then return 0 end
local words = {KEYS[1], ARGV[1], ARGV[2], 0}
for _, entry in ipairs(reply[1][2]) do words[#words + 1] = entry[1] end
for _, word in ipairs({'RETRYCOUNT', ARGV[3], 'JUSTID'}) do words[#words + 1] = word end
return #redis.call('XCLAIM', unpack(words))
"""
_PAGE = 10_000


async def fill(watched: Watched, count: int) -> None:
    """Publish the numbers from 0 on."""
    for at in range(0, count, _PAGE):
        await watched.do("EVAL", _FILL, 1, watched.keys.stream, min(_PAGE, count - at), at - 1)


async def die_with(watched: Watched, group: str, count: int, deliveries: int = 1) -> None:
    """Let a consumer that is dead by now hold ``count`` entries, delivered so many times."""
    await watched.do("XGROUP", "CREATE", watched.keys.stream, group, "$", "MKSTREAM")
    await fill(watched, count)
    while await watched.do("EVAL", _DELIVER, 1, watched.keys.stream, group, DEAD, deliveries):
        pass
    assert await watched.pending() == count


def memory(pid: int) -> float:
    """What a process holds, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@dataclass
class Waits:
    """What others saw of a server meanwhile: seconds each PING took."""

    pings: list[float] = field(default_factory=list)

    @property
    def longest(self) -> float:
        return max(self.pings)

    def check(self) -> None:
        """No lease of 2 s was ever in danger, and hardly anybody noticed. A loaded machine makes all of this longer."""
        slow = sum(1 for one in self.pings if one > 0.25)
        assert self.longest < 2.0, f"somebody waited {self.longest:.2f} s"
        assert slow <= 2 + len(self.pings) / 20, f"{slow} of {len(self.pings)} waited for more than 0.25 s"


@contextmanager
def pinged(server: Server) -> Iterator[Waits]:
    """Ask the server again and again how long it makes others wait; in a thread, since the test's loop is busy."""
    waits, stop = Waits(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            sent = monotonic()
            server.ask("PING", timeout=30)
            waits.pings.append(monotonic() - sent)
            stop.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield waits
    finally:
        stop.set()
        asking.join()


async def slowest_script(watched: Watched) -> float:
    """Seconds that the slowest script of the workers took, by the server's own account (its slow log is on)."""
    found = [
        entry[2] for entry in await watched.do("SLOWLOG", "GET", 10_000) if bytes(entry[3][0]).startswith(b"EVALSHA")
    ]
    return max(found, default=0) / 1e6
