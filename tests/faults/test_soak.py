"""A short soak: everything breaks once or so, and the checker finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak.session import Plan, soak


@pytest.mark.timeout(240)  # a minute of faults, and what its last messages need
async def test_a_minute_of_faults_loses_nothing_and_repeats_nothing_without_a_reason(tmp_path: Path) -> None:
    faults = ("kill", "freeze", "deploy", "restart", "client_kill", "oom", "cut_replies", "lose_replies")
    figures, violations = await soak(Plan(seconds=45, seed=7, rate=40, faults=faults), tmp_path)
    print(figures.table())
    assert violations == []
    assert figures.handled > 500
    assert figures.dead_letters == figures.dead_letters_expected > 0
    assert len(figures.recovery) >= 3
