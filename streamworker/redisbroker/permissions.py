"""What the users of docs/security.md call, to see which of it an ACL lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from streamworker.operating.doctor import Role
from streamworker.redisbroker.asking import encoded
from streamworker.redisbroker.keys import Keys

Words = tuple[bytes, ...]

_LOOKS: Final = (
    "ping", "select", "eval", "evalsha", "time", "type", "exists", "scan", "info", "memory|usage", "xlen", "xrange",
    "xrevrange", "xpending", "xinfo|stream", "xinfo|groups", "xinfo|consumers", "hget", "hgetall", "zcard", "zrange",
    "zscan",
)  # fmt: skip

ROLES: Final[Mapping[Role, Sequence[str]]] = {
    "reader": _LOOKS,
    "operator": (
        *_LOOKS, "hset", "hdel", "xadd", "xdel", "xtrim", "xack", "xclaim", "xgroup|setid", "xgroup|destroy",
        "xgroup|delconsumer", "unlink",
    ),
    "worker": (
        "ping", "select", "eval", "evalsha", "time", "exists", "xadd", "xdel", "xlen", "xrange", "xread", "xreadgroup",
        "xack", "xclaim", "xpending", "xinfo|stream", "xinfo|groups", "xgroup|create", "xgroup|delconsumer", "hset",
        "hget", "hmget", "hgetall", "hdel", "hexists", "zadd", "zrem", "zcard", "zcount", "zrange", "zrangebyscore",
    ),
}  # fmt: skip
"""The commands of each role, as an ACL writes them. A test compares them with the document."""

_KEYLESS: Final[Mapping[str, Words]] = {
    "ping": (b"PING",),
    "select": (b"SELECT", b"0"),
    "eval": (b"EVAL", b"return 1", b"0"),
    "evalsha": (b"EVALSHA", b"0" * 40, b"0"),
    "time": (b"TIME",),
    "scan": (b"SCAN", b"0"),
    "info": (b"INFO",),
}
_READS: Final[Mapping[str, Words]] = {
    "xread": (b"XREAD", b"STREAMS"),
    "xreadgroup": (b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS"),
}


class Call(NamedTuple):
    """A call: the command as an ACL writes it, the key if it is about one, and all its words."""

    command: str
    key: bytes
    words: Words


def calls(role: Role, groups: Mapping[str, Collection[str]]) -> Iterator[Call]:
    """All that ``role`` calls, on the keys of these streams and groups."""
    for command in ROLES[role]:
        if command in _KEYLESS:
            yield Call(command, b"", _KEYLESS[command])
    for key in _keys_of(groups):
        for command in ROLES[role]:
            if command not in _KEYLESS:
                words = tuple(word.encode().upper() for word in command.split("|"))
                yield Call(command, key, (*_READS[command], key, b">") if command in _READS else (*words, key))


def _keys_of(groups: Mapping[str, Collection[str]]) -> Iterator[bytes]:
    """The streams, and one key beside them for each group: what allows one of these allows all."""
    for stream, names in groups.items():
        yield encoded(stream)
        for group in names:
            try:
                yield Keys.of(stream, group).consumers
            except UnicodeEncodeError:  # of another program, so nothing is kept beside it
                continue
