"""The apps that a soak runs: their handlers do what each message says, and write down what they do."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamworker import App, Backoff, Message
from tests.faults.journal import Journal
from tests.faults.soak.kinds import MAX_DELIVERIES, TIMEOUT, digest

_LEASE = float(os.environ["SOAK_LEASE"])
_journal = Journal(Path(os.environ["JOURNAL"]))
_runs = itertools.count()
_options: dict[str, Any] = {
    "concurrency": 32,
    "max_deliveries": MAX_DELIVERIES,
    "retry": Backoff(first=0.3, factor=2),
}

billing = App("billing", lease=_LEASE)
audit = App("audit", lease=_LEASE)


@billing.on("orders", **_options)
@billing.on("refunds", **_options)
async def charge(body: str, message: Message) -> None:
    await _noted(body, message, {})


@billing.on("orders", type="swallowing", timeout=TIMEOUT, **_options)
@billing.on("refunds", type="swallowing", timeout=TIMEOUT, **_options)
async def charge_in_time(body: str, message: Message) -> None:
    await _noted(body, message, {"timeout": TIMEOUT})


@audit.on("orders", **_options)
async def audited(body: str, message: Message) -> None:
    await _noted(body, message, {})


@billing.lifespan
@asynccontextmanager
async def _watched() -> AsyncIterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=_watch_gaps, args=(over,), daemon=True)
    thread.start()
    yield
    over.set()


def _watch_gaps(over: threading.Event) -> None:
    """A process that gets no CPU for that long may rightly be taken for dead."""
    before = time.monotonic()
    while not over.wait(0.05):
        now = time.monotonic()
        if now - before > _LEASE / 2:
            _journal.note("fault-on", fault="gap", target=os.getpid(), ago=round(now - before, 3))
            _journal.note("fault-off", fault="gap", target=os.getpid())
        before = now


async def _noted(body: str, message: Message, more: dict[str, object]) -> None:
    run = next(_runs)
    entry = {"stream": message.stream, "group": message.group, "id": message.id}
    _journal.note("start", run=run, **entry, body=digest(body), n=message.deliveries, **more)
    try:
        await _act(run, message, **json.loads(body))
    except asyncio.CancelledError:
        _journal.note("cancelled", run=run)
        _journal.note("fail", run=run)
        raise
    except Exception:
        _journal.note("fail", run=run)
        raise
    _journal.note("ok", run=run)


async def _act(run: int, message: Message, number: int, kind: str, seconds: float) -> None:
    if kind == "failing" or (kind == "flaky" and message.deliveries <= 2):
        raise ValueError(f"number {number} fails")
    elif message.group != "billing" or kind in ("quick", "slow", "flaky"):
        await asyncio.sleep(min(seconds, 1.0) if kind == "blocking" else seconds)
    elif kind == "ending":
        await asyncio.sleep(seconds)
        _journal.note("exiting", run=run)
        os._exit(70)
    elif kind == "blocking":
        _journal.note("fault-on", fault="block", target=os.getpid())
        time.sleep(seconds)
        _journal.note("fault-off", fault="block", target=os.getpid())
    elif message.deliveries == 1:
        await _swallow(run)


async def _swallow(run: int) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _journal.note("cancelled", run=run)
        await asyncio.sleep(8)  # longer than its grace: its slot is reported stuck
    raise ValueError("went on after its cancellation")
