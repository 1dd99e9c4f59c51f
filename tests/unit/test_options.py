"""Durations and sizes as people write them on the command line."""

from __future__ import annotations

import click
import pytest

from streamworker.cli.options import duration, rate, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("7d", 604_800.0), ("2w", 1_209_600.0), ("1h30m", 5400.0),
        ("1d12h", 129_600.0), ("1.5h", 5400.0), ("250ms", 0.25), ("7D", 604_800.0), ("0s", 0.0),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "d", "7x", "7 days", "-7d", "1h-3m", "1e3", "nan", "inf", "\u0663d", "99999999d", "1h30"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="7d or 1h30m"):
        duration(text)


@pytest.mark.parametrize("text", ["7", "0", "90", "0.5"])
def test_a_bare_number_may_be_days_or_seconds_and_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"{text}s, {text}m, {text}h or {text}d"):
        duration(text)


@pytest.mark.parametrize(("text", "number"), [("50", 50.0), ("50/s", 50.0), ("0.5", 0.5), (".5 /s", 0.5)])
def test_a_rate_is_how_many_a_second(text: str, number: float) -> None:
    assert rate(text) == number


@pytest.mark.parametrize("text", ["", "0", "0.0/s", "-1", "1e3", "nan", "inf", "50/m", "50 a second", "9999999999"])
def test_what_is_no_rate_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 50, or"):
        rate(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500MB", 500_000_000), ("500M", 500_000_000), ("1GiB", 2**30), ("1Gi", 2**30), ("1.5kB", 1500), ("2KiB", 2048),
        ("1TB", 10**12), ("12", 12), ("12B", 12), ("3 GB", 3 * 10**9), ("0", 0),
    ],
)  # fmt: skip
def test_a_size_is_a_number_of_bytes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "MB", "5XB", "-5MB", "5MBB", "1e9", "nan", "99999TB", "5 M B"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="500MB, 2GB"):
        size(text)
