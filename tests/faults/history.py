"""The history of a soak: its facts, put together to messages, runs, faults and processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.faults.journal import Fact


class Key(NamedTuple):
    """One message of one group."""

    stream: str
    group: str
    id: str

    def __str__(self) -> str:
        return f"{self.id} of {self.stream}/{self.group}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the workers were told.

    Attributes:
        groups: the groups of each stream.
        lease: seconds.
        max_deliveries: of every handler.
        shutdown: seconds of ``--shutdown-timeout``.
        grace: seconds a handler has to end after its timeout.
    """

    groups: Mapping[str, tuple[str, ...]]
    lease: float = 2.0
    max_deliveries: int = 5
    shutdown: float = 5.0
    grace: float = 5.0

    @property
    def redelivery(self) -> float:
        """Seconds after a kill within which its messages start elsewhere: lease and 2.5 intervals, and 0.5."""
        return self.lease + 2.5 * self.lease / 6 + 0.5


@dataclass(slots=True)
class Run:
    """One handler at one message. ``end`` is inf for one that never said how it ended."""

    key: Key
    pid: int
    n: int
    body: str
    start: float
    timeout: float = inf
    cancelled: float = inf
    end: float = inf
    how: str = ""


@dataclass(slots=True)
class Fault:
    """Something broken from ``on`` to ``off``; ``target`` is a process id or "server"."""

    kind: str
    target: str
    on: float
    off: float = inf

    def overlaps(self, start: float, end: float) -> bool:
        return self.on <= end and self.off >= start


@dataclass(frozen=True, slots=True)
class Published:
    """One body that was sent; ``id`` is empty while that is unknown."""

    stream: str
    body: str
    dead: frozenset[str]
    at: float


@dataclass(slots=True)
class Process:
    """The end of one process: when, by which code, who asked for it, and how long that took."""

    pid: int
    at: float = inf
    code: int | None = None
    asked: str = ""
    took: float = 0.0
    exiting: bool = False

    @property
    def violent(self) -> bool:
        """Nobody had the chance to hand anything back."""
        return self.exiting or self.code not in (0, None)


@dataclass(slots=True)
class History:
    """Everything that was written down, by what it is about."""

    published: dict[tuple[str, str], Published] = field(default_factory=dict)
    unknown: dict[tuple[str, str], Published] = field(default_factory=dict)  # by stream and body
    refused: int = 0
    runs: dict[Key, list[Run]] = field(default_factory=lambda: defaultdict(list))
    letters: dict[Key, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    left: list[Fact] = field(default_factory=list)
    lost: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    faults: list[Fault] = field(default_factory=list)
    processes: dict[int, Process] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> History:
        """Read the facts, in the order of their times."""
        history, open_runs = cls(), dict[tuple[int, str], Run]()
        for fact in sorted(facts, key=lambda fact: fact.at):
            match fact.kind:
                case "start" | "cancelled" | "ok" | "fail":
                    history._run(fact, open_runs)
                case "published" | "unknown":
                    history._sent(fact)
                case "refused":
                    history.refused += 1
                case "fault-on" | "fault-off":
                    history._fault(fact)
                case "exiting" | "ended":
                    history._end(fact)
                case "letter" | "left" | "lost":
                    history._found(fact)
                case other:
                    raise ValueError(f"{other!r} is no kind of fact")
        return history

    def published_as(self, key: Key) -> Published | None:
        """What was sent under this id; of an unknown outcome, the body tells."""
        known = self.published.get((key.stream, key.id))
        bodies = [run.body for run in self.runs.get(key, ())] + [one.of["body"] for one in self.letters.get(key, ())]
        return known or next(
            (self.unknown[key.stream, body] for body in bodies if (key.stream, body) in self.unknown), None
        )

    def keys(self, rules: Rules) -> Iterator[Key]:
        """Every published message of every group, with those of unknown outcome that were seen again."""
        for stream, entry in self.published:
            for group in rules.groups[stream]:
                yield Key(stream, group, entry)
        for key in {*self.runs, *self.letters}:
            if (key.stream, key.id) not in self.published:
                yield key

    def all_runs(self) -> Iterator[Run]:
        for runs in self.runs.values():
            yield from runs

    def died(self, pid: int) -> float:
        """When the process ended; inf if it did not."""
        return self.processes[pid].at if pid in self.processes else inf

    def open_at(self, pid: int, at: float) -> list[Run]:
        """What ran in a process at a time; what did not end when it was cancelled does not count."""
        return [run for run in self.all_runs() if run.pid == pid and run.start <= at < min(run.end, run.cancelled)]

    def _run(self, fact: Fact, open_runs: dict[tuple[int, str], Run]) -> None:
        of = fact.of
        if fact.kind == "start":
            key = Key(of["stream"], of["group"], of["id"])
            run = Run(key, fact.pid, int(of["n"]), of["body"], fact.at, float(of.get("timeout", inf)))
            open_runs[fact.pid, of["run"]] = run
            self.runs[key].append(run)
        elif fact.kind == "cancelled":
            open_runs[fact.pid, of["run"]].cancelled = fact.at
        else:
            run = open_runs.pop((fact.pid, of["run"]))
            run.end, run.how = fact.at, fact.kind

    def _sent(self, fact: Fact) -> None:
        of = fact.of
        sent = Published(of["stream"], of["body"], frozenset(filter(None, of.get("dead", "").split(","))), fact.at)
        if fact.kind == "published":
            self.published[sent.stream, of["id"]] = sent
        else:
            self.unknown[sent.stream, sent.body] = sent

    def _fault(self, fact: Fact) -> None:
        of = fact.of
        if fact.kind == "fault-on":
            self.faults.append(Fault(of["fault"], of["target"], fact.at - float(of.get("ago", 0))))
        for fault in self.faults:
            if fact.kind == "fault-off" and (fault.kind, fault.target, fault.off) == (of["fault"], of["target"], inf):
                fault.off = fact.at

    def _end(self, fact: Fact) -> None:
        of = fact.of
        if fact.kind == "exiting":
            process = self._process(fact.pid)
            process.at, process.exiting = fact.at, True
            return
        process = self._process(int(of["target"]))
        process.code, process.asked, process.took = int(of["code"]), of["asked"], float(of.get("took", 0))
        process.at = min(process.at, fact.at - process.took if process.asked == "kill" else fact.at)

    def _found(self, fact: Fact) -> None:
        of = fact.of
        if fact.kind == "letter":
            self.letters[Key(of["stream"], of["group"], of["id"])].append(fact)
        elif fact.kind == "left":
            self.left.append(fact)
        else:
            self.lost[of["stream"], of["group"]] += int(of["count"])

    def _process(self, pid: int) -> Process:
        return self.processes.setdefault(pid, Process(pid))
