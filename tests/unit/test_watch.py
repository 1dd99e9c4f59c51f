"""Who is taken for dead, by the watcher's own clock; and when a watch begins again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker.broker import Dead, Look
from streamworker.heartbeat import Membership
from streamworker.lease import Lease
from streamworker.report import Report, heartbeat_value, lease_of, report_of
from streamworker.watch import MARKED_DEAD, Watch

ME = "me.sw"
OTHER = "other.sw"
REPORT = Report(host="box 1", pid=17, version="1.2", started=1.5, at=2.5, running=2, longest=(("1-1", "charge", 0.5),))


def beat(count: int, lease: float = 10.0) -> bytes:
    return heartbeat_value(count, lease, REPORT)


def seen(value: bytes, name: str = OTHER) -> Look:
    return Look({name: value, ME: b"1 10000 me"}, frozenset())


def test_a_heartbeat_says_its_count_how_long_it_may_stand_still_and_who_it_is() -> None:
    value = heartbeat_value(7, 2.5, REPORT)
    assert value.startswith(b"7 2500 {")
    assert lease_of(value) == 2.5
    assert report_of(value) == REPORT


@pytest.mark.parametrize(
    "value", [b"", MARKED_DEAD, b"7 2500", b"7 2500 host 17", b"7 2500 {", b'7 2500 {"pid": "x"}', b"7 2500 \xff"]
)
def test_what_is_no_heartbeat_of_ours_tells_nothing(value: bytes) -> None:
    assert report_of(value) is None


def test_a_consumer_is_dead_when_its_heartbeat_stood_still_for_its_lease() -> None:
    watch = Watch(ME, 10.0)
    assert watch.look(100.0, seen(beat(1))) == ()
    assert watch.look(109.9, seen(beat(1))) == ()
    assert watch.look(110.0, seen(beat(1))) == (Dead(OTHER, beat(1)),), "with the value on which that rests"


def test_a_heartbeat_that_moved_lives_for_another_lease() -> None:
    watch = Watch(ME, 10.0)
    watch.look(100.0, seen(beat(1)))
    assert watch.look(111.0, seen(beat(2))) == ()
    assert watch.look(120.9, seen(beat(2))) == ()
    assert watch.look(121.0, seen(beat(2))) == (Dead(OTHER, beat(2)),)


def test_a_count_that_steps_back_has_moved() -> None:
    """After a failover to a replica that lags."""
    watch = Watch(ME, 10.0)
    watch.look(100.0, seen(beat(5)))
    assert watch.look(111.0, seen(beat(4))) == ()


@pytest.mark.parametrize(("mine", "theirs", "alive", "dead"), [(2.0, 15.0, 14.9, 15.0), (15.0, 2.0, 1.9, 2.0)])
def test_a_consumer_is_measured_by_its_own_lease(mine: float, theirs: float, alive: float, dead: float) -> None:
    watch = Watch(ME, mine)
    value = beat(1, theirs)
    watch.look(0.0, seen(value))
    assert watch.look(alive, seen(value)) == ()
    assert watch.look(dead, seen(value)) == (Dead(OTHER, value),)


@pytest.mark.parametrize("value", [b"", b"1", b"1 x host", b"nonsense", b"\xff \xff"])
def test_a_consumer_without_a_readable_heartbeat_is_measured_by_the_watchers_lease(value: bytes) -> None:
    watch = Watch(ME, 10.0)
    watch.look(0.0, seen(value))
    assert watch.look(9.9, seen(value)) == ()
    assert watch.look(10.0, seen(value)) == (Dead(OTHER, value),)


def test_who_has_pending_entries_but_no_heartbeat_is_watched_too() -> None:
    """Before its first beat, or when the hash was deleted: no heartbeat is a value like any other."""
    watch = Watch(ME, 10.0)
    pending = Look({}, frozenset({OTHER}))
    assert watch.look(0.0, pending) == ()
    assert watch.look(10.0, pending) == (Dead(OTHER, b""),)
    assert watch.look(10.1, seen(beat(1))) == (), "the first beat is a move"


def test_what_is_marked_dead_is_dead_at_once() -> None:
    assert Watch(ME, 10.0).look(0.0, seen(MARKED_DEAD)) == (Dead(OTHER, MARKED_DEAD),)


def test_nobody_takes_itself_or_another_program_for_dead() -> None:
    watch = Watch(ME, 10.0)
    look = Look({ME: b"1 10000 me", "floor": b"1-1", f"{OTHER}!": b"s 1-1", "paused": b"1"}, frozenset({"foreign", ME}))
    watch.look(0.0, look)
    assert watch.look(1000.0, look) == ()


def test_the_markers_of_isolation_are_no_consumers() -> None:
    watch = Watch(ME, 10.0)
    look = Look({f"{OTHER}!": MARKED_DEAD}, frozenset())
    assert watch.look(0.0, look) == ()


def test_after_a_restart_everybody_has_a_whole_lease_again() -> None:
    watch = Watch(ME, 10.0)
    watch.look(0.0, seen(beat(1)))
    watch.restart()
    assert watch.look(60.0, seen(beat(1))) == ()
    assert watch.look(70.0, seen(beat(1))) == (Dead(OTHER, beat(1)),)


def test_who_was_gone_for_a_look_has_a_whole_lease_again() -> None:
    watch = Watch(ME, 10.0)
    watch.look(0.0, seen(beat(1)))
    watch.look(5.0, Look())
    assert watch.look(11.0, seen(beat(1))) == ()
    assert watch.look(21.0, seen(beat(1))) == (Dead(OTHER, beat(1)),)


def test_each_consumer_is_watched_by_itself() -> None:
    watch = Watch(ME, 10.0)
    watch.look(0.0, Look({"a.sw": beat(1), "b.sw": beat(1)}))
    watch.look(6.0, Look({"a.sw": beat(1), "b.sw": beat(2)}))
    assert watch.look(10.0, Look({"a.sw": beat(1), "b.sw": beat(2)})) == (Dead("a.sw", beat(1)),)
    assert len(watch.look(16.0, Look({"a.sw": beat(1), "b.sw": beat(2)}))) == 2


Steps = st.lists(st.tuples(st.floats(0.01, 9.9), st.booleans()), max_size=30)


@given(Steps)
def test_the_dead_are_exactly_those_that_were_seen_unchanged_for_a_lease(steps: list[tuple[float, bool]]) -> None:
    watch = Watch(ME, 10.0)
    now, count, since = 0.0, 0, None
    for pause, moves in steps:
        now += pause
        count += moves
        since = now if moves or since is None else since
        dead = watch.look(now, seen(beat(count)))
        assert bool(dead) == (now - since >= 10.0)


# --- the membership: which looks count


def membership() -> Membership:
    """With a lease of 6 s, so an interval of 1 s."""
    return Membership("orders", "billing", ME, Lease(6.0), lambda: REPORT)


def test_looks_in_time_lead_to_a_verdict() -> None:
    one = membership()
    for second in range(100, 107):
        one.seen(second, second, seen(beat(1, 6.0)))
    assert one.dead == (Dead(OTHER, beat(1, 6.0)),)


def test_after_a_gap_of_more_than_two_and_a_half_intervals_the_watch_begins_again() -> None:
    """This process, or all, stood still: nobody had a chance to beat."""
    one = membership()
    one.seen(100.0, 100.0, seen(beat(1, 6.0)))
    one.seen(102.5, 102.5, seen(beat(1, 6.0)))
    one.seen(105.1, 105.1, seen(beat(1, 6.0)))
    one.seen(106.5, 106.5, seen(beat(1, 6.0)))
    assert one.dead == ()


def test_a_beat_that_failed_makes_all_watches_begin_again() -> None:
    """Where beats are refused and looks work, everybody would seem dead."""
    one = membership()
    for second in range(100, 107):
        one.seen(second, second, seen(beat(1, 6.0)))
    one.failed(106.5)
    assert one.dead == ()
    one.seen(107.0, 107.0, seen(beat(1, 6.0)))
    assert one.dead == ()
    assert one.next_due == 107.5, "and the next beat is soon"


def test_each_beat_has_a_value_of_its_own() -> None:
    one = membership()
    beats = [one.next_beat(second) for second in (100.0, 101.0)]
    assert [(beat.stream, beat.group, beat.value) for beat in beats] == [
        ("orders", "billing", heartbeat_value(1, 6.0, REPORT)),
        ("orders", "billing", heartbeat_value(2, 6.0, REPORT)),
    ]
    assert one.next_due == 102.0


def test_who_was_marked_dead_by_us_is_dead_at_once() -> None:
    one = membership()
    one.marked_dead(OTHER)
    assert one.dead == (Dead(OTHER, MARKED_DEAD),)


def test_an_acknowledged_beat_renews_the_lease_from_when_it_was_sent() -> None:
    one = membership()
    one.lease.audited(one.lease.lapses)
    one.seen(100.0, 103.0, Look())
    assert one.lease.holds(104.9)
    assert not one.lease.holds(105.0)
