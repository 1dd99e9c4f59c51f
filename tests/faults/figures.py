"""The figures of a soak, measured from its history."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf
from statistics import median

from tests.faults.history import Fault, History, Rules
from tests.faults.invariants import is_retry, redeliveries, repeats

_HEALED = 2.0  # seconds over which throughput is taken
_AFTER = 5.0  # seconds after a fault that are counted to it, where progress is measured


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of one kind of fault: seconds from its end to the first message handled and to 90 % of the throughput.

    Attributes:
        standstill: the longest time in which nothing was handled, during it or right after it.
    """

    faults: int
    first_p50: float
    first_longest: float
    full_p50: float
    full_p99: float
    full_longest: float
    standstill: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a soak prints; times in seconds, throughput in messages handled a second."""

    about: Mapping[str, object]
    published: int
    unknown: int
    unknown_and_there: int
    refused: int
    handled: int
    lost: int
    dead_letters_expected: int
    dead_letters: int
    repeats: int
    redelivery_p99: float
    redelivery_longest: float
    throughput_before: float
    throughput_during: float
    throughput_after: float
    recovery: Mapping[str, Recovery]

    def table(self) -> str:
        """For people."""
        values = asdict(self)
        recovery = values.pop("recovery")
        lines = [f"{name:<24}{value}" for name, value in {**values.pop("about"), **values}.items()]
        columns = list(Recovery.__dataclass_fields__)
        lines += ["", f"{'recovery (s)':<16}" + "".join(f"{one:>15}" for one in columns)]
        lines += [f"{kind:<16}" + "".join(f"{one[name]:>15}" for name in columns) for kind, one in recovery.items()]
        return "\n".join(lines)


def measure(history: History, rules: Rules, about: Mapping[str, object]) -> Figures:
    """Count and measure; ``about`` comes from outside and stands in front."""
    ends = sorted(run.end for run in history.all_runs() if run.how == "ok")
    keys = set(history.keys(rules))
    handled = {run.key for run in history.all_runs() if run.how == "ok"}
    delays = sorted(delay for _, delay in redeliveries(history, rules))
    stop = max((sent.at for sent in history.published.values()), default=0.0)
    outside = [one for one in history.faults if one.kind not in ("block", "gap") and max(one.on, one.off) < stop]
    first = min((fault.on for fault in outside), default=inf)
    last = max((fault.off for fault in outside), default=0.0)
    there = {history.published_as(key) for key in keys if (key.stream, key.id) not in history.published}
    return Figures(
        about={**about, "commands per message": round(int(str(about.get("commands", 0))) / max(1, len(ends)), 2)},
        published=len(history.published),
        unknown=len(history.unknown),
        unknown_and_there=len(there),
        refused=history.refused,
        handled=len(handled),
        lost=len(keys - handled - history.letters.keys()),
        dead_letters_expected=sum(
            (sent := history.published_as(key)) is not None and key.group in sent.dead for key in keys
        ),
        dead_letters=sum(map(len, history.letters.values())),
        repeats=len(
            {(key, later.start) for key, later, earlier in repeats(history) if not is_retry(rules, earlier, later)}
        ),
        redelivery_p99=_at(delays, 0.99),
        redelivery_longest=_at(delays, 1.0),
        throughput_before=_rate(ends, ends[0] if ends else 0.0, first),
        throughput_during=_rate(ends, first, last),
        throughput_after=_rate(ends, last, stop),
        recovery=_recoveries(outside, ends, stop),
    )


def _recoveries(faults: Sequence[Fault], ends: Sequence[float], stop: float) -> dict[str, Recovery]:
    normal = median([_rate(ends, at, at + _HEALED) for at in ends[:: max(1, len(ends) // 200)]]) if ends else 0.0
    found = {}
    for kind, count in sorted(Counter(fault.kind for fault in faults).items()):
        ones = [fault for fault in faults if fault.kind == kind]
        first = sorted(_next(ends, fault.off) - fault.off for fault in ones)
        full = sorted(_full(ends, fault.off, 0.9 * normal) for fault in ones)
        still = max((_longest(ends, fault.on, min(stop, fault.off + _AFTER)) for fault in ones), default=0.0)
        found[kind] = Recovery(
            count, _at(first, 0.5), _at(first, 1.0), _at(full, 0.5), _at(full, 0.99), _at(full, 1.0), round(still, 2)
        )
    return found


def _full(ends: Sequence[float], since: float, rate: float) -> float:
    """Seconds until throughput is ``rate``; inf if it never is."""
    for step in range(600):
        at = since + step / 10
        if _rate(ends, at, at + _HEALED) >= rate:
            return step / 10
    return inf


def _longest(ends: Sequence[float], start: float, end: float) -> float:
    inside = [start, *ends[bisect.bisect(ends, start) : bisect.bisect(ends, end)], end]
    return max(after - before for before, after in pairwise(inside))


def _next(ends: Sequence[float], at: float) -> float:
    place = bisect.bisect_left(ends, at)
    return ends[place] if place < len(ends) else inf


def _rate(ends: Sequence[float], start: float, end: float) -> float:
    if not 0 < end - start < inf:
        return 0.0
    return round((bisect.bisect(ends, end) - bisect.bisect_left(ends, start)) / (end - start), 1)


def _at(ordered: Sequence[float], quantile: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(quantile * len(ordered)))], 2) if ordered else 0.0
