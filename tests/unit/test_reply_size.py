"""How many entries a read asks for, so that no reply is larger than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker.redisbroker.reader import ReplySize, sized

MAX = 16 * 2**20


def test_the_first_reads_are_small_and_grow_fourfold() -> None:
    size = ReplySize(MAX)
    asked = []
    for _ in range(5):
        asked.append(size.count(1000))
        size.saw(asked[-1], asked[-1] * 100)
    assert asked == [4, 16, 64, 256, 1000]


def test_no_more_is_asked_for_than_there_is_room() -> None:
    size = ReplySize(MAX)
    size.saw(1000, 1000)
    assert size.count(3) == 3


@pytest.mark.parametrize(("entry", "expected"), [(100, 1000), (16_384, 1000), (2**20, 16), (5 * 2**20, 3), (MAX, 1)])
def test_the_mean_size_of_entries_limits_what_is_asked_for(entry: int, expected: int) -> None:
    size = ReplySize(MAX)
    size.saw(1000, 1000 * entry)
    assert size.count(1000) == expected


def test_one_entry_is_always_asked_for_however_large() -> None:
    size = ReplySize(MAX)
    size.saw(1, 100 * MAX)
    assert size.count(1000) == 1


def test_large_entries_are_believed_at_once_and_small_ones_slowly() -> None:
    size = ReplySize(1000)
    size.saw(100, 100)
    size.saw(4, 4 * 500)
    assert size.count(1000) == 2
    size.saw(2, 2)
    assert size.count(1000) == 3
    size.saw(3, 3)
    assert size.count(1000) == 7


def test_a_small_reply_does_not_bring_back_the_small_reads() -> None:
    size = ReplySize(MAX)
    size.saw(1000, 1000)
    size.saw(1, 1)
    assert size.count(1000) == 1000


def test_entries_without_a_byte_are_no_trouble() -> None:
    size = ReplySize(MAX)
    sized([[b"1-1", [b"", b""]], [b"1-2", [b"", b"", b"", b""]]], size)
    assert size.count(5) == 5


def test_the_size_of_a_reply_is_that_of_its_fields() -> None:
    size = ReplySize(1000)
    sized([[b"1-1", [b"data", bytes(500)]], [b"1-2", [b"x", bytes(250), b"y", bytes(248)]]], size)
    assert size.count(1000) == 2


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 10**6)), max_size=30))
def test_whatever_was_seen_the_next_reply_is_as_large_as_allowed_if_entries_stay_as_they_were(
    replies: list[tuple[int, int]],
) -> None:
    size = ReplySize(MAX)
    for room, entry in replies:
        count = size.count(room)
        assert 1 <= count <= room
        size.saw(count, count * entry)
        following = size.count(2000)
        assert following == 1 or following * entry <= MAX
        assert following <= max(4 * count, 2000)
