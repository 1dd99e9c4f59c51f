"""``streamworker init``: its project handles what is published, against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import call
from tests.conftest import ProgramOf, ServerOf


@pytest.mark.parametrize("words", [("run", "app:app"), ("run",)], ids=["named", "as pyproject.toml says"])
def test_the_project_handles_what_is_published(
    make_server: ServerOf, program: ProgramOf, tmp_path: Path, words: tuple[str, ...]
) -> None:
    url = make_server("valkey-9.1").url  # of its own: the stream is called `orders`
    project = tmp_path / "shop"
    assert program(None, command=("init", "shop")).wait() == 0
    for body in ({"id": 1, "amount": 9.5}, {"id": 2, "amount": 0}):
        assert call("publish", "orders", json.dumps(body), url=url, role="publisher").code == 0
    worker = program(None, "--burst", command=words, folder=project, url=url)
    assert worker.wait(30) == 0
    assert worker.out.count("\n") == 1
    assert worker.out.endswith(": order 1, charged 9.50\n")
    (letters,) = call("dead", "groups", "orders", "shop", "--json", url=url, role="operator").objects
    assert (letters["count"], letters["error_type"]) == (1, "Reject")
