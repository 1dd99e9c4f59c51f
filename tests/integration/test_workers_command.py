"""``streamworker workers``: one row for each process, whichever groups it is in."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App
from tests.commands import Said, call
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.running import Watched, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

FIELDS = {
    "at", "worker", "state", "host", "pid", "version", "started", "uptime_seconds", "silent_seconds", "pending",
    "running", "longest", "groups",
}  # fmt: skip
GROUP_FIELDS = {"stream", "group", "pending", "running"}
RUNNING_FIELDS = {"id", "handler", "seconds"}


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


async def workers(*words: str, url: str, **options: Any) -> Said:
    return await asyncio.to_thread(call, "workers", *words, url=url, **options)


async def member(watched: Watched, name: str, value: bytes | None = None) -> None:
    """A member of the group that holds an entry, with its heartbeat."""
    await watched.do("XGROUP", "CREATE", watched.keys.stream, watched._group, "0", "MKSTREAM")
    await watched.add("data", "x")
    await watched.do("XREADGROUP", "GROUP", watched._group, name, "COUNT", 1, "STREAMS", watched.keys.stream, ">")
    if value is not None:
        await watched.do("HSET", watched.keys.consumers, name, value)


@on_all_servers
async def test_a_process_is_one_row_although_it_is_in_several_groups(admin_url: str, redis: Redis, stream: str) -> None:
    billing, search = App("billing"), App("search")
    begun = asyncio.Event()

    @billing.on(stream, lease=2.0)
    async def charge(body: str) -> None:
        begun.set()
        await asyncio.sleep(20)

    @search.on(f"{stream}-other", lease=2.0)
    async def index(body: str) -> None: ...

    watched = Watched(redis, stream, "billing")
    entry = await watched.add("data", "x")
    async with working(billing, search, url=admin_url, shutdown_timeout=0.1, drains=False):
        await begun.wait()
        said = Said(1, "", "")

        async def told() -> bool:  # with the next heartbeat
            nonlocal said
            said = await workers(stream, f"{stream}-other", "--json", url=admin_url)
            return bool(said.objects and said.objects[0]["longest"] and len(said.objects[0]["groups"]) == 2)

        await wait_until(told, 20, lambda: str(said))
        table = await workers(stream, f"{stream}-other", url=admin_url)
    assert (said.code, said.err) == (0, "")
    (one,) = said.objects
    assert one.keys() == FIELDS
    assert (one["state"], one["pid"], one["host"]) == ("alive", os.getpid(), socket.gethostname())
    assert (one["running"], one["pending"]) == (1, 1)
    assert 0 <= one["silent_seconds"] < 2
    assert 0 <= one["uptime_seconds"] < 30
    (running,) = one["longest"]
    assert running.keys() == RUNNING_FIELDS
    assert running["id"] == entry
    assert all(group.keys() == GROUP_FIELDS for group in one["groups"])
    assert {(group["group"], group["running"]) for group in one["groups"]} == {("billing", 1), ("search", 0)}
    (row,) = table.rows("STATE")
    assert (row["STATE"], row["PID"], row["GROUPS"], row["RUNS"]) == ("alive", str(os.getpid()), "2", "1")
    assert entry in row["LONGEST"]


async def test_the_dead_are_listed_as_long_as_the_group_knows_them(admin_url: str, redis: Redis, stream: str) -> None:
    watched = Watched(redis, stream, "billing")
    report = b'9 15000 {"host": "web", "pid": 7, "version": "0.0.9", "at": 1700000000, "started": 1699999000}'
    await member(watched, "web-7-ab.sw", report)
    (one,) = (await workers(stream, "--json", url=admin_url)).objects
    assert (one["state"], one["host"], one["pid"], one["version"]) == ("silent", "web", 7, "0.0.9")
    assert one["uptime_seconds"] == 1000  # up to its last heartbeat
    assert one["silent_seconds"] > 50_000_000
    (row,) = (await workers(stream, url=admin_url)).rows("STATE")
    assert (row["STATE"], row["UP"], row["PENDING"]) == ("silent", "16m40s", "1")


async def test_a_worker_whose_heartbeat_nobody_can_read_is_unknown_and_not_dead(
    admin_url: str, redis: Redis, stream: str
) -> None:
    await member(Watched(redis, stream, "billing"), "web-7-ab.sw", b"9 15000 {of a later version")
    (one,) = (await workers(stream, "--json", url=admin_url)).objects
    assert (one["state"], one["worker"]) == ("unknown", "web-7-ab.sw")
    assert {one[name] for name in ("host", "pid", "running", "silent_seconds", "uptime_seconds")} == {None}
    (row,) = (await workers(stream, url=admin_url)).rows("STATE")
    assert (row["HOST"], row["PID"], row["SILENT"], row["RUNS"]) == ("web-7-ab.sw", "?", "?", "?")


async def test_other_programs_are_listed_only_when_all_are_asked_for(admin_url: str, redis: Redis, stream: str) -> None:
    foreign = Watched(redis, stream, "readers")
    await member(foreign, "me")
    await foreign.add("data", "x")
    await foreign.do("XREADGROUP", "GROUP", "readers", "released", "STREAMS", stream, ">")
    said = await workers(stream, url=admin_url)
    assert (said.code, said.out) == (0, "no workers\n")
    assert (await workers(stream, "--json", url=admin_url)).out == ""
    (one,) = (await workers(stream, "--json", "--all", url=admin_url)).objects
    assert (one["state"], one["worker"], one["pending"], one["running"]) == ("other", "me", 1, None)
    assert 0 <= one["silent_seconds"] < 20
    (row,) = (await workers(stream, "--all", url=admin_url)).rows("STATE")
    assert (row["STATE"], row["HOST"]) == ("other", "me")


async def test_what_cannot_be_seen_is_told_and_ends_it_with_1(admin_url: str, redis: Redis, stream: str) -> None:
    await redis.set(stream, "no stream")
    said = await workers(stream, url=admin_url)
    assert (said.code, said.out) == (1, "no workers\n")
    assert said.err.startswith(f"{stream} cannot be seen: ")


def test_wrong_credentials_end_it_with_3(admin_url: str) -> None:
    said = call("workers", url=admin_url.replace("//", "//nobody:hunter2@"))
    assert (said.code, said.out) == (3, "")
    assert "no log-in to Redis" in said.err
    assert "hunter2" not in said.err


async def test_names_and_reports_that_others_made_never_reach_the_terminal_raw(
    own_server: Server, own_redis: Redis
) -> None:
    evil = ALL.encode(errors="surrogatepass")
    watched = Watched(own_redis, "orders", "billing")
    text = "".join(f"\\u{ord(char):04x}" for char in ALL if ord(char) < 0xD800)
    runs = f'"running": 1, "longest": [["{text}", "{text}", 1]]'
    report = f'{{"host": "{text}", "version": "{text}", "pid": 1, {runs}}}'
    await member(watched, "a.sw", f"9 15000 {report}".encode())
    await watched.do("XGROUP", "CREATE", "orders", evil, "0")
    await watched.do("XREADGROUP", "GROUP", evil, evil, "STREAMS", "orders", ">")
    for words in ((), ("--all",), ("--all", "--json")):
        said = await workers(*words, url=own_server.url)
        assert said.code == 0, said
        assert is_harmless(said.out + said.err, "\n"), said
        assert len(said.out.splitlines()) == (2 if words else 1) + (0 if "--json" in words else 1)
