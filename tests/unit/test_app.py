"""App.on: what may be registered and what is said about the rest; and the backoff."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamworker
from streamworker import App, Backoff, ConfigError
from streamworker.handler import Handler, is_async, name_of

pytestmark = pytest.mark.anyio


async def charge(order: dict[str, Any]) -> None: ...


async def audit(order: dict[str, Any]) -> None: ...


def registered(**options: Any) -> Handler:
    app = App("billing")
    app.on("orders", **options)(charge)
    return app.handlers[0]


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        registered(**options)
    return str(caught.value)


def test_all_that_is_public_is_there() -> None:
    assert sorted(streamworker.__all__) == streamworker.__all__
    assert all(hasattr(streamworker, name) for name in streamworker.__all__)


def test_a_handler_without_options_has_the_documented_ones() -> None:
    handler = registered()
    assert handler.group == "billing"
    assert (handler.start, handler.concurrency, handler.prefetch, handler.lease, handler.timeout) == (
        "beginning", 16, None, 15.0, None,
    )  # fmt: skip
    assert (handler.max_deliveries, handler.max_age, handler.retry, handler.dead_letter) == (5, None, Backoff(), True)
    assert (handler.type, handler.on_failure, handler.ack, handler.body) == (None, None, "after", None)
    assert str(handler) == "handler 'charge' of stream 'orders'"


def test_the_lease_of_the_app_is_that_of_its_groups() -> None:
    app = App("billing", lease=3, max_body=10, unrouted="drop")
    app.on("orders")(charge)
    app.on("other", lease=4)(charge)
    first, second = app.groups()
    assert (first.lease, second.lease, first.max_body, first.unrouted) == (3, 4, 10, "drop")


@pytest.mark.parametrize(
    "options",
    [
        {"group": ""},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"prefetch": 0},
        {"lease": 0.4},
        {"lease": 86_401},
        {"lease": float("nan")},
        {"timeout": 0},
        {"timeout": -1},
        {"max_deliveries": 0},
        {"max_deliveries": 2.5},
        {"max_age": 0},
        {"retry": 5},
        {"ack": "never"},
        {"on_failure": "drop"},
        {"body": ""},
        {"start": "yesterday"},
        {"start": "-1"},
        {"start": "1-x"},
        {"start": datetime(2024, 1, 1)},
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_named_with_its_value(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    text = refused(**options)
    assert text.startswith("handler 'charge' of stream 'orders': ")
    assert f"{option}={value!r}" in text


@pytest.mark.parametrize(
    "options",
    [
        {"start": "new"},
        {"start": "0"},
        {"start": "1700000000000-0"},
        {"start": datetime(2024, 1, 1, tzinfo=UTC)},
        {"prefetch": 1},
        {"max_deliveries": 1},
        {"lease": 0.5},
        {"body": "fields"},
        {"ack": "before"},
        {"on_failure": print},
    ],
    ids=str,
)
def test_an_option_that_makes_sense_is_kept(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    assert getattr(registered(**options), option) == value


@pytest.mark.parametrize("stream", ["", "or\nders", "\x1b[2J"])
def test_a_stream_needs_a_name_of_printable_characters(stream: str) -> None:
    with pytest.raises(ConfigError, match="stream="):
        App("billing").on(stream)(charge)


@pytest.mark.parametrize(
    "arguments",
    [{"name": ""}, {"name": "a\nb"}, {"unrouted": "ack"}, {"stuck_after": 0}, {"max_body": 0}],
    ids=str,
)
def test_an_app_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        App(**{"name": "billing", **arguments})


def test_only_functions_can_be_decorated() -> None:
    with pytest.raises(ConfigError, match="decorates a function, not 5"):
        App("billing").on("orders")(5)  # type: ignore[type-var]


def test_two_handlers_of_one_group_must_differ_by_type() -> None:
    app = App("billing")
    app.on("orders", type="paid")(charge)
    app.on("orders", type="created")(audit)
    app.on("orders")(audit)
    with pytest.raises(ConfigError) as caught:
        app.on("orders", type="paid")(audit)
    assert str(caught.value) == (
        "handlers 'charge' and 'audit' both consume stream 'orders' as group 'billing' and take the same type "
        "('paid'); give them different type=, or one of them a group= of its own"
    )
    with pytest.raises(ConfigError, match=r"the same type \(None\)"):
        app.on("orders")(charge)
    assert len(app.handlers) == 3


def test_the_same_function_may_consume_many_streams_and_groups() -> None:
    app = App("billing")
    for stream, group in (("orders", None), ("orders", "audit"), ("payments", None)):
        app.on(stream, group=group)(charge)
    assert [str(group) for group in app.groups()] == ["orders/billing", "orders/audit", "payments/billing"]


@pytest.mark.parametrize("options", [{"lease": 3}, {"start": "new"}, {"prefetch": 5}], ids=str)
def test_handlers_of_a_group_agree_on_what_belongs_to_the_group(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    app = App("billing")
    app.on("orders", type="a")(charge)
    with pytest.raises(ConfigError) as caught:
        app.on("orders", type="b", **options)(audit)
    assert f"the other {option}={value!r}; it belongs to the group, so they must agree" in str(caught.value)
    app.on("orders", type="b", concurrency=3)(audit)
    assert app.groups()[0].concurrency == 19


def test_broadcasts_have_no_group_and_may_stand_beside_each_other() -> None:
    app = App("billing")
    app.on("orders")(charge)
    app.on("orders", broadcast=True)(charge)
    app.on("orders", broadcast=True, start="0")(audit)
    assert len(app.groups()) == 1
    assert [(group.name, group.start) for group in app.broadcasts()] == [("", "new"), ("", "0")]


@pytest.mark.parametrize(
    "options",
    [
        {"group": "x"},
        {"prefetch": 3},
        {"lease": 3},
        {"max_age": 3},
        {"max_deliveries": 3},
        {"retry": Backoff(first=1)},
        {"dead_letter": False},
        {"ack": "before"},
    ],
    ids=str,
)
def test_a_broadcast_refuses_what_needs_a_group(options: dict[str, Any]) -> None:
    (option,) = options
    text = refused(broadcast=True, **options)
    assert option in text
    assert "no sense with broadcast=True" in text


def test_an_app_has_one_lifespan() -> None:
    app = App("billing")

    @app.lifespan
    @asynccontextmanager
    async def resources() -> AsyncIterator[int]:
        yield 1

    assert app.lifespan_function is resources
    with pytest.raises(ConfigError, match=r"has a lifespan already: '.*resources'"):
        app.lifespan(resources)


async def test_publishing_needs_a_connection() -> None:
    with pytest.raises(ConfigError, match="is not connected"):
        await App("billing").publish("orders", {})


def test_names_and_kinds_of_handlers_are_found_behind_partials_and_mocks() -> None:
    class Service:
        async def __call__(self, body: object) -> None: ...

    assert name_of(partial(partial(charge))) == "charge"
    assert name_of(Service()).endswith("Service")
    assert is_async(partial(Service()))
    assert not is_async(print)
    assert name_of(Mock()) == "Mock"
    assert not is_async(Mock(spec=print))


# --- backoff


def test_the_default_backoff_outlives_five_minutes() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay(n) for n in range(1, 8)] == [2, 10, 50, 250, 1250, 3600, 3600]


@pytest.mark.parametrize("wrong", [{"first": -1}, {"factor": 0.5}, {"longest": -1}, {"jitter": 1.5}, {"jitter": -0.1}])
def test_a_backoff_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Backoff"):
        Backoff(**wrong)


@pytest.mark.parametrize("option", ["first", "factor", "longest", "jitter"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_backoff_is_finite(option: str, value: float) -> None:
    with pytest.raises(ConfigError):
        Backoff(**{option: value})


@given(
    first=st.floats(0, 1e308),
    factor=st.floats(1, 1e308) | st.integers(1, 10**300),
    longest=st.floats(0, 1e308),
    jitter=st.floats(0, 1),
    deliveries=st.integers(0, 10**9),
)
def test_no_pause_is_negative_or_longer_than_the_longest(
    first: float, factor: float, longest: float, jitter: float, deliveries: int
) -> None:
    pause = Backoff(first, factor, longest, jitter).delay(deliveries)
    assert 0 <= pause <= longest * (1 + 1e-9) + 1e-300


def test_a_backoff_of_nothing_stays_nothing() -> None:
    assert Backoff(first=0, factor=1e300, jitter=0).delay(1000) == 0


def test_the_jitter_spreads_pauses_also_at_the_longest() -> None:
    backoff = Backoff(first=10, factor=2, longest=100, jitter=0.2)
    early = [backoff.delay(1) for _ in range(500)]
    late = [backoff.delay(50) for _ in range(500)]
    assert 8 <= min(early) < 9 < 11 < max(early) <= 12
    assert 66 < min(late) < 75 < 92 < max(late) <= 100


def test_a_decorator_without_its_parentheses_is_told_what_is_missing() -> None:
    app = App("app")
    with pytest.raises(ConfigError, match=r"@app\.on\('orders'\)"):

        @app.on  # type: ignore[arg-type]
        async def charge(order: dict[str, int]) -> None: ...


@pytest.mark.parametrize(
    "wrong", [{"timeout": "5"}, {"lease": None, "max_age": "1"}, {"group": "a\nb"}, {"type": b"x"}, {"group": 5}]
)
def test_an_option_of_the_wrong_type_is_a_config_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        App("app").on("orders", **wrong)(lambda order: None)


def test_a_name_that_is_no_text_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        App(5)  # type: ignore[arg-type]
