"""A host whose processors are taken by others: who is slow is not dead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.processes.stage import Stage

_LEASE = 2.0
_BURNERS = 4
_POLITE = 5  # so that what is tested beside it gets somewhat more


async def test_on_a_host_without_free_processors_leases_are_renewed_in_time(stage: Stage) -> None:
    stage.app(lease=_LEASE, concurrency=8)
    first = stage.worker()
    stage.app(lease=_LEASE, concurrency=8)
    second = stage.worker()
    await stage.works(2)
    with _burning():
        # Three leases of work for both, most of it waiting, some of it on the processor in small steps.
        spin = "t = time.monotonic()\nwhile time.monotonic() < t + 0.01: pass"
        await stage.publish_many({"i": i, "do": spin, "s": 0.5} for i in range(200))
        await stage.handles(range(200), 90)
    assert all(stage.deliveries(i) == [1] for i in range(200)), "nobody was taken for dead"
    await stage.all_is_settled()
    await stage.ends(first, second)


@contextmanager
def _burning() -> Iterator[None]:
    """Twice as many processes as there are processors, none of which ever waits."""
    burners = [
        subprocess.Popen([sys.executable, "-c", f"import os; os.nice({_POLITE})\nwhile True: pass"])
        for _ in range(max(_BURNERS, 2 * (os.cpu_count() or 1)))
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
