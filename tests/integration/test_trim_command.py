"""``streamworker trim``: what it says when a limit is kept, held back or enforced, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from streamworker import App
from tests.commands import Said, call, command
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.running import on_all_servers, working
from tests.terminal import Terminal

FIELDS = {
    "stream", "exists", "dry_run", "removed", "length", "memory_bytes", "kept", "groups", "held", "lost",
}  # fmt: skip
HELD_FIELDS = {
    "group", "id", "age_seconds", "state", "consumer", "idle_seconds", "deliveries", "members", "workers", "others",
}  # fmt: skip


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


def trim(*words: str, url: str, **options: Any) -> Said:
    return call("trim", *words, url=url, role="operator", **options)


@pytest.fixture
def client(admin_url: str) -> SyncRedis:
    return SyncRedis.from_url(admin_url, protocol=2)


def fill(client: SyncRedis, stream: str, acked: int, of: int = 1000) -> None:
    """A stream of which ``search`` has finished all, and ``billing`` the first ``acked`` and read ten more."""
    for _ in range(of):
        client.xadd(stream, {"data": "x"})
    for group, read, done in (("search", of, of), ("billing", min(of, acked + 10), acked)):
        client.xgroup_create(stream, group, "0")
        reply: Any = client.xreadgroup(group, "web-1", {stream: ">"}, count=read)
        ids = [id for id, _ in reply[0][1]]
        client.xack(stream, group, *ids[:done])


@on_all_servers
def test_limits_that_are_kept_end_it_with_0(client: SyncRedis, admin_url: str, stream: str) -> None:
    fill(client, stream, acked=990)
    said = trim(stream, "--max-length", "500", "--max-age", "7d", "--max-bytes", "1GiB", url=admin_url)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{stream}: removed 500 entries, 500 left, ")
    assert client.xlen(stream) == 500
    assert trim(stream, "--max-length", "500", url=admin_url).out.startswith(f"{stream}: removed 0 entries, 500 left")


@on_all_servers
def test_a_limit_that_is_held_back_ends_it_with_1_and_says_by_whom_and_what_to_do(
    client: SyncRedis, admin_url: str, stream: str
) -> None:
    fill(client, stream, acked=400)
    said = trim(stream, "--max-length", "100", url=admin_url)
    assert (said.code, said.err) == (1, "")
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{stream}: removed 400 entries, 600 left, ")
    assert lines[1] == "a limit is not kept: group billing holds it back"
    assert "is pending: web-1 got it" in lines[2]
    assert lines[3] == "  none of its workers is alive; consumers of other programs: 1"
    assert f"redis-cli XGROUP DESTROY {stream} billing" in said.out
    assert "--force --dry-run" in said.out
    found = trim(stream, "--max-length", "100", "--json", url=admin_url)
    (told,) = found.objects
    assert (found.code, set(told), set(told["held"])) == (1, FIELDS, HELD_FIELDS)
    assert (told["removed"], told["length"], told["kept"], told["held"]["state"]) == (0, 600, False, "pending")
    pending = client.xpending_range(stream, "billing", "-", "+", 100)
    client.xack(stream, "billing", *[one["message_id"] for one in pending])
    said = trim(stream, "--max-length", "100", url=admin_url)
    assert "has not been read" in said.out.splitlines()[2]
    client.xgroup_delconsumer(stream, "billing", "web-1")
    said = trim(stream, "--max-length", "100", url=admin_url)
    assert said.out.splitlines()[3] == "  it has no consumer"


async def test_living_workers_are_counted(redis: Redis, admin_url: str, stream: str) -> None:
    app = App("billing")
    begun, go = asyncio.Event(), asyncio.Event()

    @app.on(stream)
    async def wait(body: str) -> None:
        begun.set()
        await go.wait()

    await redis.xadd(stream, {"data": "x"})
    async with working(app, url=admin_url):
        await begun.wait()
        said = await asyncio.to_thread(trim, stream, "--max-length", "0", url=admin_url)
        go.set()
    assert said.code == 1
    assert "  one of its workers is alive\n" in said.out


def test_a_dry_run_removes_nothing_and_says_what_force_would_lose(
    client: SyncRedis, admin_url: str, stream: str
) -> None:
    fill(client, stream, acked=400)
    said = trim(stream, "--max-length", "100", "--dry-run", url=admin_url)
    assert (said.code, said.out.splitlines()[0]) == (1, f"{stream}: would remove 400 entries, 600 would be left")
    assert "group billing holds it back" in said.out
    said = trim(stream, "--max-length", "100", "--dry-run", "--force", url=admin_url)
    assert (said.code, said.out.splitlines()) == (
        0,
        [
            f"{stream}: would remove 900 entries, 100 would be left",
            "  billing would lose 490 that it has not read, and 10 pending",
        ],
    )
    assert client.xlen(stream) == 1000


def test_force_in_a_script_needs_yes(client: SyncRedis, admin_url: str, stream: str) -> None:
    fill(client, stream, acked=400)
    said = trim(stream, "--max-length", "100", "--force", url=admin_url)
    assert (said.code, client.xlen(stream)) == (2, 1000)
    assert "--yes" in said.err
    said = trim(stream, "--max-length", "100", "--force", "--yes", url=admin_url)
    assert (said.code, client.xlen(stream)) == (0, 100)
    assert "  billing lost 490 that it has not read, and 10 pending" in said.out


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1000), ("\n", 1, 1000), ("y\n", 0, 100)])
def test_force_asks_who_sits_at_a_terminal(
    client: SyncRedis, admin_url: str, stream: str, answer: str, code: int, left: int
) -> None:
    fill(client, stream, acked=400)
    words = command("trim", stream, "--max-length", "100", "--force", url=admin_url, role="operator")
    with Terminal(*words, columns=120) as terminal:
        text = terminal.shows("Remove them?")
        assert f"--force removes 900 entries of {stream}" in text
        assert "billing loses 490 that it has not read, and 10 pending" in text
        assert client.xlen(stream) == 1000
        terminal.press(answer)
        assert terminal.wait() == code
    assert client.xlen(stream) == left


def test_force_that_loses_nothing_asks_nothing(client: SyncRedis, admin_url: str, stream: str) -> None:
    fill(client, stream, acked=990)
    words = command("trim", stream, "--max-length", "100", "--force", url=admin_url, role="operator")
    with Terminal(*words, columns=120) as terminal:
        assert terminal.wait() == 0
        assert "removed 900 entries" in terminal.text


def test_without_a_limit_it_teaches_what_each_does(admin_url: str, stream: str) -> None:
    said = trim(stream, url=admin_url)
    assert said.code == 2
    for words in ("--max-length N", "--max-age SPAN", "--max-bytes SIZE", "streamworker trim orders --max-age 7d"):
        assert words in " ".join(said.err.split())


def test_no_stream_and_no_group_end_it_with_1(client: SyncRedis, admin_url: str, stream: str) -> None:
    said = trim(stream, "--max-length", "1", url=admin_url)
    assert (said.code, said.err) == (1, f"Error: there is no stream {stream}\n")
    client.xadd(stream, {"data": "x"})
    client.xadd(stream, {"data": "x"})
    said = trim(stream, "--max-length", "1", url=admin_url)
    assert (said.code, said.err) == (1, "")
    assert "no group reads it" in said.out


def test_another_type_and_a_missing_right_are_told(client: SyncRedis, admin_url: str, stream: str) -> None:
    client.set(stream, "x")
    said = trim(stream, "--max-length", "1", url=admin_url)
    assert said.code == 1
    assert "WRONGTYPE" in said.err or "wrong kind of value" in said.err


def test_names_that_others_made_never_reach_the_terminal_raw(client: SyncRedis, admin_url: str, stream: str) -> None:
    evil = ALL.encode(errors="surrogatepass")
    client.xadd(stream, {"data": "x"})
    client.execute_command("XGROUP", "CREATE", stream, evil, "0")  # type: ignore[no-untyped-call]
    client.execute_command("XREADGROUP", "GROUP", evil, evil, "STREAMS", stream, ">")  # type: ignore[no-untyped-call]
    for words in ((), ("--json",), ("--dry-run",), ("--dry-run", "--force"), ("--force", "--yes")):
        said = trim(stream, "--max-length", "0", *words, url=admin_url)
        assert said.code == (0 if "--force" in words else 1), said
        assert is_harmless(said.out + said.err, "\n"), said
    said = trim("\x9b31m\u202e", "--max-length", "0", url=admin_url)
    assert said.code == 1
    assert is_harmless(said.err, "\n"), said
