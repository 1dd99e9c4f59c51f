"""The group's clock: due times go on where the server's clock was set back."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from streamworker import App, Backoff
from tests.running import Watched, working
from tests.waiting import wait_until

_HOUR = 3_600_000


# As if everything so far had happened while the clock went an hour ahead, and then it was set right.
_STEP_BACK = """
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], ARGV[1], member) end
redis.call('HINCRBY', KEYS[2], 'clock', ARGV[1])
"""


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_retry_comes_when_it_is_due_after_the_servers_clock_went_back(
    redis: Redis, redis_url: str, stream: str, steps: int
) -> None:
    watched, runs = Watched(redis, stream, "app"), list[str]()
    app = App("app")

    @app.on(stream, retry=Backoff(first=1, factor=1, jitter=0))
    async def fails_at_first(body: str) -> None:
        runs.append(body)
        if len(runs) <= steps:
            raise ValueError

    async with working(app, url=redis_url):
        await watched.add("data", "x")
        for step in range(steps):
            await wait_until(lambda: len(runs) == step + 1)  # noqa: B023
            await wait_until(watched.delayed)
            await watched.do("EVAL", _STEP_BACK, 2, watched.keys.delayed, watched.keys.consumers, _HOUR)
        await wait_until(lambda: len(runs) == steps + 1, 8)
        await watched.rests()
    await watched.check_nothing_is_left()


async def test_a_message_published_after_the_clock_went_back_is_not_too_old(
    redis: Redis, redis_url: str, stream: str
) -> None:
    watched, runs = Watched(redis, stream, "app"), list[str]()
    seconds, _ = await watched.do("TIME")
    await watched.do("HSET", watched.keys.consumers, "clock", (int(seconds) + 3600) * 1000, "skew", 0)
    app = App("app")

    @app.on(stream, max_age=60)
    async def handle(body: str) -> None:
        runs.append(body)

    async with working(app, url=redis_url):
        await watched.add("data", "x")
        await watched.rests()
    assert runs == ["x"]
    assert await watched.letters() == []
