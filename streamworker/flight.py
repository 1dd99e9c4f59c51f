"""What is in flight: every delivery this worker holds, from the read until it is settled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from streamworker.broker import EntryName
from streamworker.message import Delivery

_LOOK_AHEAD: Final = 0.1  # seconds of work to hold beyond the running handlers
_MOST_AHEAD: Final = 1000


@dataclass(slots=True)
class Counts:
    """What became of the deliveries of one group in this process."""

    delivered: int = 0
    acked: int = 0
    retried: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    released: int = 0
    claimed: int = 0
    adopted: int = 0
    lost: int = 0
    trimmed: int = 0  # while they were pending
    skipped: int = 0  # trimmed before they were read
    slow: int = 0
    stuck: int = 0
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)  # runs, by handler and kind of failure
    causes: Counter[str] = field(default_factory=Counter)  # of dead letters
    errors: Counter[str] = field(default_factory=Counter)  # of the server, by kind

    def numbers(self) -> dict[str, int]:
        """What became of how many deliveries, by name."""
        return {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), int)}


class Flight:
    """The table of deliveries in flight, by stream key and id; and how many more may come.

    Args:
        keys: the streams the deliveries come from.
        concurrency: how many handlers may run at once.
        prefetch: the most that may be in flight; None lets it follow the speed of the handlers: as many as
            they finish in about 100 ms, beyond the running ones, so that fast handlers read in large
            batches and slow ones hoard nothing that another worker could run.
    """

    def __init__(self, keys: Iterable[bytes], concurrency: int, prefetch: int | None) -> None:
        self._tables: dict[bytes, dict[bytes, Delivery]] = {key: {} for key in keys}
        self._count = 0
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._ahead = 0
        self._removed = 0
        self._measured = (monotonic(), 0)
        self._space = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Delivery]:
        for table in self._tables.values():
            yield from table.values()

    def get(self, name: EntryName) -> Delivery | None:
        return self._tables[name[0]].get(name[1])

    def names(self) -> set[EntryName]:
        return {(key, id) for key, table in self._tables.items() for id in table}

    def add_all(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """As ``add``; returns those that were not in flight."""
        tables, new = self._tables, []
        for delivery in deliveries:
            table = tables[delivery.key]
            if delivery.id not in table:
                table[delivery.id] = delivery
                self._count += 1
                new.append(delivery)
            elif self.add(delivery):
                new.append(delivery)
        return new

    def add(self, delivery: Delivery) -> bool:
        """Take a delivery in; False if the entry is in flight already, which only renews its count.

        That happens when a group was made again and its pending entries come a second time. Where the stream
        began anew, the same id may name another entry: it supersedes the one in flight.
        """
        table = self._tables[delivery.key]
        held = table.setdefault(delivery.id, delivery)
        if held is delivery:
            self._count += 1
        elif held.fields == delivery.fields:
            held.deliveries = delivery.deliveries
            return False
        else:
            held.superseded = True
            table[delivery.id] = delivery
        return True

    def remove(self, delivery: Delivery) -> None:
        """It is settled, or somebody else's; removing it twice does nothing."""
        self.remove_all((delivery,))

    def remove_all(self, deliveries: Iterable[Delivery]) -> None:
        """As ``remove``."""
        tables, removed = self._tables, 0
        for delivery in deliveries:
            table = tables[delivery.key]
            if table.get(delivery.id) is delivery:
                del table[delivery.id]
                removed += 1
        self._count -= removed
        self._removed += removed
        self._space.set()

    @property
    def window(self) -> int:
        """The most that may be in flight now."""
        if self._prefetch is not None:
            return self._prefetch
        now = monotonic()
        since, removed = self._measured
        if now - since >= _LOOK_AHEAD:
            speed = (self._removed - removed) / (now - since)
            # Slowly down, so that one slow moment does not empty the buffer; at once up.
            self._ahead = min(_MOST_AHEAD, max(int(speed * _LOOK_AHEAD), self._ahead // 2))
            self._measured = (now, self._removed)
        return self._concurrency + self._ahead

    @property
    def room(self) -> int:
        """How many more may come in."""
        return max(0, self.window - self._count)

    async def wait_for_room(self, least: int, timeout: float) -> None:
        """Wait until ``least`` more may come in, or for ``timeout`` seconds."""
        end = monotonic() + timeout
        while self.room < least and (left := end - monotonic()) > 0:
            self._space.clear()
            try:
                async with asyncio.timeout(left):
                    await self._space.wait()
            except TimeoutError:
                return
