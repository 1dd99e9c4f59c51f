"""The benchmark: what it makes of its figures, and that its command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measures
from benchmarks.bench import Subject
from benchmarks.report import Outcome, table
from benchmarks.scenarios import SCENARIOS, Goal, Scenario
from benchmarks.subjects.subject import Meter, percentiles

LIMIT = Subject("limit", "bare.py")
OURS = Subject("ours", "bare.py")
ROOT = Path(__file__).parents[2]


def outcome(*rounds: tuple[float, float], better: str = "more", goals: tuple[Goal, ...] = ()) -> Outcome:
    scenario = Scenario("some", "something", measures.drain, (LIMIT, OURS), better=better, goals=goals)  # type: ignore[arg-type]
    found = Outcome(scenario)
    found.rounds = [
        {"limit": {"value": limit, "rss": 4e7}, "ours": {"value": ours, "rss": 5e7}} for limit, ours in rounds
    ]
    return found


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    found = outcome((100.0, 50.0), (10.0, 6.0), (200.0, 140.0))
    assert found.ratio("ours", "limit") == pytest.approx(0.6)
    assert found.median("ours") == 50.0


@pytest.mark.parametrize(
    ("goal", "better", "met"),
    [
        (Goal(OURS, LIMIT, 0.5), "more", True),
        (Goal(OURS, LIMIT, 0.6), "more", False),
        (Goal(OURS, LIMIT, 0.5), "less", True),
        (Goal(OURS, LIMIT, 0.4), "less", False),
        (Goal(OURS, None, 6e7, "rss"), "more", True),
        (Goal(OURS, None, 4e7, "rss"), "more", False),
        (Goal(OURS, LIMIT, 0.5, "p99"), "less", None),
    ],
)
def test_a_goal_is_met_missed_or_not_measured(goal: Goal, better: str, met: bool | None) -> None:
    found = outcome((100.0, 50.0), better=better, goals=(goal,))
    assert found.meets(goal) is met
    verdict = {True: "met", False: "MISSED", None: "not measured"}[met]
    assert table(found).splitlines()[-1].endswith(verdict)


def test_a_disturbed_round_does_not_change_the_ratio_of_the_best() -> None:
    assert outcome((100.0, 20.0), (50.0, 60.0), (60.0, 10.0)).ratio_of_best("ours", "limit") == pytest.approx(0.6)
    assert outcome((100.0, 20.0), (90.0, 30.0)).ratio_of_best("ours", "limit") == pytest.approx(0.3)
    assert outcome().ratio_of_best("ours", "limit") is None


def test_who_failed_is_told_in_the_table_and_counted_nowhere() -> None:
    found = outcome((100.0, 50.0))
    del found.rounds[0]["ours"]
    found.failures["ours"] = "no such server"
    assert "ours                       failed: no such server" in table(found)
    assert found.ratio("ours", "limit") is None


def test_the_clock_of_a_meter_starts_after_the_warm_up_and_stops_at_the_last() -> None:
    over: list[bool] = []
    meter = Meter(100, lambda: over.append(True))
    meter.tick(9)
    assert not meter.begun
    meter.tick()
    assert meter.begun
    for _ in range(89):
        meter.tick()
    assert not over
    meter.tick()
    assert over == [True]
    assert meter.result()["rate"] == pytest.approx(90 / (meter.ended - meter.begun))


def test_percentiles_leave_out_the_beginning() -> None:
    found = percentiles([9.0] * 100 + [0.001 * at for at in range(900)])
    assert found["p50"] == pytest.approx(0.45)
    assert found["p99"] == pytest.approx(0.891)


def test_the_names_of_scenarios_differ() -> None:
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_measures_writes_json_and_judges(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run("drain-100", "--rounds=1", "--seconds=0.05", "--no-peers", f"--json={results}", "--at-least=9")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of bare loop" in done.stderr
    facts = json.loads(results.read_text())["scenarios"]["drain-100"]
    assert set(facts["medians"]) == {"bare loop", "streamworker", "streamworker, timeout"}
    assert all(value > 0 for value in facts["medians"].values())
    assert facts["failures"] == {}


def test_an_unknown_scenario_is_told() -> None:
    done = run("drian")
    assert done.returncode == 2
    assert "there is no scenario 'drian'" in done.stderr
