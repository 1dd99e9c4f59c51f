"""How errors are described: short, printable, and whatever the exception is like."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker.describe import describe_error, printable


def raised(exception: BaseException) -> BaseException:
    try:
        raise exception
    except BaseException as caught:
        return caught


def described(exception: BaseException) -> tuple[str, str]:
    started = time.perf_counter()
    error, traceback = describe_error(exception)
    assert time.perf_counter() - started < 2
    assert len(error.encode()) <= 1000
    assert len(traceback.encode()) <= 8000
    return error, traceback


def test_an_error_is_told_like_the_last_line_of_a_traceback() -> None:
    error, traceback = described(raised(ValueError("wrong")))
    assert error == "ValueError: wrong"
    assert traceback.endswith("\nValueError: wrong")
    assert f'File "{__file__}"' in traceback
    assert "in raised\n    raise exception" in traceback
    assert described(KeyError()) == ("KeyError", "KeyError")


def test_local_variables_are_not_told() -> None:
    def fail() -> None:
        secret = "4111" * 4
        raise ValueError(len(secret))

    with pytest.raises(ValueError, match="16") as caught:
        fail()
    assert "4111411141114111" not in "".join(described(caught.value))


class Hostile(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__


@pytest.mark.parametrize("error", [RuntimeError(), RecursionError(), SystemExit(), Hostile(RuntimeError())])
def test_an_exception_that_cannot_be_shown_is_told_by_its_type(error: BaseException) -> None:
    assert described(raised(Hostile(error)))[0] == "Hostile: <Hostile that cannot be shown as text>"


class Odd(Exception):
    def __str__(self) -> Any:
        return 7  # noqa: PLE0307  (that is the point)


def test_an_exception_whose_text_is_no_text_is_told_by_its_type() -> None:
    assert described(Odd())[0].startswith("Odd: <Odd that")


def test_fifty_megabytes_keep_their_head_and_tail() -> None:
    error, traceback = described(raised(ValueError("head" + "x" * 50_000_000 + "tail")))
    assert error.startswith("ValueError: headxxx")
    assert " [...] " in error
    assert error.endswith("xxxtail")
    assert traceback.endswith("xxxtail")


def test_what_could_fool_a_terminal_or_a_log_is_escaped() -> None:
    error, traceback = described(raised(ValueError("a\x1b[2J\nb\u2028c\u202ed\x9be\ud800f\x00g\rh\u200bi")))
    assert error == r"ValueError: a\x1b[2J\nb\u2028c\u202ed\x9be\ud800f\x00g\rh\u200bi"
    assert "\nb" not in traceback  # the text stays one line there too
    assert r"\x1b[2J" in traceback


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    text = "Größe … 大きい 🙂 'a' \\n \u00a0"
    assert printable(text, 1000) == text


@given(st.text(st.characters()), st.integers(50, 300))
def test_any_text_is_printable_short_and_utf8(text: str, most: int) -> None:
    shown = printable(text, most)
    assert len(shown.encode()) <= most
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert all(not (0xD800 <= ord(c) <= 0xDFFF or 0x202A <= ord(c) <= 0x202E or ord(c) < 32) for c in shown)


def test_a_recursion_is_told_by_its_ends() -> None:
    def one(count: int) -> None:
        two(count + 1)

    def two(count: int) -> None:
        one(count + 1)

    with pytest.raises(RecursionError) as caught:
        one(0)
    error, traceback = described(caught.value)
    assert error.startswith("RecursionError")
    assert "frames]" in traceback
    assert traceback.rstrip().endswith(error)


def test_causes_are_told_and_a_chain_without_end_is_not() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise ValueError("outer") from exc
    except ValueError as exc:
        traceback = described(exc)[1]
    assert traceback.index("ValueError: outer") < traceback.index("caused by:") < traceback.index("KeyError: 'inner'")

    exception = ValueError("0")
    for number in range(1, 100_000):
        outer = ValueError(str(number))
        outer.__context__ = exception
        exception = outer
    assert described(exception)[1].count("while handling:") == 7
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert described(first)[1].count("ValueError: first") == 1
    while (inner := exception.__context__) is not None:  # or freeing the chain would recurse too deep
        exception.__context__ = None
        exception = inner  # type: ignore[assignment]


def test_a_suppressed_context_stays_untold() -> None:
    exception = ValueError("told")
    exception.__context__ = KeyError("untold")
    assert "untold" in described(exception)[1]
    exception.__suppress_context__ = True
    assert "untold" not in described(exception)[1]


def test_the_members_of_a_group_are_told() -> None:
    inner = ExceptionGroup("in", [KeyError("two")])
    error, traceback = described(raised(BaseExceptionGroup("both", [raised(ValueError("one")), raised(inner)])))
    assert error == "ExceptionGroup: both (2 sub-exceptions)"
    assert "in the group:\n" in traceback
    assert "ValueError: one" in traceback
    assert "KeyError: 'two'" in traceback
    assert described(ExceptionGroup("many", [ValueError(str(n)) for n in range(10_000)]))[1].count("ValueError") == 7
