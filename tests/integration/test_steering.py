"""``pause``, ``resume``, ``replay``, ``seek`` and ``claim``: what a group reads, and whether."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Message
from streamworker.errors import ConfigError
from streamworker.monitoring.facts import StreamFacts
from streamworker.operating import Operator
from streamworker.operating.places import behind, from_, upto
from streamworker.redisbroker.broker import RedisBroker
from streamworker.redisbroker.packing import pack
from streamworker.report import Report, heartbeat_value
from streamworker.retention import Limits
from tests.commands import Said, call, command
from tests.conftest import ProgramOf
from tests.roles import as_role
from tests.running import Watched, burst, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

COUNTING = """
from streamworker import App

app = App("billing")


@app.on({stream!r})
async def charge(body: dict) -> None:
    journal("handled", body["n"])
"""
SLOW = """
import asyncio
from streamworker import App

app = App("billing", lease=2.0)


@app.on({stream!r})
async def charge(body: dict) -> None:
    journal("starts", body["n"])
    await asyncio.sleep(600)
"""
NOTHING_COMES = 1.5  # seconds: three turns of a worker


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


class Billing:
    """An app that counts what it is given."""

    def __init__(self, stream: str) -> None:
        self.app = App("billing")
        self.handled: Counter[int] = Counter()
        self.messages: list[Message] = []

        @self.app.on(stream, concurrency=50)
        async def charge(body: dict[str, Any], message: Message) -> None:
            self.handled[body["n"]] += 1
            self.messages.append(message)


async def publish(redis: Redis, stream: str, numbers: range) -> list[str]:
    async with redis.pipeline(transaction=False) as pipe:
        for n in numbers:
            pipe.xadd(stream, {"data": json.dumps({"n": n}), "type": "even" if n % 2 == 0 else "odd"})
        return [str(id, "ascii") for id in await pipe.execute()]


async def steer(*words: str, url: str, **options: Any) -> Said:
    """``streamworker …`` as the operator of docs/security.md."""
    return await asyncio.to_thread(call, *words, url=url, role="operator", **options)


@on_all_servers
async def test_a_pause_stops_two_workers_within_a_second_and_outlasts_a_restart(
    redis: Redis, admin_url: str, stream: str, watched: Watched, program: ProgramOf
) -> None:
    one = program(COUNTING.format(stream=stream), url=admin_url)
    two = program(None, url=admin_url)
    await publish(redis, stream, range(20))
    await wait_until(lambda: len(one.journal) == 20, 20, lambda: f"all is handled\n{one.log}{two.log}")
    await wait_until(lambda: "worker.started" in two.log, 20, "the second one has started")
    paused = await steer("pause", stream, "billing", "--by", "alice", url=admin_url)
    assert (paused.code, paused.out) == (0, f"{stream}/billing is paused: its workers stop reading within a second\n")
    for worker in (one, two):
        await wait_until(lambda worker=worker: "group.paused" in worker.log, 5, "it has seen the pause")  # type: ignore[misc]
    since = monotonic()
    await publish(redis, stream, range(20, 40))
    two.sigterm()
    assert await two.ended() == 0
    three = program(None, url=admin_url)
    await wait_until(lambda: "worker.started" in three.log, 20, "the third one has started")
    await wait_until(lambda: monotonic() - since > NOTHING_COMES, 20, "a while is over")
    assert len(one.journal) == 20
    assert await watched.pending() == 0
    told = (await steer("status", stream, "--interval", "0", url=admin_url)).remarks
    assert any("is paused, since" in remark and "by alice" in remark for remark in told), told
    assert (await steer("resume", stream, "billing", url=admin_url)).code == 0
    await wait_until(lambda: len(one.journal) == 40, 20, lambda: f"all is handled\n{one.log}{three.log}")
    again = await steer("resume", stream, "billing", url=admin_url)
    assert again.out == f"{stream}/billing was not paused\n"


async def test_a_group_that_is_not_there_cannot_be_paused(admin_url: str, stream: str, redis: Redis) -> None:
    said = await steer("pause", stream, "billing", url=admin_url)
    assert (said.code, said.err) == (1, f"Error: there is no group billing on stream {stream}\n")
    assert await redis.keys(f"*{stream}*") == []


@on_all_servers
async def test_a_second_pause_leaves_who_paused_first(redis: Redis, admin_url: str, stream: str) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    await steer("pause", stream, "billing", "--by", "alice", url=admin_url)
    again = await steer("pause", stream, "billing", "--by", "bob", url=admin_url)
    assert again.code == 0
    assert re.fullmatch(
        rf"{stream}/billing has been paused before, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC by alice\n", again.out
    )
    (status,) = (await steer("status", stream, "--json", "--interval", "0", url=admin_url)).objects
    assert status["groups"][0]["paused_note"].endswith(" UTC by alice")


async def test_what_is_given_to_a_group_that_nobody_attends_is_said(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    billing = Billing(stream)
    await publish(redis, stream, range(2))
    await burst(billing.app, url=admin_url)
    replay = ("replay", stream, "billing", "--from", "beginning")
    said = await steer(*replay, url=admin_url)
    assert said.err == f"nobody handles them yet: {stream}/billing has no living worker; start one\n"
    told = (await steer("status", stream, "--interval", "0", url=admin_url)).remarks
    assert told == [f"{stream}/billing has no living worker, and 2 retries wait for one"]
    async with working(billing.app, url=admin_url):
        await wait_until(lambda: _alive(watched), 10, "the worker is a member")
        assert (await steer(*replay, url=admin_url)).err == ""
        await steer("pause", stream, "billing", url=admin_url)
        said = await steer(*replay, url=admin_url)
        resume = f"streamworker resume {stream} billing"
        assert said.err == f"nobody handles them yet: {stream}/billing is paused; {resume}\n"


@on_all_servers
async def test_a_replay_gives_a_range_again_to_this_group_alone(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    billing = Billing(stream)
    await redis.xgroup_create(stream, "search", "$", mkstream=True)
    ids = await publish(redis, stream, range(100))
    await burst(billing.app, url=admin_url)
    words = ("replay", stream, "billing", "--from", ids[10], "--to", ids[59], "--type", "odd")
    dry = await steer(*words, "--dry-run", url=admin_url)
    assert (dry.code, dry.out) == (0, f"25 entries would be replayed to {stream}/billing\n")
    assert await redis.xlen(watched.keys.retry) == 0
    before = await Watched(redis, stream, "search").info()
    said = await steer(*words, url=admin_url)
    assert (said.code, said.out) == (0, f"25 entries replayed to {stream}/billing\n")
    await burst(billing.app, url=admin_url)
    odd = {n for n in range(10, 60) if n % 2}
    assert billing.handled == {n: 2 if n in odd else 1 for n in range(100)}
    again = billing.messages[100:]
    assert {message.id for message in again} == {ids[n] for n in odd}
    assert all(message.deliveries == 1 and message.type == "odd" for message in again)
    assert await Watched(redis, stream, "search").info() == before


@on_all_servers
async def test_a_replay_that_is_killed_goes_on_where_it_was(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    billing = Billing(stream)
    ids = await publish(redis, stream, range(1000))
    await burst(billing.app, url=admin_url)
    words = ("replay", stream, "billing", "--from", ids[0])
    killed = subprocess.Popen(command(*words, "--rate", "400", url=admin_url, role="operator"))

    async def moved() -> bool:
        return int(await redis.xlen(watched.keys.retry)) >= 200

    try:
        await wait_until(moved, 30, "two hundred are replayed")
    finally:
        killed.kill()
        await asyncio.to_thread(killed.wait)
    copied = await redis.xlen(watched.keys.retry)
    assert copied < 1000
    await publish(redis, stream, range(1000, 1050))  # so the end is another one
    await burst(billing.app, url=admin_url)
    said = await steer(*words, url=admin_url)
    assert f"goes on behind {ids[copied - 1]}" in said.err
    assert said.out == f"{1050 - copied} entries replayed to {stream}/billing\n"
    await burst(billing.app, url=admin_url)
    assert billing.handled == dict.fromkeys(range(1050), 2)
    assert not [name for name in await watched.do("HKEYS", watched.keys.consumers) if name.startswith(b"replay")]


async def test_a_replay_leaves_out_what_is_pending_and_what_was_not_read_yet(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    await publish(redis, stream, range(10))
    await redis.xreadgroup("billing", "somebody", {stream: ">"}, count=3)
    said = await steer("replay", stream, "billing", "--from", "beginning", url=admin_url)
    assert said.out == f"0 entries replayed to {stream}/billing; 3 pending left out\n"
    assert await redis.xlen(watched.keys.retry) == 0


async def test_fields_are_replayed_byte_for_byte(redis: Redis, admin_url: str, stream: str, watched: Watched) -> None:
    app, seen = App("billing"), []

    @app.on(stream)
    async def charge(body: bytes, message: Message) -> None:
        seen.append((message.id, body, message.headers))

    small = await watched.add("data", b"\xff\x00", "twice", "1", "twice", "2", "", "empty")
    big = await watched.add("data", b"\xfe" * 70_000, "header", "x" * 300)
    await burst(app, url=admin_url)
    assert (await steer("replay", stream, "billing", "--from", "beginning", url=admin_url)).code == 0
    await burst(app, url=admin_url)
    assert [id for id, _, _ in seen] == [small, big] * 2
    assert seen[:2] == seen[2:]


@on_all_servers
async def test_a_seek_moves_the_group_and_its_lag_stays_exact(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    billing = Billing(stream)
    ids = await publish(redis, stream, range(100))
    await burst(billing.app, url=admin_url)
    dry = await steer("seek", stream, "billing", "--to", ids[60], "--dry-run", url=admin_url)
    assert (dry.code, "is given 40 entries again" in dry.out) == (0, True)
    assert (await steer("seek", stream, "billing", "--to", ids[60], url=admin_url)).code == 2  # nobody to be asked
    assert (await steer("seek", stream, "billing", "--to", ids[60], "--yes", url=admin_url)).code == 0
    assert (await steer("lag", stream, "billing", url=admin_url)).out == "40\n"
    info = await watched.info()
    assert info is not None
    assert info.get(b"lag", 40) == 40
    await burst(billing.app, url=admin_url)
    assert billing.handled == {n: 1 + (n >= 60) for n in range(100)}
    await publish(redis, stream, range(100, 130))
    skip = await steer("seek", stream, "billing", "--to", "end", "--yes", url=admin_url)
    assert "skips 30 entries" in skip.err
    assert (await steer("lag", stream, "billing", url=admin_url)).out == "0\n"
    await burst(billing.app, url=admin_url)
    assert sum(billing.handled.values()) == 140
    told = (await steer("status", stream, "--interval", "0", "--json", url=admin_url)).objects[0]["groups"]
    assert [group["trimmed"] for group in told] in ([0], [None])  # what was skipped was not lost


@on_all_servers
async def test_a_seek_does_not_go_back_over_what_is_pending(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    ids = await publish(redis, stream, range(10))
    await redis.xreadgroup("billing", "somebody", {stream: ">"}, count=8)
    await redis.xack(stream, "billing", *ids[:5])
    said = await steer("seek", stream, "billing", "--to", ids[6], "--yes", url=admin_url)
    assert (said.code, f"the entry {ids[6]} behind it is pending with consumer 'somebody'" in said.err) == (2, True)
    assert (await watched.info() or {})[b"last-delivered-id"] == ids[7].encode()
    assert await watched.pending("somebody") == 3


@on_all_servers
async def test_a_claim_gives_what_a_consumer_holds_to_the_workers_at_once(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    billing = Billing(stream)
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    await publish(redis, stream, range(250))
    await redis.xreadgroup("billing", "somebody", {stream: ">"}, count=250)
    async with working(billing.app, url=admin_url):
        await wait_until(lambda: _alive(watched), 10, "the worker is a member")
        said = await steer("claim", stream, "billing", "somebody", url=admin_url)
        assert said.out == "250 entries of somebody released: the workers take them within a second\n"
        await watched.rests()
        (member,) = [name for name in await watched.consumers() if name not in ("released", "somebody")]
        refused = await steer("claim", stream, "billing", member, url=admin_url)
        assert (refused.code, "is alive" in refused.err) == (2, True)
    assert billing.handled == dict.fromkeys(range(250), 1)
    assert {message.deliveries for message in billing.messages} == {2}
    unknown = await steer("claim", stream, "billing", "nobody", url=admin_url)
    assert (unknown.code, f"there is no consumer nobody in {stream}/billing" in unknown.err) == (1, True)


@on_all_servers
async def test_a_claim_from_a_worker_that_was_killed_marks_it_dead_and_the_next_one_takes_over(
    redis: Redis, admin_url: str, stream: str, program: ProgramOf, watched: Watched
) -> None:
    dying = program(SLOW.format(stream=stream), url=admin_url)
    await publish(redis, stream, range(5))
    await wait_until(lambda: len(dying.journal) == 5, 20, lambda: f"it works\n{dying.log}")
    (member,) = [name for name in await watched.consumers() if name != "released"]
    alive = await steer("claim", stream, "billing", member, url=admin_url)
    assert (alive.code, "is alive" in alive.err) == (2, True)
    dying.sigkill()
    await dying.ended()
    await wait_until(lambda: _is_silent(admin_url, stream, member), 20, "its lease is over")
    said = await steer("claim", stream, "billing", member, url=admin_url)
    assert said.out == f"5 entries of {member} marked dead: the workers take them in a few seconds\n"
    assert await watched.do("HGET", watched.keys.consumers, member) == b"dead"
    billing = Billing(stream)
    async with working(billing.app, url=admin_url):
        await watched.rests(20)
    assert billing.handled == dict.fromkeys(range(5), 1)


async def test_a_restarted_replay_begins_anew(redis: Redis, admin_url: str, stream: str, watched: Watched) -> None:
    billing = Billing(stream)
    ids = await publish(redis, stream, range(50))
    await burst(billing.app, url=admin_url)
    # As an interrupted one leaves it.
    await watched.do("HSET", watched.keys.consumers, f"replay {ids[0]} ", f"({ids[39]}")
    words = ("replay", stream, "billing", "--from", ids[0])
    again = await steer(*words, "--restart", url=admin_url)
    assert ("goes on" in again.err, again.out) == (False, f"50 entries replayed to {stream}/billing\n")


@on_all_servers
async def test_a_group_is_paused_also_while_the_server_is_out_of_memory_and_a_redrive_then_loses_nothing(
    own_server: Server, own_redis: Redis, stream: str
) -> None:
    app, watched = App("billing"), Watched(own_redis, stream, "billing")

    @app.on(stream, max_deliveries=1)
    async def charge(body: dict[str, Any]) -> None:
        raise ValueError("never")

    await publish(own_redis, stream, range(10))
    await burst(app, url=own_server.url)
    await watched.do("CONFIG", "SET", "maxmemory", "1")
    refused = await steer("dead", "redrive", stream, "billing", "--all", url=own_server.url)
    assert (refused.code, "OOM" in refused.err or "memory" in refused.err) == (1, True)
    assert len(await watched.letters()) == 10
    assert (await steer("pause", stream, "billing", url=own_server.url)).code == 0
    assert await watched.do("HEXISTS", watched.keys.consumers, "paused") == 1
    assert (await steer("resume", stream, "billing", url=own_server.url)).code == 0
    await watched.do("CONFIG", "SET", "maxmemory", "0")
    assert (await steer("dead", "redrive", stream, "billing", "--all", url=own_server.url)).code == 0
    assert await watched.letters() == []
    assert await own_redis.xlen(watched.keys.retry) == 10


@pytest.fixture
async def operator(admin_url: str) -> AsyncIterator[Operator]:
    made = Operator(RedisBroker(as_role(admin_url, "operator")).operator())
    yield made
    await made.close()


@on_all_servers
@pytest.mark.parametrize("held", [True, False])
async def test_a_seek_that_was_to_skip_never_goes_back(
    redis: Redis, operator: Operator, stream: str, watched: Watched, held: bool
) -> None:
    await publish(redis, stream, range(10))
    await redis.xgroup_create(stream, "billing", "0")
    controls = operator.group(stream, "billing")
    plan = await controls.plan_seek("end")
    assert plan.skipped == 10
    await publish(redis, stream, range(10, 20))
    await redis.xreadgroup("billing", "web", {stream: ">"}, noack=not held)  # while somebody is asked
    before = await watched.info()
    with pytest.raises(ConfigError, match="has read past"):
        await controls.seek(plan)
    assert await watched.info() == before


@on_all_servers
async def test_a_seek_ahead_of_the_stream_is_refused_since_all_that_comes_would_be_lost(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await publish(redis, stream, range(3))
    await redis.xgroup_create(stream, "billing", "0")
    before = await watched.info()
    for place in ("2099-01-01T00:00", "99999999999999-0"):
        said = await steer("seek", stream, "billing", "--to", place, "--yes", url=admin_url)
        assert (said.code, "lies ahead of the last entry" in said.err) == (2, True)
    assert await watched.info() == before


@on_all_servers
async def test_two_replays_of_a_range_at_once_give_each_entry_once(
    redis: Redis, operator: Operator, stream: str, watched: Watched
) -> None:
    await publish(redis, stream, range(3000))
    await redis.xgroup_create(stream, "billing", "$")
    controls = operator.group(stream, "billing")
    wanted = await controls.range("beginning", "end")
    done = await asyncio.gather(*(controls.replay(wanted) for _ in range(3)))
    assert sum(one.copied for one in done) == 3000
    assert await redis.xlen(watched.keys.retry) == 3000


@on_all_servers
async def test_a_replay_up_to_a_place_that_was_passed_gives_nothing_and_forgets_nothing(
    redis: Redis, operator: Operator, stream: str, watched: Watched
) -> None:
    ids = await publish(redis, stream, range(3000))
    await redis.xgroup_create(stream, "billing", "$")
    controls = operator.group(stream, "billing")
    wanted = await controls.range("beginning", "end")
    first = await operator._backend.steering.replay(stream, "billing", wanted, 1000)  # and then it is interrupted
    assert first.copied == 1000
    shorter = await controls.range("beginning", ids[499])
    assert (await controls.replay(shorter)).copied == 0
    assert await controls.unfinished(wanted) == ids[999]
    assert (await controls.replay(wanted, dry=True)).copied == 2000
    assert (await controls.replay(wanted, dry=True, anew=True)).copied == 3000
    assert (await controls.replay(wanted)).copied == 2000
    assert await redis.xlen(watched.keys.retry) == 3000


@on_all_servers
async def test_the_greatest_id_is_replayed_sought_and_seen_as_any_other(
    redis: Redis, operator: Operator, admin_url: str, stream: str
) -> None:
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    await redis.xadd(stream, {"data": "1"}, id="5-0")
    await redis.xadd(stream, {"data": "2"}, id=greatest)
    await redis.xgroup_create(stream, "billing", greatest)
    controls = operator.group(stream, "billing")
    wanted = await controls.range("beginning", "end")
    assert (await controls.replay(wanted, rate=100)).copied == 2
    said = await steer("status", stream, "--json", "--interval", "0", url=admin_url)
    assert (said.code, said.objects[0]["groups"][0]["lag"]) == (0, 0)
    await controls.seek(await controls.plan_seek("beginning"))
    said = await steer("lag", stream, "billing", url=admin_url)
    assert (said.code, said.out) == (0, "2\n")


@on_all_servers
async def test_entries_that_are_free_already_can_be_claimed_without_end_and_to_no_harm(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await publish(redis, stream, range(3))
    await redis.xgroup_create(stream, "billing", "0")
    await redis.xreadgroup("billing", "released", {stream: ">"})
    said = await steer("claim", stream, "billing", "released", url=admin_url)
    assert (said.code, said.out.startswith("3 entries of released released")) == (0, True)
    assert await watched.pending("released") == 3


async def test_who_holds_something_is_known_also_among_thousands(
    redis: Redis, operator: Operator, admin_url: str, stream: str, watched: Watched
) -> None:
    await publish(redis, stream, range(3))
    await redis.xgroup_create(stream, "billing", "0")
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1200):
            pipe.xgroup_createconsumer(stream, "billing", f"pod-{number}")
        await pipe.execute()
    await redis.xreadgroup("billing", "stuck", {stream: ">"}, count=2)
    alive = heartbeat_value(1, 15.0, Report(host="h", at=time() + 3600))
    await redis.hset(watched.keys.consumers, "alive-1-ab.sw", alive)
    await redis.xgroup_createconsumer(stream, "billing", "alive-1-ab.sw")
    held = (await operator.trim(stream, Limits(max_length=0))).held
    assert held is not None
    assert (held.consumer, held.workers, held.others) == ("stuck", 1, 1)
    said = await steer("status", stream, "--json", "--interval", "0", url=admin_url)
    (group,) = said.objects[0]["groups"]
    assert group["members"] == 1202
    assert {one["name"]: one["pending"] for one in group["consumers"]} == {"stuck": 2, "alive-1-ab.sw": 0}
    assert (await steer("claim", stream, "billing", "stuck", url=admin_url)).code == 0
    assert await watched.pending("released") == 2


@pytest.mark.parametrize(
    "words",
    [
        ("pause", "{s}", "\udcff"), ("resume", "{s}", "\udcff"), ("claim", "{s}", "\udcff", "x"),
        ("replay", "{s}", "\udcff", "--from", "beginning"), ("seek", "{s}", "\udcff", "--to", "end", "--yes"),
        ("dead", "list", "{s}", "\udcff"), ("dead", "groups", "\udcff", "billing"),
        ("dead", "edit", "{s}", "billing", "1-1", "--set", "\udcff=1"), ("dead", "show", "{s}", "\udcff", "1-1"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_a_name_that_is_no_utf8_is_one_message(
    redis: Redis, admin_url: str, stream: str, words: tuple[str, ...]
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    said = await steer(*(word.format(s=stream) for word in words), url=admin_url)
    assert (said.code, said.err.count("\n"), "no UTF-8" in said.err) == (2, 1, True), said


async def test_bytes_where_text_is_expected_do_no_harm(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await redis.xgroup_create(stream, "billing", "0", mkstream=True)
    assert (await steer("pause", stream, "billing", "--by", "\udcff", url=admin_url)).code == 0
    said = await steer("replay", stream, "billing", "--from", "beginning", "--type", "\udcff", url=admin_url)
    assert (said.code, said.err) == (0, "")
    await steer("resume", stream, "billing", url=admin_url)
    await redis.xadd(watched.keys.dead, {"sw-id": b"\xff", "sw-fields": pack([b"data", b"1"])})
    said = await steer("dead", "redrive", stream, "billing", "--all", url=admin_url)
    assert (said.code, said.err) == (0, f"nobody handles them yet: {stream}/billing has no living worker; start one\n")
    assert await redis.xlen(watched.keys.retry) == 1


async def _is_silent(url: str, stream: str, member: str) -> bool:
    (seen,) = [one for one in (await steer("workers", stream, "--json", url=url)).objects if one["worker"] == member]
    return bool(seen["state"] == "silent")


async def _alive(watched: Watched) -> bool:
    return any(name.endswith(b".sw") for name in await watched.do("HKEYS", watched.keys.consumers))


def test_places_are_ids_times_and_how_long_ago() -> None:
    now = datetime(2026, 11, 23, 14, tzinfo=UTC).timestamp()
    stream = StreamFacts(name="orders", now=now, last_generated=(5, 3))
    assert from_("beginning", stream) == (0, 0)
    assert upto("end", stream) == behind("end", stream) == (5, 3)
    assert from_("1795378761263-7", stream) == upto("1795378761263-7", stream) == (1795378761263, 7)
    assert behind("1795378761263-7", stream) == (1795378761263, 6)
    assert behind("1795378761263-0", stream) == (1795378761262, 2**64 - 1)
    assert from_("2026-11-23T12:00", stream) == from_("2h", stream) == from_("1h60m", stream)
    assert from_("2026-11-23T13:00+01:00", stream) == from_("2h", stream)
    assert upto("2026-11-23T12:00", stream) == (int((now - 7200) * 1000), 2**64 - 1)
    for text in ("yesterday", "", "2h5", "-1", "1795378761263-", "5x"):
        with pytest.raises(ConfigError, match="is no place in a stream"):
            from_(text, stream)
