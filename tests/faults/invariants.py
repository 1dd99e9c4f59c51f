"""The checker: which of the invariants of a soak its history breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Final

from tests.faults.history import Fault, History, Key, Rules, Run
from tests.faults.journal import Fact

# In these a worker may be taken for dead although it lives: what it held is handled by another one too.
_CUT_OFF: Final = ("freeze", "cut", "gap")
_ACK: Final = 1.0  # seconds between a handler's end and its ack, on a busy machine
_FIRST: Final = 5.0  # seconds after a fault's end until something is handled
_AWAKE: Final = 0.5  # seconds after SIGCONT in which a busy machine gives a process its first turn
_SLACK: Final = 2.0  # seconds that a busy machine may add to the end of a process


def check(facts: Sequence[Fact], rules: Rules) -> list[str]:
    """Every violation as a sentence that begins with the invariant's number; empty for a good history."""
    history = History.of(facts)
    return [text for invariant in _INVARIANTS for text in invariant(history, rules)]


def _nothing_is_lost(history: History, rules: Rules) -> Iterator[str]:
    waiting = {Key(one.of["stream"], one.of["group"], one.of["id"]) for one in history.left if "id" in one.of}
    missing = []
    for key in history.keys(rules):
        ends = {run.how for run in history.runs.get(key, ())}
        if "ok" not in ends and key not in history.letters and key not in waiting:
            missing.append((key, bool(ends)))
    uncounted = Counter((key.stream, key.group) for key, _ in missing)
    for stream, group in list(uncounted):
        uncounted[stream, group] -= history.lost[stream, group]
    for key, started in missing:
        if uncounted[key.stream, key.group] <= 0:
            continue
        if started:
            yield f"I4: {key} was settled, but no handler succeeded and there is no dead letter"
        else:
            yield f"I1: {key} was published and is lost: never handled, no dead letter, not pending"


def _nothing_is_made_up(history: History, _: Rules) -> Iterator[str]:
    seen = [(run.key, run.body, "handled") for run in history.all_runs()]
    seen += [(key, one.of["body"], "dead-lettered") for key, ones in history.letters.items() for one in ones]
    ids: dict[tuple[str, str], str] = {}
    for key, body, what in seen:
        sent = history.published_as(key)
        if sent is None:
            yield f"I2: {key} was {what}, but never published"
        elif sent.body != body:
            yield f"I2: {key} was {what} with another body than was published"
        elif ids.setdefault((key.stream, body), key.id) != key.id:
            yield f"I2: {key} has the body of {ids[key.stream, body]}, which was published once"


def _repeats_are_explained(history: History, rules: Rules) -> Iterator[str]:
    for key, later, earlier in repeats(history):
        if _explained(history, rules, earlier, later) or _began_before(history, later):
            continue
        if later.start < min(earlier.end, history.died(earlier.pid)):
            yield f"I7: {key} started in process {later.pid} while it still ran in process {earlier.pid}"
        else:
            yield f"I3: {key} ran again in process {later.pid} after process {earlier.pid}, and no fault explains it"


def repeats(history: History) -> Iterator[tuple[Key, Run, Run]]:
    """Every start with each start before it of the same message."""
    for key, runs in history.runs.items():
        for at, later in enumerate(runs):
            for earlier in runs[:at]:
                yield key, later, earlier


def is_retry(rules: Rules, earlier: Run, later: Run) -> bool:
    """Whether the earlier run failed before the later one began, so that this is what was asked for."""
    if earlier.how == "fail" and earlier.end <= later.start:
        return True
    if earlier.timeout <= earlier.cancelled - earlier.start < inf:  # whatever it did about its timeout, it has failed
        return later.start >= min(earlier.end, earlier.cancelled + rules.grace)
    return False


def _explained(history: History, rules: Rules, earlier: Run, later: Run) -> bool:
    if is_retry(rules, earlier, later):
        return True
    span = earlier.start, later.start
    mine = [fault for fault in history.faults if fault.target == str(earlier.pid) and fault.overlaps(*span)]
    if any(fault.kind in _CUT_OFF for fault in mine):
        return True
    died = history.died(earlier.pid)
    if died <= later.start:
        acked = earlier.how == "ok" and died - earlier.end > _ACK
        # A loop that was blocked sends no ack either.
        return not acked or any(
            fault.target in ("server", str(earlier.pid)) and fault.overlaps(earlier.end, died)
            for fault in history.faults
            if fault.kind != "kill"
        )
    drained = any(fault.kind == "deploy" and fault.on <= earlier.cancelled for fault in mine)
    return drained and earlier.end <= later.start and earlier.how != "ok" and earlier.cancelled < inf


def _began_before(history: History, run: Run) -> bool:
    """Whether its process was stopped between the look at its lease and the handler: one message, at most."""
    for fault in history.faults:
        if fault.kind == "freeze" and fault.target == str(run.pid) and fault.off <= run.start <= fault.off + _AWAKE:
            return not any(one.pid == run.pid and fault.off <= one.start < run.start for one in history.all_runs())
    return False


def _deliveries_are_bounded(history: History, rules: Rules) -> Iterator[str]:
    for run in history.all_runs():
        if not 1 <= run.n <= rules.max_deliveries:
            yield f"I5: {run.key} was delivered as number {run.n} of {rules.max_deliveries}"
    for key, letters in history.letters.items():
        if len(letters) > 1:
            yield f"I5: {key} has {len(letters)} dead letters"
        if (n := int(letters[0].of["n"])) > rules.max_deliveries:
            yield f"I5: {key} was dead-lettered after {n} deliveries of {rules.max_deliveries}"


def _dead_letters_are_the_guilty(history: History, rules: Rules) -> Iterator[str]:
    for key in history.keys(rules):
        sent = history.published_as(key)
        doomed = sent is not None and key.group in sent.dead
        if doomed and any(run.how == "ok" for run in history.runs.get(key, ())):
            yield f"I5: {key} cannot be handled, but was"
        elif doomed and key not in history.letters and key in history.runs:
            yield f"I5: {key} cannot be handled and has no dead letter"
    for key, letters in history.letters.items():
        sent = history.published_as(key)
        if "died" in letters[0].of["reason"]:
            alone = sum(_died_alone(history, run) for run in history.runs.get(key, ()))
            if alone < rules.max_deliveries - 2:
                yield f"I6: {key} was dead-lettered for dead workers, but only {alone} died while it ran alone"
        elif sent is not None and key.group not in sent.dead:
            yield f"I5: {key} can be handled, but was dead-lettered: {letters[0].of['reason']}"


def _died_alone(history: History, run: Run) -> bool:
    died = history.died(run.pid)
    return run.start <= died < run.end and history.open_at(run.pid, died) == [run]


def _nothing_is_left(history: History, _: Rules) -> Iterator[str]:
    for one in history.left:
        where = f"{one.of['stream']}/{one.of['group']}"
        yield f"I8: {one.of['what']} {one.of.get('id') or one.of.get('name', '')} is left behind in {where}"


def _redelivery_is_in_time(history: History, rules: Rules) -> Iterator[str]:
    for run, delay in redeliveries(history, rules):
        if delay > rules.redelivery:
            yield f"I9: {run.key} started {delay:.1f} s after process {run.pid} had died, not {rules.redelivery:.1f}"


def redeliveries(history: History, rules: Rules) -> Iterator[tuple[Run, float]]:
    """Each run whose process died under it, with the seconds to its next start, where nothing else was broken.

    Suspects wait until their process runs nothing else, and the others wait for them meanwhile.
    """
    suspect = min(3, rules.max_deliveries)
    alone = [
        Fault("alone", str(later.pid), later.start, later.end)
        for _, later, earlier in repeats(history)
        if later.n >= suspect and history.died(earlier.pid) < earlier.end
    ]
    for process in history.processes.values():
        died, until = process.at, process.at + rules.redelivery
        others = [one.at for one in history.processes.values() if one is not process]
        faults = [one for one in history.faults if one.kind != "kill" or one.target != str(process.pid)]
        if not process.violent or any(died - rules.lease <= at <= until for at in others):
            continue
        if any(fault.overlaps(died - rules.lease, until) for fault in (*faults, *alone)):
            continue
        for run in history.open_at(process.pid, died):
            later = [one.start for one in history.runs[run.key] if one.start > died]
            if later and run.n + 1 < suspect:
                yield run, min(later) - died


def _it_heals(history: History, _: Rules) -> Iterator[str]:
    ends = sorted(run.end for run in history.all_runs() if run.how == "ok")
    for fault in history.faults:
        first = next((end for end in ends if end >= fault.off), inf)
        again = min((one.on for one in history.faults if one is not fault and one.on >= fault.off), default=inf)
        if fault.off < inf and first - fault.off > _FIRST and again - fault.off > _FIRST and ends[-1:] > [fault.off]:
            yield f"I10: nothing was handled for {first - fault.off:.1f} s after the end of {fault.kind}"


def _processes_end_as_told(history: History, rules: Rules) -> Iterator[str]:
    limit = rules.shutdown + 2
    for one in history.processes.values():
        if one.asked == "term" and one.code not in (0, 4):
            yield f"I12: process {one.pid} ended with {one.code} after SIGTERM"
        elif one.asked == "term" and one.took > limit + _SLACK:
            yield f"I12: process {one.pid} took {one.took:.1f} s to end after SIGTERM, not {limit:g}"
        elif one.asked == "nobody" and not one.exiting:
            yield f"I12: process {one.pid} ended with {one.code}, and nobody had asked for it"


_INVARIANTS: Final[tuple[Callable[[History, Rules], Iterator[str]], ...]] = (
    _nothing_is_lost,
    _nothing_is_made_up,
    _repeats_are_explained,
    _deliveries_are_bounded,
    _dead_letters_are_the_guilty,
    _nothing_is_left,
    _redelivery_is_in_time,
    _it_heals,
    _processes_end_as_told,
)
