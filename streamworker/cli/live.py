"""What ``streamworker top`` does once its options are read: looks, draws, and hears keys and signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Final

from streamworker.cli.looking import server_of
from streamworker.cli.picture import LOOKS, ORDERS, View, picture
from streamworker.cli.screen import Screen
from streamworker.errors import Unavailable
from streamworker.logs import clean
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.snapshots import Snapshot, of_snapshots, take_snapshot
from streamworker.monitoring.words import span

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PAUSE: Final = 0.5  # seconds between two attempts while Redis is away
_REDRAWN: Final = 1.0  # seconds after which the picture is drawn again while Redis is away, to say for how long


class Live:
    """A live picture of ``streams``, or of all, looked at every ``interval`` seconds."""

    def __init__(self, observer: Observer, where: str, streams: Sequence[str], interval: float) -> None:
        self._observer = observer
        self._streams = streams
        self._interval = interval
        self._view = View(status=None, history={}, server=None, where=where, order=ORDERS[0])
        self._frozen: View | None = None
        self._history: dict[tuple[str, str], deque[int | None]] = {}
        self._away: tuple[str, float] | None = None
        self._changed = asyncio.Event()
        self._code: int | None = None

    async def show(self) -> int:
        """Show it until a key or a signal ends it; returns the exit code."""
        self._view = replace(self._view, server=await server_of(self._observer))
        loop = asyncio.get_running_loop()
        with Screen() as screen:
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._end, 128 + number)
            loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
            if screen.keys is not None:
                loop.add_reader(screen.keys, self._read_keys, screen.keys)
            looks = asyncio.create_task(self._look_loop(), name="looks")
            looks.add_done_callback(lambda _: self._changed.set())
            try:
                return await self._draw_loop(screen, looks)
            finally:
                looks.cancel()
                await asyncio.wait([looks])
                if screen.keys is not None:
                    loop.remove_reader(screen.keys)

    async def _draw_loop(self, screen: Screen, looks: asyncio.Task[None]) -> int:
        while self._code is None:
            if looks.done():
                looks.result()  # what keeps us from looking
            screen.draw(picture(self._shown(), *screen.size))
            with suppress(TimeoutError):
                async with asyncio.timeout(_REDRAWN if self._away is not None else None):
                    await self._changed.wait()
            self._changed.clear()
        return self._code

    def _shown(self) -> View:
        view = self._frozen or self._view
        trouble = None
        if self._away is not None:
            reason, since = self._away
            trouble = f"Redis cannot be reached for {span(monotonic() - since)}: {clean(reason, 200)}"
        return replace(view, order=self._view.order, frozen=self._frozen is not None, trouble=trouble)

    async def _look_loop(self) -> None:
        before: Snapshot | None = None
        while True:
            try:
                before = await self._look(before)
            except Unavailable as error:
                self._away = self._away or (str(error), monotonic())
                self._changed.set()
                await asyncio.sleep(_PAUSE)
                continue
            self._away = None
            self._changed.set()
            await asyncio.sleep(self._interval)

    async def _look(self, before: Snapshot | None) -> Snapshot:
        wanted = dict.fromkeys(self._streams, ()) if self._streams else await self._observer.streams()
        now = await take_snapshot(self._observer, wanted)
        status = await of_snapshots(self._observer, before, now)
        groups = {(group.stream, group.group): group for group in status.groups}
        self._history = {key: self._history.get(key, deque(maxlen=LOOKS)) for key in groups}
        for key, group in groups.items():
            self._history[key].append(group.lag)
        history = {key: tuple(lags) for key, lags in self._history.items()}
        self._view = replace(self._view, status=status, history=history)
        return now

    def _read_keys(self, descriptor: int) -> None:
        try:
            keys = os.read(descriptor, 64)
        except OSError:
            keys = b""
        if not keys:  # the terminal is gone
            self._end(128 + signal.SIGHUP)
        for key in keys.decode("latin-1").lower():
            if key in ("q", "\x04"):
                self._end(0)
            elif key == "s":
                following = ORDERS[(ORDERS.index(self._view.order) + 1) % len(ORDERS)]
                self._view = replace(self._view, order=following)
            elif key == "p":
                self._frozen = self._view if self._frozen is None else None
        self._changed.set()

    def _end(self, code: int) -> None:
        self._code = self._code if self._code is not None else code
        self._changed.set()
