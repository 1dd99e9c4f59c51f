"""What is in flight, and how much more may come."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker.broker import EntryName
from streamworker.flight import Flight
from streamworker.message import Delivery

MAIN, RETRY = b"orders", b"{orders}:billing:retry"


class Clock:
    """The time as the flight sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streamworker.flight.monotonic", clock)
    return clock


def flight(concurrency: int = 10, prefetch: int | None = None) -> Flight:
    return Flight((MAIN, RETRY), concurrency, prefetch)


def delivery(number: int = 1, key: bytes = MAIN, count: int = 1) -> Delivery:
    id = b"%d-0" % number
    return Delivery(key, id, id, [b"data", b"x"], count)


def pass_through(flight: Flight, count: int) -> None:
    """Let ``count`` deliveries come and go."""
    for number in range(count):
        one = delivery(10_000 + number)
        flight.add(one)
        flight.remove(one)


# --- the table


def test_the_same_id_in_both_streams_is_two_entries() -> None:
    """Both streams make ``ms-0`` ids in the same millisecond."""
    table = flight()
    first, second = delivery(1), delivery(1, RETRY)
    assert table.add(first)
    assert table.add(second)
    assert len(table) == 2
    assert table.names() == {(MAIN, b"1-0"), (RETRY, b"1-0")}
    assert table.get((MAIN, b"1-0")) is first
    assert table.get((RETRY, b"1-0")) is second
    assert table.get((RETRY, b"2-0")) is None
    assert set(map(id, table)) == {id(first), id(second)}


def test_an_entry_that_comes_a_second_time_only_renews_the_count_of_what_is_held() -> None:
    """The count is the fence of what will be settled."""
    table = flight()
    held = delivery(1, count=3)
    table.add(held)
    assert not table.add(delivery(1, count=1))
    assert len(table) == 1
    assert table.get((MAIN, b"1-0")) is held
    assert held.deliveries == 1


def test_removing_twice_does_nothing() -> None:
    table = flight(prefetch=5)
    one = delivery()
    table.add(one)
    table.remove(one)
    table.remove(one)
    assert len(table) == 0
    assert table.room == 5


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.sampled_from((MAIN, RETRY))), max_size=60))
def test_the_table_holds_what_was_added_and_not_removed(steps: list[tuple[bool, int, bytes]]) -> None:
    table = flight(prefetch=6)
    held: dict[EntryName, Delivery] = {}
    for adds, number, key in steps:
        one = delivery(number, key)
        name = (one.key, one.id)
        if adds:
            assert table.add(one) == (name not in held)
            held.setdefault(name, one)
        else:
            table.remove(held.pop(name, one))
        assert len(table) == len(held)
        assert table.names() == set(held)
        assert all(table.get(name) is one for name, one in held.items())
        assert table.room == max(0, 6 - len(held))


def test_another_entry_under_the_same_id_supersedes_the_one_in_flight() -> None:
    table = flight(prefetch=5)
    old, new = delivery(1), delivery(1)
    new.fields = [b"data", b"another"]
    assert table.add(old)
    assert table.add(new)
    assert old.superseded
    table.remove(old)
    assert list(table) == [new]
    table.remove(new)
    assert table.room == 5


# --- the window


def test_a_prefetch_is_the_most_in_flight_whatever_the_speed(clock: Clock) -> None:
    table = flight(concurrency=10, prefetch=3)
    pass_through(table, 5000)
    clock.now += 1.0
    assert table.window == 3


def test_at_first_as_many_are_in_flight_as_can_run() -> None:
    assert flight(concurrency=7).window == 7


def test_the_window_grows_at_once_to_what_is_finished_in_a_tenth_of_a_second(clock: Clock) -> None:
    table = flight()
    pass_through(table, 200)
    clock.now += 0.5
    assert table.window == 10 + 40


def test_the_window_shrinks_by_half_when_handlers_are_slow(clock: Clock) -> None:
    table = flight()
    pass_through(table, 200)
    clock.now += 0.5
    windows = []
    for _ in range(8):
        windows.append(table.window - 10)
        clock.now += 0.25
    assert windows == [40, 20, 10, 5, 2, 1, 0, 0]


def test_the_window_has_an_end(clock: Clock) -> None:
    table = flight()
    pass_through(table, 50_000)
    clock.now += 0.5
    assert table.window == 10 + 1000


def test_asking_often_does_not_change_the_window(clock: Clock) -> None:
    table = flight()
    pass_through(table, 100)
    clock.now += 0.2
    first = table.window
    clock.now += 0.09
    assert [table.window for _ in range(5)] == [first] * 5


def test_there_is_no_negative_room_when_the_window_shrinks(clock: Clock) -> None:
    table = flight(concurrency=1)
    pass_through(table, 500)
    clock.now += 0.5
    assert table.window == 101
    for number in range(101):
        table.add(delivery(number))
    for _ in range(10):
        clock.now += 0.2
        assert table.room == 0


# --- waiting for room


async def test_who_waits_for_room_is_woken_when_there_is_enough() -> None:
    table = flight(prefetch=4)
    held = [delivery(number) for number in range(4)]
    for one in held:
        table.add(one)
    waiting = asyncio.create_task(table.wait_for_room(2, 30.0))
    await asyncio.sleep(0)
    table.remove(held[0])
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done(), "one is not enough"
    table.remove(held[1])
    began = monotonic()
    await waiting
    assert monotonic() - began < 10
    assert table.room == 2


async def test_who_has_room_does_not_wait() -> None:
    table = flight(prefetch=4)
    waiting = table.wait_for_room(4, 30.0)
    with pytest.raises(StopIteration):
        waiting.send(None)


async def test_waiting_for_room_ends_with_the_time() -> None:
    table = flight(prefetch=1)
    table.add(delivery())
    await table.wait_for_room(1, 0.01)
    assert table.room == 0
