"""The heartbeat thread: signs of life of all groups, so that a handler that blocks the loop is not taken for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from streamworker.broker import Beat, Dead, Look, Pulse
from streamworker.errors import BrokerError
from streamworker.lease import Lease
from streamworker.logs import Outage
from streamworker.report import Report, heartbeat_value, report_of
from streamworker.standstill import Standstill
from streamworker.watch import MARKED_DEAD, Watch

_MOST: Final = 5.0  # seconds a beat may take
_DUTY: Final = 30.0  # seconds after which other workers are on duty
_LATE: Final = 2.5  # intervals between two looks after which nobody knows what happened meanwhile


class Membership:
    """This process in one group: its lease, and who is dead there.

    ``dead`` is written by the thread and read by the acquirer.

    Args:
        stream: the stream.
        group: the group.
        me: this consumer's name.
        lease: of this consumer.
        report: called in the heartbeat's thread: what this worker is doing for the group.
    """

    def __init__(self, stream: str, group: str, me: str, lease: Lease, report: Callable[[], Report]) -> None:
        self.stream = stream
        self.group = group
        self.lease = lease
        self.dead: tuple[Dead, ...] = ()
        self._me = me
        self._report = report
        self._watch = Watch(me, lease.seconds)
        self.looked: float | None = None  # when the server last answered, on the monotonic clock
        self._count = 0
        self.next_due = 0.0

    def next_beat(self, now: float) -> Beat:
        self._count += 1
        self.next_due = now + self.lease.interval
        return Beat(self.stream, self.group, heartbeat_value(self._count, self.lease.seconds, self._report()))

    def seen(self, sent: float, now: float, look: Look) -> None:
        """The beat sent at ``sent`` was acknowledged with ``look``."""
        if self.looked is None or now - self.looked > _LATE * self.lease.interval:
            self._watch.restart()
        self.looked = now
        self.dead = self._watch.look(now, look)
        self.lease.renew(sent)

    def is_first(self, of: Callable[[Report], bool]) -> bool:
        """Whether this is the one of the living that does what one of them has to: the first by name of those
        whose heartbeat says that they can. Nobody is until it has seen the others."""
        reports = {name: report_of(value) for name, value in list(self._watch.living.items())}
        others = [name for name, report in reports.items() if report is not None and of(report)]
        return self.looked is not None and all(self._me < name for name in others)

    def on_duty(self, now: float) -> bool:
        """Whether this worker is in the half of the group that waits for suspects, at the server's time ``now``.

        The halves change over, so that a suspect does not depend on one that never finds the time.
        """
        others = self._watch.living
        place = sum(name < self._me for name in others)
        return not others or (place + int(now / _DUTY)) % 2 == 0

    def marked_dead(self, name: str) -> None:
        """The consumer ``name`` was marked dead by us: nothing needs to be watched."""
        self.dead = (*self.dead, Dead(name, MARKED_DEAD))

    def failed(self, now: float) -> None:
        """The beat was refused or lost: all watches begin again, and the next beat is soon."""
        self._watch.restart()
        self.dead = ()
        self.next_due = now + min(self.lease.interval, 1.0)


class Heartbeat(threading.Thread):
    """Beats until stopped.

    Args:
        pulse: its connection.
        memberships: the groups.
        stuck_after: seconds the event loop may stand still; then the beats stop and ``stuck`` is called.
        stuck: called in this thread; expected to end the process.
        beaten: called in this thread after each round in which a beat was acknowledged.

    To be made in the event loop's thread.
    """

    def __init__(
        self,
        pulse: Pulse,
        memberships: Sequence[Membership],
        *,
        stuck_after: float,
        stuck: Callable[[float], None],
        beaten: Callable[[], None],
    ) -> None:
        super().__init__(name="streamworker-heartbeat", daemon=True)
        self._pulse = pulse
        self._memberships = memberships
        self._stuck_after = stuck_after
        self._stuck = stuck
        self._beaten = beaten
        self._refused = Outage("heartbeat.refused", "heartbeat.accepted", then="nothing new is started")
        self._refused_for: set[Membership] = set()
        self._stopping = threading.Event()
        self._standstill = Standstill()

    def loop_is_alive(self) -> None:
        """To be called by the event loop, again and again."""
        self._standstill.turned()

    def stop(self) -> None:
        """Ends the thread after the beat under way; does not wait."""
        self._stopping.set()

    def run(self) -> None:
        awake = monotonic()
        while not self._stopping.is_set():
            now = monotonic()
            self._standstill.look(now, now - awake)
            if now - awake > self._stuck_after / 2:
                self._standstill.turned()  # the whole process was stopped: the loop had no chance
            if now - self._standstill.turned_at > self._stuck_after:
                self._stuck(now - self._standstill.turned_at)
                break
            self._beat(now)
            next_due = min((membership.next_due for membership in self._memberships), default=now + 1)
            pause = min(1.0, max(0.01, next_due - monotonic()))
            awake = monotonic() + pause
            self._stopping.wait(pause)
        self._pulse.close()

    def _beat(self, now: float) -> None:
        due = [membership for membership in self._memberships if now >= membership.next_due]
        if not due:
            return
        # A third of the shortest lease: a connection that is dead without saying so must not cost the lease.
        timeout = min(_MOST, min(membership.lease.seconds for membership in self._memberships) / 3)
        sent = monotonic()
        try:
            looks = self._pulse.beat([membership.next_beat(now) for membership in due], timeout)
        except BrokerError as error:
            now = monotonic()
            for membership in due:
                membership.failed(now)
            if any(membership.lease.over(now) for membership in due):  # other connections may well be fine
                self._refused.began(str(error))
            return
        now = monotonic()
        for membership, look in zip(due, looks, strict=True):
            if isinstance(look, BrokerError):  # the connection is fine, but a key or a right is not: nobody else tells
                membership.failed(now)
                self._refused_for.add(membership)
                self._refused.began(f"{membership.stream}/{membership.group}: {look}")
            else:
                membership.seen(sent, now, look)
                self._refused_for.discard(membership)
        if not self._refused_for:
            self._refused.ended()
        if len(self._refused_for.intersection(due)) < len(due):
            self._beaten()
