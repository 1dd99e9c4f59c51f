"""Publishing over connections that break, and by callers that are cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from streamworker import App, PublishError, PublishUnknown
from tests.faults.proxy import FaultProxy
from tests.running import Watched, on_all_servers


@on_all_servers
@pytest.mark.parametrize(("lost", "written"), [("request", 0), ("reply", 1), ("half the reply", 1)])
async def test_a_publish_whose_connection_breaks_is_unknown_and_never_written_twice(
    lost: str, written: int, proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    async with App("app", url=proxy.url) as app:
        await app.publish(stream, "before")
        rule = {"request": proxy.lose_request, "reply": proxy.lose_reply, "half the reply": proxy.cut_reply}[lost]
        rule("XADD")
        with pytest.raises(PublishUnknown):
            await app.publish(stream, "unknown")
        await app.publish(stream, "afterwards")
    bodies = [fields[1] for _, fields in await watched.do("XRANGE", stream, "-", "+")]
    assert bodies == [b"before", *[b"unknown"] * written, b"afterwards"]


@pytest.mark.parametrize(("server_kind", "breaks"), [("valkey-9.1", 0), ("redis-8.2", 10)])
async def test_callers_that_are_cancelled_never_mix_up_the_replies_of_others(
    breaks: int, proxy: FaultProxy, watched: Watched, stream: str
) -> None:
    random.seed(20_230_328)  # of what is cancelled, and when
    proxy.delay(0.005, 0.005)
    proxy.split(5)
    async with App("app", url=proxy.url) as app:

        async def publish(number: int) -> str:
            await asyncio.sleep(random.uniform(0, 2))
            return await app.publish(stream, str(number))

        tasks = [asyncio.create_task(publish(number)) for number in range(1_000)]
        for number in range(500):
            await asyncio.sleep(random.uniform(0, 0.008))
            random.choice(tasks).cancel()
            if breaks and number % (500 // breaks) == 0:
                proxy.lose_reply("XADD")
        results = await asyncio.gather(*tasks, return_exceptions=True)
    told = {number: result for number, result in enumerate(results) if isinstance(result, str)}
    written = {str(id_, "ascii"): int(fields[1]) for id_, fields in await watched.do("XRANGE", stream, "-", "+")}
    assert len(told) > 300
    assert {number: written[id_] for number, id_ in told.items()} == {number: number for number in told}
    assert len(written) == len(set(written.values())), "nothing is written twice"
    failed = [one for one in results if isinstance(one, Exception)]
    assert all(isinstance(one, PublishError) for one in failed), failed
    assert bool(failed) == bool(breaks)
