"""``streamworker tail``: the last entries, then those that come, whatever they hold and whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Reject
from tests.commands import Said, call, command
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.running import Watched, burst, on_all_servers
from tests.servers import Server
from tests.terminal import Terminal
from tests.waiting import wait_until

FIELDS = {"id", "published", "type", "headers", "body", "encoding", "fields", "size"}
LETTER_FIELDS = {
    "id", "time", "reason", "error", "handler", "deliveries", "place", "traceback", "consumer",
    "redriven", "edited", "was", "entry",
}  # fmt: skip
EVIL = ALL.encode(errors="surrogatepass") + b"\xff\x1b[2J"


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


async def tail(*words: str, url: str, **options: Any) -> Said:
    """``streamworker tail …`` that ends by itself."""
    return await asyncio.to_thread(call, "tail", *words, "--no-follow", url=url, **options)


class Following:
    """A ``streamworker tail`` that goes on, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[dict[str, Any]] = []
        self.err = ""

    async def read_out(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.out.append(json.loads(line))

    async def read_err(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.err += line.decode()

    @property
    def bodies(self) -> list[str]:
        return [entry["body"] for entry in self.out]

    async def shows(self, *bodies: str) -> None:
        await wait_until(lambda: self.bodies == list(bodies), 20, lambda: f"{self.bodies}\n{self.err}")


@asynccontextmanager
async def following(*words: str, url: str) -> AsyncIterator[Following]:
    process = await asyncio.create_subprocess_exec(
        *command("tail", *words, "--json", url=url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    seen = Following(process)
    readers = [asyncio.create_task(seen.read_out()), asyncio.create_task(seen.read_err())]
    try:
        yield seen
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.wait(readers)


@on_all_servers
async def test_the_last_entries_are_shown_in_their_order(admin_url: str, watched: Watched, stream: str) -> None:
    ids = [await watched.add("data", f'{{"id":{number}}}', "type", "created", "tenant", "acme") for number in range(30)]
    said = await tail(stream, "-n", "12", url=admin_url)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == ids[-12:]
    assert lines[-1].endswith('  created  tenant=acme  {"id":29}')
    assert len((await tail(stream, url=admin_url)).out.splitlines()) == 10
    assert len((await tail(stream, "-n", "100", url=admin_url)).out.splitlines()) == 30
    assert (await tail(stream, "-n", "0", url=admin_url)).out == ""


async def test_the_names_in_the_json_stay_as_they_are(admin_url: str, watched: Watched, stream: str) -> None:
    await watched.add("data", "text", "type", "created", "tenant", "acme")
    await watched.add("data", b"\xff\x00")
    await watched.add("type", "flat", "amount", "3", "sw-x", "ours", id="*")
    text, binary, flat = (await tail(stream, "--json", url=admin_url)).objects
    assert text.keys() == FIELDS
    assert (text["type"], text["headers"], text["body"], text["encoding"]) == (
        "created", {"tenant": "acme"}, "text", "text",
    )  # fmt: skip
    assert text["size"] == len("datatexttypecreatedtenantacme")
    assert text["published"] == int(text["id"].partition("-")[0]) / 1000
    assert (base64.b64decode(binary["body"]), binary["encoding"]) == (b"\xff\x00", "base64")
    assert (flat["body"], flat["encoding"], flat["fields"]) == (None, None, {"type": "flat", "amount": "3"})


async def test_an_id_that_is_no_time_has_none(admin_url: str, watched: Watched, stream: str) -> None:
    await watched.add("data", "x", id="5-1")
    (entry,) = (await tail(stream, "--json", url=admin_url)).objects
    assert (entry["id"], entry["published"]) == ("5-1", None)
    assert (await tail(stream, url=admin_url)).out == "5-1  ?  -  x\n"


@on_all_servers
async def test_new_entries_follow_until_it_is_interrupted(admin_url: str, watched: Watched, stream: str) -> None:
    await watched.add("data", "old")
    await watched.add("data", "last")
    async with following(stream, "-n", "1", url=admin_url) as seen:
        await seen.shows("last")
        for number in range(20):
            await watched.add("data", str(number))
        await seen.shows("last", *map(str, range(20)))
        seen.process.send_signal(signal.SIGINT)
        assert await seen.process.wait() == 130
    assert seen.err == ""


async def test_a_stream_that_is_not_there_yet_is_waited_for(admin_url: str, watched: Watched, stream: str) -> None:
    async with following(stream, url=admin_url) as seen:
        await wait_until(lambda: seen.err, 20)
        await watched.add("data", "first")
        await seen.shows("first")
        await watched.do("DEL", stream)
        await asyncio.sleep(1.2)  # longer than its longest pause
        await watched.add("data", "of the next one", id="1-1")
        await seen.shows("first", "of the next one")
    assert seen.err == f"there is no stream {stream} yet\n"


async def test_after_a_replica_that_lags_has_taken_over_nothing_is_shown_twice(
    admin_url: str, redis: Redis, watched: Watched, stream: str
) -> None:
    await watched.add("data", "old", id="4-1")
    await watched.add("data", "lost", id="9-1")
    async with following(stream, "-n", "2", url=admin_url) as seen:
        await seen.shows("old", "lost")
        script = "redis.call('DEL', KEYS[1]) redis.call('XADD', KEYS[1], '4-1', 'data', 'old')"
        await watched.do("EVAL", script, 1, stream)  # as the replica had it
        await watched.add("data", "new", id="5-1")
        await seen.shows("old", "lost", "new")


async def test_while_redis_is_away_it_waits_says_so_once_and_goes_on_where_it_was(
    own_server: Server, own_redis: Redis
) -> None:
    watched = Watched(own_redis, "orders", "billing")
    await watched.add("data", "before")
    async with following("orders", url=own_server.url) as seen:
        await seen.shows("before")
        own_server.kill()
        await wait_until(lambda: seen.err, 20)
        await asyncio.sleep(1.5)  # for more attempts than one
        own_server.start()
        await watched.add("data", "after")
        await seen.shows("before", "after")
        (line,) = seen.err.splitlines()
        assert line.startswith("Redis cannot be reached: ")


@on_all_servers
async def test_dead_letters_are_shown_with_their_reason_and_the_entry(
    admin_url: str, redis_url: str, watched: Watched, stream: str
) -> None:
    app = App("billing")

    @app.on(stream)
    async def handle(body: str) -> None:
        raise Reject("no such customer")

    entry = await watched.add("data", "x", "tenant", "acme")
    await burst(app, url=redis_url)
    (letter,) = (await tail(stream, "--dead", "billing", "--json", url=admin_url)).objects
    assert letter.keys() == LETTER_FIELDS
    assert (letter["reason"], letter["deliveries"]) == ("no such customer", 1)
    assert letter["entry"].keys() == FIELDS
    assert (letter["entry"]["id"], letter["entry"]["body"]) == (entry, "x")
    assert letter["entry"]["headers"] == {"tenant": "acme"}
    said = await tail(stream, "--dead", "billing", url=admin_url)
    assert said.out.startswith(letter["id"])
    assert said.out.endswith(f"  Reject: no such customer  {entry}  -  tenant=acme  x\n")
    said = await tail(stream, "--dead", "search", url=admin_url)
    assert (said.code, said.out) == (1, "")
    assert said.err == f"Error: there are no dead letters of {stream}/search\n"


async def test_whatever_an_entry_holds_is_never_raw_and_stays_one_line(own_server: Server, own_redis: Redis) -> None:
    watched = Watched(own_redis, "orders", "billing")
    await watched.add("data", EVIL, "type", EVIL, EVIL, EVIL)
    await watched.add("type", EVIL, EVIL, EVIL)
    await watched.add("data", "x", "sw-id", EVIL)
    for words in ((), ("--full",), ("--json",)):
        said = await tail("orders", *words, url=own_server.url)
        assert said.code == 0, said
        assert len(said.out.splitlines()) == 3
        assert is_harmless(said.out, "\n"), said
    letter = ("sw-reason", EVIL, "sw-error", EVIL, "sw-id", EVIL, "sw-handler", EVIL, "sw-fields", EVIL)
    await watched.do("XADD", watched.keys.dead, "*", *letter)
    for words in ((), ("--full",), ("--json",)):
        said = await tail("orders", "--dead", "billing", *words, url=own_server.url)
        assert (said.code, len(said.out.splitlines())) == (0, 1), said
        assert is_harmless(said.out, "\n"), said


async def test_on_a_terminal_a_line_is_as_wide_as_that_if_not_all_is_wanted(
    admin_url: str, watched: Watched, stream: str
) -> None:
    await watched.add("data", "漢字\x1b[2J" + "x" * 300 + "end")

    def lines(*words: str) -> list[str]:
        with Terminal(*command("tail", stream, "--no-follow", *words, url=admin_url), columns=60) as terminal:
            assert terminal.wait() == 0
            assert b"\x1b" not in terminal.raw
            return terminal.raw.decode().splitlines()

    (line,) = await asyncio.to_thread(lines)
    assert line.endswith("xx…")
    assert len(line) == 60 - 2  # two characters are two columns wide
    (line,) = await asyncio.to_thread(lines, "--full")
    assert line.endswith("xxend")


async def test_megabytes_are_fetched_in_small_pages(admin_url: str, watched: Watched, stream: str) -> None:
    for number in range(12):
        await watched.add("data", str(number) + "x" * 2**21)
    said = await tail(stream, url=admin_url)
    assert said.code == 0
    bodies = [line.split("  ")[-1] for line in said.out.splitlines()]
    assert [body.rstrip("…") == body for body in bodies] == [True] * 10
    assert [int(body.partition("x")[0]) for body in bodies] == list(range(2, 12))
    assert all(body.endswith(" characters)") and len(body) <= 4096 for body in bodies)
    whole = await tail(stream, "-n", "1", "--full", url=admin_url)
    assert whole.out.rstrip("\n").endswith("11" + "x" * 2**21)


async def test_an_unknown_stream_ends_it_with_1(admin_url: str, redis: Redis, stream: str) -> None:
    said = await tail(stream, url=admin_url)
    assert (said.code, said.out, said.err) == (1, "", f"Error: there is no stream {stream}\n")
    await redis.set(stream, "no stream")
    said = await tail(stream, url=admin_url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Error: ")
    assert "Traceback" not in said.err


def test_wrong_credentials_end_it_with_3(admin_url: str, stream: str) -> None:
    said = call("tail", stream, url=admin_url.replace("//", "//nobody:hunter2@"))
    assert (said.code, said.out) == (3, "")
    assert "no log-in to Redis" in said.err
    assert "hunter2" not in said.err


def test_its_variables_are_heard(admin_url: str, stream: str) -> None:
    assert os.environ.get("STREAMWORKER_FOLLOW") is None
    said = call("tail", stream, url=admin_url, STREAMWORKER_FOLLOW="0")
    assert said.code == 1
