"""Commands that ask before they change something: one interruption ends them, and nothing was changed."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from streamworker.redisbroker.keys import Keys
from tests.commands import command
from tests.terminal import Terminal


@pytest.fixture
def server_kind() -> str:
    """It has nothing to do with the server."""
    return "valkey-9.1"


@pytest.mark.parametrize("keys", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("dead", "drop", "{}", "billing", "--all"), "Drop them?"),
        (("seek", "{}", "billing", "--to", "end"), "Go there?"),
        (("trim", "{}", "--max-length", "1", "--force"), "Remove them?"),
    ],
    ids=["drop", "seek", "trim"],
)
def test_whoever_gives_no_answer_changes_nothing(
    admin_url: str, stream: str, words: tuple[str, ...], question: str, keys: str
) -> None:
    with SyncRedis.from_url(admin_url, protocol=2) as client:
        client.xgroup_create(stream, "billing", "0", mkstream=True)
        for _ in range(3):
            client.xadd(stream, {"data": "x"})
        dead = Keys.of(stream, "billing").dead
        client.xadd(dead, {"sw-id": "1-1"})
        before = client.dump(stream), client.xlen(dead)
        filled = [word.format(stream) for word in words]
        with Terminal(*command(*filled, url=admin_url, role="operator"), columns=120) as terminal:
            terminal.shows(question)
            terminal.press(keys)
            assert terminal.wait() == (130 if keys == "\x03" else 1)
            assert ("interrupted: nothing was changed" in terminal.text) == (keys == "\x03")
            assert "Traceback" not in terminal.text
        assert (client.dump(stream), client.xlen(dead)) == before
