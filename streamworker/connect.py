"""Connects apps, the command line and onlookers to the Redis broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from streamworker.broker import Publisher
from streamworker.endpoint import endpoint
from streamworker.errors import AuthFailed, BrokerError, ConfigError, NotPermitted, Unavailable
from streamworker.handler import Group
from streamworker.logs import log
from streamworker.monitoring.snapshots import status
from streamworker.monitoring.status import Status
from streamworker.operating import Operator
from streamworker.outage import pauses
from streamworker.redisbroker.broker import RedisBroker
from streamworker.redisbroker.observer import RedisObserver
from streamworker.retention import Retention

if TYPE_CHECKING:
    from streamworker.tracing import Tracing


class Application(Protocol):
    """What is needed of an ``App``."""

    name: str
    url: str | None
    stuck_after: float
    state: Any
    lifespan_function: Any

    def groups(self) -> list[Group]: ...

    def broadcasts(self) -> list[Group]: ...

    def retentions(self) -> list[Retention]: ...

    def connected(self, publisher: Publisher, url: str) -> None: ...

    def disconnected(self, publisher: Publisher) -> None: ...


@asynccontextmanager
async def publishing(app: Application) -> AsyncIterator[None]:
    """Connect ``app`` for publishing; see ``async with app``."""
    with endpoint(None, [app.url]) as server:
        broker = await _opened(server.url)
        async with connected(app, publisher_of(broker, tracing_of(server.url, None)), server.url):
            yield


class Entrance:
    """``async with app``: tasks that are in it at the same time share one connection."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._inside = 0
        self._entering: asyncio.Future[AsyncExitStack]

    async def enter(self) -> None:
        """Connect, if nobody is inside."""
        self._inside += 1
        if self._inside == 1:
            self._entering = asyncio.ensure_future(self._open())
        try:
            await asyncio.shield(self._entering)
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Disconnect, if nobody else is inside; also when entering failed or was cancelled."""
        self._inside -= 1
        if self._inside:
            return
        entering = self._entering  # somebody may enter while this is closed
        if not entering.done():
            await asyncio.wait([entering])
        if not entering.cancelled() and entering.exception() is None:
            await entering.result().aclose()

    async def _open(self) -> AsyncExitStack:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(publishing(self._app))
            return stack.pop_all()


async def open_publisher(url: str) -> Publisher:
    """A publisher on its own, for the command line.

    Raises:
        Unavailable: the server cannot be reached, or does not take the credentials.
    """
    return (await _opened(url)).publisher()


async def open_observer(url: str) -> RedisObserver:
    """Somebody who looks at a server and changes nothing there.

    Raises:
        Unavailable: the server cannot be reached, or does not take the credentials.
    """
    return (await _opened(url)).observer()


async def open_operator(url: str) -> Operator:
    """Somebody who steers streams and groups.

    Raises:
        Unavailable: the server cannot be reached, or does not take the credentials.
    """
    return Operator((await _opened(url)).operator())


@asynccontextmanager
async def operating(app: Application) -> AsyncIterator[Operator]:
    """See ``App.operator``."""
    with endpoint(None, [app.url]) as server:
        operator = await open_operator(server.url)
        try:
            yield operator
        finally:
            await operator.close()


async def status_of(app: Application, over: float) -> Status:
    """The numbers of the streams that ``app`` consumes; see ``App.status``."""
    with endpoint(None, [app.url]) as server:
        observer = await open_observer(server.url)
        try:
            streams = sorted({group.stream for group in (*app.groups(), *app.broadcasts())})
            return await status(observer, streams, over=over)
        finally:
            await observer.close()


async def _opened(url: str) -> RedisBroker:
    """A broker whose server serves."""
    broker = RedisBroker(url)
    await _serves(broker)
    return broker


@asynccontextmanager
async def connected(app: Application, publisher: Publisher, url: str) -> AsyncIterator[None]:
    app.connected(publisher, url)
    try:
        yield
    finally:
        app.disconnected(publisher)
        await publisher.close()


def publisher_of(broker: RedisBroker, tracing: Tracing | None) -> Publisher:
    return broker.publisher() if tracing is None else tracing.publisher(broker.publisher())


def tracing_of(url: str, wanted: bool | None) -> Tracing | None:
    """What makes the spans. Where tracing is off, nothing of OpenTelemetry is imported."""
    if not (has_provider() if wanted is None else wanted):
        return None
    try:
        from streamworker.tracing import Tracing  # noqa: PLC0415
    except ImportError:
        raise ConfigError("--tracing needs OpenTelemetry: pip install 'streamworker[otel]'") from None
    return Tracing(url)


def has_provider() -> bool:
    """Whether this process has set a tracer provider; who does so has imported OpenTelemetry."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return False
    return not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider | api.NoOpTracerProvider)


async def wait_for_server(broker: RedisBroker, timeout: float, stop: asyncio.Event) -> bool:
    """Wait until the server serves, with growing pauses and one line that says so; False if told to stop.

    Raises:
        AuthFailed: at once; trying again would not help.
        Unavailable: it did not serve within ``timeout`` seconds.
    """
    deadline = monotonic() + timeout
    waits = pauses()
    told = False
    while not stop.is_set():
        try:
            await _serves(broker)
        except AuthFailed:
            raise
        except Unavailable as error:
            if monotonic() >= deadline:
                raise
            if not told:
                log.warning("redis.waiting", reason=str(error), seconds=timeout)
                told = True
        else:
            return True
        try:
            async with asyncio.timeout(min(next(waits), max(0.01, deadline - monotonic()))):
                await stop.wait()
        except TimeoutError:
            pass
    return False


async def _serves(broker: RedisBroker) -> None:
    try:
        await broker.ping()
    except (Unavailable, NotPermitted) as error:  # who may not PING has been answered all the same
        if isinstance(error, Unavailable):
            raise
    except BrokerError as error:
        raise ConfigError(f"the server does not take this URL: {error}") from None
