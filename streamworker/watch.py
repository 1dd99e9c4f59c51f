"""The watch over the other consumers of a group: who is dead, by this watcher's own clock."""

from __future__ import annotations

from typing import Final

from streamworker.broker import Dead, Look
from streamworker.identity import SUFFIX
from streamworker.report import lease_of

MARKED_DEAD: Final = b"dead"  # written by the replacement of a process that its supervisor saw ending


class Watch:
    """Remembers since when each consumer's heartbeat has not moved.

    A consumer is dead when its heartbeat has stood still for *its own* lease while this watcher looked on.
    Idle times kept by the server are wall-clock time: after an outage longer than a lease, or a step of
    the clock, everybody would look dead.

    Args:
        me: this consumer's name.
        lease: seconds; taken for consumers that have no heartbeat to say their own.
    """

    def __init__(self, me: str, lease: float) -> None:
        self._me = me
        self._lease = lease
        self._seen: dict[str, tuple[bytes, float]] = {}
        self.living: dict[str, bytes] = {}  # the others, when this watch last looked, and their heartbeats

    def restart(self) -> None:
        """Forget since when: a look failed or came late, so nobody knows what happened meanwhile."""
        self._seen.clear()

    def look(self, now: float, look: Look) -> tuple[Dead, ...]:
        """Take in what a heartbeat saw at ``now`` (monotonic seconds); returns who is dead.

        Only consumers whose name has our suffix: the entries of other programs are not ours to take.
        """
        names = {name for name in (*look.values, *look.pending) if name.endswith(SUFFIX) and name != self._me}
        seen: dict[str, tuple[bytes, float]] = {}
        dead: list[Dead] = []
        for name in names:
            value = look.values.get(name, b"")  # no heartbeat is a value like any other
            before, since = self._seen.get(name, (None, now))
            seen[name] = (value, since if before == value else now)
            if value == MARKED_DEAD or now - seen[name][1] >= self._lease_of(value):
                dead.append(Dead(name, value))
        self._seen = seen
        gone = {one.name for one in dead}
        self.living = {name: look.values[name] for name in names.intersection(look.values) - gone}
        return tuple(dead)

    def _lease_of(self, value: bytes) -> float:
        said = lease_of(value)
        return self._lease if said is None else said
