"""What a worker's state says about its health: what only a restart helps against, and why nothing is taken in."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

from streamworker import App
from streamworker.flight import Counts
from streamworker.heartbeat import Membership
from streamworker.http import View
from streamworker.lease import Lease
from streamworker.redisbroker.broker import RedisBroker
from streamworker.report import Report
from streamworker.seen import Seen
from streamworker.state import Progress
from streamworker.trimmer import TrimCounts
from streamworker.worker import Worker as WholeWorker
from streamworker.worker import WorkerOptions

app = App("billing")


@app.on("orders")
async def charge(body: str) -> None: ...


def seen(**facts: Any) -> Seen:
    """A consumer that is well, but for ``facts``: seconds ago for times."""
    now = monotonic()
    membership = Membership("orders", "billing", "me.sw", Lease(15.0), Report)
    beat = facts.get("beat", 1.0)
    if beat is not None:
        membership.looked = now - beat
        membership.lease.renew(now - beat)
    ago = {name: facts.get(name, 0.1) for name in ("stepped", "answered")}
    progress = Progress(**{name: None if value is None else now - value for name, value in ago.items()})
    return Seen(
        app.groups()[0], Counts(), 0, (), None, progress, False, facts.get("joined", True),
        None if facts.get("broadcast") else membership,
    )  # fmt: skip


@dataclass
class Worker:
    parts: list[Seen]
    late: float = 0.0
    draining: bool = False
    name: str = "me.sw"
    measured: bool = field(default=False, init=False)
    trimmed: TrimCounts = field(default_factory=TrimCounts, init=False)

    @property
    def loop_late(self) -> float:
        return self.late

    def measure(self) -> None:
        self.measured = True

    def seen(self) -> list[Seen]:
        return self.parts


def view(**facts: Any) -> View:
    worker = {name: facts.pop(name) for name in ("late", "draining") if name in facts}
    return View(Worker([seen(**facts)], **worker), (), stuck_after=600.0)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"stepped": 59.0}, []),
        ({"stepped": 90.0}, ["orders/billing has not got on for 90 s"]),
        ({"stepped": None}, []),  # it waits for the server's first answer
        ({"stepped": 90.0, "late": 80.0}, []),  # a handler blocks the loop, as it may
        ({"stepped": 900.0, "late": 700.0}, ["the event loop stands still for 700 s"]),
        ({"stepped": 90.0, "draining": True}, []),  # which has a limit of its own
        ({"answered": None, "beat": None, "joined": False}, []),  # Redis being away
    ],
)
def test_only_what_a_restart_helps_against_is_no_progress(facts: dict[str, Any], said: list[str]) -> None:
    assert view(**facts).stalled() == said


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"draining": True}, ["the worker is draining"]),
        ({"answered": None, "beat": None}, ["orders/billing: Redis does not answer"]),
        ({"answered": 30.0, "beat": 11.0}, ["orders/billing: Redis does not answer"]),
        ({"answered": 30.0}, []),  # full of handlers that take their time; the heartbeat is answered
        ({"joined": False}, ["orders/billing: there is no connection, or no group"]),
        ({"beat": 14.0}, ["orders/billing: the lease is over"]),
        ({"broadcast": True}, []),
    ],
)
def test_why_nothing_is_taken_in_is_told(facts: dict[str, Any], said: list[str]) -> None:
    assert view(**facts).not_ready() == said


def test_before_the_worker_begins_it_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = WholeWorker(RedisBroker("redis://localhost"), app.groups(), (), WorkerOptions())
    monkeypatch.setattr("streamworker.worker.monotonic", lambda: monotonic() + 3600)
    assert worker.loop_late == 0.0
