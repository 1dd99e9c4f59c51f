"""``doctor``: each check speaks where something is wrong and is silent where all is well; what it fixes is right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from streamworker import App
from streamworker.errors import ConfigError
from streamworker.operating import Operator
from streamworker.operating.findings import LEVELS, Finding, Fixed
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import pairs
from streamworker.redisbroker.broker import RedisBroker
from streamworker.report import Report, heartbeat_value
from tests.commands import Said, call
from tests.conftest import ServerOf
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.running import Watched, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

SINCE_7 = pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
FIELDS = {
    "check", "level", "text", "advice", "node", "stream", "group", "consumers", "fixable", "fixed", "fix",
}  # fmt: skip
CHECKS = {
    "eviction", "persistence", "version", "connections", "role", "clock", "permissions", "groups", "lag", "consumers",
    "growth", "ids", "keys",
}  # fmt: skip


@pytest.fixture
def server_kind() -> str:
    """A mark says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
async def operator(admin_url: str) -> AsyncIterator[Operator]:
    made = Operator(RedisBroker(admin_url).operator())
    yield made
    await made.close()


@pytest.fixture
async def own_operator(own_server: Server) -> AsyncIterator[Operator]:
    """Of a server that keeps an append-only file, and of which each setting may be changed."""
    made = Operator(RedisBroker(own_server.url).operator())
    yield made
    await made.close()


@pytest.fixture
def impatient() -> Iterator[None]:
    """A consumer is left behind after a twentieth of a second."""
    with (
        patch("streamworker.operating.stream_checks.LEFT_BEHIND", 0.05),
        patch("streamworker.operating.doctor.LEFT_BEHIND", 0.05),
    ):
        yield


def of(findings: Sequence[Finding], check: str) -> list[Finding]:
    """What the check found; nothing if it says that all is well."""
    return [one for one in findings if one.check == check and one.level != "ok"]


async def found(operator: Operator, check: str, *streams: str) -> list[Finding]:
    findings = await operator.examine(streams)
    assert [LEVELS.index(one.level) for one in findings] == sorted(LEVELS.index(one.level) for one in findings)
    return of(findings, check)


async def all_idle(redis: Redis, stream: str) -> None:
    """Wait until an ``impatient`` doctor takes all consumers of all groups for left behind."""

    do: Any = redis.execute_command

    async def idle() -> bool:
        groups = [pairs(flat)[b"name"] for flat in await do("XINFO", "GROUPS", stream)]
        asked = [await do("XINFO", "CONSUMERS", stream, group) for group in groups]
        return all(pairs(flat)[b"idle"] > 60 for consumers in asked for flat in consumers)

    await wait_until(idle)


def doctor(*words: str, url: str, **options: Any) -> Said:
    return call("doctor", *words, url=url.replace("://", "://default:@"), **options)


@on_all_servers
async def test_where_all_is_well_no_check_says_anything_worse_than_a_note(
    own_server: Server, own_redis: Redis, own_operator: Operator
) -> None:
    await own_redis.config_set("maxmemory", "1gb")
    app = App("billing")
    app.stream("orders", max_age=3600)

    @app.on("orders")
    async def handle(body: str) -> None: ...

    for _ in range(100):
        await own_redis.xadd("orders", {"data": "x"})
    watched = Watched(own_redis, "orders", "billing")
    async with working(app, url=own_server.url):
        await watched.rests()
        await wait_until(lambda: _trims(watched))
        findings = await own_operator.examine()
        assert {one.check for one in findings} == CHECKS
        old = own_server.kind == "redis-6.2"
        assert [one.check for one in findings if one.level != "ok"] == (["version"] if old else [])
        said = await asyncio.to_thread(doctor, url=own_server.url)
        assert (said.code, said.err) == (0, "")
        assert said.out.splitlines()[-1] == ("1 note, 12 well" if old else "13 well")


async def _trims(watched: Watched) -> bool:
    values = await watched.do("HVALS", watched.keys.consumers)
    return any(b'"trims":true' in value for value in values)


# Settings, what is then told by which check at which level, and the settings that are right.
SETTINGS = [
    ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, "eviction", "problem", "may delete whole streams"),
    ({"maxmemory-policy": "allkeys-lru"}, "eviction", "warning", "may delete whole streams"),
    ({"maxmemory": "1gb", "maxmemory-policy": "volatile-lru"}, "eviction", "note", "volatile-lru"),
    ({"maxmemory": "0"}, "eviction", "note", "no maxmemory"),
    ({"appendonly": "no"}, "persistence", "warning", "neither append-only file nor snapshots"),
    ({"appendonly": "no", "save": "60 1"}, "persistence", "note", "a crash loses"),
    ({"appendfsync": "no"}, "persistence", "note", "appendfsync is no"),
    ({"timeout": "5"}, "connections", "warning", "silent for 5 s are closed, those of workers"),
    ({"timeout": "300"}, "connections", "note", "publishers then connect again"),
    ({"tcp-keepalive": "0"}, "connections", "warning", "machines that died"),
]  # fmt: skip
RIGHT = {
    "maxmemory": "1gb", "maxmemory-policy": "noeviction", "appendonly": "yes", "save": "", "appendfsync": "everysec",
    "timeout": "0", "tcp-keepalive": "300",
}  # fmt: skip


@on_all_servers
async def test_each_setting_of_the_server_is_noticed_and_so_is_its_repair(
    own_redis: Redis, own_operator: Operator
) -> None:
    for settings, check, level, text in SETTINGS:
        for name, value in {**RIGHT, **({"maxmemory": "0"} if "maxmemory-policy" in settings else {})}.items():
            await own_redis.config_set(name, value)
        for name, value in settings.items():
            await own_redis.config_set(name, value)
        told = await found(own_operator, check)
        assert any(one.level == level and text in one.text for one in told), (settings, told)
        for name, value in RIGHT.items():
            await own_redis.config_set(name, value)
        assert await found(own_operator, check) == [], settings


@on_all_servers
async def test_memory_that_is_nearly_used_up_is_a_problem(own_redis: Redis, own_operator: Operator) -> None:
    used = (await own_redis.info("memory"))["used_memory"]
    await own_redis.config_set("maxmemory", int(used * 1.05))
    (told,) = await found(own_operator, "eviction")
    assert (told.level, "soon publishing is refused" in told.text) == ("problem", True)


@on_all_servers
async def test_connections_that_are_nearly_used_up_are_told(
    own_server: Server, own_redis: Redis, own_operator: Operator
) -> None:
    idle = [Redis.from_url(own_server.url) for _ in range(30)]
    for one in idle:
        await one.ping()
    await own_redis.config_set("maxclients", "36")
    (told,) = await found(own_operator, "connections")
    assert (told.level, "of 36 connections" in told.text) == ("warning", True)
    for one in idle:
        await one.aclose()


@on_all_servers
async def test_a_snapshot_that_failed_is_a_problem(
    own_server: Server, own_redis: Redis, own_operator: Operator
) -> None:
    (own_server.folder / "dump.rdb").mkdir()
    await own_redis.bgsave()
    await wait_until(lambda: _snapshot_failed(own_redis))
    (told,) = [one for one in await found(own_operator, "persistence") if one.level == "problem"]
    assert "snapshot failed" in told.text


async def _snapshot_failed(redis: Redis) -> bool:
    return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] != "ok")


@on_all_servers
async def test_a_replica_is_a_problem(own_redis: Redis, own_operator: Operator) -> None:
    await own_redis.replicaof("127.0.0.1", 1)
    (told,) = await found(own_operator, "role")
    assert (told.level, "replica" in told.text) == ("problem", True)


@pytest.mark.parametrize(("off", "text"), [(90, "behind"), (-90, "ahead of")])
async def test_a_clock_that_is_not_this_machines_is_told(operator: Operator, stream: str, off: int, text: str) -> None:
    with patch("streamworker.redisbroker.examining.time", lambda: time.time() + off):
        (told,) = await found(operator, "clock", stream)
    assert (told.level, text in told.text) == ("warning", True)


async def server_lag(watched: Watched) -> int | None:
    info = await watched.info()
    assert info is not None
    lag = info[b"lag"]
    return None if lag is None else int(lag)


WRONG = {  # what is the truth
    "made at the end": 1, "made in the middle": 5, "moved by SETID": 4, "trimmed unread": 3,
    "trimmed unread, to nothing": 0, "all of it unread": 10,
}  # fmt: skip


async def _make_wrong(redis: Redis, stream: str, how: str) -> None:
    ids = [await redis.xadd(stream, {"data": "x"}) for _ in range(10)]
    match how:
        case "made at the end":
            await redis.xgroup_create(stream, "billing", "$")
            await redis.xadd(stream, {"data": "x"})
        case "made in the middle":
            await redis.xgroup_create(stream, "billing", ids[4])
        case "moved by SETID":
            await redis.xgroup_create(stream, "billing", "0")
            await redis.xreadgroup("billing", "web", {stream: ">"}, count=9)
            await redis.xgroup_setid(stream, "billing", ids[5])
        case "trimmed unread":
            await redis.xgroup_create(stream, "billing", "0")
            await redis.xreadgroup("billing", "web", {stream: ">"}, count=2)
            await redis.xtrim(stream, maxlen=3, approximate=False)
        case "trimmed unread, to nothing":
            await redis.xgroup_create(stream, "billing", ids[2])
            await redis.xtrim(stream, maxlen=0, approximate=False)
        case "all of it unread":
            await redis.xgroup_create(stream, "billing", "0-1")


@SINCE_7
@pytest.mark.parametrize("how", list(WRONG))
async def test_a_lag_that_the_server_has_wrong_is_found_put_right_and_stays_right(
    operator: Operator, redis: Redis, watched: Watched, stream: str, how: str
) -> None:
    await _make_wrong(redis, stream, how)
    truth = WRONG[how]
    found_here = await found(operator, "lag", stream)
    if not found_here:  # there are cases that one server has right and another one wrong
        for more in range(3):
            assert await server_lag(watched) == truth + more
            await redis.xadd(stream, {"data": "x"})
        return
    (told,) = found_here
    assert (told.level, told.stream, told.group, told.fixable) == ("warning", stream, "billing", True)
    if await server_lag(watched) != truth:
        assert f"it is {truth}:" in told.text
    (fixed,) = await operator.fix([told])
    assert (fixed.done, fixed.text) == (True, f"the server says its lag is {truth}")
    for more in range(3):
        assert await server_lag(watched) == truth + more
        assert await found(operator, "lag", stream) == []
        await redis.xadd(stream, {"data": "x"})
    await redis.xreadgroup("billing", "web", {stream: ">"})
    assert await server_lag(watched) == 0


@SINCE_7
async def test_a_lag_that_will_be_missing_is_found_before_it_is(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    await redis.xadd(stream, {"data": "x"})
    await redis.xgroup_create(stream, "billing", "$")
    (told,) = await found(operator, "lag", stream)
    assert "will tell no lag (NULL) once there is one" in told.text
    assert [one.done for one in await operator.fix([told])] == [True]
    assert await found(operator, "lag", stream) == []
    await redis.xadd(stream, {"data": "x"})
    assert await server_lag(watched) == 1


async def test_before_redis_7_no_lag_is_wrong_since_there_is_none(shared_server: ServerOf, stream: str) -> None:
    operator = Operator(RedisBroker(url := shared_server("redis-6.2").url).operator())
    async with Redis.from_url(url, protocol=2) as redis:
        await _make_wrong(redis, stream, "made in the middle")
        assert await found(operator, "lag", stream) == []
    await operator.close()


@SINCE_7
async def test_a_lag_behind_deleted_entries_is_left_as_it_is_and_the_reason_told(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    ids = [await redis.xadd(stream, {"data": "x"}) for _ in range(10)]
    await redis.xgroup_create(stream, "billing", "0")
    await redis.xreadgroup("billing", "web", {stream: ">"}, count=3)
    await redis.xdel(stream, ids[6])
    before = await watched.info()
    told = await found(operator, "lag", stream)
    (fixed,) = await operator.fix(told)
    assert (fixed.done, "XDEL" in fixed.text) == (False, True)
    assert await watched.info() == before
    await redis.xreadgroup("billing", "web", {stream: ">"}, count=4)  # past it
    assert [one.done for one in await operator.fix(told)] == [True]
    assert await server_lag(watched) == 2
    assert await found(operator, "lag", stream) == []


@SINCE_7
async def test_what_was_trimmed_unread_is_counted_before_it_is_put_right_and_once(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True, entries_read=0)  # both as a worker makes it
    await redis.hset(watched.keys.consumers, "skipped", "0")
    for _ in range(10):
        await redis.xadd(stream, {"data": "x"})
    await redis.xtrim(stream, maxlen=3, approximate=False)
    assert all(one.done for one in await operator.fix(await found(operator, "lag", stream)))
    keys = (watched.keys.stream, watched.keys.consumers)
    await redis.eval(scripts.SKIPPED.source.decode(), 2, *keys, "billing")  # as a worker does now and then
    assert int(await redis.hget(watched.keys.consumers, "trimmed") or 0) == 7
    (note,) = [one for one in await found(operator, "groups", stream) if "trimmed" in one.text]
    assert (note.level, "7 entries were trimmed" in note.text) == ("note", True)


@SINCE_7
async def test_a_lag_is_put_right_in_the_middle_of_a_long_stream(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1, 25_001):
            pipe.xadd(stream, {"data": "x"}, id=f"{number}-0")
        await pipe.execute()
    await redis.xgroup_create(stream, "billing", "12345-0")
    (told,) = await found(operator, "lag", stream)
    assert "at least 10 000" in told.text
    assert [one.done for one in await operator.fix([told])] == [True]
    assert await server_lag(watched) == 25_000 - 12_345
    assert await found(operator, "lag", stream) == []


@SINCE_7
async def test_lags_are_put_right_while_others_publish_read_and_trim(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    stop = asyncio.Event()
    finding = Finding(level="warning", text="", check="lag", stream=stream, group="billing", fixable=True)
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)

    async def live() -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            for _ in range(4):
                await redis.xadd(stream, {"data": "x"})
            await redis.xreadgroup("billing", "web", {stream: ">"}, count=3, noack=True)
            if number % 5 == 0:
                await redis.xtrim(stream, maxlen=200, approximate=False)

    living = asyncio.create_task(live())
    fixed: list[Fixed] = []
    for _ in range(50):
        place = (await watched.info() or {})[b"last-delivered-id"]
        await redis.xgroup_setid(stream, "billing", place)  # it may go back a little: who reads is not asked
        fixed += await operator.fix([finding])
    stop.set()
    await living
    assert sum(one.done for one in fixed) > 40, [one.text for one in fixed if not one.done][:3]
    await operator.fix([finding])
    place = (await watched.info() or {})[b"last-delivered-id"]
    unread = len(await redis.xrange(stream, f"({place.decode()}") or ())
    assert await server_lag(watched) == unread


@on_all_servers
async def test_consumers_left_behind_are_named_and_deleted_and_no_others(
    impatient: None, operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    for _ in range(3):
        await redis.xadd(stream, {"data": "x"})
    await redis.xgroup_create(stream, "billing", "0")
    now = time.time()
    values = {"alive-1-ab.sw": now + 3600, "dead-2-cd.sw": now - 3600}
    for name, at in values.items():
        await redis.hset(watched.keys.consumers, name, heartbeat_value(1, 15.0, Report(host="h", at=at)))
    for name in (*values, "web-1", "released"):
        await redis.xgroup_createconsumer(stream, "billing", name)
    await redis.xreadgroup("billing", "holds", {stream: ">"}, count=1)
    await all_idle(redis, stream)
    (told,) = await found(operator, "consumers", stream)
    assert (told.level, {*told.consumers}, told.fixable) == ("warning", {"dead-2-cd.sw", "web-1"}, True)
    (fixed,) = await operator.fix([told])
    assert (fixed.done, fixed.text) == (True, "2 consumers deleted")
    assert sorted(await watched.consumers()) == ["alive-1-ab.sw", "holds", "released"]
    assert await redis.hkeys(watched.keys.consumers) == [b"alive-1-ab.sw"]
    assert await watched.pending() == 1
    assert await found(operator, "consumers", stream) == []


@on_all_servers
async def test_pending_entries_of_who_is_gone_are_told_where_nobody_takes_them(
    impatient: None, operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    await redis.xadd(stream, {"data": "x"})
    await redis.xgroup_create(stream, "billing", "0")
    await redis.xreadgroup("billing", "it's gone", {stream: ">"})
    await all_idle(redis, stream)
    (told,) = await found(operator, "consumers", stream)
    assert (told.level, told.consumers, told.fixable) == ("warning", ("it's gone",), False)
    assert told.advice.endswith(f"streamworker claim {stream} billing 'it'\"'\"'s gone'")
    assert await operator.fix([told]) == ()


@on_all_servers
async def test_who_comes_back_between_the_look_and_the_fix_is_kept(
    impatient: None, operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    names = ["asks", "beats-1-ab.sw", "gets", "retries"]
    for name in names:
        await redis.xgroup_createconsumer(stream, "billing", name)
    await all_idle(redis, stream)
    told = await found(operator, "consumers", stream)
    assert [sorted(one.consumers) for one in told] == [names]
    await redis.xadd(watched.keys.retry, {"sw-id": "1-1"})
    await redis.xgroup_create(watched.keys.retry, "billing", "0")
    await redis.xreadgroup("billing", "retries", {watched.keys.retry: ">"})
    await redis.xadd(stream, {"data": "x"})
    await redis.xreadgroup("billing", "gets", {stream: ">"})
    with patch("streamworker.operating.doctor.LEFT_BEHIND", 0.0):
        await redis.xgroup_delconsumer(stream, "billing", "asks")
        beating = patch.object(operator.observer, "look", _beats_after(operator, redis, watched))
        with beating:
            (fixed,) = await operator.fix(told)
    assert (fixed.done, fixed.text) == (False, "0 consumers deleted")
    assert sorted(await watched.consumers()) == ["beats-1-ab.sw", "gets", "retries"]


def _beats_after(operator: Operator, redis: Redis, watched: Watched) -> Any:
    look = operator.observer.look

    async def looked(streams: Any) -> Any:
        seen = await look(streams)
        await redis.hset(watched.keys.consumers, "beats-1-ab.sw", "2 15000 {}")
        return seen

    return looked


async def test_thousands_that_are_left_behind_are_found_too(
    impatient: None, operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1500):
            pipe.xgroup_createconsumer(stream, "billing", f"pod-{number}")
        await pipe.execute()
    await all_idle(redis, stream)
    (told,) = await found(operator, "consumers", stream)
    assert len(told.consumers) == 1500
    assert told.text.startswith("1 500 consumers (pod-0, pod-1, pod-10, …)")
    assert [one.text for one in await operator.fix([told])] == ["1 500 consumers deleted"]
    assert await watched.consumers() == []


async def test_a_group_without_a_consumer_is_a_note_before_an_hour_is_over(
    operator: Operator, redis: Redis, stream: str
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    assert await found(operator, "groups", stream) == []
    await redis.xadd(stream, {"data": "x"})
    (told,) = await found(operator, "groups", stream)
    assert (told.level, told.text) == ("note", "it has no consumer, and 1 unread")
    await redis.xgroup_createconsumer(stream, "billing", "web-1")
    assert await found(operator, "groups", stream) == []


@on_all_servers
async def test_groups_that_nobody_reads_and_what_is_left_of_those_that_are_gone(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    hours_ago = int(time.time() - 3 * 3600) * 1000
    await redis.xadd(stream, {"data": "x"}, id=f"{hours_ago}-1")
    await redis.xgroup_create(stream, "billing", "0")
    (told,) = await found(operator, "groups", stream)
    assert (told.level, told.text) == (
        "warning", "nobody reads it: 1 unread and 0 pending, for 3h0m; its stream cannot be trimmed"
    )  # fmt: skip
    assert f"XGROUP DESTROY {stream} billing" in told.advice
    await operator.group(stream, "billing").pause(by="alice")
    (told,) = await found(operator, "groups", stream)
    assert (told.level, told.text.startswith("paused, since "), told.text.endswith(" by alice")) == ("note", True, True)
    await operator.group(stream, "billing").resume()
    # Somebody asks for entries, and what he was given is pending only since then.
    await redis.xreadgroup("billing", "web", {stream: ">"})
    assert await found(operator, "groups", stream) == []
    await redis.xadd(watched.keys.dead, {"sw-id": "1-1", "sw-reason": "x"})
    await redis.xgroup_destroy(stream, "billing")
    (told,) = [one for one in of(await operator.examine(), "groups") if one.stream == stream]
    assert (told.level, told.text) == ("warning", "the group is gone, but 1 dead letter and 0 retries are kept")
    await redis.delete(watched.keys.dead)


@on_all_servers
async def test_a_large_stream_that_nothing_trims_is_a_warning_and_a_small_one_a_note(
    operator: Operator, redis: Redis, stream: str, server_kind: str
) -> None:
    (note,) = await found(operator, "growth", await _filled(redis, stream, 1))
    assert (note.level, f"1 stream ({stream})" in note.text) == ("note", True)
    (told,) = await found(operator, "growth", await _filled(redis, stream, 10_000))
    if server_kind == "redis-6.2":  # it does not tell how many entries there were
        assert (told.level, told.text.startswith("no worker of ours trims it: 10 001 entries")) == ("note", True)
        return
    assert (told.level, told.stream) == ("warning", stream)
    assert told.text.startswith("nothing trims it: 10 001 entries, ")
    await redis.xtrim(stream, maxlen=9_000, approximate=False)
    assert await found(operator, "growth", stream) == []


async def _filled(redis: Redis, stream: str, many: int) -> str:
    async with redis.pipeline(transaction=False) as pipe:
        for _ in range(many):
            pipe.xadd(stream, {"data": "x"})
        await pipe.execute()
    return stream


@on_all_servers
async def test_ids_that_are_ahead_of_the_clock_are_told(operator: Operator, redis: Redis, stream: str) -> None:
    await redis.xadd(stream, {"data": "x"})
    assert await found(operator, "ids", stream) == []
    await redis.xadd(stream, {"data": "x"}, id=f"{int(time.time() + 7260) * 1000}-0")
    (told,) = await found(operator, "ids", stream)
    assert (told.level, "2h0m ahead" in told.text or "2h1m ahead" in told.text) == ("warning", True)
    await redis.xadd(stream, {"data": "x"}, id=f"{2**64 - 1}-0")
    (told,) = await found(operator, "ids", stream)
    assert "years ahead" in told.text


async def test_a_name_that_would_not_do_on_a_cluster_is_a_note_elsewhere(operator: Operator, redis: Redis) -> None:
    name = "a}b"
    await redis.xgroup_create(name, "billing", "0", mkstream=True)
    (told,) = await found(operator, "keys", name)
    assert (told.level, "slots" in told.text) == ("note", True)
    await redis.delete(name)


async def test_names_of_other_programs_that_are_no_text_are_examined_and_not_touched(
    impatient: None, operator: Operator, redis: Redis, stream: str
) -> None:
    for _ in range(3):
        await redis.xadd(stream, {"data": "x"})
    await redis.xgroup_create(stream, b"\xff\xfe", "$")
    await redis.xgroup_createconsumer(stream, b"\xff\xfe", b"\x80")
    await redis.xadd(stream, {"data": "x"})
    await all_idle(redis, stream)
    findings = await operator.examine([stream])
    fixable = [one for one in findings if one.fixable]
    assert [one.check for one in fixable] == ["lag", "consumers"]
    fixed = await operator.fix(fixable)
    assert [(one.done, "redis-cli" in one.text) for one in fixed] == [(False, True), (False, True)]


@on_all_servers
def test_the_command_tells_what_is_wrong_and_fixes_it(admin_url: str, stream: str, server_kind: str) -> None:
    with SyncRedis.from_url(admin_url, protocol=2) as client:
        for _ in range(5):
            client.xadd(stream, {"data": "x"})
        client.xgroup_create(stream, "billing", "$")
        client.xadd(stream, {"data": "x"})
    said = doctor(stream, "--json", url=admin_url)
    assert said.err == ""
    assert all(set(one) == FIELDS for one in said.objects)
    assert {one["check"] for one in said.objects} == CHECKS
    assert all(one["fixed"] is one["fix"] is None for one in said.objects)
    lags = [one for one in said.objects if one["check"] == "lag" and one["level"] != "ok"]
    if server_kind == "redis-6.2":
        assert lags == []
        return
    assert [(one["stream"], one["group"], one["fixable"]) for one in lags] == [(stream, "billing", True)]
    said = doctor(stream, "--fix", url=admin_url)
    assert f"{stream}/billing: the server tells no lag (NULL), but it is 1" in " ".join(said.out.split())
    assert "fixed: the server says its lag is 1\n" in said.out
    assert said.out.endswith("well, 1 fixed\n")
    said = doctor(stream, url=admin_url)
    assert (said.code, " lag " in said.out) == (1, False)  # 1, since the tests' servers keep nothing on disk
    assert "no number of the server's own is wrong" in doctor(stream, "--verbose", url=admin_url).out


def test_a_stream_that_is_not_there_is_a_problem_and_no_server_is_3(admin_url: str) -> None:
    said = doctor("no-such-stream", url=admin_url)
    assert said.code == 1
    assert "no-such-stream: there is no such stream" in said.out
    assert doctor(url="redis://127.0.0.1:1").code == 3
    assert doctor("--role", "publisher", url=admin_url).code == 2


def test_hostile_names_do_nothing_to_a_terminal(make_server: ServerOf) -> None:
    server = make_server("valkey-9.1")
    name = ALL.encode(errors="ignore")
    with SyncRedis(port=server.port, protocol=2) as client:
        client.xadd(name, {"data": "x"})
        client.xgroup_create(name, name, "$")
        client.xgroup_createconsumer(name, name, name)
        client.xadd(name, {"data": "x"})
    for words in ((), ("--verbose",), ("--fix",)):
        said = doctor(*words, url=server.url)
        assert said.code == 1
        assert is_harmless(said.out, "\n")
        assert is_harmless(said.err, "\n")
    assert doctor("--json", url=server.url).out.isascii()


async def test_a_user_who_may_not_ask_is_told_what_is_unknown_and_nothing_is_denied(
    make_server: ServerOf, stream: str
) -> None:
    server = make_server("valkey-9.1")
    with SyncRedis(port=server.port, protocol=2) as client:
        client.xgroup_create(stream, "billing", "0", mkstream=True)
        said = await asyncio.to_thread(call, "doctor", url=server.url, role="operator")
        assert (said.code, said.err) == (0, "")
        assert said.out.count("unknown  ") == 2
        assert "CONFIG GET" in said.out
        assert client.acl_log() == []


async def test_fixing_a_group_that_is_gone_is_not_done_and_said(operator: Operator, stream: str) -> None:
    finding = Finding(level="warning", text="", stream=stream, group="billing", fixable=True)
    (fixed,) = await operator.fix([finding])
    assert (fixed.done, fixed.text) == (False, "there is no such group any more")
    with pytest.raises(ConfigError):
        await operator._backend.examining.set_right(stream, "billing", None, False)


@SINCE_7
async def test_a_lag_is_right_behind_deleted_entries_of_which_none_is_left(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    ids = [await redis.xadd(stream, {"data": "x"}) for _ in range(3)]
    await redis.xgroup_create(stream, "billing", "0-1")
    await redis.xdel(stream, ids[1])
    await redis.xtrim(stream, maxlen=0, approximate=False)
    finding = Finding(level="warning", text="", stream=stream, group="billing", fixable=True)
    assert [one.done for one in await operator.fix([finding])] == [True]
    for number in range(1, 4):
        await redis.xadd(stream, {"data": "x"})
        assert await server_lag(watched) == number


@SINCE_7
async def test_what_was_seen_and_is_so_no_more_is_not_fixed(
    operator: Operator, redis: Redis, watched: Watched, stream: str
) -> None:
    """Each step on the server looks again; these are the moments in between, made to last."""
    examining = operator._backend.examining
    for number in range(1, 11):
        await redis.xadd(stream, {"data": "x"}, id=f"{number}-0")
    await redis.xgroup_create(stream, "billing", "5-0")
    before = await watched.info()
    assert await examining.set_right(stream, "billing", ((7, 0), 7), False) is None  # it had read further
    await redis.xtrim(stream, minid="4-0", approximate=False)
    assert await examining.set_right(stream, "billing", ((3, 0), 3), False) is None  # what was counted was trimmed
    assert await watched.info() == before
    await redis.xtrim(stream, minid="9-0", approximate=False)
    await redis.hset(watched.keys.consumers, "skipped", "3")
    assert await examining.set_right(stream, "billing", None, False) is None  # trimmed unread, and not told yet
    assert await examining.set_right(stream, "billing", None, True) == 2
    await redis.xgroup_createconsumer(stream, "billing", "web")
    assert await examining.delete_idle(stream, "billing", {"web": b""}, 3600.0) == 0
    assert await watched.consumers() == ["web"]
