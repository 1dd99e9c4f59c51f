"""Telling of groups that hold a limit back: what changes from round to round is no news."""

from __future__ import annotations

import logging

import pytest

from streamworker.retention import Held, Trim
from streamworker.trimmer import HeldBack
from tests.running import events


@pytest.mark.parametrize(
    ("rounds", "told"),
    [
        ("....", []),
        ("a.a.b.a.", []),
        ("ab" * 5, []),
        ("aaaaa", ["held a"]),
        ("aa.aa.aa.a", ["held a"]),
        ("aa....", ["held a", "freed a"]),
        ("aabbb", ["held a", "freed a", "held b"]),
        ("aa..aa", ["held a", "freed a", "held a"]),
    ],
)
def test_a_group_is_told_of_when_it_holds_twice_in_a_row_and_when_it_twice_does_not(
    rounds: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held_back = HeldBack("orders")
    for group in rounds:
        held = None if group == "." else Held(group, "5-0", 1.5)
        held_back.seen(Trim(kept=held is None, held=held))
    lines = [line for name in ("held", "freed") for line in events(caplog, f"retention.{name}")]
    assert sorted(f"{line['event'].removeprefix('retention.')} {line['group']}" for line in lines) == sorted(told)
