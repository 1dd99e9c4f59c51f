"""The contract as a handler sees it: a whole worker on the backend."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

from streamworker import App, Backoff, Message, Reject
from tests.contract.backend import LIMIT, Backend, Party, working
from tests.running import on_all_servers
from tests.waiting import wait_until

SOON = Backoff(first=0.05, factor=1, longest=0.05)


@on_all_servers
async def test_a_message_that_fails_comes_again_until_it_succeeds_and_one_that_always_fails_is_a_dead_letter(
    backend: Backend, party: Party, stream: str
) -> None:
    app, seen = App("group"), Counter[int]()

    @app.on(stream, max_deliveries=4, retry=SOON)
    async def fails(n: int, message: Message) -> None:
        seen[n] += 1
        assert message.deliveries == seen[n]
        if n == 0:
            raise Reject("never")
        if n == 3 or seen[n] < n:
            raise ValueError("not yet")

    async with working(backend, app):
        await party.publisher.publish_many(stream, range(5))
        await wait_until(lambda: backend.at_rest(stream, "group"), LIMIT)
    assert seen == {0: 1, 1: 1, 2: 2, 3: 4, 4: 4}
    letters = await backend.letters(stream, "group")
    assert sorted(letter.fields[1] for letter in letters) == [b"0", b"3"]


async def test_one_worker_with_one_slot_keeps_the_order(backend: Backend, party: Party, stream: str) -> None:
    app, seen = App("group"), list[int]()

    @app.on(stream, concurrency=1)
    async def note(n: int) -> None:
        seen.append(n)
        await asyncio.sleep(0)

    async with working(backend, app):
        await party.publisher.publish_many(stream, range(1000))
        await wait_until(lambda: len(seen) >= 1000, LIMIT)
    assert seen == list(range(1000))


async def test_workers_of_one_group_share_and_every_group_and_broadcast_gets_everything(
    backend: Backend, party: Party, stream: str
) -> None:
    seen: dict[str, list[int]] = {}

    def app(name: str, group: str) -> App:
        app = App(group)

        @app.on(stream, concurrency=2, prefetch=2)
        async def note(n: int) -> None:
            seen.setdefault(name, []).append(n)
            await asyncio.sleep(0.001)  # so that the other worker comes to read

        return app

    everybody = App("everybody")

    @everybody.on(stream, broadcast=True, start="beginning")
    async def hear(n: int) -> None:
        seen.setdefault("broadcast", []).append(n)

    apps = app("one", "shared"), app("two", "shared"), app("other", "other"), everybody
    async with (
        working(backend, apps[0]),
        working(backend, apps[1]),
        working(backend, apps[2]),
        working(backend, everybody),
    ):
        await party.publisher.publish_many(stream, range(300))
        await wait_until(lambda: sum(map(len, seen.values())) >= 900, LIMIT)
        for group in ("shared", "other"):
            await wait_until(lambda group=group: backend.at_rest(stream, group), LIMIT)  # type: ignore[misc]
    assert sorted(seen["one"] + seen["two"]) == list(range(300))
    assert sorted(seen["other"]) == list(range(300))
    assert seen["broadcast"] == list(range(300))


@on_all_servers
async def test_what_a_silent_consumer_holds_is_taken_over_after_its_lease_and_not_before(
    backend: Backend, party: Party, stream: str
) -> None:
    app, seen = App("group", lease=1.0), list[tuple[int, int]]()

    @app.on(stream)
    async def note(n: int, message: Message) -> None:
        seen.append((n, message.deliveries))

    victim = await party.joined(app.groups()[0])
    await party.publisher.publish_many(stream, range(10))
    await victim.read(10)
    async with working(backend, app):
        for n in range(10, 13):  # the victim lives for as long as it beats
            await victim.beat()
            await party.publisher.publish(stream, n)
            await wait_until(lambda n=n: (n, 1) in seen, LIMIT)  # type: ignore[misc]
        assert len(await victim.reader.own()) == 10
        await wait_until(lambda: backend.at_rest(stream, "group"), LIMIT)
    assert sorted(seen) == [*((n, 2) for n in range(10)), *((n, 1) for n in range(10, 13))]


@on_all_servers
async def test_a_worker_that_ends_hands_back_what_it_has_not_started_and_spends_no_delivery(
    backend: Backend, party: Party, stream: str
) -> None:
    app, seen, held = App("group"), list[tuple[int, int]](), asyncio.Event()

    @app.on(stream, concurrency=1, prefetch=20)
    async def holds(n: int, message: Message) -> None:
        seen.append((n, message.deliveries))
        await held.wait()

    await party.publisher.publish_many(stream, range(20))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(working(backend, app))
        await wait_until(lambda: first.counts["delivered"] == 20, LIMIT)
        ending = asyncio.create_task(stack.pop_all().aclose())
        await wait_until(lambda: first.counts["released"] == 19, LIMIT)
        held.set()
        await ending
    assert seen == [(0, 1)]
    async with working(backend, app):
        await wait_until(lambda: backend.at_rest(stream, "group"), LIMIT)
    assert sorted(seen) == [(n, 1) for n in range(20)]
