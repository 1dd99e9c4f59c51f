"""What a worker does when its group, its stream, its connection or its entries go away under it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, ConfigError, Message, StreamworkerError
from streamworker.launch import RunOptions, run_worker
from tests.running import Watched, burst, events, working
from tests.servers import Server
from tests.waiting import wait_until


class Recording:
    """An app with one handler that notes the bodies it gets, and can be held up."""

    def __init__(self, stream: str, lease: float = 15.0) -> None:
        self.app = App("group", lease=lease)
        self.seen: list[str] = []
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.app.on(stream, retry=Backoff(first=0.05))(self.handle)

    async def handle(self, body: str, message: Message) -> None:
        self.seen.append(body)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.seen)


async def test_what_is_published_after_a_flush_is_handled(own_server: Server, own_redis: Redis, stream: str) -> None:
    handler, watched = Recording(stream), Watched(own_redis, stream, "group")
    async with working(handler.app, url=own_server.url):
        await watched.add("data", "before")
        await wait_until(lambda: "before" in handler.seen)
        await watched.do("FLUSHALL")
        await watched.add("data", "after")
        await wait_until(lambda: "after" in handler.seen, 5)
        await watched.rests()
    assert handler.counts == {"before": 1, "after": 1}


async def test_a_deleted_stream_that_begins_again_with_lower_ids_is_read_from_its_beginning(
    redis: Redis, redis_url: str, stream: str
) -> None:
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    async with working(handler.app, url=redis_url):
        await watched.add("data", "before")
        await wait_until(lambda: "before" in handler.seen)
        await watched.do("DEL", stream)
        await watched.add("data", "after", id="5-1")
        await wait_until(lambda: "after" in handler.seen, 5)
        await watched.rests()


async def test_a_destroyed_group_loses_nothing_and_repeats_only_what_was_pending(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    handler, watched = Recording(stream, lease=1.0), Watched(redis, stream, "group")
    async with working(handler.app, url=redis_url):
        for i in range(50):
            await watched.add("data", f"done {i}")
        await wait_until(lambda: len(handler.seen) == 50)
        await watched.rests()

        async def floor_has_moved() -> bool:
            info = await watched.info()
            return (
                info is not None
                and await watched.do("HGET", watched.keys.consumers, "floor") == info[b"last-delivered-id"]
            )

        await wait_until(floor_has_moved, what="a heartbeat has kept the floor")
        handler.go_on.clear()
        for i in range(5):
            await watched.add("data", f"running {i}")
        await wait_until(lambda: len(handler.seen) == 55)
        await watched.do("XGROUP", "DESTROY", stream, "group")
        for i in range(5):
            await watched.add("data", f"later {i}")
        await wait_until(lambda: events(caplog, "group.missing"))
        await wait_until(lambda: len([one for one in handler.seen if one.startswith("later")]) == 5, 5)
        handler.go_on.set()
        await watched.rests()
    assert handler.cancelled == 0, "what has vanished runs on"
    assert all(count == 1 for body, count in handler.counts.items() if body.startswith(("done", "later")))
    assert len(handler.counts) == 60


async def test_scripts_are_given_to_the_server_again_when_it_forgot_them(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("group")
    seen: list[int] = []

    @app.on(stream, retry=Backoff(first=0.1, factor=1), max_deliveries=3)
    async def fail(body: str, message: Message) -> None:
        await redis.script_flush()
        seen.append(message.deliveries)
        raise ValueError

    watched = Watched(redis, stream, "group")
    await watched.add("data", "x")
    await burst(app, url=redis_url)
    assert seen == [1, 2, 3]
    assert len(await watched.letters()) == 1
    assert not [record for record in caplog.records if "NOSCRIPT" in record.getMessage()]


async def test_entries_of_a_lost_reply_are_adopted_without_counting(redis: Redis, redis_url: str, stream: str) -> None:
    """They are pending for a live consumer whose heartbeat protects them from everybody else."""
    handler, watched = Recording(stream, lease=1.0), Watched(redis, stream, "group")
    async with working(handler.app, url=redis_url):
        await watched.add("data", "first")
        await wait_until(lambda: "first" in handler.seen)
        (consumer,) = await watched.consumers()
        # What the server did when it ran a read whose reply never came.
        await watched.do("SET", f"{stream}:x", "1")
        await watched.add("data", "unseen")
        pipeline = redis.pipeline(transaction=True)
        pipeline.xadd(stream, {"data": "stray"})
        pipeline.xreadgroup("group", consumer, {stream: ">"}, count=100)
        await pipeline.execute()
        await wait_until(lambda: {"unseen", "stray"} <= set(handler.seen), 5)
        await watched.rests()
    assert max(handler.counts.values()) == 1


async def test_a_handler_is_cancelled_when_another_consumer_owns_its_entry_and_settles_nothing(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, watched = Recording(stream, lease=1.0), Watched(redis, stream, "group")
    handler.go_on.clear()
    id_ = await watched.add("data", "mine")
    async with working(handler.app, url=redis_url):
        await wait_until(lambda: handler.seen)
        await watched.do("XCLAIM", stream, "group", "other", 0, id_)
        await wait_until(lambda: handler.cancelled == 1, 5)
        await wait_until(lambda: events(caplog, "lease.lost"))
        assert await watched.pending("other") == 1, "it stays the other one's"
    assert await watched.letters() == []
    assert await watched.delayed() == 0


async def test_a_late_failure_of_a_lost_message_changes_nothing(redis: Redis, redis_url: str, stream: str) -> None:
    app = App("group")
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.on(stream, max_deliveries=1)
    async def fail(body: str) -> None:
        started.set()
        await go_on.wait()
        raise ValueError

    watched = Watched(redis, stream, "group")
    id_ = await watched.add("data", "x")
    async with working(app, url=redis_url):
        await started.wait()
        await watched.do("XCLAIM", stream, "group", "other", 0, id_)
        go_on.set()
    assert await watched.letters() == [], "who lost a message dead-letters nothing"
    assert await watched.pending("other") == 1


async def test_a_deleted_entry_that_is_pending_for_a_dead_worker_is_counted_and_never_run(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    await watched.do("XGROUP", "CREATE", stream, "group", "0", "MKSTREAM")
    gone = await watched.add("data", "gone")
    await watched.add("data", "kept")
    dead = "host-1-dead.sw"
    await watched.do("XREADGROUP", "GROUP", "group", dead, "COUNT", 10, "STREAMS", stream, ">")
    await watched.do("HSET", watched.keys.consumers, dead, "dead")
    await watched.do("XDEL", stream, gone)
    async with working(handler.app, url=redis_url):
        await wait_until(lambda: handler.seen == ["kept"])
        await watched.rests()
        await wait_until(lambda: [one["pending"] for one in events(caplog, "entries.trimmed")] == [1])
    assert handler.seen == ["kept"]
    await watched.check_nothing_is_left()


async def test_a_paused_group_reads_nothing_until_it_is_resumed(redis: Redis, redis_url: str, stream: str) -> None:
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    async with working(handler.app, url=redis_url):
        await watched.add("data", "before")
        await wait_until(lambda: handler.seen)
        await watched.do("HSET", watched.keys.consumers, "paused", "1")
        await asyncio.sleep(0.3)  # a pause takes effect within a turn and a read, which are short here
        await watched.add("data", "while paused")
        await asyncio.sleep(0.3)
        assert handler.seen == ["before"]
        await watched.do("HDEL", watched.keys.consumers, "paused")
        await wait_until(lambda: len(handler.seen) == 2)
        await watched.rests()


async def test_a_burst_on_a_paused_group_is_an_error(redis: Redis, redis_url: str, stream: str) -> None:
    watched = Watched(redis, stream, "group")
    await watched.do("HSET", watched.keys.consumers, "paused", "1")
    with pytest.raises(StreamworkerError, match="paused"):
        await burst(Recording(stream).app, url=redis_url)


async def test_a_burst_ends_although_the_last_entry_was_deleted(redis: Redis, redis_url: str, stream: str) -> None:
    """Then lag stays unknown for ever, and the last delivered id below the last one."""
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    await watched.add("data", "kept")
    last = await watched.add("data", "deleted")
    await watched.do("XGROUP", "CREATE", stream, "group", "0")
    await watched.do("XDEL", stream, last)
    await burst(handler.app, url=redis_url)
    assert handler.seen == ["kept"]


async def test_a_key_of_ours_that_holds_something_else_stops_only_what_needs_it(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    await watched.do("SET", watched.keys.retry, "not a stream")
    async with working(handler.app, url=redis_url):
        await watched.add("data", "still read")
        await wait_until(lambda: handler.seen == ["still read"])
        await wait_until(lambda: events(caplog, "turn.wrong_type"))
        await watched.do("DEL", watched.keys.retry)


async def test_a_heartbeat_that_is_refused_is_told(
    redis: Redis, redis_url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, watched = Recording(stream), Watched(redis, stream, "group")
    await watched.do("SET", watched.keys.consumers, "not a hash")
    await watched.add("data", "x")
    stop = asyncio.Event()
    work = asyncio.create_task(run_worker([handler.app], redis_url, RunOptions(), stop, lambda: None))
    await wait_until(lambda: events(caplog, "heartbeat.refused"))
    assert handler.seen == [], "nothing is started without a heartbeat"
    await watched.do("DEL", watched.keys.consumers)
    await wait_until(lambda: handler.seen == ["x"])
    stop.set()
    assert await work


async def test_two_apps_that_are_the_same_member_of_a_group_are_refused(redis_url: str, stream: str) -> None:
    one, two = Recording(stream), Recording(stream)
    with pytest.raises(ConfigError, match="both consume stream"):
        await run_worker([one.app, two.app], redis_url, RunOptions(), asyncio.Event(), lambda: None)


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_a_new_entry_under_the_id_of_one_that_runs_is_another_entry(
    redis: Redis, redis_url: str, stream: str, ends: str
) -> None:
    app, watched, seen, go = App("group", lease=1.0), Watched(redis, stream, "group"), list[str](), asyncio.Event()

    @app.on(stream, retry=Backoff(first=0.05))
    async def handle(body: str) -> None:
        seen.append(body)
        if body == "old":
            await go.wait()
            if ends == "badly":
                raise ValueError

    await watched.add("data", "old", id="1-0")
    async with working(app, url=redis_url):
        await wait_until(lambda: seen == ["old"])
        await watched.do("DEL", stream, watched.keys.consumers)
        await watched.add("data", "new", id="1-0")
        await watched.add("data", "later", id="2-0")
        await wait_until(lambda: sorted(seen) == ["later", "new", "old"])
        go.set()
        await watched.rests()
    assert sorted(seen) == ["later", "new", "old"]
    await watched.check_nothing_is_left()
