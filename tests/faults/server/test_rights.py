"""Logins that are wrong or changed while workers run, and users who lack a right."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff, Message, Reject
from streamworker.launch import RunOptions, run_worker
from tests.conftest import ProgramOf
from tests.faults.server.fleet import Fleet
from tests.running import Watched, impatience
from tests.servers import Server
from tests.waiting import wait_until

_SECRET = "canary-4111"
# What a worker needs as soon as it reads, retries and dead-letters. The rest of docs/security.md is asked for when
# somebody dies or leaves, at the end of a burst, or by a broadcast.
_NEEDED = (
    *("eval", "evalsha", "time", "exists", "hset", "hmget", "hgetall", "hdel", "hexists", "zadd", "zrem", "zcard"),
    *("zrangebyscore", "xadd", "xdel", "xreadgroup", "xack", "xclaim", "xpending"),
    *("xinfo|stream", "xinfo|groups", "xgroup|create"),
)


async def _user(redis: Redis, name: str, *rules: str) -> None:
    await redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", name, "reset", "on", f">{_SECRET}", "resetchannels", *rules
    )


def _as(server: Server, user: str, password: str = _SECRET) -> str:
    return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"


async def _logins_refused(redis: Redis) -> int:
    found = await redis.execute_command("ACL", "LOG", 128)  # type: ignore[no-untyped-call]
    entries = [{str(k): v for k, v in zip(one[::2], one[1::2], strict=True)} for one in found]
    return sum(int(one["b'count'"]) for one in entries if one["b'reason'"] == b"auth")


def _demanding(stream: str) -> App:
    """Retries, dead-letters and succeeds."""
    app = App("group", lease=1.0)

    @app.on(stream, retry=Backoff(first=0.02, factor=1))
    async def handle(body: str, message: Message) -> None:
        if body == "rejects":
            raise Reject(body)
        if body == "fails" and message.deliveries == 1:
            raise ValueError(body)

    return app


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
async def test_a_command_that_the_user_may_not_use_is_named_with_the_stream(
    own_server: Server, own_redis: Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "streamworker")
    lacking = {command: f"{stream}-{number}" for number, command in enumerate(_NEEDED)}
    watched = {command: Watched(own_redis, name, "group") for command, name in lacking.items()}
    stop = asyncio.Event()
    with impatience():
        async with AsyncExitStack() as stack:
            for number, (command, name) in enumerate(lacking.items()):
                await _user(own_redis, f"u{number}", "~*", "+@all", f"-{command}")
                for body in ("fine", "fails", "rejects"):
                    await watched[command].add("data", body)
                work = asyncio.create_task(
                    run_worker([_demanding(name)], _as(own_server, f"u{number}"), RunOptions(shutdown_timeout=0.1),
                               stop, lambda: None)
                )  # fmt: skip
                stack.push_async_callback(asyncio.wait, [work])
            stack.callback(stop.set)

            def unnamed() -> list[str]:
                lines = [f"{record.getMessage()} " for record in caplog.records]
                return [
                    command
                    for command, name in lacking.items()
                    if not any(f"run the '{command}'" in line and re.search(f"{name}[/ ]", line) for line in lines)
                ]

            await wait_until(lambda: not unnamed(), 20, lambda: f"not named: {unnamed()}")
    assert _SECRET not in caplog.text


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-6.2"])
async def test_keys_that_the_user_may_not_touch_are_told_with_their_stream(
    own_server: Server, own_redis: Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "streamworker")
    watched = Watched(own_redis, stream, "group")
    stop = asyncio.Event()
    for user, rules in (("stream-only", [f"~{stream}"]), ("rest-only", [f"~{{{stream}}}:*"])):
        await _user(own_redis, user, "+@all", *rules)
        await watched.add("data", "fine")
        caplog.clear()
        stop.clear()
        options = RunOptions(shutdown_timeout=0.1)
        with impatience():
            work = asyncio.create_task(
                run_worker([_demanding(stream)], _as(own_server, user), options, stop, lambda: None)
            )
            await wait_until(lambda: "NOPERM" in caplog.text and stream in caplog.text, 10, lambda: caplog.text)
            stop.set()
            await asyncio.wait([work])


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-6.2"])
async def test_a_right_to_ack_that_is_taken_away_is_told_quietly_and_once_given_back_nothing_ran_twice(
    fleet: Fleet, own_redis: Redis, own_server: Server
) -> None:
    await _user(own_redis, "worker", "~*", "+@all")
    await fleet.start(lease=6.0, url=_as(own_server, "worker").replace(str(own_server.port), str(fleet.proxy.port)))
    await fleet.publish("held-0", "held-1", hold=True)
    await fleet.got("held-0", "held-1")
    await own_redis.execute_command("ACL", "SETUSER", "worker", "-xack")  # type: ignore[no-untyped-call]
    await fleet.publish("fine-0", "fine-1")
    await fleet.noticed("ack.refused")
    assert "xack" in str(fleet.logged("ack.refused")[0]["reason"])
    await fleet.keep_quiet(healthy=True)
    await own_redis.execute_command("ACL", "SETUSER", "worker", "+xack")  # type: ignore[no-untyped-call]
    await fleet.heals()


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-6.2"])
async def test_a_wrong_password_at_the_start_is_one_log_in_and_exit_3_and_nothing_secret_is_said(
    own_server: Server, own_redis: Redis, program: ProgramOf, tmp_path: Path
) -> None:
    await _user(own_redis, "worker", "~*", "+@all")
    source = "from streamworker import App\napp = App('group')\n@app.on('x')\nasync def handle(body: str): ...\n"
    worker = program(source, url=_as(own_server, "worker", "wrong-canary"))
    assert await worker.ended() == 3
    assert await _logins_refused(own_redis) == 1
    assert "canary" not in worker.log + worker.out
    assert "username-password" in worker.log or "WRONGPASS" in worker.log


@pytest.mark.parametrize("server_kind", ["valkey-9.1", "redis-8.2"])
async def test_a_password_changed_under_a_worker_is_tried_rarely_and_work_goes_on_once_it_is_right_again(
    fleet: Fleet, own_redis: Redis, own_server: Server
) -> None:
    await _user(own_redis, "worker", "~*", "+@all")
    await fleet.start(lease=1.0, url=_as(own_server, "worker").replace(str(own_server.port), str(fleet.proxy.port)))
    await fleet.publish("held-0", "held-1", hold=True)
    await fleet.got("held-0", "held-1")
    await own_redis.execute_command("ACL", "SETUSER", "worker", "resetpass", ">another")  # type: ignore[no-untyped-call]
    await own_redis.execute_command("CLIENT", "KILL", "USER", "worker")  # type: ignore[no-untyped-call]
    await fleet.noticed()
    fleet.go()  # what has ended is to be settled over a connection that cannot be made
    await fleet.keep_quiet(1.0)
    began, before = time.monotonic(), await _logins_refused(own_redis)
    await wait_until(lambda: time.monotonic() - began > 10, 20, "the time over which log-ins are counted")
    tried = await _logins_refused(own_redis) - before
    assert 1 <= tried <= 3, f"{tried} log-ins in {time.monotonic() - began:.1f} s"
    await own_redis.execute_command("ACL", "SETUSER", "worker", "resetpass", f">{_SECRET}")  # type: ignore[no-untyped-call]
    await fleet.heals(within=31.0)  # its pauses are long, so that it is not taken for a burglar
    assert "canary" not in fleet.log
