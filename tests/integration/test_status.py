"""``streamworker status`` on real servers, with real workers: its table, its JSON, its check; and ``App.status``."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Reject
from tests.commands import Said, call
from tests.conftest import ServerOf
from tests.faults.test_hostile_texts import is_harmless
from tests.roles import as_role
from tests.running import Watched, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

STREAM_FIELDS = {
    "at", "over_seconds", "stream", "length", "memory_bytes", "entry_bytes", "oldest_entry_bytes",
    "newest_entry_bytes", "added", "added_rate", "oldest_entry_seconds", "groups",
}  # fmt: skip
GROUP_FIELDS = {
    "stream", "group", "exists", "lag", "lag_kind", "server_lag", "lag_seconds", "pending", "oldest_pending",
    "retries", "next_retry_seconds", "backlog", "dead_letters", "oldest_dead_letter", "newest_dead_letter", "trimmed",
    "read_rate", "ack_rate", "drain_seconds", "falls_behind", "paused", "paused_note", "members", "consumers",
}  # fmt: skip
OLDEST_FIELDS = {"id", "consumer", "deliveries", "idle_seconds", "age_seconds"}
CONSUMER_FIELDS = {
    "name", "pending", "idle_seconds", "inactive_seconds", "beat_seconds", "alive", "host", "pid", "version",
    "started", "http", "running", "longest",
}  # fmt: skip
RUNNING_FIELDS = {"id", "handler", "seconds"}


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


async def status(*words: str, url: str, **options: Any) -> Said:
    """``streamworker status …`` while the event loop, and a worker on it, goes on."""
    return await asyncio.to_thread(call, "status", *words, url=url, **options)


async def the_group(*words: str, url: str, **options: Any) -> dict[str, Any]:
    """The one group of the one stream, as JSON."""
    said = await status(*words, "--json", url=url, **options)
    assert (said.code, said.err) == (0, "")
    (stream,) = said.objects
    (group,) = stream["groups"]
    return {**stream, **group}


@pytest.fixture
def foreign(redis: Redis, stream: str) -> Watched:
    """The group of another program, ``readers``."""
    return Watched(redis, stream, "readers")


async def begin(foreign: Watched, entries: int, read: int = 0) -> None:
    """A stream of ``entries`` with the group at its beginning, which has read some."""
    await foreign.do("XGROUP", "CREATE", foreign.keys.stream, "readers", "0", "MKSTREAM")
    for number in range(entries):
        await foreign.add("data", str(number))
    if read:
        await foreign.do("XREADGROUP", "GROUP", "readers", "me", "COUNT", read, "STREAMS", foreign.keys.stream, ">")


@asynccontextmanager
async def published(watched: Watched, rate: int) -> AsyncIterator[None]:
    """So many entries a second, for as long as the block lasts."""

    async def publish() -> None:
        clock = asyncio.get_running_loop().time
        begun, sent = clock(), 0
        while True:
            while sent < (clock() - begun) * rate:
                await watched.add("data", "x")
                sent += 1
            await asyncio.sleep(1 / rate)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@on_all_servers
async def test_rates_are_those_of_a_running_publisher_and_worker(admin_url: str, redis: Redis, stream: str) -> None:
    app = App("billing")

    @app.on(stream)
    async def handle(body: str) -> None: ...

    watched = Watched(redis, stream, "billing")
    async with working(app, url=admin_url), published(watched, 60):
        group = await the_group(stream, url=admin_url)
        table = await status(stream, url=admin_url)
    assert 0.9 < group["over_seconds"] < 5
    assert all(30 < group[rate] < 90 for rate in ("added_rate", "read_rate", "ack_rate")), group
    assert group["falls_behind"] is False
    (consumer,) = group["consumers"]
    assert (consumer["alive"], consumer["pid"]) == (True, os.getpid())
    assert consumer["beat_seconds"] < 5
    (row,) = table.rows()
    assert row["STREAM"] == stream
    assert all(30 < float(row[rate]) < 90 for rate in ("ADD/s", "ACK/s")), row
    assert " · 1 worker · " in table.out.splitlines()[0]
    assert table.remarks == []


async def test_a_group_that_is_slower_than_its_publisher_is_told_how_much(
    admin_url: str, redis: Redis, stream: str
) -> None:
    app = App("billing")

    @app.on(stream, concurrency=1, prefetch=1)
    async def handle(body: str) -> None:
        await asyncio.sleep(0.05)

    watched = Watched(redis, stream, "billing")
    for _ in range(50):  # more than it reads in a second: what is less is no arrears
        await watched.add("data", "x")
    async with working(app, url=admin_url), published(watched, 100):
        said = await status(stream, url=admin_url)
    (row,) = said.rows()
    assert row["DRAINED"] == "never"
    (remark,) = said.remarks
    assert remark.startswith(f"{stream}/billing falls behind by ")
    assert "times the workers" in remark


@on_all_servers
async def test_retries_and_dead_letters_are_shown(admin_url: str, redis: Redis, stream: str) -> None:
    app = App("billing")

    @app.on(stream, retry=Backoff(1000, 1, jitter=0))
    async def handle(body: str) -> None:
        if body == "rejected":
            raise Reject("no")
        raise ValueError

    watched = Watched(redis, stream, "billing")
    for body in ("rejected", "fails", "fails", "fails"):
        await watched.add("data", body)
    async with working(app, url=admin_url):
        await wait_until(lambda: _is(watched, 3))
        group = await the_group(stream, "--interval", "0", url=admin_url)
        said = await status(stream, "--interval", "0", url=admin_url)
    assert (group["retries"], group["dead_letters"], group["backlog"]) == (3, 1, 3)
    assert 900 < group["next_retry_seconds"] <= 1000
    assert group["oldest_dead_letter"] == group["newest_dead_letter"] > 1.7e9
    (row,) = said.rows()
    assert (row["RETRY"], row["DEAD"], row["LAG"], row["PENDING"]) == ("3", "1", "0", "0")


async def _is(watched: Watched, delayed: int) -> bool:
    return await watched.delayed() == delayed and await watched.do("XLEN", watched.keys.dead) == 1


async def test_a_pending_entry_is_told_with_its_deliveries(admin_url: str, foreign: Watched, stream: str) -> None:
    await begin(foreign, 3, read=2)
    (first, *_), *_ = await foreign.do("XRANGE", stream, "-", "+")
    await foreign.do("XCLAIM", stream, "readers", "me", 0, first, "RETRYCOUNT", 4)
    group = await the_group(stream, url=admin_url)
    oldest = group["oldest_pending"]
    assert (oldest["id"], oldest["consumer"], oldest["deliveries"]) == (first.decode(), "me", 4)
    assert 0 <= oldest["idle_seconds"] < 20
    assert 0 <= oldest["age_seconds"] < 20
    (row,) = (await status(stream, url=admin_url)).rows()
    assert row["PENDING"] == "2 (4)"


@on_all_servers
async def test_a_paused_group_is_said_to_be(admin_url: str, foreign: Watched, stream: str) -> None:
    await begin(foreign, 3)
    await foreign.do("HSET", foreign.keys.consumers, "paused", "1")
    said = await status(stream, url=admin_url)
    (row,) = said.rows()
    assert row["DRAINED"] == "paused"
    assert said.remarks == [f"{stream}/readers is paused"]


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
async def test_what_was_trimmed_unread_is_told(admin_url: str, foreign: Watched, stream: str, server_kind: str) -> None:
    await begin(foreign, 10, read=2)
    await foreign.do("XTRIM", stream, "MAXLEN", 3)
    assert (await the_group(stream, url=admin_url))["trimmed"] == 5
    said = await status(stream, "--interval", "0", url=admin_url)
    assert f"{stream}/readers lost 5 entries that were trimmed before it read them" in said.remarks


@on_all_servers
async def test_a_group_of_another_program_has_its_lag_and_no_signs_of_life(
    admin_url: str, foreign: Watched, stream: str
) -> None:
    await begin(foreign, 10, read=4)
    group = await the_group(stream, url=admin_url)
    assert (group["lag"], group["pending"], group["backlog"], group["dead_letters"]) == (6, 4, 10, 0)
    (consumer,) = group["consumers"]
    assert (consumer["name"], consumer["pending"]) == ("me", 4)
    assert {consumer[name] for name in ("alive", "beat_seconds", "host", "pid", "running")} == {None}
    said = await status(stream, url=admin_url)
    assert " · 0 workers · " in said.out.splitlines()[0]
    (row,) = said.rows()
    assert (row["GROUP"], row["LAG"].rstrip("*"), row["DRAINED"]) == ("readers", "6", "never")  # 6.2 tells no lag
    assert said.remarks == [f"{stream}/readers stands still: nothing is read"]


async def test_a_lag_that_had_to_be_counted_is_marked(admin_url: str, foreign: Watched, stream: str) -> None:
    await begin(foreign, 10)
    await foreign.do("XGROUP", "SETID", stream, "readers", "$")
    await foreign.add("data", "x")
    group = await the_group(stream, url=admin_url)
    assert (group["lag"], group["lag_kind"], group["server_lag"]) == (1, "counted", None)
    (row,) = (await status(stream, url=admin_url)).rows()
    assert row["LAG"] == "1*"


async def test_a_group_without_living_workers_is_told_with_the_last_sign_of_life(
    admin_url: str, redis: Redis, stream: str
) -> None:
    watched = Watched(redis, stream, "billing")
    await watched.do("XGROUP", "CREATE", stream, "billing", "0", "MKSTREAM")
    await watched.add("data", "x")
    await watched.do("XREADGROUP", "GROUP", "billing", "web-7-ab.sw", "STREAMS", stream, ">")
    report = b'1 15000 {"host": "web", "pid": 7, "version": "0.1", "at": 1.0, "started": 1.0}'
    await watched.do("HSET", watched.keys.consumers, "web-7-ab.sw", report)
    group = await the_group(stream, url=admin_url)
    assert group["consumers"][0]["alive"] is False
    (remark,) = (await status(stream, url=admin_url)).remarks
    assert remark.startswith(f"{stream}/billing has no living worker: none has shown a sign of life for 2")


@on_all_servers
async def test_a_group_that_is_gone_is_told_as_long_as_its_dead_letters_are_kept(
    make_server: ServerOf, server_kind: str
) -> None:
    server = make_server(server_kind)
    async with Redis.from_url(server.url, protocol=2) as redis:
        watched = Watched(redis, "orders", "billing")
        await watched.add("data", "x")
        for _ in range(2):
            await watched.do("XADD", watched.keys.dead, "*", "sw-reason", "no")
        said = await status("--interval", "0", url=server.url)
        group = await the_group("--interval", "0", url=server.url)
    (row,) = said.rows()
    assert (row["GROUP"], row["LAG"], row["DEAD"]) == ("billing", "gone", "2")
    assert said.remarks == ["orders/billing is gone, but 2 dead letters and 0 retries are kept"]
    assert (group["exists"], group["lag"], group["backlog"], group["dead_letters"]) == (False, None, None, 2)
    said = await status("--check", "--max-lag", "10", "--max-dead", "1", url=server.url)
    assert said.err.splitlines() == [
        "orders/billing: the group is gone",
        "orders/billing: 2 dead letters, more than 1",
    ]


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (("--max-lag", "6"), None),
        (("--max-lag", "5"), "{}/readers: lag is 6, more than 5"),
        (("--max-lag-seconds", "100"), None),
        (("--max-lag-seconds", "0.001"), "{}/readers: the first unread entry is "),
        (("--max-dead", "2"), None),
        (("--max-dead", "1"), "{}/readers: 2 dead letters, more than 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_check_ends_with_1_and_a_sentence_for_each_limit_that_is_not_kept(
    limit: tuple[str, str], sentence: str | None, admin_url: str, foreign: Watched, stream: str
) -> None:
    await begin(foreign, 10, read=4)
    for _ in range(2):
        await foreign.do("XADD", foreign.keys.dead, "*", "sw-reason", "no")
    said = await status(stream, "--check", *limit, url=admin_url)
    assert (said.code, said.out) == (0 if sentence is None else 1, "")
    if sentence is None:
        assert said.err == ""
    else:
        (line,) = said.err.splitlines()
        assert line.startswith(sentence.format(stream))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check",), "--check needs a limit"),
        (("--max-lag", "1"), "limits are for --check"),
        (("--check", "--max-lag", "1", "--json"), "--check looks once"),
        (("--interval", "-1"), "not a number of seconds"),
    ],
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...], said: str, admin_url: str) -> None:
    done = call("status", *words, url=admin_url)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


async def test_a_lag_beyond_what_is_counted_exceeds_a_limit_below_it(
    admin_url: str, foreign: Watched, stream: str
) -> None:
    """What is not known is counted as far as the limit asks for it."""
    await begin(foreign, 0)
    script = "for i = 1, 25000 do redis.call('XADD', KEYS[1], '*', 'data', 'x') end"
    await foreign.do("EVAL", script, 1, stream)
    middle = (await foreign.do("XRANGE", stream, "-", "+", "COUNT", 12_500))[-1][0]
    await foreign.do("XGROUP", "SETID", stream, "readers", middle)
    (row,) = (await status(stream, "--interval", "0", url=admin_url)).rows()
    assert row["LAG"] == "10 000+"
    assert (await status(stream, "--check", "--max-lag", "12500", url=admin_url)).code == 0
    said = await status(stream, "--check", "--max-lag", "11000", url=admin_url)
    assert (said.code, said.err) == (1, f"{stream}/readers: lag is at least 11 001, more than 11 000\n")


async def test_what_nobody_knows_is_never_shown_as_nothing(admin_url: str, foreign: Watched, stream: str) -> None:
    await begin(foreign, 0)
    await foreign.add("data", "x", id="5-1")  # an id that is no time
    group = await the_group(stream, "--interval", "0", url=admin_url)
    unknown = ("lag_seconds", "oldest_entry_seconds", "added_rate", "read_rate", "ack_rate", "drain_seconds")
    assert {name: group[name] for name in unknown} == dict.fromkeys(unknown)
    assert group["falls_behind"] is None
    (row,) = (await status(stream, "--interval", "0", url=admin_url)).rows()
    assert (row["AGE"], row["ADD/s"], row["ACK/s"], row["DRAINED"]) == ("?", "-", "-", "?")
    said = await status(stream, "--check", "--max-lag-seconds", "1000000000", url=admin_url)
    assert said.code == 2  # not below 10**9
    said = await status(stream, "--check", "--max-lag-seconds", "100000000", url=admin_url)
    assert said.code == 1
    assert "nobody knows how old the first unread entry is" in said.err


async def test_redis_62_does_not_know_what_was_trimmed(make_server: ServerOf) -> None:
    server = make_server("redis-6.2")
    async with Redis.from_url(server.url, protocol=2) as redis:
        foreign = Watched(redis, "orders", "readers")
        await begin(foreign, 10, read=2)
        await foreign.do("XTRIM", "orders", "MAXLEN", 3)
    group = await the_group("orders", url=server.url)
    assert (group["lag"], group["server_lag"], group["trimmed"]) == (3, None, None)
    assert group["consumers"][0]["inactive_seconds"] is None


async def test_the_names_in_the_json_stay_as_they_are(admin_url: str, redis: Redis, stream: str) -> None:
    """Scripts depend on these: one may be added, none may change."""
    app = App("billing")
    begun, seen = asyncio.Event(), asyncio.Event()

    @app.on(stream)
    async def handle(body: str) -> None:
        begun.set()
        await seen.wait()

    watched = Watched(redis, stream, "billing")
    await watched.add("data", "x")
    async with working(app, url=admin_url):
        await begun.wait()
        group: dict[str, Any] = {}

        async def told() -> bool:  # with the next heartbeat
            group.update(await the_group(stream, "--interval", "0", url=admin_url))
            return bool(group["consumers"][0]["longest"])

        await wait_until(told, 20)
        seen.set()
    assert group.keys() == STREAM_FIELDS | GROUP_FIELDS
    assert group["oldest_pending"].keys() == OLDEST_FIELDS
    (consumer,) = group["consumers"]
    assert consumer.keys() == CONSUMER_FIELDS
    assert consumer["running"] == 1
    (running,) = consumer["longest"]
    assert running.keys() == RUNNING_FIELDS
    assert running["handler"].endswith(".handle")


async def test_a_stream_that_cannot_be_seen_is_an_object_too_and_ends_it_with_1(
    admin_url: str, redis: Redis, stream: str
) -> None:
    await redis.set(stream, "no stream")
    said = await status(stream, "--json", "--interval", "0", url=admin_url)
    assert said.code == 1
    (problem,) = said.objects
    assert problem.keys() == {"stream", "error"}
    assert problem["stream"] == stream
    said = await status(stream, "--interval", "0", url=admin_url)
    assert said.code == 1
    (remark,) = said.remarks
    assert remark.startswith(f"{stream}: ")
    said = await status(stream, "--check", "--max-dead", "0", url=admin_url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"{stream} cannot be seen: ")


async def test_on_a_narrow_terminal_less_columns_are_shown_and_no_group_is_lost(
    admin_url: str, foreign: Watched, stream: str
) -> None:
    await begin(foreign, 10)
    wide = (await status(stream, "--interval", "0", url=admin_url, columns=140)).rows()[0]
    narrow = (await status(stream, "--interval", "0", url=admin_url, columns=80)).rows()[0]
    piped = (await status(stream, "--interval", "0", url=admin_url, COLUMNS="")).rows()[0]
    assert piped.keys() == wide.keys()
    assert {"MEMORY", "LENGTH"} <= wide.keys()
    assert "MEMORY" not in narrow
    assert (narrow["GROUP"], narrow["LAG"], narrow["DEAD"]) == ("readers", "10", "0")
    out = (await status(stream, "--interval", "0", url=admin_url, columns=80)).out
    assert max(map(len, out.splitlines()[1:])) <= 80


@on_all_servers
async def test_a_reader_without_scan_info_and_memory_names_the_streams_and_sees_the_rest(
    make_server: ServerOf, server_kind: str
) -> None:
    server = make_server(server_kind)
    rights = "+ping +eval +evalsha +time +exists +xlen +xrange +xrevrange +xpending +xinfo|stream +xinfo|groups"
    rules = f"on >pw ~* -@all {rights} +xinfo|consumers +hget +hgetall +zcard +zrange"
    if server_kind == "redis-6.2":
        rules = rules.replace("+xinfo|stream +xinfo|groups", "+xinfo").replace("+xinfo|consumers ", "")
    async with Redis.from_url(server.url, protocol=2) as redis:
        foreign = Watched(redis, "orders", "readers")
        await begin(foreign, 10, read=4)
        await foreign.do("ACL", "SETUSER", "poor", *rules.split())
    url = server.url.replace("//", "//poor:pw@")
    said = await status("orders", url=url)
    assert (said.code, said.err) == (0, "")
    (row,) = said.rows()
    assert (row["MEMORY"], row["LENGTH"], row["LAG"].rstrip("*")) == ("?", "10", "6")
    assert said.out.startswith("redis://")  # who may not ask for the version is told none
    assert (await the_group("orders", url=url))["memory_bytes"] is None
    said = await status(url=url)
    assert (said.code, said.out) == (1, "")
    assert "scan" in said.err
    assert "Traceback" not in said.err


def test_wrong_credentials_end_it_with_3(admin_url: str, stream: str) -> None:
    said = call("status", stream, url=admin_url.replace("//", "//nobody:hunter2@"))
    assert (said.code, said.out) == (3, "")
    assert "no log-in to Redis" in said.err
    assert "hunter2" not in said.err


async def test_a_stream_that_is_not_there_has_no_groups_and_no_entries(admin_url: str, stream: str) -> None:
    (there,) = (await status(stream, "--json", "--interval", "0", url=admin_url)).objects
    assert (there["length"], there["groups"]) == (0, [])


async def test_names_that_others_made_never_reach_the_terminal_raw(own_server: Server, own_redis: Redis) -> None:
    own_redis.response_callbacks.clear()
    evil = b"a\x1b[2J\x9b\n\xe2\x80\xae\xff\x7f"
    for name in (evil, b"{" + evil + b"}"):
        await own_redis.execute_command("XGROUP", "CREATE", name, evil, "0", "MKSTREAM")  # type: ignore[no-untyped-call]
        await own_redis.execute_command("XADD", name, "*", evil, evil)  # type: ignore[no-untyped-call]
        read = ("XREADGROUP", "GROUP", evil, evil, "STREAMS", name, ">")
        await own_redis.execute_command(*read)  # type: ignore[no-untyped-call]
    for words in (("--interval", "0"), ("--interval", "0", "--json"), ("--check", "--max-lag", "0")):
        said = await status(*words, url=own_server.url)
        assert said.code == 0, said
        assert is_harmless(said.out + said.err, "\n"), said
    assert len((await status("--interval", "0", "--json", url=own_server.url)).objects) == 2


async def test_watching_goes_on_until_it_is_interrupted(admin_url: str, foreign: Watched, stream: str) -> None:
    await begin(foreign, 3)
    words = ("-m", "streamworker", "status", stream, "--watch", "--interval", "0.05", "--redis", admin_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, env={**os.environ, "COLUMNS": "200"}
    )
    assert process.stdout is not None
    lags: list[bytes] = []
    try:
        async with asyncio.timeout(20):
            while len(lags) < 3:
                line = await process.stdout.readline()
                assert line
                lags += [re.split(rb"\s{2,}", line)[5]] if line.startswith(stream.encode()) else []
                await foreign.add("data", "x")
    finally:
        process.kill()
        await process.wait()
    assert int(lags[0]) < int(lags[-1])
    process._transport.close()  # type: ignore[attr-defined]


@on_all_servers
async def test_an_app_tells_the_status_of_its_streams(
    redis_url: str, admin_url: str, redis: Redis, stream: str
) -> None:
    app = App("billing", url=redis_url)
    reader = App("billing", url=as_role(admin_url, "reader"))
    for one in (app, reader):

        @one.on(stream)
        async def handle(body: str) -> None: ...

        @one.on(f"{stream}-all", broadcast=True)
        async def listen(body: str) -> None: ...

    watched = Watched(redis, stream, "billing")
    await watched.add("data", "x")
    async with working(app, url=admin_url), published(watched, 60):
        await wait_until(watched.info)
        told = await reader.status(over=0.5)
    assert {one.stream for one in told.streams} == {stream, f"{stream}-all"}
    assert told.errors == {}
    (group,) = told.groups
    assert (group.stream, group.group, group.dead_letters) == (stream, "billing", 0)
    assert group.ack_rate is not None
    assert 30 < group.ack_rate < 90
    assert [one.alive for one in group.consumers] == [True]
    still = await reader.status(over=0)
    assert (still.seconds, still.groups[0].ack_rate) == (0, None)
