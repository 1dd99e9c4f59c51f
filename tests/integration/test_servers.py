"""The fixtures themselves."""

from __future__ import annotations

import os

import pytest
from redis.asyncio import Redis

from tests.servers import KINDS, Server
from tests.waiting import wait_until, wait_until_sync


async def test_each_kind_of_server_keeps_streams(redis: Redis, stream: str) -> None:
    entry = await redis.xadd(stream, {"data": "1"})
    assert await redis.xlen(stream) == 1
    assert isinstance(entry, bytes)


def test_a_server_with_an_append_only_file_keeps_its_data_over_a_kill(own_server: Server) -> None:
    own_server.ask("SET", "key", "value")
    old = own_server.pid
    own_server.restart(killed=True)
    assert own_server.pid != old
    assert own_server.ask("GET", "key") == b"$5\r\nvalue\r\n"


def test_a_paused_server_answers_nobody_until_it_is_resumed(own_server: Server) -> None:
    own_server.pause()
    with pytest.raises(TimeoutError):
        own_server.ask("PING", timeout=0.1)
    own_server.resume()
    assert own_server.ask("PING") == b"+PONG\r\n"


def test_every_server_knows_debug(own_server: Server) -> None:
    assert own_server.ask("DEBUG", "SLEEP", "0") == b"+OK\r\n"


def test_a_stopped_server_is_gone(own_server: Server) -> None:
    pid = own_server.pid
    own_server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why(tmp_path: object, make_server: object) -> None:
    assert callable(make_server)
    with pytest.raises(RuntimeError, match="no-such-option"):
        make_server(next(iter(KINDS)), "--no-such-option", "yes")


async def test_waiting_ends_with_the_condition_in_words() -> None:
    with pytest.raises(AssertionError, match="pigs fly"):
        await wait_until(lambda: False, 0.05, "pigs fly")
    with pytest.raises(AssertionError, match="lambda: 0"):
        wait_until_sync(lambda: 0, 0.05)
