"""Pace: so many a second, evenly."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from streamworker.errors import ConfigError

_STEP: Final = 0.1  # seconds; what comes at once is no more than belongs to so long a time


class Pace:
    """Lets ``rate`` a second pass; None lets everything pass.

    Raises:
        ConfigError: no rate that can be kept.
    """

    def __init__(self, rate: float | None) -> None:
        if rate is not None and not 0 < rate < float("inf"):
            raise ConfigError(f"a rate is more than 0 a second, not {rate:g}")
        self._rate = rate
        self._next = monotonic()

    def share(self, most: int) -> int:
        """How many to let pass at once, ``most`` at most."""
        return most if self._rate is None else max(1, min(most, int(self._rate * _STEP)))

    async def wait(self, many: int) -> None:
        """Wait until ``many`` more may pass. Time that was lost is not made up for."""
        if self._rate is None:
            return
        now = monotonic()
        if self._next > now:
            await asyncio.sleep(self._next - now)
        self._next = max(self._next, now - _STEP) + many / self._rate
