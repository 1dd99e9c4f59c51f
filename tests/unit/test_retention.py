"""Declaring how much of a stream is kept: what makes no sense is refused at once, in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from streamworker import App
from streamworker.errors import ConfigError
from streamworker.retention import Limits


def test_a_declaration_has_the_apps_groups_on_that_stream() -> None:
    app = App("billing")
    app.stream("orders", max_length=10, max_age=2.5, max_bytes=1000, force=True, dead_max_age=60, dead_max_length=5)

    @app.on("orders")
    async def charge(body: str) -> None: ...

    @app.on("orders", group="search")
    async def index(body: str) -> None: ...

    @app.on("emails")
    async def mail(body: str) -> None: ...

    @app.on("orders", broadcast=True)
    async def hear(body: str) -> None: ...

    (one,) = app.retentions()
    assert (one.stream, one.force, one.groups) == ("orders", True, ("billing", "search"))
    assert one.limits == Limits(max_length=10, max_age=2.5, max_bytes=1000)
    assert one.dead == Limits(max_length=5, max_age=60)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "at least one of max_length"),
        ({"force": True}, "at least one of max_length"),
        ({"force": True, "dead_max_length": 1}, "force=True needs one of"),
        ({"max_length": 0}, "max_length=0, but it must be a whole number of entries"),
        ({"max_length": 1.5}, "max_length=1.5"),
        ({"max_length": True}, "max_length=True"),
        ({"max_length": "10"}, "max_length='10'"),
        ({"max_age": 0}, "max_age=0, but it must be seconds"),
        ({"max_age": float("nan")}, "max_age=nan"),
        ({"max_age": float("inf")}, "max_age=inf"),
        ({"max_age": "7d"}, "max_age='7d'"),
        ({"max_bytes": -1}, "max_bytes=-1"),
        ({"max_bytes": 1e9}, "max_bytes=1000000000.0"),
        ({"dead_max_age": 0.5}, "dead_max_age=0.5"),
        ({"dead_max_length": 0}, "dead_max_length=0"),
        ({"max_length": 1, "force": 1}, "force=1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        App("billing").stream("orders", **wrong)
    assert told in str(refused.value)
    assert "app.stream('orders')" in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\nb", None, 5])
def test_a_stream_has_a_printable_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="printable"):
        App("billing").stream(name, max_length=1)


def test_a_stream_is_declared_once() -> None:
    app = App("billing")
    app.stream("orders", max_length=1)
    app.stream("emails", max_length=1)
    with pytest.raises(ConfigError, match="declares stream 'orders' twice"):
        app.stream("orders", max_age=60)
