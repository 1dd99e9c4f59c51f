"""A worker: the process that runs the handlers of one or more apps, from start to drain."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from streamworker.broadcast import Broadcast
from streamworker.broker import Broker
from streamworker.burst import Burst
from streamworker.consumer import Consumer
from streamworker.errors import StreamworkerError
from streamworker.gate import Gate
from streamworker.handler import Group
from streamworker.heartbeat import Heartbeat, Membership
from streamworker.identity import consumer_name, new_token, version
from streamworker.logs import log
from streamworker.outage import Outages
from streamworker.report import Report
from streamworker.retention import Retention
from streamworker.seen import Seen
from streamworker.trimmer import TrimCounts, Trimmer

if TYPE_CHECKING:
    from streamworker.tracing import Tracing

_LAST_BEAT: Final = 1.0  # seconds to wait for it, when the server does not answer
_LOOP_TICK: Final = 0.5  # seconds between two proofs that the event loop lives


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker runs.

    Attributes:
        burst: end when everything reachable is handled and settled.
        shutdown_timeout: seconds a drain may take.
        stuck_after: seconds the event loop may stand still.
        token: the random part of the consumer name; chosen by a supervisor, so that it knows the name.
        replaces: the consumer names of the processes that this one replaces, known to be dead.
    """

    burst: bool = False
    shutdown_timeout: float = 25.0
    stuck_after: float = 600.0
    token: str | None = None
    replaces: tuple[str, ...] = ()


class Worker:
    """Runs the groups of its apps until stopped.

    Args:
        broker: the server.
        groups: consumer groups to be a member of.
        broadcasts: broadcast handlers, each as a group without a name.
        options: how to run.
        retentions: how much of the groups' streams is kept.
        tracing: makes the spans; None where there are none.
    """

    def __init__(
        self,
        broker: Broker,
        groups: Sequence[Group],
        broadcasts: Sequence[Group],
        options: WorkerOptions,
        *,
        retentions: Sequence[Retention] = (),
        tracing: Tracing | None = None,
    ) -> None:
        self.name = consumer_name(options.token or new_token())
        self._broker = broker
        self._options = options
        gate, outages = Gate(), Outages()
        trimmed = {one.stream for one in retentions}
        process = Report(host=platform.node(), pid=os.getpid(), version=version(), started=time())
        self._consumers = [
            Consumer(group, broker, self.name, gate, outages,
                     replace(process, trims=group.stream in trimmed), tracing=tracing)
            for group in groups
        ]  # fmt: skip
        self._broadcasts = [Broadcast(group, broker, self.name, gate, outages, tracing) for group in broadcasts]
        self._parts: list[Consumer | Broadcast] = [*self._consumers, *self._broadcasts]
        memberships: dict[str, list[Membership]] = {}
        for one in self._consumers:
            memberships.setdefault(one.group.stream, []).append(one.membership)
        self._trimmer = Trimmer(broker.trimming(), retentions, memberships, outages)
        self._heartbeat: Heartbeat | None = None
        self._turned: float | None = None  # when the event loop was last seen to live
        self._late = 0.0
        self.draining = False
        self._beaten = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> bool:
        """Work until ``stop`` is set or the burst is over, then drain.

        Returns:
            False if the drain's time was over before everything was finished and settled.

        Raises:
            StreamworkerError: a burst that cannot end.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._leave)
            tick = asyncio.create_task(self._tick_loop(), name="tick")
            stack.callback(tick.cancel)
            if not await self._begin_beating(stop, tick):
                return True
            for consumer in self._consumers:
                for name in self._options.replaces:
                    await consumer.replaces(name)
            trimming = asyncio.create_task(self._trimmer.trim_loop(), name="trimmer")
            stack.callback(trimming.cancel)
            working = [tick, trimming, *(task for part in self._parts for task in part.start())]
            try:
                await self._until_stopped(stop, working)
            except asyncio.CancelledError:
                # Cancelled from outside, inside another program: drain all the same, then give way.
                await asyncio.shield(self._drain())
                raise
            except StreamworkerError:  # a burst that cannot end
                await self._drain()
                raise
            except BaseException:
                for part in self._parts:
                    part.crash()
                raise
            return await self._drain()

    async def _begin_beating(self, stop: asyncio.Event, tick: asyncio.Task[None]) -> bool:
        """Wait for the first heartbeat: a consumer without one might be taken for dead, and may start nothing.

        Returns False if it was told to stop before that.
        """
        memberships = [consumer.membership for consumer in self._consumers]
        if not memberships:
            return True
        loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(
            self._broker.pulse(self.name), memberships,
            stuck_after=self._options.stuck_after, stuck=_end_stuck_process,
            beaten=lambda: _call_soon(loop, self._on_beat),
        )  # fmt: skip
        self._heartbeat.start()
        waits = [asyncio.create_task(self._beaten.wait()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait([*waits, tick], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if tick.done():
            await tick  # raises what ended it
        return self._beaten.is_set()

    def _on_beat(self) -> None:
        self._beaten.set()
        for consumer in self._consumers:
            consumer.wake()

    async def _tick_loop(self) -> None:
        while True:
            if self._heartbeat is not None:
                if not self._heartbeat.is_alive():
                    raise RuntimeError("the heartbeat thread ended")
                self._heartbeat.loop_is_alive()
            now = monotonic()
            self._late = self._overdue(now)
            self._turned = now
            await asyncio.sleep(_LOOP_TICK)

    async def _until_stopped(self, stop: asyncio.Event, working: list[asyncio.Task[None]]) -> None:
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        if self._options.burst:
            waits.append(asyncio.create_task(Burst(self._consumers, self._broadcasts).over()))
        try:
            done, _ = await asyncio.wait([*waits, *working], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # raises what ended it: a bug of ours, or a burst that cannot end
        finally:
            for task in waits:
                task.cancel()

    async def _drain(self) -> bool:
        self.draining = True
        deadline = monotonic() + self._options.shutdown_timeout
        log.info("worker.draining", consumer=self.name, in_flight=sum(len(part.flight) for part in self._parts))
        drained = await asyncio.gather(*(part.drain(deadline) for part in self._parts))
        return all(drained)

    async def _leave(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            end = monotonic() + _LAST_BEAT
            while self._heartbeat.is_alive() and monotonic() < end:  # a beat under way would bring the consumer back
                await asyncio.sleep(0.01)
        await asyncio.gather(*(consumer.leave() for consumer in self._consumers))

    def measure(self) -> None:
        """Measure messages from now on; see ``meter``."""
        for part in self._parts:
            part.measure()

    def seen(self) -> list[Seen]:
        """What an onlooker sees of each consumer and broadcast, from another thread."""
        return [part.seen() for part in self._parts]

    @property
    def trimmed(self) -> TrimCounts:
        """What the trimmer of this process has removed."""
        return self._trimmer.counts

    @property
    def loop_late(self) -> float:
        """How late the event loop is, or last was, in seconds; 0 before the worker begins."""
        return max(self._late, self._overdue(monotonic()))

    def _overdue(self, now: float) -> float:
        return 0.0 if self._turned is None else max(0.0, now - self._turned - _LOOP_TICK)

    @property
    def counts(self) -> dict[str, int]:
        """What became of all deliveries, summed over the groups."""
        total: dict[str, int] = {}
        for part in self._parts:
            for name, number in part.counts.numbers().items():
                total[name] = total.get(name, 0) + number
        return total


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
    with suppress(RuntimeError):  # the loop was closed between the beat and now
        loop.call_soon_threadsafe(callback)


def _end_stuck_process(seconds: float) -> None:
    """The event loop stands still for too long: this process serves nobody and lost what it held."""

    # In a thread of its own: the blocked loop may hold the lock of a log handler.
    def tell() -> None:
        log.critical("loop.stuck", seconds=round(seconds), then="the process ends with 1")
        logging.shutdown()  # flushes: a log handler may write from a thread of its own

    last_words = threading.Thread(target=tell, daemon=True)
    last_words.start()
    last_words.join(1.0)
    os._exit(1)
