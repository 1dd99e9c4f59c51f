"""The checker itself: good histories pass, and every bad one is rejected for the one thing that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.history import Rules
from tests.faults.invariants import check
from tests.faults.journal import Fact, Journal

RULES = Rules({"orders": ("billing",)}, lease=2.0, max_deliveries=5, shutdown=5.0, grace=5.0)
WHERE = {"stream": "orders", "group": "billing"}


def published(id: str = "1-0", *, dead: str = "") -> Fact:
    return Fact(0.0, 1, "published", {"stream": "orders", "id": id, "body": f"body-{id}", "dead": dead})


def run(
    at: float, until: float | None = None, how: str = "ok", *, id: str = "1-0", pid: int = 10, n: int = 1, **more: str
) -> list[Fact]:
    """One run of message ``id``; ``until`` None for one that never ends."""
    name = f"{pid}-{at}" if id == "1-0" else f"{pid}-{at}-{id}"
    start = Fact(at, pid, "start", {**WHERE, "run": name, "id": id, "body": f"body-{id}", "n": str(n), **more})
    return [start] if until is None else [start, Fact(until, pid, how, {"run": name})]


def cancelled(at: float, start: float, pid: int = 10) -> Fact:
    return Fact(at, pid, "cancelled", {"run": f"{pid}-{start}"})


def broken(kind: str, target: int | str, on: float, off: float) -> list[Fact]:
    of = {"fault": kind, "target": str(target)}
    return [Fact(on, 1, "fault-on", of), Fact(off, 1, "fault-off", of)]


def ended(at: float, pid: int, code: int = -9, asked: str = "kill", took: float = 0.0) -> Fact:
    return Fact(at, 1, "ended", {"target": str(pid), "code": str(code), "asked": asked, "took": str(took)})


def letter(reason: str = "failed 5 times", *, id: str = "1-0", n: int = 5, body: str = "") -> Fact:
    return Fact(99.0, 1, "letter", {**WHERE, "id": id, "n": str(n), "reason": reason, "body": body or f"body-{id}"})


def left(what: str, **more: str) -> Fact:
    return Fact(99.0, 1, "left", {**WHERE, "what": what, **more})


def failures(*times: float) -> list[Fact]:
    return [fact for n, at in enumerate(times, 1) for fact in run(at, at + 0.1, "fail", n=n)]


def deaths(*times: float) -> list[Fact]:
    """Each time a process of its own runs the message and ends with it."""
    facts: list[Fact] = []
    for n, at in enumerate(times, 1):
        facts += [*run(at, pid=10 + n, n=n), Fact(at + 0.1, 10 + n, "exiting"), ended(at + 0.2, 10 + n, 70, "nobody")]
    return facts


DIED = "its worker died 5 times, the last time while it ran alone"
GOOD: dict[str, list[Fact]] = {
    "handled": [published(), *run(1, 2)],
    "failed twice, then handled": [published(), *failures(1, 2), *run(3, 4, n=3)],
    "always failing": [published(dead="billing"), *failures(1, 2, 3, 4, 5), letter()],
    "killing": [published(dead="billing"), *deaths(1, 3, 5, 7, 9), letter(DIED)],
    "killed, then handled elsewhere": [
        published(), *run(1), *broken("kill", 10, 1.5, 1.5), ended(1.6, 10), *run(4, 5, pid=11, n=2),
    ],
    "killed before its ack": [published(), *run(1, 1.4), ended(1.6, 10), *run(4, 5, pid=11, n=2)],
    "killed while another handler blocked its loop, long after it was handled": [
        published(), *run(1, 2), *broken("block", 10, 2.1, 9), ended(8, 10), *run(12, 13, pid=11, n=2),
    ],
    "killed while the server was away, long after it was handled": [
        published(), *run(1, 2), *broken("pause", "server", 1.5, 9), ended(8, 10), *run(12, 13, pid=11, n=2),
    ],
    "frozen, and handled twice": [
        published(), *run(1, 9), *broken("freeze", 10, 1.5, 8), *run(4, 5, pid=11, n=2),
    ],
    "frozen just before its start": [
        published(), *run(4, 5, pid=11, n=2), *broken("freeze", 10, 1.5, 8), *run(8.01, 8.1),
    ],
    "cut off, and handled twice": [published(), *run(1, 9), *broken("cut", 10, 1.5, 8), *run(4, 5, pid=11, n=2)],
    "ran on past its timeout and grace": [
        published(), *run(1, 9, "fail", timeout="1"), cancelled(2, 1), *run(7.1, 7.2, n=2),
    ],
    "cancelled by a drain": [
        published(), *run(1, 7, "fail"), *broken("deploy", 10, 2, 7.2), cancelled(6.9, 1),
        ended(7.2, 10, 0, "term", 5.2), *run(7.1, 7.5, pid=11),
    ],
    "published or not": [
        Fact(0.0, 1, "unknown", {"stream": "orders", "body": "body-1-0"}), *run(1, 2),
        Fact(0.0, 1, "unknown", {"stream": "orders", "body": "body-2-0"}),
    ],
    "trimmed and counted": [published(), Fact(9.0, 1, "lost", {**WHERE, "count": "1"})],
    "healed": [published(), published("2-0"), *run(1, 2), *broken("restart", "server", 3, 5), *run(6, 7, id="2-0")],
}  # fmt: skip

BAD: dict[str, tuple[str, list[Fact]]] = {
    "lost": ("I1: 1-0 of orders/billing was published and is lost", [published()]),
    "lost, and one other counted": (
        "I1: 2-0",
        [published("2-0"), published("3-0"), *run(1, 2, id="3-0"), Fact(9.0, 1, "lost", {**WHERE, "count": "0"})],
    ),
    "acked and never handled": ("I4: 1-0", [published(), *run(1, 2, "fail")]),
    "acked before its handler, which died": ("I4: 1-0", [published(), *run(1), ended(1.6, 10)]),
    "handled but never published": ("I2: 7-0 of orders/billing was handled, but never", run(1, 2, id="7-0")),
    "another body": (
        "I2: 1-0 of orders/billing was dead-lettered with another body",
        [published(dead="billing"), *failures(1, 2, 3, 4, 5), letter(body="body-9-9")],
    ),
    "published once, and there twice": (
        "I2: 2-0",
        [
            Fact(0.0, 1, "unknown", {"stream": "orders", "body": "body-1-0"}),
            *run(1, 2),
            Fact(3.0, 10, "start", {**WHERE, "run": "x", "id": "2-0", "body": "body-1-0", "n": "1"}),
            Fact(4.0, 10, "ok", {"run": "x"}),
        ],
    ),
    "a repeat for no reason": ("I3: 1-0", [published(), *run(1, 2), *run(4, 5, pid=11, n=2)]),
    "a repeat after an ack, whose worker died much later": (
        "I3: 1-0",
        [published(), *run(1, 2), ended(8, 10), *run(12, 13, pid=11, n=2)],
    ),
    "a repeat because another worker was frozen": (
        "I3: 1-0",
        [published(), *run(1, 2), *broken("freeze", 11, 1, 8), *run(9, 10, pid=11, n=2)],
    ),
    "what was buffered is started after a freeze": (
        "I3: 2-0",
        [
            published(), published("2-0"), *run(4, 5, pid=11, n=2), *run(4, 5, pid=11, n=2, id="2-0"),
            *broken("freeze", 10, 1.5, 8), *run(8.01, 8.1), *run(8.02, 8.1, id="2-0"),
        ],
    ),
    "two at once": ("I7: 1-0", [published(), *run(1, 5), *run(3, 6, pid=11, n=2)]),
    "two at once because the server was away": (
        "I7: 1-0",
        [published(), *run(1, 9), *broken("pause", "server", 2, 7), *run(8, 10, pid=11, n=2)],
    ),
    "a retry before timeout and grace are over": (
        "I7: 1-0",
        [published(), *run(1, 9, "fail", timeout="1"), cancelled(2, 1), *run(3, 4, n=2)],
    ),
    "one delivery too many": ("I5: 1-0", [published(), *failures(1, 2, 3, 4, 5), *run(6, 7, n=6)]),
    "two dead letters": ("I5: 1-0", [published(dead="billing"), *failures(1, 2, 3, 4, 5), letter(), letter()]),
    "an innocent dead letter": ("I5: 1-0 of orders/billing can be handled", [published(), letter("failed")]),
    "an innocent that died in company": (
        "I6: 1-0 of orders/billing was dead-lettered for dead workers, but only 2",
        [
            published(), published("2-0"), *deaths(1, 3, 5, 7, 9), letter(DIED), *run(12, 13, id="2-0", n=4),
            *run(0.9, id="2-0", pid=11), *run(2.9, id="2-0", pid=12, n=2), *run(4.9, id="2-0", pid=13, n=3),
        ],
    ),
    "still pending": ("I8: pending 1-0 is left behind", [published(), left("pending", id="1-0")]),
    "a consumer left behind": ("I8: consumer host-1", [published(), *run(1, 2), left("consumer", id="host-1")]),
    "a key nobody documented": ("I8: key", [published(), *run(1, 2), left("key", id="{orders}:billing:oops")]),
    "claimed too late": ("I9: 1-0", [published(), *run(1), ended(1.6, 10), *run(5.5, 6, pid=11, n=2)]),
    "a stop after healing": (
        "I10: nothing was handled for 6.0 s after the end of restart",
        [published(), published("2-0"), *run(1, 2), *broken("restart", "server", 3, 5), *run(10.9, 11, id="2-0")],
    ),
    "an end that nobody asked for": ("I12: process 10", [published(), *run(1, 2), ended(3, 10, 1, "nobody")]),
    "an end that took too long": ("I12: process 10", [published(), *run(1, 2), ended(30, 10, 0, "term", 20.0)]),
}  # fmt: skip


@pytest.mark.parametrize("history", GOOD)
def test_a_good_history_passes(history: str) -> None:
    assert check(GOOD[history], RULES) == []


@pytest.mark.parametrize("history", BAD)
def test_a_bad_history_is_rejected_for_what_is_wrong_with_it(history: str) -> None:
    begins, facts = BAD[history]
    violations = check(facts, RULES)
    assert len(violations) == 1, violations
    assert violations[0].startswith(begins)


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.note("letter", reason="a b=c\nd%20", n=5)
    (fact,) = journal.read()
    assert (fact.kind, fact.of) == ("letter", {"reason": "a b=c\nd%20", "n": "5"})
