"""Doctor: examines a server, its streams and groups, and puts right what can be put right without harm."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol

from streamworker.errors import BrokerError, ConfigError, NotPermitted, Unavailable
from streamworker.ids import EntryId
from streamworker.monitoring.facts import ConsumerFacts, GroupFacts, Observer, StreamFacts
from streamworker.monitoring.position import lag_of
from streamworker.monitoring.snapshots import Snapshot, consumer_status, of_snapshots, take_snapshot
from streamworker.monitoring.status import ConsumerStatus, GroupStatus, Status
from streamworker.monitoring.words import counted, number
from streamworker.operating.findings import LEVELS, Finding, Fixed, about, problem, unknown
from streamworker.operating.stream_checks import (
    LEFT_BEHIND,
    check_clock,
    check_consumers,
    check_group,
    check_growth,
    check_lag,
)

Role = Literal["operator", "worker", "reader"]

_MOST: Final = 10_000_000  # entries counted to put a lag right; 1,000 take about a millisecond
_TRIES: Final = 10  # of putting a lag right while others read and trim
_WELL: Final[Mapping[str, str]] = {
    "groups": "none has had messages waiting for an hour with nobody to read them",
    "lag": "no number of the server's own is wrong",
    "consumers": "none is left behind",
    "growth": "something trims each stream, or has trimmed it",
    "ids": "none is ahead of the server's clock",
    "keys": "all would do on a Cluster",
}


class Examining(Protocol):
    """What a doctor asks of a server, besides what monitoring sees."""

    async def server(self) -> list[Finding]:
        """What is wrong with the server, or each node of it; a finding ``"ok"`` for each check that found nothing."""
        ...

    async def permissions(self, groups: Mapping[str, Collection[str]], role: Role) -> list[Finding]:
        """What the user of this connection lacks on these streams and groups to do what ``role`` does."""
        ...

    def check_keys(self, stream: str) -> Iterator[Finding]:
        """Whether what is kept beside the stream can be used together with it."""
        ...

    async def consumers(self, stream: str, group: str) -> list[ConsumerFacts]:
        """All members of the group, however many."""
        ...

    async def set_right(self, stream: str, group: str, known: tuple[EntryId, int] | None, ours: bool) -> int | None:
        """Tell the server how many entries the group has read, so that its lag is right.

        Args:
            stream: the stream.
            group: the group.
            known: an id, and how many entries were ever added up to it.
            ours: whether we keep count of what was trimmed unread.

        Returns:
            The lag that it tells now; None if something moved meanwhile, and nothing was done.

        Raises:
            ConfigError: it cannot be put right; the text says why.
        """
        ...

    async def delete_idle(self, stream: str, group: str, consumers: Mapping[str, bytes], idle: float) -> int:
        """Delete members of a group that have nothing pending and were idle for so many seconds; how many that were.

        Args:
            stream: the stream.
            group: the group.
            consumers: names, each with the heartbeat that it was seen with, or nothing; another one saves it.
            idle: seconds.
        """
        ...


class Doctor:
    """Examines and fixes; see ``Operator.examine``."""

    def __init__(self, observer: Observer, examining: Examining) -> None:
        self._observer = observer
        self._examining = examining

    async def examine(self, streams: Iterable[str] | None, role: Role) -> tuple[Finding, ...]:
        """All findings, the worst first."""
        found = await self._examining.server()
        try:
            wanted: Mapping[str, Collection[str]] = (
                await self._observer.streams() if streams is None else dict.fromkeys(streams, ())
            )
        except NotPermitted as error:
            found += about([unknown(f"the streams cannot be listed ({error})", "name them")], check="streams")
            wanted = {}
        now = await take_snapshot(self._observer, wanted)
        status = await of_snapshots(self._observer, None, now)
        groups = {stream.stream: [group.group for group in stream.groups] for stream in status.streams}
        found += await self._examining.permissions({**dict.fromkeys(now.errors, ()), **groups}, role)
        found += self._missing(wanted, now)
        found += await self._streams(now, status)
        for stream in wanted:
            found += about(self._examining.check_keys(stream), check="keys", stream=stream)
        quiet = _WELL.keys() - {one.check for one in found}
        found += [Finding(check=check, level="ok", text=_WELL[check]) for check in sorted(quiet)]
        return tuple(sorted(found, key=lambda one: LEVELS.index(one.level)))

    async def fix(self, findings: Iterable[Finding]) -> tuple[Fixed, ...]:
        """Put right what can be; a ``Fixed`` for each of the findings that say so."""
        fixed = []
        for one in findings:
            if one.fixable and one.stream is not None and one.group is not None:
                try:
                    if one.consumers:
                        done, text = await self._delete(one.stream, one.group, one.consumers)
                    else:
                        done, text = await self._set_right(one.stream, one.group)
                except Unavailable:
                    raise
                except (BrokerError, ConfigError) as error:
                    done, text = False, str(error)
                fixed.append(Fixed(finding=one, done=done, text=text))
        return tuple(fixed)

    @staticmethod
    def _missing(wanted: Mapping[str, Collection[str]], now: Snapshot) -> Iterator[Finding]:
        for stream, text in now.errors.items():
            yield from about([unknown(f"it cannot be seen: {text}")], check="streams", stream=stream)
        for stream in wanted:
            facts = now.facts.get(stream)
            if facts is not None and not facts.exists and not facts.groups:
                missing = problem("there is no such stream", "streamworker status lists those that there are")
                yield from about([missing], check="streams", stream=stream)

    async def _streams(self, now: Snapshot, status: Status) -> list[Finding]:
        both = [(now.facts[stream.stream], stream) for stream in status.streams]
        found = [*about(check_growth(both), check="growth")]
        for facts, stream in both:
            found += about(check_clock(facts), check="ids", stream=stream.stream)
            for group, one in zip(stream.groups, facts.groups, strict=True):
                members = await self._members(facts, one, group)
                checks = {
                    "groups": check_group(group, members),
                    "lag": check_lag(facts, one, now.lags[stream.stream, group.group]),
                    "consumers": check_consumers(group, members),
                }
                for check, those in checks.items():
                    found += about(those, check=check, stream=stream.stream, group=group.group)
        return found

    async def _members(self, stream: StreamFacts, facts: GroupFacts, group: GroupStatus) -> Sequence[ConsumerStatus]:
        if group.members <= len(facts.consumers):
            return group.consumers
        # Monitoring does not tell of all where they are too many; here these are what is looked for.
        members = await self._examining.consumers(group.stream, group.group)
        return [consumer_status(one, facts.beside.values.get(one.name), stream.now) for one in members]

    async def _set_right(self, stream: str, group: str) -> tuple[bool, str]:
        for _ in range(_TRIES):
            facts, one = await self._facts(stream, group)
            known = None
            if facts.added is not None and facts.first is not None and one.last_delivered >= facts.first:
                lag = await lag_of(self._observer, facts, one, _MOST)
                if lag.entries is not None and lag.kind != "at_least":
                    known = (one.last_delivered, facts.added - lag.entries)
            said = await self._examining.set_right(stream, group, known, one.beside.ours)
            if said is not None:
                return True, f"the server says its lag is {number(said)}"
        return False, "its stream changes too fast; try again"

    async def _delete(self, stream: str, group: str, consumers: Iterable[str]) -> tuple[bool, str]:
        _, one = await self._facts(stream, group)
        values = {consumer: one.beside.values.get(consumer, b"") for consumer in consumers}
        many = await self._examining.delete_idle(stream, group, values, LEFT_BEHIND)
        return bool(many), f"{counted(many, 'consumer', 'consumers')} deleted"

    async def _facts(self, stream: str, group: str) -> tuple[StreamFacts, GroupFacts]:
        facts = (await self._observer.look({stream: ()}))[stream]
        if not isinstance(facts, StreamFacts):
            raise facts
        for one in facts.groups:
            if one.name == group and one.exists:
                return facts, one
        raise ConfigError("there is no such group any more")
