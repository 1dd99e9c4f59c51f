"""Launches the worker of one or more apps, alone or inside another program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from streamworker.broker import Publisher
from streamworker.connect import Application, connected, has_provider, publisher_of, tracing_of, wait_for_server
from streamworker.endpoint import endpoint
from streamworker.errors import ConfigError
from streamworker.logs import log
from streamworker.redisbroker.broker import RedisBroker
from streamworker.retention import Retention
from streamworker.worker import Worker, WorkerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How ``run_worker`` runs.

    Attributes:
        only: consume only these streams; empty for all.
        burst: end when everything reachable is handled and settled.
        shutdown_timeout: seconds a drain may take.
        connect_timeout: seconds to wait for Redis at the start.
        token: the random part of the consumer name.
        replaces: the consumer names of the dead processes that this one replaces.
        http: HOST:PORT for metrics and probes; None for none.
        tracing: whether there are OpenTelemetry spans; None: if a tracer provider is set by now.
    """

    only: frozenset[str] = frozenset()
    burst: bool = False
    shutdown_timeout: float = 25.0
    connect_timeout: float = 60.0
    token: str | None = None
    replaces: tuple[str, ...] = ()
    http: str | None = None
    tracing: bool | None = None


async def run_worker(
    apps: Sequence[Application], url: str, options: RunOptions, stop: asyncio.Event, started: Callable[[], None]
) -> bool:
    """Wait for Redis, run the handlers of ``apps`` until ``stop`` is set or the burst is over, then drain.

    Args:
        apps: the apps.
        url: of the server.
        options: how to run.
        stop: set from outside to begin the drain.
        started: called when the apps' lifespans are entered and the worker begins.

    Returns:
        False if the drain's time was over before everything was finished and settled; what could be
        cancelled was handed back.

    Raises:
        AuthFailed: the server does not take the credentials.
        Unavailable: no server within ``connect_timeout``.
        ConfigError: a handler cannot be compiled, the URL is wrong, or there is no OpenTelemetry to trace with.
    """
    _check_members(apps)
    retentions = _retentions(apps, options.only)
    tracing = tracing_of(url, options.tracing)
    broker = RedisBroker(url)
    groups = [group for app in apps for group in app.groups() if not options.only or group.stream in options.only]
    broadcasts = [one for app in apps for one in app.broadcasts() if not options.only or one.stream in options.only]
    worker = Worker(
        broker,
        groups,
        broadcasts,
        WorkerOptions(
            burst=options.burst,
            shutdown_timeout=options.shutdown_timeout,
            stuck_after=min(app.stuck_after for app in apps),
            token=options.token,
            replaces=options.replaces,
        ),
        retentions=retentions,
        tracing=tracing,
    )
    publishers = [publisher_of(broker, tracing) for _ in apps]
    async with AsyncExitStack() as stack:
        if options.http is not None:
            await stack.enter_async_context(_listening(options.http, worker, publishers, apps, url))
        if not await wait_for_server(broker, options.connect_timeout, stop):
            return True
        stack.push_async_callback(broker.close)
        for app, publisher in zip(apps, publishers, strict=True):
            await stack.enter_async_context(connected(app, publisher, url))
        for app in apps:
            if app.lifespan_function is not None:
                app.state = await stack.enter_async_context(_lifespan(app))
        if tracing is not None and not has_provider():
            log.warning("tracing.no_provider", reason="spans go nowhere: the app sets no tracer provider")
        started()
        drained = await worker.run(stop)
        if drained:
            log.info("worker.drained", consumer=worker.name, **worker.counts)
        else:
            log.warning("worker.drain_timed_out", consumer=worker.name, **worker.counts)
        return drained


def _listening(
    where: str, worker: Worker, publishers: Sequence[Publisher], apps: Sequence[Application], url: str
) -> AbstractAsyncContextManager[None]:
    """Metrics and probes, from before the server answers until after the drain."""
    try:
        from streamworker.http import Address, View, serving  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(f"--http needs the extra 'http' ({error}): pip install 'streamworker[http]'") from None
    view = View(worker, publishers, min(app.stuck_after for app in apps))
    # Its thread has an event loop of its own, so it has connections of its own.
    return serving(Address.of(where), view, RedisBroker(url).observer())


def _lifespan(app: Application) -> AbstractAsyncContextManager[Any]:
    made = app.lifespan_function()
    if not isinstance(made, AbstractAsyncContextManager):
        if asyncio.iscoroutine(made):
            made.close()  # or Python warns that it was never awaited
        raise ConfigError(f"the lifespan of app {app.name!r} is no async context manager; add @asynccontextmanager")
    return made


def _check_members(apps: Sequence[Application]) -> None:
    """Two members of one group in one process would have one name, and take each other's entries for lost."""
    seen: dict[tuple[str, str], Application] = {}
    for app in apps:
        for group in app.groups():
            other = seen.setdefault((group.stream, group.name), app)
            if other is not app:
                raise ConfigError(
                    f"apps {other.name!r} and {app.name!r} both consume stream {group.stream!r} "
                    f"as group {group.name!r}; put these handlers into one app, or give one of them a group= of its own"
                )


def _retentions(apps: Sequence[Application], only: frozenset[str]) -> list[Retention]:
    """What the apps declare for the streams that are consumed here."""
    found: dict[str, tuple[Application, Retention]] = {}
    for app in apps:
        for one in app.retentions():
            if only and one.stream not in only:
                continue
            if not one.groups:
                raise ConfigError(
                    f"app {app.name!r} declares app.stream({one.stream!r}), but no handler of its own consumes that "
                    "stream as a group, and only a member of a group knows which worker has to trim; declare it in "
                    "the app that consumes the stream"
                )
            other, _ = found.setdefault(one.stream, (app, one))
            if other is not app:
                raise ConfigError(
                    f"apps {other.name!r} and {app.name!r} both declare app.stream({one.stream!r}); "
                    "declare it in one of them"
                )
    return [one for _, one in found.values()]


@asynccontextmanager
async def running(apps: Sequence[Application]) -> AsyncIterator[None]:
    """Run the workers of ``apps`` for as long as the block lasts, then drain; see ``App.running``."""
    with endpoint(None, [app.url for app in apps]) as server:
        stop, started = asyncio.Event(), asyncio.Event()
        # The server is asked once: a program that embeds a worker has a start of its own to fail.
        options = RunOptions(connect_timeout=0.0)
        work = asyncio.create_task(run_worker(apps, server.url, options, stop, started.set), name="streamworker")
        work.add_done_callback(_tell_crash)
        beginning = asyncio.create_task(started.wait())
        try:
            await asyncio.wait([work, beginning], return_when=asyncio.FIRST_COMPLETED)
            if not started.is_set():
                await work  # raises what kept it from starting
            yield
        finally:
            beginning.cancel()
            stop.set()
            await _outlast(work)


async def _outlast(work: asyncio.Task[bool]) -> None:
    """Wait for a drain to its end, which has a limit of its own, however often the host is cancelled meanwhile."""
    cancelled = False
    with anyio.CancelScope(shield=True):  # anyio's scopes cancel again and again
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    work.result()


def _tell_crash(work: asyncio.Task[bool]) -> None:
    """The host learns of it when its block ends; until then the log is all there is."""
    if not work.cancelled() and work.exception() is not None:
        log.critical("worker.crashed", exc_info=work.exception())
