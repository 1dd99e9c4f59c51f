"""What every subject has in common: the job it is given, the meter, and the result it prints.

A subject is a program in an environment of its own, so this needs nothing but Python's library, and no
subject's file is named as the package it tries.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

_WARM_UP = 0.1  # of the messages, before the clock is started


@dataclass(frozen=True)
class Job:
    """What to do; given as JSON in the first argument.

    Attributes:
        do: the part of the program that is run.
        url: of the server; this subject's alone.
        messages: how many there are in all; None where nobody knows when it is over but the caller, who then
            closes this program's standard input.
        concurrency: how many handlers run at once.
        name: of the stream, or the queue; with ``streams`` more than one, its first part.
        group: of the consumers; a new one reads what others have read before.
        streams: how many the messages are spread over.
        body: bytes of a message.
        wait: seconds a handler awaits.
        spin: seconds of a processor that a handler uses.
        fail_every: every n-th message fails once, at its first delivery; 0 for none.
        timeout: seconds that a handler may run; None for no limit.
        prefetch: entries held; None for the subject's own choice.
        rate: messages in a second, where there is a pace.
        tasks: that publish at once.
        fast: uvloop, for all who can.
    """

    do: str = "drain"
    url: str = ""
    messages: int | None = None
    concurrency: int = 100
    name: str = "bench"
    group: str = "bench"
    streams: int = 1
    body: int = 60
    wait: float = 0.0
    spin: float = 0.0
    fail_every: int = 0
    timeout: float | None = None
    prefetch: int | None = None
    rate: int = 0
    tasks: int = 1
    fast: bool = True

    @property
    def names(self) -> list[str]:
        """Of the streams."""
        return [self.name] if self.streams == 1 else [f"{self.name}-{number}" for number in range(self.streams)]

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The messages, as values for JSON."""
        assert self.messages is not None
        padding = "x" * max(0, self.body - 60)
        for number in range(self.messages):
            yield body(number, padding)


def body(number: int, padding: str = "") -> dict[str, Any]:
    """One message; 60 bytes of JSON with an empty padding, give or take a digit."""
    return {"id": number, "customer": "abcdefgh", "amount": 12.5, "pad": padding}


def read_job() -> Job:
    """The job of this program."""
    given = json.loads(sys.argv[1])
    known = {one.name for one in fields(Job)}
    return Job(**{name: value for name, value in given.items() if name in known})


class Meter:
    """Counts handled messages; the clock runs from the end of a warm-up to the last one."""

    __slots__ = ("_at_begin", "_next", "_over", "_total", "begun", "count", "ended")

    def __init__(self, messages: int | None, over: Callable[[], object]) -> None:
        self._total = messages
        self._next = int(messages * _WARM_UP) if messages is not None else 1
        self._over = over
        self.count = 0
        self.begun = 0.0
        self.ended = 0.0
        self._at_begin = 0

    def tick(self, count: int = 1) -> None:
        """So many more were handled."""
        self.count += count
        if self.count >= self._next:
            self._mark()

    def _mark(self) -> None:
        now = time.monotonic()
        if not self.begun:
            self.begun = now
            self._at_begin = self.count
            self._next = self._total if self._total is not None else 0
        if self._total is None:
            self.ended = now
        elif self.count >= self._total and not self.ended:
            self.ended = now
            self._over()

    def result(self) -> dict[str, Any]:
        """A rate, and when the clock ran by the system's monotonic clock, for those who add up several processes."""
        seconds = self.ended - self.begun
        return {
            "rate": (self.count - self._at_begin) / seconds if seconds > 0 else 0.0,
            "begun": self.begun,
            "ended": self.ended,
            "count": self.count,
        }


def percentiles(ages: list[float]) -> dict[str, Any]:
    """Of latencies in seconds; the first tenth is warm-up."""
    ages = sorted(ages[len(ages) // 10 :])
    return {name: ages[int(len(ages) * part)] for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))}


def burn(seconds: float) -> None:
    """Use a processor for so long, by its own clock: others on the machine make no difference."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def tell(result: dict[str, Any]) -> None:
    """Print the result, with the memory and processor time used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {**result, "rss": usage.ru_maxrss * 1024, "cpu": usage.ru_utime + usage.ru_stime}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
