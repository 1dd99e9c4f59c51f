"""``streamworker dead`` and the desk from Python: finding, grouping, redriving, editing, dropping and exporting."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from streamworker import App, Message, Reject
from streamworker.errors import ConfigError
from streamworker.operating.desk import Selection
from streamworker.redisbroker.packing import pack
from tests.commands import Said, call, command
from tests.conftest import ServerOf
from tests.roles import as_role
from tests.running import Watched, burst, on_all_servers
from tests.terminal import Terminal
from tests.waiting import wait_until


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


class Gateway:
    """A handler that fails for three reasons until it is mended, and what it was given after that."""

    def __init__(self, stream: str) -> None:
        self.app = App("billing")
        self.mended = False
        self.handled: Counter[int] = Counter()
        self.messages: list[Message] = []

        @self.app.on(stream, max_deliveries=1, concurrency=50)
        async def charge(body: dict[str, Any], message: Message) -> None:
            if self.mended:
                self.handled[body["n"]] += 1
                self.messages.append(message)
            elif body["n"] % 3 == 0:
                raise TimeoutError(f"no answer for {body['n']}")
            elif body["n"] % 3 == 1:
                raise ValueError(f"bad amount {body['n']}")
            else:
                raise Reject("closed account")


async def dead(*words: str, url: str, **options: Any) -> Said:
    """``streamworker dead …`` as the operator of docs/security.md."""
    return await asyncio.to_thread(call, "dead", *words, url=url, role="operator", **options)


async def fill(redis: Redis, stream: str, gateway: Gateway, url: str, many: int) -> None:
    """``many`` dead letters of three causes."""
    async with redis.pipeline(transaction=False) as pipe:
        for n in range(many):
            pipe.xadd(stream, {"data": json.dumps({"n": n}), "type": "even" if n % 2 == 0 else "odd", "tenant": "acme"})
        await pipe.execute()
    await burst(gateway.app, url=url)


@on_all_servers
async def test_the_three_causes_are_told_apart_by_error_place_and_handler(
    redis: Redis, admin_url: str, stream: str
) -> None:
    await fill(redis, stream, Gateway(stream), admin_url, 31)
    said = await dead("groups", stream, "billing", "--json", url=admin_url)
    assert (said.code, said.err) == (0, "")
    found = {one["error_type"]: one for one in said.objects}
    assert {error: one["count"] for error, one in found.items()} == {"TimeoutError": 11, "ValueError": 10, "Reject": 10}
    assert all(one["handler"].endswith("charge") and "test_dead.py:" in one["place"] for one in found.values())
    assert len({one["place"] for one in found.values()}) == 3
    table = (await dead("groups", url=admin_url)).rows("COUNT")
    assert {row["ERROR-TYPE"] for row in table if row["GROUP"] == f"{stream}/billing"} == {*found}
    # What the table says is what a condition takes.
    (row,) = [row for row in table if (row["GROUP"], row["ERROR-TYPE"]) == (f"{stream}/billing", "TimeoutError")]
    conditions = ("--where", f"error-type = {row['ERROR-TYPE']}", "--where", f"place = {row['PLACE']}")
    assert len((await dead("list", stream, "billing", *conditions, "--json", url=admin_url)).objects) == 11
    full = f"place = {found['TimeoutError']['place']}"
    assert len((await dead("list", stream, "billing", "--where", full, "--json", url=admin_url)).objects) == 11
    none = await dead("list", stream, "billing", "--where", "place = elsewhere.py:1 in f", url=admin_url)
    assert none.out == f"none of the 31 dead letters of {stream}/billing is meant by this\n"


@on_all_servers
async def test_conditions_choose_and_redrive_brings_back_these_alone_to_this_group_alone(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    gateway = Gateway(stream)
    await redis.xgroup_create(stream, "search", "$", mkstream=True)
    await fill(redis, stream, gateway, admin_url, 30)
    other = await Watched(redis, stream, "search").info()
    listed = await dead(
        "list", stream, "billing", "--where", "error ~ Timeout", "--type", "even", "--json", url=admin_url
    )
    numbers = [json.loads(letter["entry"]["body"])["n"] for letter in listed.objects]
    assert numbers == [0, 6, 12, 18, 24]
    dry = await dead("redrive", stream, "billing", "--where", "error ~ Timeout", "--dry-run", url=admin_url)
    assert (dry.code, dry.out) == (0, f"10 dead letters of {stream}/billing would be redriven\n")
    assert len(await watched.letters()) == 30
    said = await dead("redrive", stream, "billing", "--where", "error ~ Timeout", "--limit", "4", url=admin_url)
    assert (said.code, said.out) == (0, f"4 dead letters of {stream}/billing redriven\n")
    gateway.mended = True
    await burst(gateway.app, url=admin_url)
    assert gateway.handled == {0: 1, 3: 1, 6: 1, 9: 1}
    assert all(message.deliveries == 1 and message.headers == {"tenant": "acme"} for message in gateway.messages)
    assert len(await watched.letters()) == 26
    assert await Watched(redis, stream, "search").info() == other


async def test_fields_come_back_byte_for_byte_and_how_often_is_kept(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    odd = [b"data", b"\xff\x00\x1b", b"twice", b"1", b"twice", b"2", b"", b"empty name"]
    app, seen = App("billing"), []

    @app.on(stream, body=None, max_deliveries=1)
    async def charge(body: bytes, message: Message) -> None:
        seen.append((message.id, body))
        raise ValueError("never")

    id = await watched.add(*odd)
    for times in range(3):
        await burst(app, url=admin_url)
        (letter,) = await watched.letters()
        assert letter.fields[: len(odd)] == odd
        (shown,) = (await dead("list", stream, "billing", "--json", url=admin_url)).objects
        assert (shown["redriven"], shown["deliveries"], shown["entry"]["id"]) == (times, 1, id)
        assert (await dead("redrive", stream, "billing", id, url=admin_url)).code == 0
    assert seen == [(id, b"\xff\x00\x1b")] * 3


async def test_a_letter_that_fails_again_is_not_met_again_by_the_same_redrive(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    gateway = Gateway(stream)
    await fill(redis, stream, gateway, admin_url, 9)
    async with operator_of(admin_url) as operator:
        desk = operator.desk(stream, "billing")
        chosen = desk.chosen(Selection())
        first = await anext(chosen)
        await redis.xadd(watched.keys.dead, {"sw-id": "1-1", "sw-reason": "later", "sw-fields": b"\x90"})
        rest = [letter async for letter in chosen]
    assert first[0].id < rest[0][0].id
    assert len(rest) == 8


@on_all_servers
async def test_an_edited_letter_is_handled_as_edited_and_keeps_what_it_was(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    gateway = Gateway(stream)
    await fill(redis, stream, gateway, admin_url, 1)
    (before,) = await watched.letters()
    id = before.facts["sw-id"]
    words = ("edit", stream, "billing", id, "--set", 'data={"n": 7}', "--set", "fixed=yes", "--unset", "tenant")
    said = await dead(*words, "--by", "alice", url=admin_url)
    assert (said.code, said.err) == (0, "")
    again = await dead("edit", stream, "billing", id, "--set", 'data={"n": 8}', "--by", "bob", url=admin_url)
    (shown,) = (await dead("show", stream, "billing", again.out.strip(), "--json", url=admin_url)).objects
    assert shown["was"] == {"data": '{"n": 0}', "tenant": "acme"}
    assert "by bob: data" in shown["edited"]
    assert (shown["error"], shown["entry"]["headers"]) == (before.facts["sw-error"], {"fixed": "yes"})
    assert (await dead("redrive", stream, "billing", "--all", url=admin_url)).code == 0
    gateway.mended = True
    await burst(gateway.app, url=admin_url)
    assert gateway.handled == {8: 1}
    assert (gateway.messages[0].id, gateway.messages[0].headers) == (id, {"fixed": "yes"})


async def test_who_edited_a_letter_and_what_it_was_is_kept_also_when_it_fails_again(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    gateway = Gateway(stream)
    await fill(redis, stream, gateway, admin_url, 1)
    (before,) = await watched.letters()
    id = before.facts["sw-id"]
    await dead("edit", stream, "billing", id, "--set", 'data={"n": 1}', "--by", "alice", url=admin_url)
    assert (await dead("redrive", stream, "billing", id, url=admin_url)).code == 0
    await burst(gateway.app, url=admin_url)
    (shown,) = (await dead("show", stream, "billing", id, "--json", url=admin_url)).objects
    assert shown["error"] == "ValueError: bad amount 1"
    assert (shown["redriven"], shown["was"], "by alice: data" in shown["edited"]) == (1, {"data": '{"n": 0}'}, True)


async def test_what_cannot_be_edited_is_said(redis: Redis, admin_url: str, stream: str) -> None:
    await fill(redis, stream, Gateway(stream), admin_url, 1)
    ours = await dead("edit", stream, "billing", "1-1", "--set", "sw-id=5", url=admin_url)
    assert (ours.code, "begin with sw- are ours" in ours.err) == (2, True)
    nobody = await dead("edit", stream, "billing", "1-1", "--set", "data=5", url=admin_url)
    assert (nobody.code, f"there is no dead letter 1-1 of {stream}/billing" in nobody.err) == (1, True)
    assert (await dead("edit", stream, "billing", "1-1", url=admin_url)).code == 2


@on_all_servers
async def test_dropped_letters_are_gone_and_nothing_is_dropped_without_a_yes(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await fill(redis, stream, Gateway(stream), admin_url, 9)
    assert (await dead("drop", stream, "billing", "--all", url=admin_url)).code == 2
    assert (await dead("drop", stream, "billing", "--yes", url=admin_url)).code == 2
    assert len(await watched.letters()) == 9
    said = await dead("drop", stream, "billing", "--where", "error-type = ValueError", "--yes", url=admin_url)
    assert said.out == f"3 dead letters of {stream}/billing dropped\n"
    assert {letter.facts["sw-error"].partition(":")[0] for letter in await watched.letters()} == {
        "TimeoutError",
        "Reject",
    }


async def test_what_is_no_dead_letter_of_ours_is_left_where_it_is(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await fill(redis, stream, Gateway(stream), admin_url, 2)
    await redis.xadd(watched.keys.dead, {"written": "by hand"})
    await redis.xadd(watched.keys.dead, {"sw-fields": "no copy"})
    said = await dead("redrive", stream, "billing", "--all", url=admin_url)
    told = f"2 dead letters of {stream}/billing redriven; 2 left, which hold no copy of an entry\n"
    assert (said.code, said.out) == (1, told)
    assert await redis.xlen(watched.keys.dead) == 2
    assert await redis.xlen(watched.keys.retry) == 2


async def test_an_export_holds_every_byte(redis: Redis, admin_url: str, stream: str, tmp_path: Path) -> None:
    gateway = Gateway(stream)
    await fill(redis, stream, gateway, admin_url, 5)
    said = await dead("export", stream, "billing", "-o", str(tmp_path / "out"), url=admin_url)
    assert (said.code, said.out) == (0, "")
    assert said.err == f"5 dead letters of {stream}/billing written to {tmp_path / 'out'}\n"
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [json.loads(line["entry"]["body"])["n"] for line in lines] == [0, 1, 2, 3, 4]
    raw = [[base64.b64decode(part) for part in pair] for pair in lines[3]["raw"]]
    assert raw == [[b"data", b'{"n": 3}'], [b"type", b"odd"], [b"tenant", b"acme"]]


async def test_an_export_that_cannot_be_written_is_one_message(
    redis: Redis, admin_url: str, stream: str, watched: Watched, tmp_path: Path
) -> None:
    await letter(redis, watched, b"data", b"x" * 10_000)
    for file, why in (("/dev/full", "No space left"), (str(tmp_path), "Is a directory")):
        said = await dead("export", stream, "billing", "--output", file, url=admin_url)
        assert (said.code, said.err.count("\n"), why in said.err) == (1, 1, True)


async def test_a_group_that_is_not_there_and_an_empty_desk_are_different_things(
    redis: Redis, admin_url: str, stream: str
) -> None:
    missing = await dead("list", stream, "billing", url=admin_url)
    assert (missing.code, missing.err) == (1, f"Error: there is no group billing on stream {stream}\n")
    await redis.xgroup_create(stream, "billing", "$", mkstream=True)
    empty = await dead("list", stream, "billing", url=admin_url)
    assert (empty.code, empty.out) == (0, f"no dead letters of {stream}/billing\n")


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("error", "is no condition"), ("colour = red", "nothing that a dead letter has"), ("error > 5", "is text"),
        ("deliveries ~ 5", "is a number"), ("deliveries > many", "is none"), ("error ~ (", "no regular expression"),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_understood_is_explained(condition: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Selection(where=(condition,))


@pytest.mark.timeout(120)
async def test_a_redrive_of_5000_killed_in_the_middle_and_run_again_handles_each_exactly_once_more(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    gateway = Gateway(stream)
    await fill(redis, stream, gateway, admin_url, 5000)
    assert await redis.xlen(watched.keys.dead) == 5000
    words = command("dead", "redrive", stream, "billing", "--all", "--rate", "500", url=admin_url, role="operator")
    killed = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        await wait_until(lambda: _moved(redis, watched, 1000), 60, "a thousand letters are redriven")
    finally:
        killed.kill()
        await asyncio.to_thread(killed.communicate)
    left = await redis.xlen(watched.keys.dead)
    assert 0 < left < 4500
    assert await redis.xlen(watched.keys.retry) == 5000 - left
    said = await dead("redrive", stream, "billing", "--all", url=admin_url)
    assert (said.code, said.out) == (0, f"{left:,} dead letters of {stream}/billing redriven\n".replace(",", " "))
    gateway.mended = True
    await burst(gateway.app, url=admin_url)
    assert gateway.handled == dict.fromkeys(range(5000), 1)
    assert await watched.letters() == []
    assert await redis.xlen(watched.keys.retry) == 0


async def letter(redis: Redis, watched: Watched, *fields: bytes, **facts: str) -> None:
    """A dead letter that holds these fields."""
    if not await redis.exists(watched.keys.stream):
        await redis.xgroup_create(watched.keys.stream, "billing", "0", mkstream=True)
    words = {"sw-id": "1-1", "sw-reason": "no", **facts}
    await watched.do(
        "XADD", watched.keys.dead, "*", *(one for pair in words.items() for one in pair), "sw-fields", pack([*fields])
    )


async def test_all_that_was_published_is_kept_through_edits_and_nothing_that_was_not(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await letter(redis, watched, b"data", b"one", b"data", b"two", b"tenant", b"acme")
    words = ("edit", stream, "billing", "1-1", "--json")
    for change in (("--set", "data=x"), ("--unset", "data"), ("--set", "new=1"), ("--set", "new=2")):
        said = await dead(*words, *change, url=admin_url)
        assert (said.code, said.err) == (0, "")
    (kept,) = await watched.letters()
    assert kept.fields[:4] == [b"tenant", b"acme", b"new", b"2"]
    pairs = list(zip(kept.fields[::2], kept.fields[1::2], strict=True))
    assert [pair for pair in pairs if pair[0].startswith(b"sw-was")] == [
        (b"sw-was-data", b"one"), (b"sw-was-data", b"two")
    ]  # fmt: skip
    assert "new" not in said.objects[0]["was"]


async def test_a_letter_without_a_copy_cannot_be_edited_nor_one_be_emptied(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await letter(redis, watched, b"data", b"one")
    said = await dead("edit", stream, "billing", "1-1", "--unset", "data", url=admin_url)
    assert (said.code, "no field left" in said.err) == (2, True)
    for id, more in (("2-2", ()), ("3-3", ("sw-fields", b"\xff\xff"))):
        await watched.do("XADD", watched.keys.dead, "*", "sw-id", id, *more)
        before = await redis.xrange(watched.keys.dead)
        said = await dead("edit", stream, "billing", id, "--set", "data=x", url=admin_url)
        assert (said.code, "holds no copy of an entry" in said.err) == (2, True)
        assert await redis.xrange(watched.keys.dead) == before


@pytest.mark.parametrize("verb", ["redrive", "drop"])
async def test_an_id_that_is_not_there_and_a_letter_that_is_left_end_it_with_1(
    redis: Redis, admin_url: str, stream: str, watched: Watched, verb: str
) -> None:
    yes = ("--yes",) if verb == "drop" else ()
    await letter(redis, watched, b"data", b"one")
    for dry in (("--dry-run",), ()):
        said = await dead(verb, stream, "billing", "1-1", "77-0", *(dry or yes), url=admin_url)
        assert (said.code, said.err.splitlines()[0]) == (1, f"Error: there is no dead letter 77-0 of {stream}/billing")
        assert "1 dead letter of" in said.out
    if verb == "redrive":
        await redis.xadd(watched.keys.dead, {"sw-id": "2-2"})
        for dry in (("--dry-run",), ()):
            said = await dead(verb, stream, "billing", "--all", *dry, url=admin_url)
            assert (said.code, "1 left, which hold no copy of an entry" in said.out) == (1, True)


async def test_all_and_some_contradict_each_other(admin_url: str, stream: str) -> None:
    for some in (("1-1",), ("--where", "error ~ Timeout"), ("--since", "2h"), ("--type", "x")):
        said = await dead("redrive", stream, "billing", "--all", *some, url=admin_url)
        assert (said.code, "--all means all of them" in said.err) == (2, True)


async def test_nothing_to_drop_is_not_asked_about(redis: Redis, admin_url: str, stream: str, watched: Watched) -> None:
    await letter(redis, watched, b"data", b"one")
    words = ("dead", "drop", stream, "billing", "--where", "error ~ Timeout")
    with Terminal(*command(*words, url=admin_url, role="operator"), columns=120) as terminal:
        assert await asyncio.to_thread(terminal.wait) == 0
        assert f"0 dead letters of {stream}/billing dropped" in terminal.text
    assert len(await watched.letters()) == 1


async def test_a_slow_redrive_shows_how_far_it_is_and_ends_with_a_whole_bar(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    for _ in range(8):
        await letter(redis, watched, b"data", b"one")
    words = ("dead", "redrive", stream, "billing", "--all", "--rate", "4")
    with Terminal(*command(*words, url=admin_url, role="operator"), columns=120) as terminal:
        await asyncio.to_thread(terminal.shows, "3/8")
        assert await watched.letters() != []
        assert await asyncio.to_thread(terminal.wait) == 0
        assert "8/8" in terminal.text


async def test_letters_that_come_while_it_asks_are_not_dropped(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await letter(redis, watched, b"data", b"one")
    words = command("dead", "drop", stream, "billing", "--all", url=admin_url, role="operator")
    with Terminal(*words, columns=120) as terminal:
        await asyncio.to_thread(terminal.shows, "Drop them?")
        later = await redis.xadd(watched.keys.dead, {"sw-id": "2-2", "sw-fields": pack([b"data", b"two"])})
        terminal.press("y\n")
        assert await asyncio.to_thread(terminal.wait) == 0
    assert [id for id, _ in await redis.xrange(watched.keys.dead) or ()] == [later]


async def test_a_connection_that_the_server_closed_while_it_asked_is_made_again(make_server: ServerOf) -> None:
    server = make_server("valkey-9.1", "--timeout", "1")
    async with Redis(port=server.port, protocol=2) as redis:
        await letter(redis, watched := Watched(redis, "orders", "billing"), b"data", b"one")
        words = command("dead", "drop", "orders", "billing", "--all", url=server.url, role="operator")
        with Terminal(*words, columns=120) as terminal:
            await asyncio.to_thread(terminal.shows, "Drop them?")
            await wait_until(lambda: _alone(watched), 15, "the server has hung up")
            terminal.press("y\n")
            assert await asyncio.to_thread(terminal.wait) == 0, terminal.text
        assert await redis.xlen(watched.keys.dead) == 0


async def _alone(watched: Watched) -> bool:
    return bool((await watched.do("CLIENT", "LIST")).count(b" laddr=") == 1)


async def test_groups_of_a_stream_tells_also_of_those_that_are_gone_and_of_no_stream(
    redis: Redis, admin_url: str, stream: str, watched: Watched
) -> None:
    await letter(redis, watched, b"data", b"one")
    await redis.xgroup_destroy(stream, "billing")
    said = await dead("groups", stream, "--json", url=admin_url)
    assert [(one["group"], one["count"]) for one in said.objects] == [("billing", 1)]
    said = await dead("groups", f"no-{stream}", url=admin_url)
    assert (said.code, said.err) == (1, f"Error: there is no stream no-{stream}\n")


@pytest.mark.parametrize("fact", ["sw-deliveries", "sw-id"])
async def test_numbers_of_thousands_of_digits_do_not_stop_the_desk(
    redis: Redis, admin_url: str, stream: str, watched: Watched, fact: str
) -> None:
    await letter(redis, watched, b"data", b"one", **{fact: "9" * 5000})
    for words in (("list",), ("redrive", "--all", "--dry-run"), ("groups",)):
        said = await dead(words[0], stream, "billing", *words[1:], url=admin_url)
        assert (said.code, said.err) == (0, "")


async def _moved(redis: Redis, watched: Watched, many: int) -> bool:
    return int(await redis.xlen(watched.keys.retry)) >= many


def operator_of(url: str) -> Any:
    """``App.operator`` of an app that knows the server."""
    return App("desk", url=as_role(url, "operator")).operator()
