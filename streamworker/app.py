"""App: the registry a user writes handlers into and publishes through."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from streamworker.backoff import Backoff
from streamworker.errors import ConfigError
from streamworker.handler import Group, Handler, OnFailure, Start, name_of, number
from streamworker.registry import Registry
from streamworker.retention import Limits, Retention

if TYPE_CHECKING:
    from streamworker.broker import Publisher
    from streamworker.connect import Entrance
    from streamworker.monitoring.status import Status
    from streamworker.operating import Operator

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
L = TypeVar("L", bound=Lifespan)
_UNSET: Any = object()


class App:
    """Holds handlers; connects nothing until it is run or entered.

    Args:
        name: the default consumer group of its handlers. Renaming an app makes a new group,
            to which everything that the stream keeps is delivered again.
        url: where Redis is, unless ``--redis`` says otherwise. While the app is connected the attribute
            ``url`` is the server in use, the embedded one included.
        lease: seconds without a heartbeat after which a worker is taken for dead.
        stuck_after: seconds after which a process whose event loop stands still is ended.
        unrouted: what becomes of an entry whose type no handler of the group takes:
            ``"dead-letter"`` or ``"drop"``.
        max_body: bytes; a larger body is dead-lettered without being parsed.

    Raises:
        ConfigError: an argument makes no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        lease: float = 15.0,
        stuck_after: float = 600.0,
        unrouted: Literal["dead-letter", "drop"] = "dead-letter",
        max_body: int = 8 * 2**20,
    ) -> None:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ConfigError(f"App({name!r}): the name is the default consumer group; give a printable one")
        if unrouted not in ("dead-letter", "drop"):
            raise ConfigError(f"App({name!r}): unrouted={unrouted!r}, but it must be 'dead-letter' or 'drop'")
        if not (number(stuck_after) and number(max_body)) or stuck_after <= 0 or max_body < 1:
            raise ConfigError(f"App({name!r}): stuck_after and max_body must be more than 0")
        self.name = name
        self.url = url
        self.stuck_after = stuck_after
        self.state: Any = None
        self.lifespan_function: Lifespan | None = None
        self._lease = lease
        self._registry = Registry(unrouted, max_body)
        self._own_url = url
        self._publishers: list[tuple[Publisher, str]] = []
        self._entrance: Entrance | None = None

    def __repr__(self) -> str:
        return f"App({self.name!r}, {len(self.handlers)} handlers)"

    def on(
        self,
        stream: str,
        *,
        group: str | None = None,
        type: str | None = None,
        start: Start | None = None,
        concurrency: int = 16,
        prefetch: int | None = None,
        lease: float | None = None,
        timeout: float | None = None,
        max_deliveries: int = 5,
        max_age: float | None = None,
        retry: Backoff = Backoff(),  # noqa: B008  (frozen)
        dead_letter: bool = True,
        on_failure: OnFailure | None = None,
        ack: Literal["after", "before"] = "after",
        body: str | None = None,
        broadcast: bool = False,
    ) -> Callable[[F], F]:
        """Register the decorated function for the entries of ``stream``; the function stays what it was.

        Its first parameter gets the body, decoded to what the annotation says; a parameter annotated
        ``Message`` or called ``message`` gets the message. A plain ``def`` runs in a thread.

        Args:
            stream: the Redis stream to consume.
            group: the consumer group; the app's name by default.
            type: take only entries whose ``type`` field says so; without it, those no other handler takes.
            start: where a new group begins: ``"beginning"`` (the default), ``"new"``, an entry id
                (from this one on) or a datetime with a time zone.
            concurrency: how many messages this handler works on at once.
            prefetch: the most messages held at once, running ones included; adapts to the speed by default.
            lease: as ``App(lease=)``, for this group.
            timeout: seconds a run may take; None lets it run for ever.
            max_deliveries: a message that failed this many times is dead-lettered.
            max_age: seconds since publishing after which a message is dead-lettered instead of run.
            retry: the pauses between deliveries.
            dead_letter: False drops what would be dead-lettered.
            on_failure: called with a ``Failure`` for every failed delivery; may return
                ``Retry(...)``, ``Reject(...)``, ``Drop(...)`` or None for the default.
            ack: ``"before"`` acknowledges before the handler runs: at most once.
            body: ``"fields"`` for the whole flat entry, or the name of the field that holds the body.
            broadcast: every worker gets every entry (no group), from ``start`` on, ``"new"`` by default.

        Raises:
            ConfigError: an option makes no sense, or contradicts another handler of the group.
        """

        if callable(stream):
            raise ConfigError(f"@app.on needs the name of a stream: @app.on('orders'), above {name_of(stream)!r}")

        def register(function: F) -> F:
            if not callable(function):
                raise ConfigError(f"@app.on({stream!r}) decorates a function, not {function!r}")
            name = name_of(function)
            if broadcast:
                given = {
                    "group": group, "prefetch": prefetch, "lease": lease, "max_age": max_age,
                    "max_deliveries": None if max_deliveries == 5 else max_deliveries,
                    "retry": None if retry == Backoff() else retry,
                    "dead_letter": None if dead_letter else False,
                    "ack": None if ack == "after" else ack,
                }  # fmt: skip
                wrong = [option for option, value in given.items() if value is not None]
                if wrong:
                    raise ConfigError(
                        f"handler {name!r} of stream {stream!r}: {', '.join(wrong)} make(s) no sense with "
                        "broadcast=True, which has no group, no acks and no retries"
                    )
            handler = Handler(
                function=function,
                name=name,
                stream=stream,
                group=None if broadcast else group if group is not None else self.name,
                type=type,
                start=start if start is not None else "new" if broadcast else "beginning",
                concurrency=concurrency,
                prefetch=prefetch,
                lease=lease if lease is not None else self._lease,
                timeout=timeout,
                max_deliveries=max_deliveries,
                max_age=max_age,
                retry=retry,
                dead_letter=dead_letter,
                on_failure=on_failure,
                ack=ack,
                body=body,
            )
            self._registry.add(handler)
            return function

        return register

    def stream(
        self,
        name: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        max_bytes: int | None = None,
        force: bool = False,
        dead_max_age: float | None = None,
        dead_max_length: int | None = None,
    ) -> None:
        """Declare how much of a stream is kept; one of the workers that consume it trims it every few seconds.

        What a group has not finished is kept all the same, groups of other programs included, unless ``force``.

        Args:
            name: the stream; this app must have a handler with a group on it.
            max_length: entries.
            max_age: seconds since publishing, by the time in the id.
            max_bytes: of the server's memory, as that estimates it.
            force: remove also what groups have not finished; what they lose is counted and logged.
            dead_max_age: seconds that dead letters of this app's groups are kept; for ever by default.
            dead_max_length: how many of them are kept of each group; all by default.

        Raises:
            ConfigError: no limit is given, one makes no sense, or the stream is declared already.
        """
        retention = Retention(
            stream=name,
            limits=Limits(max_length=max_length, max_age=max_age, max_bytes=max_bytes),
            force=force,
            dead=Limits(max_length=dead_max_length, max_age=dead_max_age),
        )
        self._registry.keep(retention, repr(self))

    @property
    def handlers(self) -> list[Handler]:
        """The registered handlers, in their order."""
        return self._registry.handlers

    def groups(self) -> list[Group]:
        """The registered handlers by stream and group, broadcasts left out."""
        return self._registry.groups()

    def broadcasts(self) -> list[Group]:
        """The broadcast handlers, each a group of its own without a name."""
        return self._registry.broadcasts()

    def retentions(self) -> list[Retention]:
        """The declared streams, each with this app's groups on it."""
        return self._registry.retentions()

    def lifespan(self, function: L) -> L:
        """Register an async context manager around the worker's life; what it yields is ``app.state``.

        Usually an ``@asynccontextmanager`` function without parameters.

        Raises:
            ConfigError: the app has one already.
        """
        if self.lifespan_function is not None:
            raise ConfigError(f"{self!r} has a lifespan already: {name_of(self.lifespan_function)!r}")
        self.lifespan_function = function
        return function

    async def publish(
        self, stream: str, body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Append an entry and return its id.

        Args:
            stream: the stream.
            body: ``str`` and ``bytes`` travel as they are, everything else as JSON.
            type: the entry's type, for handlers that say ``type=``.
            headers: further fields; ``data``, ``type``, ``content-type`` and ``sw-…`` are ours.

        Raises:
            PublishUnknown: the connection was lost, so it may have been written, or not.
            PublishError: the server could not be reached or refused it; nothing was written.
            ConfigError: the app is neither run nor entered, or a header has a name that is ours.
        """
        return await self._connected().publish(stream, body, type=type, headers=headers)

    async def publish_many(
        self,
        stream: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Append an entry for each body, in batches of bounded memory, and return how many.

        Raises:
            PublishFailed: part of them was written; ``published`` and ``unknown`` say how many, and ``leading``
                where to go on. Its cause is the body's or the iterable's error, if that was the reason.
            ConfigError: as ``publish``.
        """
        return await self._connected().publish_many(stream, bodies, type=type, headers=headers)

    async def status(self, *, over: float = 1.0) -> Status:
        """How far behind the groups on this app's streams are, how fast they are, and how much memory it all takes.

        Looks twice at the server, over a connection of its own; groups of other programs are told too.

        Args:
            over: seconds between the two looks, for the rates; 0 leaves them out.

        Raises:
            Unavailable: the server cannot be reached.
        """
        from streamworker.connect import status_of  # noqa: PLC0415  (the registry loads no driver)

        return await status_of(self, over)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        """Steer streams and groups of this app's server: what the command line does, from Python.

        Raises:
            Unavailable: the server cannot be reached.
        """
        from streamworker.connect import operating  # noqa: PLC0415  (the registry loads no driver)

        async with operating(self) as operator:
            yield operator

    def _connected(self) -> Publisher:
        if not self._publishers:
            raise ConfigError(
                f"{self!r} is not connected: publish from a handler, or inside 'async with app:' or 'app.running()'"
            )
        return self._publishers[-1][0]

    def connected(self, publisher: Publisher, url: str) -> None:
        """For the runtime: from now on ``publish`` goes through ``publisher``, and ``url`` is the server in use."""
        if not self._publishers:
            self._own_url = self.url
        self._publishers.append((publisher, url))
        self.url = url

    def disconnected(self, publisher: Publisher) -> None:
        """For the runtime: ``publisher`` is about to close. Workers and ``async with`` may end in any order."""
        self._publishers = [one for one in self._publishers if one[0] is not publisher]
        self.url = self._publishers[-1][1] if self._publishers else self._own_url

    async def __aenter__(self) -> App:
        if self._entrance is None:
            from streamworker.connect import Entrance  # noqa: PLC0415  (the registry loads no driver)

            self._entrance = Entrance(self)
        await self._entrance.enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._entrance is not None
        await self._entrance.leave()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[App]:
        """Run this app's workers inside another program, for as long as the block lasts; then drain.

        Installs no signal handlers and configures no logging. Raises Unavailable if Redis cannot be
        reached at the start.
        """
        from streamworker.launch import running  # noqa: PLC0415  (the registry loads no driver)

        async with running([self]):
            yield self
