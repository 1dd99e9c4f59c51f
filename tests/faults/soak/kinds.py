"""What the handlers of a soak do with a message: the message says it, so both sides know what must come of it."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Final

GROUPS: Final = {"orders": ("billing", "audit"), "refunds": ("billing",)}
MAX_DELIVERIES: Final = 5
TIMEOUT: Final = 1.0  # of the handler whose messages swallow their cancellation


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of message: how many of 10,000, and the groups that can never handle it."""

    share: int
    dead: tuple[str, ...] = ()


# The mix of the catalogue, with fewer of the kinds that stop or end a whole process: at a hundred messages a
# second, one per cent of them would leave nobody to handle the others.
KINDS: Final = {
    "quick": Kind(8582),
    "slow": Kind(700),  # half to three leases
    "flaky": Kind(400),  # fails twice
    "failing": Kind(300, ("billing", "audit")),
    "swallowing": Kind(10),  # goes on after its cancellation, once
    "blocking": Kind(5),  # stops the event loop for two leases
    "ending": Kind(3, ("billing",)),  # ends its process
}


def draw(rng: random.Random, number: int, lease: float) -> tuple[str, str]:
    """The kind and the body of the next message."""
    kind = rng.choices(list(KINDS), [one.share for one in KINDS.values()])[0]
    seconds = {"quick": rng.uniform(0.001, 0.02), "slow": rng.uniform(0.5, 3) * lease, "blocking": 2 * lease}
    return kind, json.dumps({"number": number, "kind": kind, "seconds": round(seconds.get(kind, 0.005), 4)})


def digest(body: str | bytes) -> str:
    """What stands for a body in the journal."""
    return hashlib.sha256(body.encode() if isinstance(body, str) else body).hexdigest()[:12]
