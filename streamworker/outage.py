"""An outage as the whole process sees it: told once when the first part is hit and once when the last is back."""

from __future__ import annotations

import random
from collections.abc import Iterator

from streamworker.logs import Outage


class Outages:
    """Shared by all parts of a process that talk to one server, so that a hundred streams log one line."""

    def __init__(self) -> None:
        self._outage = Outage("redis.unavailable", "redis.available")
        self._hit: set[object] = set()

    def began(self, who: object, reason: object) -> None:
        self._hit.add(who)
        self._outage.began(reason)

    def ended(self, who: object) -> None:
        self._hit.discard(who)
        if not self._hit:
            self._outage.ended()


def pauses(first: float = 0.1, longest: float = 2.5) -> Iterator[float]:
    """Growing pauses in seconds, each with jitter, so that a fleet does not come back all at once.

    A reader that gets as far as reading asks six commands; the shortest of the longest pauses keeps them below
    five a second while its connection breaks again and again.
    """
    pause = first
    while True:
        yield random.uniform(pause / 2, pause)
        pause = min(longest, pause * 2)
