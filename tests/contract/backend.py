"""The seam between the contract and a backend, and the consumers that the contract's tests play."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from streamworker import App
from streamworker.broker import Beat, Broadcaster, Broker, Dead, Joined, Look, Settlement, Turn
from streamworker.errors import BrokerError
from streamworker.handler import Group, Start
from streamworker.identity import consumer_name, new_token
from streamworker.message import Delivery, field
from streamworker.report import Report, heartbeat_value
from streamworker.worker import Worker, WorkerOptions
from tests.running import Letter, impatience
from tests.waiting import wait_until

LIMIT = 20.0  # seconds that any one step of a test may take
ROOM = 1000
MAX_BYTES = 16 * 2**20


class Backend(Protocol):
    """One server and the broker that speaks to it; what is asked here is asked past the broker."""

    def broker(self) -> Broker:
        """A broker, as another process would make it."""
        ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def restart(self, *, killed: bool = False) -> None:
        """End the server, in order or at once, and start it again where it was, with all it had answered for."""
        ...

    def wipe(self) -> None:
        """Let the server forget everything."""
        ...

    async def pending(self, stream: str, group: str) -> int:
        """How many entries were delivered to the group's consumers and are not settled; waiting retries apart."""
        ...

    async def at_rest(self, stream: str, group: str) -> bool:
        """Whether the group has read everything, and nothing is pending or waits for another delivery."""
        ...

    async def letters(self, stream: str, group: str) -> list[Letter]:
        """The dead letters of the group, oldest first."""
        ...


def group_of(stream: str, name: str = "group", start: Start = "beginning") -> Group:
    """A group as an app registers it."""
    app = App(name)
    app.on(stream, start=start)(_nothing)
    return app.groups()[0]


async def _nothing(body: bytes) -> None: ...


class Member:
    """One consumer of one group, driven by hand through the broker's parts."""

    def __init__(self, broker: Broker, group: Group) -> None:
        self.name = consumer_name(new_token())
        self.group = group
        self.reader = broker.reader(group, self.name, MAX_BYTES)
        self.settler = broker.settler(group, self.name)
        self._pulse = broker.pulse(self.name)
        self._beats = 0

    async def join(self, joined_before: bool = False) -> Joined:
        return await self.reader.join(self.group.start, joined_before)

    async def read(self, count: int) -> list[Delivery]:
        """The next ``count`` new entries, in as many reads as it takes."""
        found: list[Delivery] = []

        async def read_on() -> bool:
            found.extend(await self.reader.read(count - len(found), 0.1))
            return len(found) >= count

        await wait_until(read_on, LIMIT, f"{count} entries are read")
        return found

    async def turn(self, *dead: Dead, room: int = ROOM, suspect_from: int = 100) -> Turn:
        return await self.reader.turn(room, dead, suspect_from)

    async def retries(self, count: int) -> list[Delivery]:
        """The next ``count`` retries, when their time has come."""
        found: list[Delivery] = []

        async def turn_on() -> bool:
            found.extend((await self.turn()).retries)
            return len(found) >= count

        await wait_until(turn_on, LIMIT, f"{count} retries come")
        return found

    async def beat(self) -> Look:
        """One sign of life, and what it saw."""
        self._beats += 1
        beat = Beat(self.group.stream, self.group.name, heartbeat_value(self._beats, self.group.lease, Report()))
        (look,) = await asyncio.to_thread(self._pulse.beat, [beat], 5.0)
        if isinstance(look, BrokerError):
            raise look
        return look

    async def ack(self, deliveries: Sequence[Delivery]) -> bool | BrokerError:
        (answer,) = await self.settler.settle(deliveries, [])
        return answer

    async def settle(self, *settlements: Settlement) -> list[bool | BrokerError]:
        *answers, acked = await self.settler.settle([], settlements)
        assert acked is True
        return answers

    async def close(self) -> None:
        await self.reader.close()
        await asyncio.to_thread(self._pulse.close)  # as all its calls, in a thread without a loop


class Party:
    """A broker with members and a publisher, all closed at the end."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.publisher = broker.publisher()
        self._members: list[Member] = []

    def member(self, group: Group) -> Member:
        member = Member(self.broker, group)
        self._members.append(member)
        return member

    async def joined(self, group: Group) -> Member:
        """A member that has joined and beaten once, as every worker has before it reads."""
        member = self.member(group)
        await member.join()
        await member.beat()
        return member

    async def dead(self, member: Member, sight: Member) -> Dead:
        """The verdict on ``member``, as ``sight`` would reach it after a lease without a beat."""
        return Dead(member.name, (await sight.beat()).values[member.name])

    async def close(self) -> None:
        for member in self._members:
            await member.close()
        await self.publisher.close()
        await self.broker.close()


@asynccontextmanager
async def working(backend: Backend, *apps: App, limit: float = LIMIT) -> AsyncIterator[Worker]:
    """A worker on a broker of its own for as long as the block lasts, then drained."""
    broker = backend.broker()
    groups = [group for app in apps for group in app.groups()]
    broadcasts = [group for app in apps for group in app.broadcasts()]
    worker = Worker(broker, groups, broadcasts, WorkerOptions(shutdown_timeout=limit))
    stop = asyncio.Event()
    with impatience():
        work = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await asyncio.wait([work], timeout=2 * limit)
            await broker.close()
        assert work.result() is True, "the worker drained in time"


async def located(broker: Broker, stream: str, start: Start) -> Broadcaster:
    """A broadcaster that has found its place; the stream's entries go to every one of them."""
    app = App("everybody")
    app.on(stream, broadcast=True, start=start)(_nothing)
    broadcaster = broker.broadcaster(app.broadcasts()[0], MAX_BYTES)
    await broadcaster.locate(start)
    return broadcaster


def body(delivery: Delivery) -> Any:
    """What was published, of a JSON body."""
    data = field(delivery.fields, b"data")
    assert data is not None
    return json.loads(data)


def bodies(deliveries: Sequence[Delivery]) -> list[Any]:
    return [body(delivery) for delivery in deliveries]
