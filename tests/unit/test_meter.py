"""Meters: the counts are right however many messages are left out."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from streamworker import meter
from streamworker.message import Delivery
from streamworker.meter import GroupMeter, HandlerMeter, Histogram


class Clock:
    def now(self) -> float:
        return 1000.5


def deliveries(number: int, **facts: Any) -> list[Delivery]:
    return [
        Delivery(b"s", b"%d-0" % at, b"1000000-0", [b"data", b"x" * 96], facts.get("count", 1)) for at in range(number)
    ]


def test_a_histogram_counts_up_to_each_bound_and_beyond() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    histogram.observe(9, 4)
    assert histogram.counts == [2, 2, 5]
    assert histogram.total == 8 + 36


@pytest.mark.parametrize("number", [0, 1, 2, 9, 10, 11, 19, 99, 100, 101, 500, 1003])
def test_of_a_batch_of_any_size_the_counts_are_right(number: int) -> None:
    group = GroupMeter(Clock())
    group.received(deliveries(number, count=2))
    group.acked(deliveries(number))
    assert sum(group.deliveries.counts) == sum(group.size.counts) == sum(group.whole.counts) == number
    assert group.deliveries.total == 2 * number
    assert group.size.total == 100 * number
    assert group.whole.total == pytest.approx(0.5 * number), "from the id's time to now"


def test_every_run_is_measured_as_long_as_there_are_few() -> None:
    group = GroupMeter(Clock())
    handler = HandlerMeter(group)
    with patch.object(meter, "monotonic", lambda: 7.0):
        for delivery in deliveries(20):
            handler.ended(delivery, 6.75)
    assert (sum(handler.ran.counts), handler.ran.total) == (20, 5.0)
    assert (sum(group.wait.counts), group.wait.total) == (20, 20 * 0.25)


def test_of_many_runs_some_are_measured_and_counted_for_all() -> None:
    handler = HandlerMeter(GroupMeter(Clock()))
    now = 0.0
    with patch.object(meter, "monotonic", lambda: now), patch.object(handler, "_since", 0.0):
        measured = 0
        for delivery in deliveries(100_000):
            now += 1e-5  # 100,000 a second
            before = sum(handler.ran.counts)
            handler.ended(delivery, now - 1e-3)
            measured += sum(handler.ran.counts) > before
    assert sum(handler.ran.counts) == pytest.approx(100_000, abs=101)
    assert handler.ran.total == pytest.approx(100.0, rel=0.01)
    assert measured < 20_000
