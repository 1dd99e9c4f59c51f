"""What came of a run: medians and ratios, as a table, as JSON and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scenarios import Goal, Scenario


class Outcome:
    """The results of one scenario, round by round."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.rounds: list[dict[str, dict[str, Any]]] = []  # of each: what each subject gave, by its name
        self.failures: dict[str, str] = {}

    def median(self, subject: str, what: str = "value") -> float | None:
        """Over the rounds; None if there is none."""
        values = [one[subject][what] for one in self.rounds if what in one.get(subject, {})]
        return statistics.median(values) if values else None

    def ratio(self, subject: str, than: str, what: str = "value") -> float | None:
        """The median of each round's ratio: what the machine does at that moment is in both."""
        ratios = [
            one[subject][what] / one[than][what]
            for one in self.rounds
            if what in one.get(subject, {}) and one.get(than, {}).get(what)
        ]
        return statistics.median(ratios) if ratios else None

    def ratio_of_best(self, subject: str, than: str) -> float | None:
        """The ratio of both in their best rounds: what else runs on a machine only ever slows one of them down."""
        best = {
            name: max((one[name]["value"] for one in self.rounds if name in one), default=0.0)
            for name in (subject, than)
        }
        return best[subject] / best[than] if all(best.values()) else None

    def meets(self, goal: Goal) -> bool | None:
        """Whether a goal is reached; None if it was not measured."""
        found = self.found(goal)
        if found is None:
            return None
        return found >= goal.bound if self._is_least(goal) else found <= goal.bound

    def found(self, goal: Goal) -> float | None:
        """What a goal's bound is held against; None if it was not measured."""
        if goal.than is None:
            return self.median(goal.subject.name, goal.of)
        return self.ratio(goal.subject.name, goal.than.name, goal.of)

    def _is_least(self, goal: Goal) -> bool:
        return self.scenario.better == "more" and goal.than is not None

    def told(self, goal: Goal) -> str:
        """A line about a goal."""
        found = self.found(goal)
        what = goal.subject.name if goal.of == "value" else f"{goal.subject.name}, {goal.of}"
        than = "" if goal.than is None else f" of {goal.than.name}"
        sign = ">=" if self._is_least(goal) else "<="
        verdict = "not measured" if found is None else "met" if self.meets(goal) else "MISSED"
        return f"  {what}: {found or 0:.4g} {sign} {goal.bound:.4g}{than}: {verdict}"

    @property
    def measured(self) -> list[str]:
        """Who gave a value in some round."""
        return [one.name for one in self.scenario.subjects if self.median(one.name) is not None]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.scenario.title,
            "unit": self.scenario.unit,
            "rounds": self.rounds,
            "medians": {name: self.median(name) for name in self.measured},
            "failures": self.failures,
            "goals": [
                {
                    "subject": goal.subject.name,
                    "than": goal.than.name if goal.than is not None else None,
                    "of": goal.of,
                    "bound": goal.bound,
                    "found": self.found(goal),
                    "met": self.meets(goal),
                }
                for goal in self.scenario.goals
            ],
        }


def table(outcome: Outcome) -> str:
    """A table with a line for each subject, and one for each goal."""
    scenario = outcome.scenario
    first = scenario.subjects[0].name
    lines = [f"{scenario.title} ({scenario.name})"]
    for subject in scenario.subjects:
        if subject.name in outcome.failures:
            lines.append(f"  {subject.name:<26} failed: {outcome.failures[subject.name]}")
            continue
        if subject.name not in outcome.measured:
            continue
        median, ratio = outcome.median(subject.name), outcome.ratio(subject.name, first)
        rss = outcome.median(subject.name, "rss")
        words = [f"  {subject.name:<26}", f"{_number(median, scenario.unit):>18}"]
        words.append(f"{ratio:>7.2f} x" if ratio is not None else " " * 9)
        words.append(f"{rss / 1e6:>6.0f} MB" if rss is not None else "")
        if outcome.median(subject.name, "p99") is not None:
            words += [f"{part} {_number(outcome.median(subject.name, part), 's')}" for part in ("p99", "p99.9")]
        lines.append(" ".join(words).rstrip())
    measured = [goal for goal in scenario.goals if goal.than is None or goal.than.name in outcome.measured]
    lines += [outcome.told(goal) for goal in measured]
    return "\n".join(lines)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "s":
        return f"{value * 1000:.2f} ms"
    if unit == "of a core":
        return f"{value:.2%} {unit}"
    return f"{value:,.0f} {unit}"


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """A picture with a bar for each subject of each scenario; the file's ending says which kind."""
    import matplotlib  # noqa: PLC0415  (only who wants a picture needs it)

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    shown = [outcome for outcome in outcomes if len(outcome.rounds) and len(outcome.scenario.subjects) > 1]
    heights = [0.35 * len(outcome.scenario.subjects) + 0.9 for outcome in shown]
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, outcome in zip(axes[:, 0], shown, strict=True):
        names = outcome.measured
        values = [outcome.median(name) or 0.0 for name in names]
        bars = axis.barh(
            names, values, color=["#c0392b" if name.startswith("streamworker") else "#95a5a6" for name in names]
        )
        axis.bar_label(bars, [_number(value, outcome.scenario.unit) for value in values], padding=3, fontsize=8)
        axis.set_title(outcome.scenario.title, fontsize=9, loc="left")
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path)
