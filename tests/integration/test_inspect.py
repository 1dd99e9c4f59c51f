"""``streamworker inspect``: what has become of one entry in each group, wherever its copies are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Reject
from streamworker.redisbroker import finder
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.observer import RedisObserver
from streamworker.redisbroker.packing import pack
from tests.commands import Said, call
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.roles import as_role
from tests.running import Watched, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

FIELDS = {"stream", "id", "in_stream", "age_seconds", "entry", "fields", "groups"}
ENTRY_FIELDS = {"id", "published", "type", "headers", "body", "encoding", "fields", "size"}
GROUP_FIELDS = {
    "group", "exists", "state", "text", "consumer", "seconds", "retry", "deliveries", "due_seconds", "dead_letters",
}  # fmt: skip


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


async def inspect(*words: str, url: str, **options: Any) -> Said:
    return await asyncio.to_thread(call, "inspect", *words, url=url, **options)


async def group_of(stream: str, id: str, *, url: str, name: str = "billing") -> dict[str, Any]:
    """What is told of the group, with what is told of the entry."""
    said = await inspect(stream, id, "--json", url=url)
    assert (said.code, said.err) == (0, "")
    (found,) = said.objects
    (group,) = [one for one in found["groups"] if one["group"] == name]
    return {**found, **group}


async def read(watched: Watched, name: str = "me") -> None:
    await watched.do("XREADGROUP", "GROUP", "billing", name, "STREAMS", watched.keys.stream, ">")


@on_all_servers
async def test_an_entry_goes_from_unread_over_pending_to_done(admin_url: str, watched: Watched, stream: str) -> None:
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    await watched.do("XGROUP", "CREATE", stream, "search", "0")
    id = await watched.add("data", '{"id":1}', "type", "created", "tenant", "acme", "tenant", "again")
    group = await group_of(stream, id, url=admin_url)
    assert group.keys() == FIELDS | GROUP_FIELDS
    assert group["entry"].keys() == ENTRY_FIELDS
    assert (group["state"], group["text"], group["in_stream"]) == ("unread", "not read yet", True)
    assert group["fields"] == [["data", '{"id":1}'], ["type", "created"], ["tenant", "acme"], ["tenant", "again"]]
    assert 0 <= group["age_seconds"] < 20
    await read(watched)
    await watched.do("XCLAIM", stream, "billing", "me", 0, id, "RETRYCOUNT", 3, "JUSTID")
    group = await group_of(stream, id, url=admin_url)
    assert (group["state"], group["consumer"], group["deliveries"], group["retry"]) == ("pending", "me", 3, False)
    assert 0 <= group["seconds"] < 20
    assert group["text"].startswith("pending with me for ")
    assert group["text"].endswith(", delivery 3")
    await watched.do("XACK", stream, "billing", id)
    said = await inspect(stream, id, url=admin_url)
    lines = said.out.splitlines()
    assert lines[0] == f"entry      {id} of {stream}"
    assert "tenant  again" in lines
    assert lines[-3:] == ["GROUP    STATE", "billing  done", "search   not read yet"]


@on_all_servers
async def test_retries_and_dead_letters_are_found_also_when_the_entry_was_trimmed(
    admin_url: str, watched: Watched, stream: str
) -> None:
    app = App("billing")

    @app.on(stream, retry=Backoff(1000, 1, jitter=0))
    async def handle(body: str) -> None:
        if body == "rejected":
            raise Reject("no such customer")
        raise ValueError

    rejected, fails, other = [await watched.add("data", body) for body in ("rejected", "fails", "fails")]
    async with working(app, url=admin_url):
        await wait_until(lambda: _is(watched, 2))
        for trimmed in (False, True):
            group = await group_of(stream, fails, url=admin_url)
            assert (group["state"], group["deliveries"], group["in_stream"]) == ("waiting", 1, not trimmed)
            assert 900 < group["due_seconds"] <= 1000
            assert group["text"].startswith("waits for its retry, due in 16m")
            assert group["text"].endswith(", 1 delivery")
            assert group["entry"]["body"] == "fails"
            group = await group_of(stream, rejected, url=admin_url)
            assert (group["state"], group["deliveries"], group["in_stream"]) == ("dead", 1, not trimmed)
            assert group["text"].startswith("dead letter for ")
            assert group["text"].endswith(": Reject: no such customer")
            (letter,) = group["dead_letters"]
            assert (letter["reason"], letter["entry"]["body"]) == ("no such customer", "rejected")
            assert group["entry"]["body"] == "rejected"
            await watched.do("XTRIM", stream, "MAXLEN", 0)
    said = await inspect(stream, rejected, url=admin_url)
    assert "not in the stream any more: this is a copy that was kept" in said.out
    assert f"dead letter  {letter['id']} of billing, " in said.out
    assert (await group_of(stream, other, url=admin_url))["state"] == "waiting"


async def _is(watched: Watched, delayed: int) -> bool:
    return await watched.delayed() == delayed and await watched.do("XLEN", watched.keys.dead) == 1


@on_all_servers
async def test_a_retry_that_is_due_is_found_before_and_after_a_worker_took_it(
    admin_url: str, watched: Watched, stream: str
) -> None:
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    id = await watched.add("data", "x")
    await read(watched)
    await watched.do("XACK", stream, "billing", id)
    copy = ("sw-id", id, "sw-deliveries", "2", "sw-fields", pack([b"data", b"x"]))
    await watched.do("XADD", watched.keys.retry, "*", *copy)
    group = await group_of(stream, id, url=admin_url)
    assert (group["state"], group["text"]) == ("due", "is due: waits for a worker, 2 deliveries")
    await watched.do("XGROUP", "CREATE", watched.keys.retry, "billing", "0")
    await watched.do("XREADGROUP", "GROUP", "billing", "me", "STREAMS", watched.keys.retry, ">")
    group = await group_of(stream, id, url=admin_url)
    assert (group["state"], group["consumer"], group["retry"]) == ("pending", "me", True)
    assert group["text"].endswith(", delivery 1, a retry")
    # Another entry whose id only begins alike is another one.
    assert (await inspect(stream, id[:-1] + "00", url=admin_url)).code == 0
    assert (await inspect(stream, id + "1", url=admin_url)).code == 1


async def test_an_entry_that_was_trimmed_while_it_was_pending_is_found(
    admin_url: str, watched: Watched, stream: str
) -> None:
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    id = await watched.add("data", "x")
    await read(watched)
    await watched.do("XDEL", stream, id)
    group = await group_of(stream, id, url=admin_url)
    assert (group["state"], group["in_stream"], group["entry"]) == ("pending", False, None)
    said = await inspect(stream, id, url=admin_url)
    assert "not in the stream any more: nothing is left of what it said" in said.out


async def test_a_group_that_has_nothing_of_a_trimmed_entry_is_not_said_to_be_done(
    admin_url: str, watched: Watched, stream: str
) -> None:
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    await watched.do("XGROUP", "CREATE", stream, "search", "0")
    id = await watched.add("data", "x")
    await watched.do("XADD", watched.keys.dead, "*", "sw-id", id, "sw-reason", "no", "sw-fields", pack([b"data", b"x"]))
    await watched.do("XDEL", stream, id)
    group = await group_of(stream, id, name="search", url=admin_url)
    assert (group["state"], group["text"]) == ("gone", "done, or trimmed before it was read")


async def test_a_dead_letter_is_found_after_its_stream_and_group_are_gone(
    admin_url: str, watched: Watched, stream: str
) -> None:
    id = "1700000000000-3"
    await watched.do("XADD", watched.keys.dead, "*", "sw-id", id, "sw-reason", "no", "sw-fields", pack([b"data", b"x"]))
    group = await group_of(stream, id, url=admin_url)
    assert (group["state"], group["exists"], group["entry"]["body"]) == ("dead", False, "x")


async def test_it_says_so_where_more_is_kept_than_it_looks_through(
    admin_url: str, watched: Watched, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "MOST_SEARCHED", 1000)
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    id = await watched.add("data", "x")
    await read(watched)
    await watched.do("XACK", stream, "billing", id)
    script = "for i = 1, 1600 do redis.call('XADD', KEYS[1], '*', 'sw-id', i == 1600 and ARGV[1] or 'x') end"
    await watched.do("EVAL", script, 1, watched.keys.dead, id)
    observer = RedisObserver(topology_of(as_role(admin_url, "reader")))
    place = tuple(map(int, id.split("-")))
    try:
        (trace,) = (await observer.find(stream, (place[0], place[1]))).traces
        assert (trace.found, trace.whole) == (False, False)
        monkeypatch.setattr(finder, "MOST_SEARCHED", 2000)
        (trace,) = (await observer.find(stream, (place[0], place[1]))).traces
        assert (len(trace.letters), trace.whole) == (1, True)
    finally:
        await observer.close()


async def test_an_entry_that_nothing_knows_ends_it_with_1(admin_url: str, watched: Watched, stream: str) -> None:
    said = await inspect(stream, "1-1", url=admin_url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"Error: nothing knows an entry 1-1 of stream {stream}; ")
    assert said.err.endswith(f" streamworker dead show {stream} GROUP 1-1\n")
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    assert (await inspect(stream, "1", "--json", url=admin_url)).code == 1


@pytest.mark.parametrize("id", ["x", "1-", "1-2-3", "18446744073709551616-0", "\u0661-0"])
def test_what_is_no_id_ends_it_with_2(id: str, admin_url: str) -> None:
    said = call("inspect", "orders", id, url=admin_url)
    assert said.code == 2
    assert "ID is not an entry's id" in said.err
    said = call("inspect", url=admin_url)
    assert said.code == 2


def test_wrong_credentials_end_it_with_3(admin_url: str, stream: str) -> None:
    said = call("inspect", stream, "1-1", url=admin_url.replace("//", "//nobody:hunter2@"))
    assert (said.code, said.out) == (3, "")
    assert "hunter2" not in said.err


async def test_whatever_it_holds_is_never_raw(own_server: Server, own_redis: Redis) -> None:
    evil = ALL.encode(errors="surrogatepass") + b"\xff\x1b[2J"
    watched = Watched(own_redis, "orders", "billing")
    id = await watched.add(evil, evil, "data", evil, "type", evil)
    for name in (evil, b"billing"):
        await watched.do("XGROUP", "CREATE", "orders", name, "0")
    await watched.do("XREADGROUP", "GROUP", evil, evil, "STREAMS", "orders", ">")
    await read(watched)
    await watched.do("XACK", "orders", "billing", id)
    letter = ("sw-id", id, "sw-reason", evil, "sw-error", evil, "sw-handler", evil, "sw-fields", pack([evil, evil]))
    await watched.do("XADD", watched.keys.dead, "*", *letter)
    for words in ((), ("--json",)):
        said = await inspect("orders", id, *words, url=own_server.url)
        assert said.code == 0, said
        assert is_harmless(said.out + said.err, "\n"), said
        assert "dead" in said.out
