"""Whether a worker may still believe that nobody takes over what it holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamworker.lease import Lease


def held(seconds: float = 6.0, sent: float = 100.0) -> Lease:
    """A lease of which the first beat, sent at 100, is acknowledged and the first audit through."""
    lease = Lease(seconds)
    lease.renew(sent)
    lease.audited(lease.lapses)
    return lease


def test_a_lease_has_six_beats() -> None:
    assert Lease(15.0).interval == 2.5


def test_nothing_starts_before_a_beat_was_acknowledged() -> None:
    lease = Lease(6.0)
    lease.audited(lease.lapses)
    assert not lease.holds(0.0)


def test_nothing_starts_before_the_first_audit() -> None:
    """What is pending for this consumer is not known yet."""
    lease = Lease(6.0)
    lease.renew(100.0)
    assert lease.lapsed
    assert not lease.holds(100.1)
    lease.audited(lease.lapses)
    assert not lease.lapsed
    assert lease.holds(100.1)


def test_nothing_starts_later_than_a_lease_less_an_interval_after_the_last_acknowledged_beat_was_sent() -> None:
    lease = held()
    assert lease.holds(104.9)
    assert not lease.holds(105.0)
    lease.renew(104.0)
    assert lease.holds(108.9)
    assert not lease.holds(109.0)


def test_a_beat_in_time_is_no_lapse() -> None:
    lease = held()
    lease.renew(104.99)
    assert not lease.lapsed


def test_after_a_lapse_an_audit_comes_first() -> None:
    """Others may have finished what this worker still holds."""
    lease = held()
    lease.renew(105.0)
    assert lease.lapsed
    assert not lease.holds(105.1)
    lease.audited(lease.lapses)
    assert lease.holds(105.1)


def test_an_audit_that_began_before_the_lapse_does_not_count() -> None:
    lease = held()
    began = lease.lapses
    lease.renew(200.0)
    lease.audited(began)
    assert lease.lapsed
    assert not lease.holds(200.1)


def test_each_lapse_asks_for_an_audit_of_its_own() -> None:
    lease = held()
    lease.renew(200.0)
    began = lease.lapses
    lease.renew(300.0)
    lease.audited(began)
    assert lease.lapsed
    lease.audited(lease.lapses)
    assert not lease.lapsed


@given(
    st.lists(
        st.tuples(st.integers(0, 24), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_what_a_lease_holds_was_renewed_in_time_and_audited_since_the_last_lapse(
    steps: list[tuple[int, bool]],
) -> None:
    lease = Lease(6.0)
    now, last, in_doubt = 100.0, -1.0, True
    for pause, audits in steps:
        now += pause / 2
        if last >= 0 and now >= last + 5.0:
            in_doubt = True
        lease.renew(now)
        last = now
        if audits:
            lease.audited(lease.lapses)
            in_doubt = False
        for later in (now, now + 4.5, now + 5.0, now + 60.0):
            assert lease.holds(later) == (later < last + 5.0 and not in_doubt)
