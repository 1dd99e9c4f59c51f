"""The users of docs/security.md: each may do what its role needs, on the keys of its streams, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

import streamworker
from streamworker import App, Backoff, Drop, Message, PublishError, Reject
from streamworker.identity import SUFFIX
from streamworker.operating.doctor import Role
from streamworker.redisbroker import scripts
from streamworker.redisbroker.link import Script
from streamworker.redisbroker.permissions import ROLES
from tests.commands import call_plainly
from tests.conftest import ProgramOf, ServerOf
from tests.roles import PASSWORD, commands, commands_of_places, documented
from tests.running import Watched, burst, events, on_all_servers, working
from tests.servers import Server
from tests.waiting import wait_until

PACKAGE = Path(streamworker.__file__).parent
# What the driver sends by itself. AUTH needs no permission.
DRIVER = {"select"}
# `publish` and `_serves`; the rest of what publishing does is the script-free XADD.
PUBLISHER = {"ping", "xadd"}

# What only looks on is the reader's: see the last tests.
MONITORING = ("observer.py", "finder.py", "asking.py")
DOCTOR = ("examining.py", "permissions.py")  # an operator's, and what else it is allowed to see
OBSERVING = ("BESIDE", "COPIES", "FIND", "OBSERVE", "PAGE")
OPERATING = ("AMEND", "HAND_OVER", "PAUSE", "REDRIVE", "REPLAY", "SEEK", "DELETE_IDLE", "PERMITTED", "SET_RIGHT")

STREAMS = {"orders": ("orders", "~{orders}:*"), "orders-{eu}": ("orders-{eu}", "~sw:orders-{eu}:*")}


@pytest.fixture(scope="module")
def known(shared_server: ServerOf) -> Iterator[SyncRedis]:
    """A server that says whether a word is a command."""
    with SyncRedis(port=shared_server("redis-8.2").port, protocol=2) as client:
        client.response_callbacks.clear()
        yield client


def in_scripts(names: Iterable[str]) -> set[str]:
    """What these Lua scripts call."""
    found = set()
    for name in names:
        script = getattr(scripts, name)
        if isinstance(script, Script):
            found |= set(
                re.findall(r"(?:redis\.p?call\(|\bask\([\w{}]+, )'(\w+)'(?:, '(\w+)')?", script.source.decode())
            )
    return {_named(*words) for words in found}


def in_python(known: SyncRedis, monitoring: bool = False) -> set[str]:
    """What the Redis broker sends: tuples and calls that begin with the name of a command."""
    found = set()
    for path in (PACKAGE / "redisbroker").rglob("*.py"):
        if path.name in DOCTOR or (path.name in MONITORING) is not monitoring:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "command":
                words = words[1:]  # the first one is the stream
            texts = [word.value if isinstance(word, ast.Constant) else None for word in words[:2]]
            if texts and isinstance(texts[0], str) and texts[0].isupper() and texts[0].isalpha():
                second = texts[1] if len(texts) > 1 and isinstance(texts[1], str) else ""
                found.add((texts[0], second))
    is_command = {first: _is_command(known, first) for first, _ in found}
    return {_named(*words) for words in found if is_command[words[0]]}


def _is_command(known: SyncRedis, word: str) -> bool:
    return bool(known.execute_command("COMMAND", "INFO", word) != [None])  # type: ignore[no-untyped-call]


def _named(first: str, second: str = "") -> str:
    return f"{first}|{second}".lower() if first in ("XINFO", "XGROUP", "CLUSTER", "MEMORY") else first.lower()


def test_the_worker_may_call_exactly_what_the_code_calls(known: SyncRedis) -> None:
    working = in_scripts(name for name in scripts.__all__ if name not in (*OBSERVING, *OPERATING))
    sampling = in_scripts(("OBSERVE", "BESIDE")) | {"info"}  # with --http
    assert commands("worker") | commands_of_places() == working | sampling | in_python(known) | DRIVER
    assert not commands("worker") & commands_of_places()


def test_the_reader_may_call_all_that_monitoring_calls_and_nothing_that_writes(known: SyncRedis) -> None:
    called = in_scripts((*OBSERVING, "COUNT")) | in_python(known, monitoring=True)
    by_hand = {"type"}  # with redis-cli
    assert commands("reader") == called | by_hand | DRIVER | {"ping", "eval", "evalsha"}
    flags = {one: known.execute_command("COMMAND", "INFO", one.split("|")[0])[0][2] for one in called}  # type: ignore[no-untyped-call]
    assert not {one for one, each in flags.items() if b"write" in each}


def test_the_operator_may_call_all_that_steering_calls() -> None:
    assert in_scripts(OPERATING) | in_scripts(OBSERVING) <= commands("operator")


@pytest.mark.parametrize("role", list(ROLES))
def test_the_doctor_looks_for_what_the_document_allows(role: Role) -> None:
    assert sorted(ROLES[role]) == sorted(commands(role))


def test_the_publisher_may_call_exactly_what_publishing_calls() -> None:
    assert commands("publisher") == PUBLISHER | DRIVER


@dataclass(frozen=True, slots=True)
class Place:
    """A server with the users of the document as they stand there, and a stream they are for."""

    server: Server
    stream: str
    admin: Redis

    def url(self, role: str) -> str:
        return self.server.url.replace("//", f"//{role}:{PASSWORD}@")


@pytest.fixture
def stream() -> str:
    return "orders"


@pytest.fixture
async def place(server_kind: str, stream: str, make_server: ServerOf) -> AsyncIterator[Place]:
    """Whatever the server has denied at the end of the test was missing in the document."""
    server = make_server(server_kind)
    name, keys = STREAMS[stream]
    async with Redis(port=server.port, protocol=2) as admin:
        for role, words in documented().items():
            rules = [f"~{name}" if word == "~orders" else keys if word == "~{orders}:*" else word for word in words]
            await admin.execute_command("ACL", "SETUSER", role, *rules)  # type: ignore[no-untyped-call]
        yield Place(server, stream, admin)
        assert await admin.acl_log() == []


async def denied(place: Place, role: str, *command: str) -> None:
    """The command is not for that role; its denial is taken out of the log again."""
    async with Redis.from_url(place.url(role), protocol=2) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)  # type: ignore[no-untyped-call]
    await place.admin.acl_log_reset()


@on_all_servers
@pytest.mark.parametrize("stream", list(STREAMS))
async def test_a_worker_lives_and_leaves_with_its_keys_alone(place: Place) -> None:
    app = App("billing", url=place.url("worker"))
    handled: list[str] = []
    everywhere: list[str] = []

    @app.on(place.stream, max_deliveries=2, retry=Backoff(0.01, 1, jitter=0), concurrency=1, lease=1.0)
    async def handle(body: str, message: Message) -> None:
        handled.append(body)
        match body:
            case "fails":
                raise ValueError
            case "rejected":
                raise Reject("no")
            case "dropped":
                raise Drop("no")
            case "publishes":
                await app.publish(place.stream, "published")

    @app.on(place.stream, broadcast=True, start="beginning")
    async def listen(body: str) -> None:
        everywhere.append(body)

    watched = Watched(place.admin, place.stream, "billing")
    bodies = ["fails", "rejected", "dropped", "publishes", "good"]
    for body in bodies:
        await watched.add("data", body)
    async with working(app, url=place.url("worker")):
        await watched.rests()
        await wait_until(lambda: len(everywhere) == 6)
        await watched.do("XGROUP", "DESTROY", place.stream, "billing")
        await watched.add("data", "after the group")
        await wait_until(lambda: "after the group" in handled)
        await watched.rests()
    assert {*handled} == {*bodies, "published", "after the group"}
    # What dead workers and strangers left is taken over, and what cannot be finished is handed back.
    dead = f"dead{SUFFIX}"
    for victim in (dead, "released"):
        await watched.add("data", f"of {victim}")
        await watched.do("XREADGROUP", "GROUP", "billing", victim, "STREAMS", place.stream, ">")
    await watched.do("HSET", watched.keys.consumers, dead, "dead")
    async with asyncio.timeout(30):
        await burst(app, url=place.url("worker"))
    assert {"of released", f"of {dead}"} <= {*handled}
    await watched.check_nothing_is_left()


@on_all_servers
async def test_a_worker_hands_back_what_it_cannot_finish(place: Place) -> None:
    app = App("billing")
    begun = asyncio.Event()

    @app.on(place.stream, concurrency=1, prefetch=10)
    async def handle(body: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    watched = Watched(place.admin, place.stream, "billing")
    for number in range(5):
        await watched.add("data", str(number))
    async with working(app, url=place.url("worker"), shutdown_timeout=0.2, drains=False):
        await begun.wait()
        await wait_until(lambda: _pending_is(watched, 5))
    assert await watched.pending("released") == 5


async def _pending_is(watched: Watched, number: int) -> bool:
    return await watched.pending() == number


async def test_a_worker_has_no_business_with_other_streams_and_is_told_so(place: Place) -> None:
    async with App("billing", url=place.url("worker")) as app:
        with pytest.raises(PublishError, match="NOPERM"):
            await app.publish("invoices", "x")
    await place.admin.acl_log_reset()
    await denied(place, "worker", "XRANGE", "invoices", "-", "+")
    await denied(place, "worker", "DEL", place.stream)
    await denied(place, "worker", "CONFIG", "GET", "*")


@on_all_servers
async def test_a_worker_trims_what_is_declared_with_the_rights_for_that_and_names_what_it_lacks(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("billing")
    app.stream(place.stream, max_length=5, max_bytes=10**6, force=True, dead_max_length=1)

    @app.on(place.stream)
    async def handle(body: str) -> None:
        raise Reject("no")

    async def is_kept() -> bool:
        dead = Watched(place.admin, place.stream, "billing").keys.dead
        return (await place.admin.xlen(place.stream), await place.admin.xlen(dead)) == (5, 1)

    for _ in range(20):
        await place.admin.xadd(place.stream, {"data": "x"})
    async with working(app, url=place.url("worker")):
        await wait_until(lambda: events(caplog, "retention.failing"))
        (failing,) = events(caplog, "retention.failing")
        assert "+xtrim" in failing["reason"]
        await place.admin.execute_command("ACL", "SETUSER", "worker", "+xtrim", "+memory|usage")  # type: ignore[no-untyped-call]
        await place.admin.acl_log_reset()
        await wait_until(is_kept)


@on_all_servers
async def test_a_publisher_publishes_and_can_read_nothing(place: Place, program: ProgramOf) -> None:
    async with App("shop", url=place.url("publisher")) as app:
        await app.publish(place.stream, "one", type="created", headers={"tenant": "acme"})
        assert await app.publish_many(place.stream, ["two", "three"]) == 2
    words = ("publish", place.stream, "four", "--redis", place.url("publisher"))
    assert program(None, command=words).wait() == 0
    assert await place.admin.xlen(place.stream) == 4
    await denied(place, "publisher", "XRANGE", place.stream, "-", "+")
    await denied(place, "publisher", "XADD", "invoices", "*", "data", "x")


@on_all_servers
async def test_an_operator_can_do_what_the_document_says_and_a_reader_can_look(place: Place) -> None:
    keys = Watched(place.admin, place.stream, "billing").keys
    await _make_all_keys(place, keys.stream.decode(), keys.retry.decode(), keys.delayed.decode(), keys.dead.decode())
    stream, dead, consumers = place.stream, keys.dead.decode(), keys.consumers.decode()
    looks: list[tuple[str, ...]] = [
        ("TIME",), ("TYPE", stream), ("EXISTS", stream), ("XLEN", dead), ("XRANGE", dead, "-", "+"),
        ("XREVRANGE", dead, "+", "-"), ("XPENDING", stream, "billing"), ("XINFO", "STREAM", stream),
        ("XINFO", "GROUPS", stream), ("XINFO", "CONSUMERS", stream, "billing"), ("HGETALL", consumers),
        ("HGET", consumers, "paused"), ("ZCARD", keys.delayed.decode()), ("ZRANGE", keys.delayed.decode(), "0", "-1"),
        ("ZSCAN", keys.delayed.decode(), "0"), ("PING",), ("SELECT", "1"),
    ]  # fmt: skip
    sha = await place.admin.script_load("return 1")
    monitors: list[tuple[str, ...]] = [
        ("SCAN", "0"), ("INFO",), ("MEMORY", "USAGE", stream), ("EVAL", "return 1", "0"), ("EVALSHA", sha, "0"),
    ]  # fmt: skip
    does: list[tuple[str, ...]] = [
        ("HSET", consumers, "paused", "1"), ("HDEL", consumers, "paused"), ("XTRIM", stream, "MAXLEN", "1"),
        ("XDEL", dead, "1-1"), ("XADD", stream, "*", "data", "again"),
            ("XACK", stream, "billing", "1-1"), ("XCLAIM", stream, "billing", "released", "0", "1-1"),
            ("XGROUP", "SETID", stream, "billing", "$"), ("XGROUP", "DELCONSUMER", stream, "billing", "web"),
        ("XGROUP", "DESTROY", stream, "billing"),
        ("UNLINK", consumers, dead),
    ]  # fmt: skip
    for role, asked in (("reader", [*monitors, *looks]), ("operator", [*monitors, *looks[:-1], *does])):
        async with Redis.from_url(place.url(role), protocol=2) as client:
            for command in asked:
                await client.execute_command(*command)  # type: ignore[no-untyped-call]
    assert commands("reader") == {_named(*command[:2]) for command in [*monitors, *looks]}
    assert commands("operator") == {_named(*command[:2]) for command in [*monitors, *looks, *does]}
    for command in does:
        await denied(place, "reader", *command)
    await denied(place, "operator", "XGROUP", "CREATE", stream, "another", "0")
    await denied(place, "operator", "XADD", "invoices", "*", "data", "x")


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
@pytest.mark.parametrize("stream", list(STREAMS))
@pytest.mark.parametrize("role", list(ROLES))
async def test_the_doctor_finds_what_a_user_lacks(place: Place, role: Role) -> None:
    stream = place.stream
    keys = Watched(place.admin, stream, "billing").keys
    await _make_all_keys(place, stream, keys.retry.decode(), keys.delayed.decode(), keys.dead.decode())

    async def lacks() -> tuple[int, str]:
        words = ("doctor", stream, "--role", role, "--json", "--redis", place.url(role))
        said = await asyncio.to_thread(call_plainly, *words)
        assert said.err == ""
        (told,) = [one for one in said.objects if one["check"] == "permissions"]
        return said.code, "" if told["level"] == "ok" else told["text"]

    assert await lacks() == (0, "")
    if role == "worker":  # who may not look at its streams as monitoring does
        await place.admin.acl_log_reset()
    assert await place.admin.acl_log() == []
    await place.admin.execute_command("ACL", "SETUSER", role, "-xpending", "-scan", "-xrange")  # type: ignore[no-untyped-call]
    code, told = await lacks()
    assert (code, {*told.rpartition("lacks ")[2].split()}) == (
        1, {f"+{one}" for one in ("xpending", "scan", "xrange") if one in commands(role)}
    )  # fmt: skip
    await place.admin.acl_log_reset()  # the look at the stream
    back = ("+xpending", "+xrange", *(["+scan"] if "scan" in commands(role) else []))
    await place.admin.execute_command("ACL", "SETUSER", role, *back, "resetkeys", f"~{stream}")  # type: ignore[no-untyped-call]
    code, told = await lacks()
    assert (code, told.endswith(f"lacks a right to these keys: {keys.consumers.decode()}")) == (1, True)
    await place.admin.acl_log_reset()


async def test_the_doctor_says_what_it_cannot_know(place: Place) -> None:
    await place.admin.xgroup_create(place.stream, "billing", "0", mkstream=True)
    said = await asyncio.to_thread(
        call_plainly, "doctor", "orders", "--role", "worker", "--json", "--redis", place.url("publisher")
    )
    levels = {one["check"]: one["level"] for one in said.objects}
    assert said.code == 1
    assert levels["permissions"] == "problem"
    assert {check for check, level in levels.items() if level == "unknown"} >= {
        "eviction",
        "version",
        "clock",
        "streams",
    }
    await place.admin.acl_log_reset()


async def _make_all_keys(place: Place, stream: str, retry: str, delayed: str, dead: str) -> None:
    await place.admin.xgroup_create(stream, "billing", "0", mkstream=True)
    await place.admin.xadd(stream, {"data": "x"})
    await place.admin.xadd(dead, {"sw-reason": "x"}, id="1-1")
    await place.admin.xadd(retry, {"data": "x"})
    await place.admin.zadd(delayed, {"x": 1})


async def test_a_worker_whose_user_lacks_a_command_names_it(place: Place, program: ProgramOf) -> None:
    await place.admin.execute_command("ACL", "SETUSER", "worker", "-xreadgroup")  # type: ignore[no-untyped-call]
    source = f"""
from streamworker import App
app = App("billing")

@app.on({place.stream!r})
async def handle(body: str) -> None: ...
"""
    worker = program(source, url=place.url("worker"))
    await wait_until(lambda: "stream.failing" in worker.log, 20)
    (told,) = [line for line in worker.log.splitlines() if "stream.failing" in line]
    assert "xreadgroup" in told
    assert "billing" in told
    worker.sigterm()
    assert await worker.ended() in (0, 4)
    with pytest.raises(ResponseError):
        await place.admin.execute_command("XREADGROUP")  # type: ignore[no-untyped-call]
    await place.admin.acl_log_reset()
