"""The scripts that settle, hand over and take over, against a model of plain dicts; and what no model says of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from streamworker.broker import Beat, Dead, Settlement, Suspect
from streamworker.errors import BrokerError, Refused, WrongType
from streamworker.handler import Group
from streamworker.identity import RELEASED
from streamworker.ids import below, parse_id, written
from streamworker.message import Delivery
from streamworker.redisbroker import scripts
from streamworker.redisbroker.broker import RedisBroker
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Script
from streamworker.redisbroker.packing import pack
from streamworker.redisbroker.reader import RedisGroupReader
from streamworker.redisbroker.settler import RedisSettler
from tests.running import Watched
from tests.servers import Server

GROUP: Final = "group"
CONSUMERS: Final = ("a.sw", "b.sw", "c.sw")

PICK: Final = st.integers(0, 20)
HOUR: Final = 3_600_000
MUCH: Final = 2**20
COUNTERS: Final = (b"clock", b"skew")  # the group's clock

Word: TypeAlias = bytes | str | int
Fence: TypeAlias = Literal["right", "owner", "count", "settled"]


@pytest.fixture
def redis_url(admin_url: str) -> str:
    """The model's own questions are none of a worker's."""
    return admin_url


# --- the model


class Raw:
    """A plain connection: replies as the server sends them, errors as values."""

    def __init__(self, url: str) -> None:
        self._redis = SyncRedis.from_url(url, protocol=2)
        self._redis.response_callbacks.clear()

    def all(self, *commands: Sequence[Word]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return list(pipeline.execute(raise_on_error=False))

    def do(self, *command: Word) -> Any:
        (reply,) = self.all(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Word]) -> Any:
        return self.do(*script.in_full(keys, arguments))

    def close(self) -> None:
        self._redis.close()


@dataclass(slots=True)
class Held:
    """A line of a pending list."""

    owner: str
    count: int


@dataclass(slots=True)
class Stream:
    """A stream as its group sees it.

    ``known`` remembers each entry that ever was in it: its id in the user's stream, and the deliveries it came with.
    """

    known: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    there: set[bytes] = field(default_factory=set)
    unread: list[bytes] = field(default_factory=list)
    pending: dict[bytes, Held] = field(default_factory=dict)

    def append(self, id: bytes, origin: bytes, spent: int) -> None:
        self.known[id] = origin, spent
        self.there.add(id)
        self.unread.append(id)

    def of(self, consumer: str) -> list[bytes]:
        return [id for id in in_order(self.pending) if self.pending[id].owner == consumer]

    def delete(self, id: bytes) -> bool:
        """Whether a place was lost with it; what is pending stays in the pending list."""
        self.there.discard(id)
        if id in self.unread:
            self.unread.remove(id)
            return True
        return False


def in_order(ids: Any) -> list[bytes]:
    return sorted(ids, key=parse_id)


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class ScriptsAndModel(RuleBasedStateMachine):
    """Every rule asks the server and the model the same; after each, both must be in the same state."""

    def __init__(self, raw: Raw, claims_what_is_gone: bool) -> None:
        super().__init__()
        self.raw = raw
        self.claims_what_is_gone = claims_what_is_gone  # 6.2 does; later ones drop it from the pending list
        self.keys = Keys.of(f"stream-{uuid4().hex[:12]}", GROUP)
        self.main = Stream()
        self.retry = Stream()
        self.fields: dict[bytes, list[bytes]] = {}
        self.delayed: dict[bytes, tuple[int, bool]] = {}  # deliveries spent, whether it is due
        self.dead: list[bytes] = []
        self.done: set[bytes] = set()
        self.trimmed: set[bytes] = set()
        self.hash: dict[bytes, bytes] = {}
        self.last_delivered = b"0-0"
        self.beats = 0
        raw.do("XGROUP", "CREATE", self.keys.stream, GROUP, "0", "MKSTREAM")

    def teardown(self) -> None:
        keys = self.keys
        self.raw.do("DEL", keys.stream, keys.retry, keys.delayed, keys.dead, keys.consumers)

    # --- what happens to a group

    @initialize()
    def something_is_pending_everywhere(self) -> None:
        self.publish([[b"data", b"%d" % number] for number in range(8)])
        self.read("a.sw", 4)
        self.read("b.sw", 2)
        for _ in range(3):
            self._retry(self.keys.stream, self.main, self.main.of("a.sw")[0], "right", 0, due=True, counted=True)
        self.turn("c.sw", 4, MUCH, 3, [])

    @rule(
        entries=st.lists(
            st.lists(st.binary(max_size=3), min_size=2, max_size=6).map(lambda flat: flat[: len(flat) // 2 * 2]),
            min_size=1,
            max_size=4,
        )
    )
    def publish(self, entries: list[list[bytes]]) -> None:
        for fields in entries:
            id = self.raw.do("XADD", self.keys.stream, "*", *fields)
            self.fields[id] = fields
            self.main.append(id, id, 0)

    @rule(me=st.sampled_from(CONSUMERS), count=st.integers(1, 4))
    def read(self, me: str, count: int) -> None:
        reply = self.raw.do("XREADGROUP", "GROUP", GROUP, me, "COUNT", count, "STREAMS", self.keys.stream, ">")
        ids, self.main.unread = self.main.unread[:count], self.main.unread[count:]
        for id in ids:
            self.main.pending[id] = Held(me, 1)
            self.last_delivered = id
        assert [id for _, entries in reply or () for id, _ in entries] == ids

    @precondition(lambda self: self.main.pending or self.retry.pending)
    @rule(
        pick=PICK,
        how=st.sampled_from(("retry", "retry", "retry later", "retry uncounted", "dead letter", "drop", "ack")),
        fence=st.sampled_from(("right", "right", "right", "owner", "count", "settled")),
    )
    def settle(self, pick: int, how: str, fence: Fence) -> None:
        key, stream, id = self._pending(pick)
        if how == "ack":
            self._ack(key, stream, id)
        elif how == "dead letter":
            self._dead_letter(key, stream, id, fence, pick)
        elif how == "drop":
            self._drop(key, stream, id, fence, pick)
        else:
            self._retry(key, stream, id, fence, pick, due=how != "retry later", counted=how != "retry uncounted")

    @precondition(lambda self: self.main.pending or self.retry.pending)
    @rule(me=st.sampled_from(CONSUMERS), wrong=st.sets(st.integers(0, 5), max_size=2), more=PICK)
    def release(self, me: str, wrong: set[int], more: int) -> None:
        """All that ``me`` holds, some with a count that is over, and one that may be another's."""
        wanted = [(1, id) for id in self.main.of(me)] + [(2, id) for id in self.retry.of(me)]
        _, stream, id = self._pending(more)
        foreign = (1 if stream is self.main else 2, id)
        wanted += [foreign] if foreign not in wanted else []
        words: list[Word] = [GROUP, me]
        expected = 0
        for at, (which, id) in enumerate(wanted):
            stream = (self.main, self.retry)[which - 1]
            held = stream.pending[id]
            words += (which, id, held.count + (at in wrong))
            if held.owner == me and at not in wrong and self._claim(stream, id, RELEASED, held.count - 1):
                expected += 1
        assert self.raw.run(scripts.RELEASE, (self.keys.stream, self.keys.retry), words) == expected

    @rule(
        me=st.sampled_from(CONSUMERS),
        room=st.integers(0, 5),
        limit=st.sampled_from((MUCH, MUCH, 1)),
        suspect_from=st.integers(2, 4),
        victims=st.lists(
            st.tuples(st.sampled_from(CONSUMERS), st.booleans()), max_size=2, unique_by=lambda one: one[0]
        ),
    )
    def turn(self, me: str, room: int, limit: int, suspect_from: int, victims: list[tuple[str, bool]]) -> None:
        values = [
            (name, self.hash.get(name.encode(), b"") if right else b"long ago") for name, right in victims if name != me
        ]
        dead = [(RELEASED, b""), *values]
        order = [member.split(b" ")[0] for member in self.raw.do("ZRANGE", self.keys.delayed, 0, -1)]
        half = (room + 1) // 2
        words = (GROUP, me, half, room, limit, suspect_from, *(word for one in dead for word in one))
        reply = self.raw.run(scripts.TURN, self._turn_keys(), words)
        self._promote([origin for origin in order if self.delayed[origin][1]], half, limit)
        retries, more = self._read_retries(me, half, limit)
        claims, gone, suspect, more = self._take_over(me, dead, min(half, room - len(retries)), suspect_from, more)
        assert reply[1:] == [0, len(self.delayed), more, retries, claims, gone, suspect]

    @precondition(lambda self: self.main.pending or self.retry.pending)
    @rule(
        me=st.sampled_from(CONSUMERS),
        pick=PICK,
        wrong=st.sampled_from(("", "", "", "victim", "value", "entry")),
        highest=st.integers(1, 4),
    )
    def claim_alone(self, me: str, pick: int, wrong: str, highest: int) -> None:
        key, stream, id = self._pending(pick)
        held = stream.pending[id]
        victim = "somebody.sw" if wrong == "victim" else held.owner
        value = b"long ago" if wrong == "value" else self.hash.get(victim.encode(), b"")
        asked = b"1-1" if wrong == "entry" else id
        before, name = held.count, b"%s %s" % (key, id)
        guilty = self.hash.get(victim.encode() + b"!") == name
        count = max(before, min(before + 1, highest))
        expected: list[int] = []
        if not wrong:
            there = self._claim(stream, id, me, count)
            expected = [before, int(guilty), count] if there else [before]
            if there:
                self.hash[me.encode() + b"!"] = name
        words = (GROUP, me, asked, victim, value, highest, 0, 0)
        assert self.raw.run(scripts.CLAIM_ALONE, (key, self.keys.consumers), words) == expected

    @rule(me=st.sampled_from(CONSUMERS))
    def leave(self, me: str) -> None:
        left = not self.main.of(me) and not self.retry.of(me)
        reply = self.raw.run(scripts.LEAVE, (self.keys.stream, self.keys.retry, self.keys.consumers), (GROUP, me))
        assert reply == int(left)
        if left:
            self._forget(me)

    @precondition(lambda self: self.main.there or self.retry.there)
    @rule(pick=PICK, keep=st.sampled_from((None, None, None, 6, 2)))
    def delete(self, pick: int, keep: int | None) -> None:
        if keep is not None:
            gone = in_order(self.main.there)[:-keep]
            assert self.raw.do("XTRIM", self.keys.stream, "MAXLEN", keep) == len(gone)
            self.trimmed.update(id for id in gone if self.main.delete(id))
            return
        both = [(self.keys.stream, self.main, id) for id in in_order(self.main.there)]
        both += [(self.keys.retry, self.retry, id) for id in in_order(self.retry.there)]
        key, stream, id = both[pick % len(both)]
        assert self.raw.do("XDEL", key, id) == 1
        if stream.delete(id):
            self.trimmed.add(stream.known[id][0])

    @rule(me=st.sampled_from(CONSUMERS), alive=st.booleans())
    def beat(self, me: str, alive: bool) -> None:
        if not alive:
            self.raw.do("HSET", self.keys.consumers, me, "dead")
            self.hash[me.encode()] = b"dead"
            return
        self.beats += 1
        value = b"%d 15000 host" % self.beats
        keys = (self.keys.consumers, self.keys.stream, self.keys.retry)
        flat, names = self.raw.run(scripts.BEAT, keys, (GROUP, me, value))
        lowest = min(map(parse_id, self.main.pending), default=None)
        self.hash[me.encode()] = value
        self.hash[b"floor"] = self.last_delivered if lowest is None else written(below(lowest)).encode()
        owners = [sorted({held.owner for held in stream.pending.values()}) for stream in (self.main, self.retry)]
        assert self._told(flat) == self.hash
        assert [name.decode() for name in names] == owners[0] + owners[1]

    @rule(me=st.sampled_from(CONSUMERS), horizon=st.sampled_from((60_000, 2 * HOUR)))
    def what_changes_nothing(self, me: str, horizon: int) -> None:
        """A turn of a paused group, and a look at what is left."""
        keys = self.keys
        self.raw.do("HSET", keys.consumers, "paused", "1")
        words = (GROUP, me, 5, 10, MUCH, 3, RELEASED, "", *(word for name in CONSUMERS for word in (name, "")))
        reply = self.raw.run(scripts.TURN, self._turn_keys(), words)
        assert reply[1:] == [1, len(self.delayed), 0, [], [], 0, []]
        self.raw.do("HDEL", keys.consumers, "paused")
        *numbers, _first = self.raw.run(scripts.LEFT, (*self._turn_keys(),), (GROUP, horizon))
        waiting = sum(due or horizon > HOUR for _, due in self.delayed.values())
        assert numbers == [len(self.main.pending) + len(self.retry.pending), len(self.retry.there), waiting]

    # --- what must be true after each step

    @invariant()
    def the_server_is_in_the_models_state(self) -> None:
        keys = self.keys
        main, retry, delayed, dead, consumers, entries, retried, groups = self.raw.all(
            ("XPENDING", keys.stream, GROUP, "-", "+", 1000),
            ("XPENDING", keys.retry, GROUP, "-", "+", 1000),
            ("ZRANGE", keys.delayed, 0, -1),
            ("XRANGE", keys.dead, "-", "+"),
            ("HGETALL", keys.consumers),
            ("XRANGE", keys.stream, "-", "+"),
            ("XRANGE", keys.retry, "-", "+"),
            ("XINFO", "GROUPS", keys.stream),
        )
        retry = [] if isinstance(retry, Exception) else retry  # no such group, as long as nothing was retried
        for stream, found in ((self.main, main), (self.retry, retry)):
            expected = [(id, stream.pending[id]) for id in in_order(stream.pending)]
            assert [(id, owner.decode(), count) for id, owner, _, count in found] == [
                (id, held.owner, held.count) for id, held in expected
            ]
        assert set(delayed) == {
            b"%s %d %s" % (origin, spent, pack(self.fields[origin])) for origin, (spent, _) in self.delayed.items()
        }
        letters = [pairs(flat) for _, flat in dead]
        assert letters == [{b"sw-id": origin, b"sw-fields": pack(self.fields[origin])} for origin in self.dead]
        assert self._told(consumers) == self.hash
        assert dict(map(tuple, entries)) == {id: self.fields[id] for id in self.main.there}
        assert {id: pairs(flat) for id, flat in retried} == {id: self._copy(id) for id in self.retry.there}
        delivered = parse_id(pairs(groups[0])[b"last-delivered-id"])
        everywhere = [
            *(id for id, _ in entries if parse_id(id) > delivered),
            *(id for id, *_ in main),
            *(member.split(b" ")[0] for member in delayed),
            *(pairs(flat)[b"sw-id"] for _, flat in retried),
            *(self.retry.known[id][0] for id, *_ in retry if id not in self.retry.there),
            *(letter[b"sw-id"] for letter in letters),
            *self.done,
            *self.trimmed,
        ]
        assert Counter(everywhere) == Counter(self.fields.keys()), "every entry is in exactly one place"

    @staticmethod
    def _told(flat: list[Any]) -> dict[bytes, bytes]:
        return {name: value for name, value in pairs(flat).items() if name not in COUNTERS}

    # --- asking the server and the model

    def _ack(self, key: bytes, stream: Stream, id: bytes) -> None:
        """Plain: whoever acks, and whoever owns it."""
        if stream is self.main:
            assert self.raw.do("XACK", key, GROUP, id) == 1
        else:
            assert self.raw.run(scripts.ACK_RETRIED, (key,), (GROUP, id, "1-1", id)) == 1, "each once"
        self._settled(stream, id)
        self.done.add(stream.known[id][0])

    def _retry(
        self, key: bytes, stream: Stream, id: bytes, fence: Fence, pick: int, *, due: bool, counted: bool
    ) -> None:
        id, me, count, right = self._fenced(stream, id, fence, pick)
        origin = stream.known[id][0]
        spent = count if counted else count - 1
        member = b"%s %d %s" % (origin, spent, pack(self.fields[origin]))
        words = (*self._fence_words(stream, id, me, count), 0 if due else HOUR, member)
        assert self.raw.run(scripts.RETRY, (key, self.keys.delayed, self.keys.consumers), words) == int(right)
        if right:
            self._settled(stream, id)
            self.delayed[origin] = spent, due

    def _dead_letter(self, key: bytes, stream: Stream, id: bytes, fence: Fence, pick: int) -> None:
        id, me, count, right = self._fenced(stream, id, fence, pick)
        origin = stream.known[id][0]
        letter = ("sw-id", origin, "sw-fields", pack(self.fields[origin]))
        words = (*self._fence_words(stream, id, me, count), *letter)
        assert self.raw.run(scripts.DEAD_LETTER, (key, self.keys.dead), words) == int(right)
        if right:
            self._settled(stream, id)
            self.dead.append(origin)

    def _drop(self, key: bytes, stream: Stream, id: bytes, fence: Fence, pick: int) -> None:
        id, me, count, right = self._fenced(stream, id, fence, pick)
        assert self.raw.run(scripts.DROP, (key,), self._fence_words(stream, id, me, count)) == int(right)
        if right:
            self._settled(stream, id)
            self.done.add(stream.known[id][0])

    # --- the model's own steps

    def _turn_keys(self) -> tuple[bytes, ...]:
        return self.keys.stream, self.keys.retry, self.keys.delayed, self.keys.consumers

    def _copy(self, id: bytes) -> dict[bytes, bytes]:
        origin, spent = self.retry.known[id]
        return {b"sw-id": origin, b"sw-deliveries": b"%d" % spent, b"sw-fields": pack(self.fields[origin])}

    def _pending(self, pick: int) -> tuple[bytes, Stream, bytes]:
        both = [(self.keys.stream, self.main, id) for id in in_order(self.main.pending)]
        both += [(self.keys.retry, self.retry, id) for id in in_order(self.retry.pending)]
        return both[pick % len(both)]

    def _fenced(self, stream: Stream, id: bytes, fence: Fence, pick: int) -> tuple[bytes, str, int, bool]:
        """An entry, who says it is theirs, the count they know, and whether they are right."""
        held = stream.pending[id]
        over = [known for known in stream.known if known not in stream.pending]
        if fence == "settled" and over:
            return over[pick % len(over)], held.owner, held.count, False
        if fence == "owner":
            return id, next(name for name in CONSUMERS if name != held.owner), held.count, False
        if fence == "count":
            return id, held.owner, held.count + (1 if pick % 2 else -1), False
        return id, held.owner, held.count, True

    def _fence_words(self, stream: Stream, id: bytes, me: str, count: int) -> tuple[Word, ...]:
        return GROUP, me, id, count, "1" if stream is self.retry else "0"

    def _settled(self, stream: Stream, id: bytes) -> None:
        del stream.pending[id]
        if stream is self.retry:
            stream.there.discard(id)

    def _claim(self, stream: Stream, id: bytes, owner: str, count: int) -> bool:
        """XCLAIM; False if the entry itself is gone."""
        if id not in stream.there and not self.claims_what_is_gone:
            del stream.pending[id]
            self.trimmed.add(stream.known[id][0])
            return False
        stream.pending[id] = Held(owner, count)
        return True

    def _forget(self, name: str) -> None:
        self.hash.pop(name.encode(), None)
        self.hash.pop(name.encode() + b"!", None)

    def _promote(self, due: list[bytes], room: int, limit: int) -> None:
        new = [id for id, _ in self.raw.do("XRANGE", self.keys.retry, "-", "+") if id not in self.retry.known]
        moved, size = 0, 0
        for origin in due:
            if moved >= room or size >= limit:
                break
            spent, _ = self.delayed.pop(origin)
            self.retry.append(new[moved], origin, spent)
            moved += 1
            size += len(b"%s %d %s" % (origin, spent, pack(self.fields[origin])))
        assert moved == len(new)

    def _read_retries(self, me: str, room: int, limit: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        size = 0
        while self.retry.unread and len(found) < room and size < limit:
            id = self.retry.unread.pop(0)
            origin, spent = self.retry.known[id]
            self.retry.pending[id] = Held(me, spent + 1)
            found.append([id, origin, spent + 1, pack(self.fields[origin])])
            size += len(found[-1][3])
        return found, int(bool(self.retry.known) and room > 0 and (len(found) >= room or size >= limit))

    def _take_over(
        self, me: str, dead: list[tuple[str, bytes]], room: int, suspect_from: int, more: int
    ) -> tuple[list[Any], int, list[Any], int]:
        claims: list[Any] = []
        suspect: list[Any] = []
        gone = 0
        for victim, value in dead:
            free, before = victim == RELEASED, len(claims)
            if not free and self.hash.get(victim.encode(), b"") != value:
                continue
            for which, stream in ((1, self.main), (2, self.retry)):
                if room == 0 and (free or suspect):
                    continue
                for id in stream.of(victim):
                    count = stream.pending[id].count + 1
                    if not free and count >= suspect_from:
                        suspect = suspect or [which, id, victim.encode(), value]
                    elif room == 0:
                        more = 1
                    elif self._claim(stream, id, me, count):
                        claims.append([which, id, count])
                        room -= 1
                    else:
                        gone += 1
            emptied = not self.main.of(victim) and not self.retry.of(victim)
            if emptied and (len(claims) > before or not free):
                self._forget(victim)
        return claims, gone, suspect, more


def test_whatever_happens_to_a_group_every_entry_stays_in_exactly_one_place(redis_url: str, server_kind: str) -> None:
    raw = Raw(redis_url)
    try:
        run_state_machine_as_test(
            lambda: ScriptsAndModel(raw, server_kind == "redis-6.2"),  # type: ignore[arg-type]  # a factory will do
            settings=settings(
                max_examples=150,
                derandomize=True,  # the same sequences in every run; set it to False to look for more
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=(Phase.generate,),  # shrinking takes minutes, and every step is printed anyway
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        raw.close()


# --- what the model leaves out: payloads, refusals, floors


class Member:
    """A consumer of a group, as the broker makes it."""

    def __init__(self, url: str, stream: str, name: str) -> None:
        group = Group(stream, GROUP, (), "dead-letter", 0)
        self.stream = stream
        self.name = name
        self._broker = RedisBroker(url)
        self.reader: RedisGroupReader = self._broker.reader(group, name, 16 * MUCH)
        self.settler: RedisSettler = self._broker.settler(group, name)
        self._pulse = self._broker.pulse(name)

    async def read(self, room: int = 100) -> list[Delivery]:
        """The first reads are small, until the size of a reply is known."""
        found: list[Delivery] = []
        while len(found) < room and (page := await self.reader.read(room - len(found), 0)):
            found += page
        return found

    async def settle(self, *settlements: Settlement) -> list[bool | BrokerError]:
        *results, acked = await self.settler.settle([], settlements)
        assert acked is True
        return results

    async def beat(self, value: bytes = b"1 15000 host") -> None:
        (look,) = await asyncio.to_thread(self._pulse.beat, [Beat(self.stream, GROUP, value)], 5.0)
        assert not isinstance(look, BrokerError), look
        assert look.values[self.name] == value

    async def close(self) -> None:
        await asyncio.to_thread(self._pulse.close)
        await self.reader.close()
        await self._broker.close()


@pytest.fixture
async def me(redis_url: str, stream: str) -> AsyncIterator[Member]:
    member = Member(redis_url, stream, "me.sw")
    await member.reader.join("beginning", False)
    yield member
    await member.close()


@pytest.fixture
def watched(redis: Redis, stream: str) -> Watched:
    return Watched(redis, stream, GROUP)


def letter(delivery: Delivery) -> Settlement:
    return Settlement(delivery, letter={"reason": "because", "id": delivery.origin.decode()})


MANY = [b"%d" % number for number in range(20_002)]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([b"data", b"\x00\xff\r\n 'quoted' \x80", b"\xfe", b""], id="binary"),
        pytest.param([b"x", b"1", b"x", b"2", b"x", b"1", b"", b"", b"sw-fields", b"theirs"], id="duplicate-names"),
        pytest.param(MANY[:8_000], id="4000-fields"),
        pytest.param(MANY, id="10001-fields"),
        pytest.param([b"data", random.Random(1).randbytes(2 * MUCH)], id="2-MiB"),
    ],
)
async def test_an_entry_is_retried_and_dead_lettered_byte_for_byte(
    me: Member, watched: Watched, fields: list[bytes]
) -> None:
    id = (await watched.add(*fields)).encode()
    (first,) = await me.read()
    assert first.fields == fields
    assert await me.settle(Settlement(first, delay=0.0)) == [True]
    assert (await watched.pending(), await watched.delayed()) == (0, 1)
    (second,) = (await me.reader.turn(10, [], 3)).retries
    assert (second.key, second.origin, second.deliveries) == (watched.keys.retry, id, 2)
    assert second.fields == fields
    assert await watched.delayed() == 0
    found, trimmed = await me.reader.fetch(await me.reader.own())
    assert ([(one.origin, one.fields, one.deliveries) for one in found], trimmed) == ([(id, fields, 2)], 0)
    assert await me.settle(letter(second)) == [True]
    (kept,) = await watched.letters()
    assert kept.facts == {"sw-reason": "because", "sw-id": id.decode()}
    assert kept.fields == fields
    assert await watched.do("XLEN", watched.keys.retry) == 0
    assert await me.reader.own() == {}


async def test_an_entry_that_was_trimmed_while_its_handler_ran_is_retried_all_the_same(
    me: Member, watched: Watched
) -> None:
    await watched.add("data", "x")
    (first,) = await me.read()
    await watched.do("XTRIM", me.stream, "MAXLEN", 0)
    assert await me.settle(Settlement(first, delay=0.0)) == [True]
    (second,) = (await me.reader.turn(10, [], 3)).retries
    assert second.fields == [b"data", b"x"]


async def test_settling_twice_changes_nothing(me: Member, watched: Watched) -> None:
    await watched.add("data", "x")
    (delivery,) = await me.read()
    assert await me.settle(letter(delivery), letter(delivery), Settlement(delivery, delay=0.0)) == [True, False, False]
    assert len(await watched.letters()) == 1
    assert await watched.delayed() == 0


async def test_acks_and_failures_of_both_streams_are_settled_in_one_go_with_an_answer_each(
    me: Member, watched: Watched
) -> None:
    for number in range(6):
        await watched.add("data", str(number))
    held = await me.read()
    assert await me.settle(*[Settlement(one, delay=0.0) for one in held[:3]]) == [True] * 3
    retries = (await me.reader.turn(100, [], 3)).retries
    stale = Delivery(held[4].key, held[4].id, held[4].id, held[4].fields, 7)
    failures = [letter(retries[2]), letter(stale), Settlement(held[4], delay=60.0), Settlement(held[5])]
    answers = await me.settler.settle([retries[0], held[3], retries[1]], failures)
    assert answers == [True, False, True, True, True]
    assert await me.reader.own() == {}
    assert await watched.do("XLEN", watched.keys.retry) == 0
    assert [one.fields for one in await watched.letters()] == [retries[2].fields]
    assert await watched.delayed() == 1


async def test_a_turn_moves_about_a_megabyte_and_says_that_there_is_more(me: Member, watched: Watched) -> None:
    for _ in range(4):
        await watched.add("data", bytes(600_000))
    assert await me.settle(*[Settlement(one, delay=0.0) for one in await me.read()]) == [True] * 4
    turns = [await me.reader.turn(100, [], 3) for _ in range(3)]
    assert [len(turn.retries) for turn in turns] == [2, 2, 0]
    assert [turn.more for turn in turns] == [True, True, False]


async def test_what_somebody_else_put_among_the_delayed_does_not_stop_the_others(me: Member, watched: Watched) -> None:
    await watched.do("ZADD", watched.keys.delayed, 0, "not ours")
    await watched.add("data", "x")
    await me.settle(Settlement((await me.read())[0], delay=0.0))
    strange, ours = (await me.reader.turn(10, [], 3)).retries
    assert (strange.origin, strange.fields) == (b"0-0", [])
    assert ours.fields == [b"data", b"x"]
    assert await watched.delayed() == 0


@pytest.mark.parametrize("kind", ["delayed", "dead"])
async def test_a_copy_that_cannot_be_written_leaves_the_entry_pending(
    me: Member, watched: Watched, kind: Literal["delayed", "dead"]
) -> None:
    """Copy first, remove last."""
    await watched.add("data", "x")
    (delivery,) = await me.read()
    settlement = letter(delivery) if kind == "dead" else Settlement(delivery, delay=0.0)
    key = watched.keys.dead if kind == "dead" else watched.keys.delayed
    await watched.do("SET", key, "something else")
    (result,) = await me.settle(settlement)
    assert isinstance(result, WrongType)
    assert await me.reader.own() == {(delivery.key, delivery.id): 1}
    assert await watched.do("GET", key) == b"something else"
    await watched.do("DEL", key)
    assert await me.settle(settlement) == [True]
    assert await me.reader.own() == {}


async def test_a_retry_key_of_the_wrong_type_leaves_retries_where_they_are(me: Member, watched: Watched) -> None:
    await watched.add("data", "retried")
    await watched.add("data", "held")
    retried, held = await me.read()
    await me.settle(Settlement(retried, delay=0.0))
    before = await watched.do("ZRANGE", watched.keys.delayed, 0, -1, "WITHSCORES")
    await watched.do("SET", watched.keys.retry, "something else")
    with pytest.raises(WrongType):
        await me.reader.turn(10, [], 3)
    assert await watched.do("ZRANGE", watched.keys.delayed, 0, -1, "WITHSCORES") == before
    assert await me.reader.own() == {(held.key, held.id): 1}
    assert await me.settle(Settlement(held, delay=0.0)) == [True], "what needs no retry stream goes on"
    await watched.do("DEL", watched.keys.retry)
    assert len((await me.reader.turn(10, [], 3)).retries) == 2


async def test_out_of_memory_nothing_is_copied_and_everything_else_goes_on(
    own_server: Server, own_redis: Redis, stream: str
) -> None:
    watched = Watched(own_redis, stream, GROUP)
    me, dead = Member(own_server.url, stream, "me.sw"), Member(own_server.url, stream, "dead.sw")
    await me.reader.join("beginning", False)
    for number in range(7):
        await watched.add("data", str(number))
    due, retried, lettered, acked, released = await me.read(5)
    suspect, taken = await dead.read(2)
    for _ in range(2):  # two workers have died on it
        await watched.do("XCLAIM", stream, GROUP, dead.name, 0, suspect.id)
    await me.settle(Settlement(due, delay=0.0))
    await me.reader.mark_dead(dead.name)
    await watched.do("CONFIG", "SET", "maxmemory", "1")

    refused = [Settlement(retried, delay=0.0), letter(lettered)]
    assert [type(result) for result in await me.settle(*refused)] == [Refused, Refused]
    assert await watched.do("EXISTS", watched.keys.dead) == 0
    assert await watched.delayed() == 1
    assert await me.reader.own() == {(one.key, one.id): 1 for one in (retried, lettered, acked, released)}
    assert await me.settler.settle([acked], []) == [True]
    assert await me.settler.release([released]) == 1
    await me.beat()
    assert await watched.do("HGET", watched.keys.consumers, me.name) == b"1 15000 host"
    turn = await me.reader.turn(10, [Dead(dead.name, b"dead")], 3)
    assert [(one.origin, one.deliveries) for one in turn.retries] == [(due.id, 2)]
    assert {one.id: one.deliveries for one in turn.claims} == {released.id: 1, taken.id: 2}
    assert turn.suspect == Suspect((suspect.key, suspect.id), Dead(dead.name, b"dead"))
    convicted = await me.reader.claim_alone(turn.suspect, 5)
    assert convicted is not None
    assert convicted.delivery is not None
    assert (convicted.delivery.id, convicted.delivery.deliveries, convicted.guilty) == (suspect.id, 4, False)
    name = b"%s %s" % (suspect.key, suspect.id)
    assert await watched.do("HGET", watched.keys.consumers, f"{me.name}!") == name
    assert await me.settler.settle([*turn.claims, convicted.delivery], []) == [True]

    await watched.do("CONFIG", "SET", "maxmemory", "0")
    assert await me.settler.settle(turn.retries, []) == [True]
    assert await me.settle(*refused) == [True, True]
    await me.reader.leave()
    assert await watched.pending() == 0
    await me.close()
    await dead.close()


async def test_out_of_memory_a_retry_that_succeeded_is_acked(own_server: Server, own_redis: Redis, stream: str) -> None:
    watched = Watched(own_redis, stream, GROUP)
    me = Member(own_server.url, stream, "me.sw")
    await me.reader.join("beginning", False)
    await watched.add("data", "x")
    await me.settle(Settlement((await me.read())[0], delay=0.0))
    turn = await me.reader.turn(10, [], 3)
    await watched.do("CONFIG", "SET", "maxmemory", "1")
    answers = await me.settler.settle(turn.retries, [])
    left = await me.reader.own()
    await me.close()
    assert answers == [True]
    assert left == {}
    assert await watched.do("XLEN", watched.keys.retry) == 0


FLOORS = [
    pytest.param(["5-3", "5-4"], b"5-2", id="just-below-the-lowest-pending"),
    pytest.param(["7-0", "8-0"], b"6-18446744073709551615", id="the-previous-millisecond"),
    pytest.param(["0-1"], b"0-0", id="the-first-id-of-all"),
    pytest.param(["1700000000000-0"], b"1699999999999-18446744073709551615", id="an-id-of-today"),
    pytest.param(["5-18446744073709551614"], b"5-0", id="a-sequence-that-Lua-cannot-count-down"),
]


@pytest.mark.parametrize(("ids", "floor"), FLOORS)
async def test_the_floor_lies_just_below_what_is_pending(
    me: Member, watched: Watched, ids: list[str], floor: bytes
) -> None:
    for id in ids:
        await watched.add("data", "x", id=id)
    deliveries = await me.read()
    await me.beat()
    assert await watched.do("HGET", watched.keys.consumers, "floor") == floor
    await me.settler.settle(deliveries, [])
    await me.beat()
    assert await watched.do("HGET", watched.keys.consumers, "floor") == ids[-1].encode(), "nothing is pending"


async def test_the_floor_does_not_move_with_what_is_unread_or_retried(me: Member, watched: Watched) -> None:
    await watched.add("data", "x", id="5-1")
    (delivery,) = await me.read()
    await watched.add("data", "unread", id="9-1")
    await me.settle(Settlement(delivery, delay=0.0))
    assert len((await me.reader.turn(1, [], 3)).retries) == 1
    await me.beat()
    assert await watched.do("HGET", watched.keys.consumers, "floor") == b"5-1"


@pytest.mark.parametrize("gone", [("XGROUP", "DESTROY"), ("DEL",)], ids=["group", "stream"])
async def test_the_floor_stays_when_the_group_is_gone(me: Member, watched: Watched, gone: tuple[str, ...]) -> None:
    await watched.add("data", "x", id="5-3")
    await me.read()
    await me.beat()
    await watched.do(*gone, *(me.stream, GROUP)[: len(gone)])
    await me.beat(b"2 15000 host")
    assert await watched.do("HGET", watched.keys.consumers, "floor") == b"5-2"


async def test_the_floor_stays_too_low_where_milliseconds_are_beyond_what_lua_counts(
    me: Member, watched: Watched
) -> None:
    await watched.add("data", "x", id="5-3")
    acked = await me.read()
    await me.beat()
    await watched.add("data", "x", id="9007199254740993-0")
    await me.read()
    await me.settler.settle(acked, [])
    await me.beat(b"2 15000 host")
    assert await watched.do("HGET", watched.keys.consumers, "floor") == b"5-2"
