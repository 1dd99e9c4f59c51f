"""Scenarios: what is measured, for whom, and which ratio is the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from benchmarks import measures
from benchmarks.bench import Subject
from benchmarks.measures import Measure

BARE: Final = Subject("bare loop", "bare.py")
AWAITING: Final = Subject("bare loop that awaits", "bare.py", options={"do": "awaiting"})
SLEEPING: Final = Subject("bare tasks that sleep", "bare.py", options={"do": "sleeping"})
OURS: Final = Subject("streamworker", "with_streamworker.py")
TIMEOUT: Final = replace(OURS, name="streamworker, timeout", options={"timeout": 60.0})
TWO: Final = replace(OURS, name="streamworker, 2 workers", workers=2)
REDIS_PY: Final = Subject("redis-py", "bare.py")
PIPELINE: Final = Subject("pipeline by hand", "bare.py", options={"do": "publish_many"})
NEW: Final = replace(OURS, name="streamworker, new entries", options={"new": True})
IN_BULK: Final = replace(OURS, options={"do": "publish_many"})


def _peer(name: str, file: str, *requires: str) -> Subject:
    """A queue with a format of its own, which its own program fills."""
    return Subject(name, file, requires=requires, filler=file)


FASTSTREAM: Final = _peer("FastStream", "with_faststream.py", "faststream[redis]", "hiredis", "uvloop")
STREAQ: Final = _peer("streaq", "with_streaq.py", "streaq", "uvloop")
ARDIQ: Final = _peer("ardiq", "with_ardiq.py", "python>=3.12", "ardiq", "uvloop")
BULLMQ: Final = _peer("BullMQ", "with_bullmq.mjs", "bullmq", "ioredis")
PEERS: Final = (
    BULLMQ,
    ARDIQ,
    FASTSTREAM,
    _peer("taskiq", "with_taskiq.py", "taskiq", "taskiq-redis", "hiredis", "orjson", "uvloop"),
    _peer("arq", "with_arq.py", "arq", "hiredis", "uvloop"),
    # saq imports typing_extensions and does not ask for it.
    _peer("saq", "with_saq.py", "saq[hiredis]", "orjson", "typing_extensions", "uvloop"),
    _peer("dramatiq", "with_dramatiq.py", "dramatiq[redis]", "hiredis"),
    STREAQ,
)
PEERS_IN_BULK: Final = tuple(
    replace(one, options={"do": "publish_many"}) for one in (BULLMQ, ARDIQ, FASTSTREAM, STREAQ)
)


@dataclass(frozen=True)
class Goal:
    """What is to come of a scenario.

    Attributes:
        subject: who is to reach it.
        than: who it is compared to; None for an absolute figure.
        bound: the least ratio, or the most where less is better; of an absolute figure, the most.
        of: what is compared.
    """

    subject: Subject
    than: Subject | None
    bound: float
    of: str = "value"


@dataclass(frozen=True)
class Scenario:
    """Something to measure.

    Attributes:
        name: on the command line.
        title: in tables.
        measure: how.
        job: what the subjects are told.
        subjects: who; the first is what the others are compared to.
        unit: of the value.
        better: whether more is better, or less.
        goals: what is to come of it.
    """

    name: str
    title: str
    measure: Measure
    subjects: tuple[Subject, ...]
    job: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "messages/s"
    better: Literal["more", "less"] = "more"
    goals: tuple[Goal, ...] = ()


def _latency(rate: int) -> Scenario:
    goals = (Goal(OURS, BARE, 1.5, "p50"), Goal(OURS, BARE, 2.5, "p99"))
    title = f"latency at {rate:,} messages/s"
    return Scenario(f"latency-{rate}", title, measures.latency, (BARE, OURS), {"rate": rate}, "s", "less", goals)


def _load(part: int) -> Scenario:
    title = f"latency at {part} % of capacity"
    measure = measures.latency_at_load(OURS)
    return Scenario(f"load-{part}", title, measure, (BARE, OURS), {"load": part / 100}, "s", "less")


SCENARIOS: Final = (
    Scenario(
        "drain-1", "no-op handlers, concurrency 1", measures.drain, (AWAITING, OURS, *PEERS), {"concurrency": 1},
        goals=(Goal(OURS, AWAITING, 0.55),),
    ),
    Scenario(
        "drain-100", "no-op handlers, concurrency 100", measures.drain, (BARE, OURS, TIMEOUT, *PEERS),
        {"concurrency": 100}, goals=(
            Goal(OURS, BARE, 0.5), Goal(TIMEOUT, BARE, 0.5),
            Goal(OURS, FASTSTREAM, 30), Goal(OURS, ARDIQ, 10), Goal(OURS, BULLMQ, 5),
        ),
    ),
    Scenario(
        "drain-1000", "no-op handlers, concurrency 1,000", measures.drain, (BARE, OURS, *PEERS), {"concurrency": 1000}
    ),
    Scenario(
        "wait", "handlers that await 5 ms, concurrency 1,000", measures.drain, (SLEEPING, OURS, *PEERS),
        {"concurrency": 1000, "wait": 0.005}, goals=(Goal(OURS, SLEEPING, 0.4),),
    ),
    Scenario(
        "failures", "1 % of the handlers fail once", measures.drain, (BARE, OURS, *PEERS), {"fail_every": 100}
    ),
    Scenario(
        "publish-1", "publishing from one task", measures.publish, (REDIS_PY, OURS, *PEERS), {"tasks": 1},
        goals=(Goal(OURS, REDIS_PY, 0.8),),
    ),
    Scenario(
        "publish-100", "publishing from 100 tasks", measures.publish, (REDIS_PY, OURS, *PEERS), {"tasks": 100},
        goals=(Goal(OURS, REDIS_PY, 2.5),),
    ),
    Scenario(
        "publish-many", "publishing in bulk", measures.publish, (PIPELINE, IN_BULK, *PEERS_IN_BULK),
        goals=(Goal(IN_BULK, PIPELINE, 0.7),),
    ),
    *map(_latency, (10_000, 100_000)),
    *map(_load, (10, 50, 90)),
    Scenario(
        "takeover", "entries of a dead consumer", measures.takeover, (NEW, OURS),
        {"messages": 100_000, "concurrency": 100}, goals=(Goal(OURS, NEW, 0.3),),
    ),
    Scenario(
        "workers", "200 µs of processor time a message", measures.together, (OURS, TWO),
        {"messages": 40_000, "spin": 0.0002}, goals=(Goal(TWO, OURS, 1.8),),
    ),
    Scenario("streams-10", "10 streams in one app", measures.drain, (BARE, OURS), {"streams": 10}),
    Scenario("streams-100", "100 streams in one app", measures.drain, (BARE, OURS), {"streams": 100}),
    Scenario("body-100", "bodies of 100 B", measures.drain, (BARE, OURS, *PEERS), {"body": 100}),
    Scenario("body-10k", "bodies of 10 kB", measures.drain, (BARE, OURS, *PEERS), {"body": 10_000}),
    Scenario("body-1m", "bodies of 1 MB", measures.drain, (BARE, OURS, *PEERS), {"body": 1_000_000, "messages": 500}),
    Scenario(
        "backlog", "a backlog of 1,000,000", measures.drain, (BARE, OURS), {"messages": 1_000_000},
        goals=(Goal(OURS, None, 80e6, "rss"),),
    ),
    Scenario(
        "idle-1", "an idle worker, one stream", measures.idle, (OURS,), {}, "of a core", "less",
        goals=(Goal(OURS, None, 0.003),),
    ),
    Scenario(
        "idle-100", "an idle worker, 100 streams", measures.idle, (OURS,), {"streams": 100}, "of a core", "less",
        goals=(Goal(OURS, None, 0.03),),
    ),
)  # fmt: skip
