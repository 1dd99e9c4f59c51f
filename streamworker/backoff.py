"""Backoff: how long a failed message waits for its next delivery."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from streamworker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses: ``first``, ``first * factor``, … up to ``longest``; 2, 10, 50, 250 s by default.

    Five deliveries with the default outlive an outage of five minutes.

    Args:
        first: seconds before the second delivery.
        factor: each pause is this many times the one before.
        longest: no pause is longer, in seconds.
        jitter: each pause is changed at random by up to this share of it, so that retries spread.
    """

    first: float = 2.0
    factor: float = 5.0
    longest: float = 3600.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        right = self.first >= 0 and self.factor >= 1 and self.longest >= 0 and 0 <= self.jitter <= 1
        if not right or not all(map(math.isfinite, (self.first, self.factor, self.longest))):
            raise ConfigError(
                f"{self}: wants first >= 0, factor >= 1, longest >= 0, all finite, and jitter between 0 and 1"
            )

    def delay(self, deliveries: int) -> float:
        """Seconds to wait after delivery number ``deliveries`` (1 is the first) has failed."""
        try:
            pause = self.first * float(self.factor) ** max(0, deliveries - 1)
        except OverflowError:  # far beyond the longest, unless there is nothing to multiply
            pause = self.longest if self.first else 0.0
        # The jitter goes on top, so room is left for it below the longest.
        return min(pause, self.longest / (1 + self.jitter)) * (1 + random.uniform(-self.jitter, self.jitter))
