"""Measures: how a scenario is carried out once, for one subject. Each gives a value, and what else was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from redis.exceptions import ResponseError

from benchmarks.bench import Bench, Failed, Subject

Result: TypeAlias = dict[str, Any]
_Once: TypeAlias = Callable[[Mapping[str, Any], int], Result]
Measure: TypeAlias = Callable[[Bench, Subject, Mapping[str, Any]], Result]

_FIRST_TRIES: Final = (1_500, 10_000)  # messages; they tell how many make a measurement
_SHORT: Final = 0.2  # seconds; a try that takes less tells little
_MOST: Final = 2_000_000
_PATIENCE: Final = 60.0  # seconds
_AT_ONCE: Final = 1e9  # messages per second: as fast as the server takes them
_ENOUGH: Final = 300_000  # messages for each second that a measurement is to take
_PACER: Final = Subject("pacer", "pacer.py")


def drain(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """How fast a backlog is handled, in messages per second."""

    def once(job: Mapping[str, Any], messages: int) -> Result:
        bench.fill(subject, {**job, "messages": messages})
        return bench.run(subject, {"do": "drain", **job, "messages": messages})

    return _sized(bench, subject, job, once)


def publish(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """How fast messages are published, in messages per second."""

    def once(job: Mapping[str, Any], messages: int) -> Result:
        bench.client.flushall()
        return bench.run(subject, {"do": "publish", **job, "messages": messages})

    return _sized(bench, subject, job, once)


def together(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """How fast several processes, started at once, handle a backlog, in messages per second."""
    bench.fill(subject, job)
    workers = [bench.start(subject, {"do": "drain", **job, "messages": None}) for _ in range(subject.workers)]
    # Looking takes its part of a processor, so it is done seldom.
    wait_for(lambda: bool(_groups(bench)) and _left(bench) == 0, "everything is handled", pause=0.2)
    results = [worker.result() for worker in workers]
    handled = sum(one["count"] for one in results)
    if handled != job["messages"]:
        raise Failed(f"{handled} of {job['messages']} messages were handled")
    return {
        "value": handled / (max(one["ended"] for one in results) - min(one["begun"] for one in results)),
        "rss": max(one["rss"] for one in results),
    }


def latency(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """The time from when a message was due to be published until its handler starts, in seconds."""
    result, pacer = _paced(bench, subject, job["rate"], int(job["rate"] * bench.seconds))
    return {**result, "value": result["p50"], "late": pacer["late"], "pace": job["rate"]}


def latency_at_load(of: Subject) -> Measure:
    """As ``latency``, at a part of what ``of`` can do while it is published as fast as the server takes it."""

    def measure(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
        if "capacity" not in bench.paces:
            bench.paces["capacity"] = _paced(bench, of, _AT_ONCE, int(_ENOUGH * bench.seconds))[0]["rate"]
        return latency(bench, subject, {"rate": int(job["load"] * bench.paces["capacity"])})

    return measure


def _paced(bench: Bench, subject: Subject, rate: float, messages: int) -> tuple[Result, Result]:
    """What a worker tells to which messages are published at a pace, and what the publisher tells."""
    bench.client.flushall()
    worker = bench.start(subject, {"do": "latency", "messages": messages})
    try:
        wait_for(lambda: _consumers(bench) == 1, "the worker has joined the group")
        pacer = bench.run(_PACER, {"rate": rate, "messages": messages})
        return worker.result(), pacer
    finally:
        worker.kill()


def takeover(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """How fast the entries of a dead consumer are handled once they are claimed, in messages per second."""
    if subject.options.get("new"):  # what it is compared to
        return drain(bench, subject, job)
    bench.fill(subject, job)
    holder = bench.start(subject, {"do": "drain", **job, "wait": 3600.0, "prefetch": job["messages"]})
    wait_for(lambda: _pending(bench) == job["messages"], "the first worker holds everything")
    holder.kill()
    result = bench.run(subject, {"do": "drain", **job})
    return {**result, "value": result["rate"]}


def idle(bench: Bench, subject: Subject, job: Mapping[str, Any]) -> Result:
    """The share of a processor that a worker uses that has nothing to do."""
    bench.client.flushall()
    worker = bench.start(subject, {**job, "do": "drain", "messages": None})
    try:
        wait_for(lambda: _consumers(bench, job) == 1, "the worker has joined the groups")
        time.sleep(2.0)  # the start is over
        begun, used = time.monotonic(), worker.cpu
        time.sleep(5 * bench.seconds)
        share = (worker.cpu - used) / (time.monotonic() - begun)
    finally:
        worker.kill()
    return {"value": share}


def wait_for(condition: Callable[[], bool], what: str, pause: float = 0.02) -> None:
    """Look until it is so, every ``pause`` seconds.

    Raises:
        Failed: after a minute.
    """
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not within {_PATIENCE:.0f} s: {what}")
        time.sleep(pause)


def _sized(bench: Bench, subject: Subject, job: Mapping[str, Any], once: _Once) -> Result:
    """Carry it out with as many messages as take the wanted time; the first of the rounds finds out how many.

    It is found out without failures, or the wait for the last retries would be all that is measured.
    """
    if "messages" in job:
        result = once(job, job["messages"])
    else:
        key = f"{once.__qualname__} {subject.name} {job}"
        if key not in bench.paces:
            bench.paces[key] = _pace(once, {**job, "fail_every": 0})

        def at_pace() -> Result:
            return once(job, min(_MOST, max(_FIRST_TRIES[0], int(bench.paces[key] * bench.seconds))))

        result = at_pace()
        if result["rate"] > 1.5 * bench.paces[key]:  # it had not got going in the tries
            bench.paces[key] = result["rate"]
            result = at_pace()
    return {**result, "value": result["rate"]}


def _pace(once: _Once, job: Mapping[str, Any]) -> float:
    """Messages in a second, about: a few of them for the slow, more for those who are done with these in no time."""
    pace = 0.0
    for messages in _FIRST_TRIES:
        pace = float(once(job, messages)["rate"])
        if messages > pace * _SHORT:
            break
    return pace


def _groups(bench: Bench, job: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    many = (job or {}).get("streams", 1)
    found = []
    for name in ["bench"] if many == 1 else [f"bench-{number}" for number in range(many)]:
        try:
            found += bench.client.xinfo_groups(name)
        except ResponseError:  # no stream yet
            found.append({"consumers": 0, "pending": 0, "lag": None})
    return found


def _consumers(bench: Bench, job: Mapping[str, Any] | None = None) -> int:
    return min(int(group["consumers"]) for group in _groups(bench, job))


def _pending(bench: Bench) -> int:
    return sum(int(group["pending"]) for group in _groups(bench))


def _left(bench: Bench) -> int:
    return sum(int(group["pending"]) + int(group["lag"] or 0) for group in _groups(bench))
