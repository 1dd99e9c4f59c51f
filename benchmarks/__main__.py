"""``python -m benchmarks``: scenarios, for streamworker and for what it is compared to, in turn in one run."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.bench import SUBJECTS, Bench, Failed, Subject
from benchmarks.report import Outcome, draw, table
from benchmarks.scenarios import SCENARIOS, Scenario
from tests.servers import KINDS, Server


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--rounds", default=3, show_default=True, help="How often each subject is measured, in turn.")
@click.option("--seconds", default=2.0, show_default=True, help="How long one measurement is to take, about.")
@click.option("--peers/--no-peers", default=True, help="Measure other frameworks too; they are installed first.")
@click.option("--server", "kind", type=click.Choice(list(KINDS)), default="valkey-9.1", show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all results to this file.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw them, as .svg or .png; needs matplotlib.")
@click.option(
    "--at-least",
    type=float,
    help="Exit with 1 if streamworker does less than this part of the limit, both in their best rounds.",
)
@click.option("--list", "only_list", is_flag=True, help="Tell the scenarios, and end.")
def main(
    names: tuple[str, ...], rounds: int, seconds: float, peers: bool, kind: str,
    json_path: Path | None, picture: Path | None, at_least: float | None, only_list: bool,
) -> None:  # fmt: skip
    """Measure streamworker beside the bare loop, which is the limit, and beside its peers.

    All subjects do the same work on the same server, one after the other, round after round. What counts is the
    ratio within a run: an absolute figure tells more about the machine.
    """
    unknown = set(names) - {one.name for one in SCENARIOS}
    if unknown:
        raise click.UsageError(f"there is no scenario {sorted(unknown)[0]!r}; --list tells which there are")
    chosen = [one for one in SCENARIOS if not names or one.name in names]
    if only_list:
        for scenario in chosen:
            click.echo(f"{scenario.name:<16} {scenario.title}")
        return
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(kind, Path(folder)).start()
        try:
            bench = Bench(server.port, seconds)
            for scenario in chosen:
                outcomes.append(_measured(bench, scenario, rounds, peers))
                click.echo(table(outcomes[-1]) + "\n")
        finally:
            server.stop()
    if json_path is not None:
        json_path.write_text(json.dumps(_facts(outcomes, kind, _versions(bench, outcomes)), indent=1))
    if picture is not None:
        draw(outcomes, picture)
    if at_least is not None:
        _judge(outcomes, at_least)


def _measured(bench: Bench, scenario: Scenario, rounds: int, peers: bool) -> Outcome:
    outcome = Outcome(scenario)
    for number in range(rounds):
        found = {}
        for subject in scenario.subjects:
            if subject.name in outcome.failures or (subject.requires and not peers):
                continue
            click.echo(f"\r{scenario.name}, round {number + 1} of {rounds}: {subject.name:<30}", err=True, nl=False)
            try:
                found[subject.name] = scenario.measure(bench, subject, scenario.job)
            except Failed as error:
                outcome.failures[subject.name] = str(error)
        outcome.rounds.append(found)
    click.echo("\r" + " " * 78 + "\r", err=True, nl=False)
    return outcome


def _versions(bench: Bench, outcomes: list[Outcome]) -> dict[str, dict[str, str]]:
    """What was installed for each peer that gave a result, and here."""
    measured: dict[str, Subject] = {}
    for outcome in outcomes:
        for one in outcome.scenario.subjects:
            if outcome.median(one.name) is not None:
                measured.setdefault(one.name if one.requires else "streamworker", one)
    return {name: bench.environments.versions(SUBJECTS / one.program, one.requires) for name, one in measured.items()}


def _facts(outcomes: list[Outcome], kind: str, versions: dict[str, dict[str, str]]) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "server": kind,
        "versions": versions,
        "scenarios": {outcome.scenario.name: outcome.facts() for outcome in outcomes},
    }


def _judge(outcomes: list[Outcome], at_least: float) -> None:
    """End with 1 if a ratio is too small even in the best rounds, or could not be measured."""
    for outcome in outcomes:
        limit, *others = (one for one in outcome.scenario.subjects if not one.requires)
        for subject in others:
            ratio = outcome.ratio_of_best(subject.name, limit.name)
            if ratio is None or ratio < at_least:
                click.echo(f"{outcome.scenario.name}: {subject.name} does {ratio} of {limit.name}, at best", err=True)
                sys.exit(1)


if __name__ == "__main__":
    main()
