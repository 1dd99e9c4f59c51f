"""Checks of one server: each a function of what it says of itself, that yields what is not as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from streamworker.monitoring.words import number, size, span
from streamworker.operating.findings import Finding, about, note, problem, unknown, warning

ASKED: Final = ("save", "appendfsync", "timeout", "tcp-keepalive")
"""The settings that the checks go by; the rest is in ``INFO``."""

_FULL: Final = 0.9  # of the memory that it may take
_CROWDED: Final = 0.8  # of the connections that it takes
_APART: Final = 5.0  # seconds
_SHORT: Final = 10  # seconds
_LOG: Final = "the server's log says why: a full disk, as a rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a server says of itself.

    Attributes:
        place: where it is.
        info: ``INFO``; None if the user may not ask.
        config: those of ``ASKED`` that the user may ask for.
        ahead: seconds by which its clock is ahead of this machine's; None if the user may not ask.
    """

    place: str
    info: Mapping[str, str] | None
    config: Mapping[str, str]
    ahead: float | None

    def text(self, name: str, default: str = "") -> str:
        """A line of ``INFO``."""
        return (self.info or {}).get(name, default)

    def number(self, name: str) -> int:
        """A number of ``INFO``; 0 where there is none."""
        text = self.text(name)
        return int(text) if text.isdigit() else 0


def check_node(node: NodeFacts, *, several: bool) -> Iterator[Finding]:
    """All checks of this server; a finding ``"ok"`` for each that found nothing."""
    for check, (function, well) in _CHECKS.items():
        if node.info is None and check in _GO_BY_INFO:
            found = [_unreadable("INFO")]
        else:
            found = list(function(node)) or [Finding(level="ok", text=well)]
        yield from about(found, check=check, node=node.place if several else None)


def _eviction(node: NodeFacts) -> Iterator[Finding]:
    policy, most, used = node.text("maxmemory_policy"), node.number("maxmemory"), node.number("used_memory")
    if policy.startswith("allkeys"):
        evicted = node.number("evicted_keys")
        so_far = f"; {number(evicted)} keys have been evicted since it was started" if evicted else ""
        text = f"maxmemory-policy is {policy}: the server may delete whole streams when its memory is full{so_far}"
        said = problem if most else warning
        yield said(text, "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf")
    elif policy.startswith("volatile"):
        yield note(
            f"maxmemory-policy is {policy}: of streams, only one to which somebody gives an EXPIRE can be deleted",
            "noeviction, if the server is there for streams",
        )
    if not most:
        yield note(
            "no maxmemory: a server that grows beyond its machine is killed by the system",
            "set maxmemory to what the machine has to give; then publishing is refused, and consuming goes on",
        )
    elif used > _FULL * most and not policy.startswith("allkeys"):
        yield problem(
            f"{size(used)} of {size(most)} (maxmemory) are used: soon publishing is refused",
            "streamworker trim the large streams (streamworker status), or give it more memory",
        )


def _persistence(node: NodeFacts) -> Iterator[Finding]:
    if node.text("rdb_last_bgsave_status", "ok") != "ok":
        yield problem("the last snapshot failed: as a rule the server then refuses to write", _LOG)
    if node.text("aof_last_write_status", "ok") != "ok":
        yield problem("the append-only file cannot be written, so the server refuses to write", _LOG)
    if node.text("aof_enabled") == "1":
        if node.config.get("appendfsync") == "no":
            yield note("appendfsync is no: when the machine dies, the last half minute is lost", "appendfsync everysec")
    elif "save" not in node.config:
        yield unknown("no append-only file; whether there are snapshots, this user may not ask (CONFIG GET save)")
    elif node.config["save"]:
        yield note(
            "snapshots, but no append-only file: a crash loses what was written since the last one",
            "appendonly yes, unless the publishers can publish it again",
        )
    else:
        yield warning(
            "neither append-only file nor snapshots: a restart of the server loses all streams, pending entries and "
            "dead letters",
            "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
        )


def _version(node: NodeFacts) -> Iterator[Finding]:
    text = node.text("redis_version", "0.0")  # Valkey tells here what it is compatible with
    version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if version < (6, 2):
        yield problem(f"Redis {text} is too old: workers need 6.2", "upgrade")
    elif version < (7, 0):
        yield note(
            f"Redis {text} counts nothing for groups: lags are counted up to 10 000, what was trimmed unread cannot be "
            "told, and ACLs cannot be checked",
            "Redis 7.0 or Valkey",
        )
    elif version < (7, 2):
        yield note(f"Redis {text} does not tell since when a consumer was given nothing", "Redis 7.2 or Valkey")


def _connections(node: NodeFacts) -> Iterator[Finding]:
    most, now = node.number("maxclients"), node.number("connected_clients")
    if now > _CROWDED * most > 0:
        yield warning(
            f"{number(now)} of {number(most)} connections (maxclients) are taken: soon new ones are refused",
            "redis-cli CLIENT LIST shows whose they are; or raise maxclients",
        )
    if missing := [name for name in ("timeout", "tcp-keepalive") if name not in node.config]:
        yield unknown(f"this user may not ask for {' and '.join(missing)} (CONFIG GET)")
    timeout = node.config.get("timeout", "0")
    if timeout != "0":
        short = int(timeout) < _SHORT
        text = f"timeout is {timeout}: connections that are silent for {timeout} s are closed"
        if short:
            yield warning(f"{text}, those of workers at rest too", "redis-cli CONFIG SET timeout 0, or 60 at least")
        else:
            yield note(f"{text}; publishers then connect again")
    if node.config.get("tcp-keepalive") == "0":
        yield warning(
            "tcp-keepalive is 0: connections of machines that died stay, and count, for ever",
            "redis-cli CONFIG SET tcp-keepalive 300",
        )


def _role(node: NodeFacts) -> Iterator[Finding]:
    if node.text("role") == "slave":
        yield problem(
            "it is a replica: workers and publishers cannot write to it",
            "name the primary; with Sentinel, sentinel://host:port,host:port/service finds it",
        )


def _clock(node: NodeFacts) -> Iterator[Finding]:
    if node.ahead is None:
        yield _unreadable("TIME")
    elif abs(node.ahead) > _APART:
        yield warning(
            f"its clock is {span(abs(node.ahead))} {'ahead of' if node.ahead > 0 else 'behind'} this machine's: one of "
            "them is wrong",
            "keep both right (NTP): ages, dates and limits by age go by the server's",
        )


def _unreadable(command: str) -> Finding:
    return unknown(f"this user may not ask ({command})")


_CHECKS: Final[Mapping[str, tuple[Callable[[NodeFacts], Iterator[Finding]], str]]] = {
    "eviction": (_eviction, "nothing is evicted, and there is memory left"),
    "persistence": (_persistence, "append-only file, written"),
    "version": (_version, "has all that is used"),
    "connections": (_connections, "there are enough, and none is cut"),
    "role": (_role, "a primary"),
    "clock": (_clock, "as this machine's"),
}
_GO_BY_INFO: Final = _CHECKS.keys() - {"connections", "clock"}
