"""RedisExamining: what a doctor asks of a server, and what it puts right there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from time import time
from typing import Final

from streamworker.errors import BrokerError, ConfigError, GroupMissing, NotPermitted, Unavailable
from streamworker.ids import EntryId, written
from streamworker.logs import clean
from streamworker.monitoring.facts import ConsumerFacts
from streamworker.monitoring.words import few
from streamworker.operating.doctor import Role
from streamworker.operating.findings import Finding, about, note, problem, unknown, warning
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking, decoded, encoded, pairs
from streamworker.redisbroker.cluster import Cluster, in_one_slot
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Argument, Command, Link
from streamworker.redisbroker.observer import info_of
from streamworker.redisbroker.permissions import Call, Words, calls
from streamworker.redisbroker.server_checks import ASKED, NodeFacts, check_node
from streamworker.redisbroker.topology import Topology

_TIMEOUT: Final = 5.0  # seconds that a server may say nothing
_AT_ONCE: Final = 1000  # calls that one script is asked about
_DELETED: Final = 500  # consumers that one script deletes at most
_A: Final[Mapping[Role, str]] = {"operator": "an operator", "worker": "a worker", "reader": "a reader"}


class RedisExamining:
    """``doctor.Examining`` on Redis."""

    def __init__(self, topology: Topology, asking: Asking) -> None:
        self._topology = topology
        self._asking = asking

    async def server(self) -> list[Finding]:
        parts = await self._topology.parts()
        return [one for part in parts for one in check_node(await _node(part), several=len(parts) > 1)]

    async def permissions(self, groups: Mapping[str, Collection[str]], role: Role) -> list[Finding]:
        names = {stream: known or await self._groups(stream) for stream, known in groups.items()}
        wanted = list(calls(role, names))
        link = Link((await self._topology.parts())[0], timeout=_TIMEOUT)
        try:
            allowed = await _permitted(link, [call.words for call in wanted])
            if allowed is None:
                found = await _permissions_before_7(link)
            else:
                found = _lacking(role, zip(wanted, allowed, strict=True))
        except NotPermitted as error:
            found = [
                problem(f"this user cannot run scripts: {error}", "docs/security.md has the least that each needs")
            ]
        finally:
            await link.close()
        found = found or [Finding(level="ok", text=f"this user may do what {_A[role]} does")]
        return list(about(found, check="permissions"))

    def check_keys(self, stream: str) -> Iterator[Finding]:
        try:
            keys = Keys.of(stream, "any")
        except UnicodeEncodeError:  # of another program, so nothing is kept beside it
            return
        if not in_one_slot(keys):
            said = problem if isinstance(self._topology, Cluster) else note
            yield said(
                "its name has a brace, so on a Cluster its retries and dead letters would lie in other slots than it: "
                "workers refuse it there",
                "another name, or one with a whole {tag}",
            )

    async def consumers(self, stream: str, group: str) -> list[ConsumerFacts]:
        try:
            reply = await self._asking.command(stream, "XINFO", "CONSUMERS", encoded(stream), encoded(group))
        except GroupMissing:
            return []
        return [
            ConsumerFacts(name=decoded(one[b"name"]), pending=one[b"pending"], idle=one[b"idle"] / 1000, inactive=None)
            for one in map(pairs, reply)
        ]

    async def set_right(self, stream: str, group: str, known: tuple[EntryId, int] | None, ours: bool) -> int | None:
        keys = _keys(stream, group)
        both = (keys.stream, keys.consumers)
        if ours:  # what was trimmed unread is told now or never
            await self._asking.script(stream, scripts.SKIPPED, both, (group,))
        place: tuple[Argument, Argument] = ("", "") if known is None else (written(known[0]), known[1])
        state, *lag = await self._asking.script(stream, scripts.SET_RIGHT, both, (group, *place))
        if state == 2:
            raise ConfigError(
                "the server tells no lag as long as entries were deleted (XDEL) that the group has not come to; when "
                "it has read on, try again"
            )
        if state == 3:
            raise ConfigError("there is no such group any more")
        return int(lag[0]) if lag else None

    async def delete_idle(self, stream: str, group: str, consumers: Mapping[str, bytes], idle: float) -> int:
        keys = _keys(stream, group)
        names = list(consumers)
        deleted = 0
        for at in range(0, len(names), _DELETED):
            seen: list[Argument] = []
            for name in names[at : at + _DELETED]:
                seen += (encoded(name), consumers[name])
            deleted += await self._asking.script(
                stream,
                scripts.DELETE_IDLE,
                (keys.stream, keys.retry, keys.consumers),
                (group, int(idle * 1000), *seen),
            )
        return deleted

    async def _groups(self, stream: str) -> list[str]:
        """The groups of a stream that monitoring could not see: who works on it may look at less."""
        try:
            reply = await self._asking.command(stream, "XINFO", "GROUPS", encoded(stream))
        except Unavailable:
            raise
        except BrokerError:
            return []
        return [decoded(pairs(flat)[b"name"]) for flat in reply]


async def _node(part: Topology) -> NodeFacts:
    link = Link(part, timeout=_TIMEOUT)
    questions: list[Command] = [("INFO",), ("TIME",), *(("CONFIG", "GET", name) for name in ASKED)]
    try:
        asked = await _permitted_of(link, questions)
        before = time()
        replies = await link.pipeline(asked) if asked else []
        middle = (before + time()) / 2
        place = str(await part.locate(None))
    finally:
        await link.close()
    told = {one: reply for one, reply in zip(asked, replies, strict=True) if not isinstance(reply, BrokerError)}
    clock = told.get(("TIME",))
    return NodeFacts(
        place=place,
        info=info_of(told[("INFO",)]) if ("INFO",) in told else None,
        config={
            str(reply[0], "ascii"): str(reply[1], errors="replace")
            for one, reply in told.items()
            if one[0] == "CONFIG" and reply
        },
        ahead=None if clock is None else int(clock[0]) + int(clock[1]) / 1e6 - middle,
    )


async def _permitted_of(link: Link, questions: list[Command]) -> list[Command]:
    """Those of the questions that are permitted; all, if nobody can say: a refusal is an answer too."""
    words = [tuple(str(word).encode() for word in one) for one in questions]
    try:
        allowed = await _permitted(link, words)
    except NotPermitted:
        allowed = None
    return questions if allowed is None else [one for one, may in zip(questions, allowed, strict=True) if may]


async def _permitted(link: Link, asked: Sequence[Words]) -> list[bool] | None:
    """Whether the user may make each of the calls; None where the server cannot tell."""
    allowed: list[bool] = []
    for at in range(0, len(asked), _AT_ONCE):
        arguments: list[Argument] = []
        for words in asked[at : at + _AT_ONCE]:
            arguments += (len(words), *words)
        reply = await link.script(scripts.PERMITTED, (), arguments)
        if not reply:
            return None
        allowed += map(bool, reply)
    return allowed


async def _permissions_before_7(link: Link) -> list[Finding]:
    try:
        user = await link.call("ACL", "WHOAMI")
        told = await link.call("ACL", "GETUSER", user)
    except NotPermitted:
        return [unknown("before Redis 7.0 nobody can ask what this user may do", "redis-cli ACL LOG shows refusals")]
    flags = pairs(told)[b"flags"]
    if {b"allcommands", b"allkeys"} <= {*flags}:
        return []
    return [unknown(f"before Redis 7.0 nobody can ask what {clean(decoded(user), 40)} may do", "redis-cli ACL LOG")]


def _lacking(role: Role, asked: Iterable[tuple[Call, bool]]) -> list[Finding]:
    """What of the calls is refused: commands altogether, and keys where others are allowed."""
    refused: dict[str, set[bytes]] = {}
    allowed: set[str] = set()
    for call, may in asked:
        if may:
            allowed.add(call.command)
        else:
            refused.setdefault(call.command, set()).add(call.key)
    commands = [f"+{command}" for command in refused if command not in allowed]
    keys = sorted(set().union(*(keys for command, keys in refused.items() if command in allowed)))
    found = []
    if commands:
        found.append(
            warning(
                f"to do what {_A[role]} does, this user lacks {' '.join(commands)}",
                f"redis-cli ACL SETUSER NAME {' '.join(commands)}; docs/security.md has the least that each role needs",
            )
        )
    if keys:
        shown = few(clean(decoded(key), 60) for key in keys)
        found.append(
            warning(
                f"to do what {_A[role]} does, this user lacks a right to these keys: {shown}",
                "redis-cli ACL SETUSER NAME ~PATTERN; docs/security.md has the patterns for a stream",
            )
        )
    return found


def _keys(stream: str, group: str) -> Keys:
    try:
        return Keys.of(stream, group)
    except UnicodeEncodeError:
        raise ConfigError("its name is no UTF-8, so it is another program's: use redis-cli") from None
