"""Who of a group is on duty for suspects, and who does what one of them has to."""

from __future__ import annotations

import pytest

from streamworker.broker import Look
from streamworker.heartbeat import Membership
from streamworker.lease import Lease
from streamworker.report import Report


def group_of(size: int) -> list[Membership]:
    """Members that have seen each other's heartbeats once."""
    names = [f"host-{place}-x.sw" for place in range(size)]
    members = [Membership("orders", "billing", name, Lease(2.0), Report) for name in names]
    look = Look(dict.fromkeys(names, b"1 2000 host") | {"floor": b"0-0"})
    for member in members:
        member.seen(0.0, 0.0, look)
    return members


@pytest.mark.parametrize("size", [2, 3, 5])
def test_some_are_on_duty_and_some_are_not(size: int) -> None:
    on_duty = sum(member.on_duty(1000.0) for member in group_of(size))
    assert size // 2 <= on_duty <= (size + 1) // 2


def test_those_who_were_not_are_next() -> None:
    members = group_of(4)
    now, then = ([member.on_duty(at) for member in members] for at in (1000.0, 1030.0))
    assert then == [not one for one in now]


@pytest.mark.parametrize("at", [1000.0, 1030.0])
def test_a_single_worker_is_always_on_duty(at: float) -> None:
    (member,) = group_of(1)
    assert member.on_duty(at)


def test_the_dead_do_no_duty() -> None:
    one, other = group_of(2)
    last = Look(dict.fromkeys(("host-0-x.sw", "host-1-x.sw"), b"1 2000 host"))
    other.seen(1.0, 1.0, last)
    assert [other.on_duty(at) for at in (1000.0, 1030.0)].count(True) == 1
    for at in (1.5, 2.0, 2.5, 3.0):  # the heartbeat of the first one stands still for a lease
        other.seen(at, at, last)
    assert all(other.on_duty(at) for at in (1000.0, 1030.0))
    assert one.on_duty(1000.0) != one.on_duty(1030.0), "who has not looked since"


def test_the_first_by_name_of_those_who_can_is_the_first() -> None:
    names = [f"host-{place}-x.sw" for place in range(4)]
    reports = [Report(), Report(trims=True), Report(http=True, trims=True), Report(http=True)]
    members = [
        Membership("orders", "billing", name, Lease(2.0), lambda report=report: report)  # type: ignore[misc]
        for name, report in zip(names, reports, strict=True)
    ]
    assert not any(member.is_first(lambda _: True) for member in members), "nobody has looked yet"
    look = Look(dict(zip(names, (member.next_beat(0.0).value for member in members), strict=True)))
    for member in members:
        member.seen(0.0, 0.0, look)
    assert [one.is_first(lambda report: report.trims) for one in members[1:]] == [True, False, False]
    assert [one.is_first(lambda report: report.http) for one in members[2:]] == [True, False]
    assert [one.is_first(lambda _: True) for one in members] == [True, False, False, False]
    for at in (0.5, 1.0, 1.5, 2.0):  # the heartbeat of the second one stands still for a lease
        values = {name: b"%d 2000 {}" % int(at * 10) for name in (names[0], names[3])}
        members[2].seen(at, at, Look(look.values | values))
    assert members[2].is_first(lambda report: report.trims)
