"""Taking a byte stream apart into whole requests or replies of the Redis protocol, and telling what a request asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from streamworker.redisbroker import scripts
from streamworker.redisbroker.link import Script

_BULKS = b"$!="
_LISTS = b"*~>"


class Framer:
    """Cuts one direction of a connection into whole messages, RESP2 or RESP3; a request may be an inline one."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # up to here the first message was looked at
        self._missing = 1  # items until it is whole

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in ``data`` and give each message that is whole now."""
        self._buffer += data
        while self._item():
            if self._missing == 0:
                yield bytes(self._buffer[: self._at])
                del self._buffer[: self._at]
                self._at, self._missing = 0, 1

    def rest(self) -> bytes:
        """What is left of an unfinished message; forgotten afterwards."""
        left = bytes(self._buffer)
        self._buffer.clear()
        self._at, self._missing = 0, 1
        return left

    def _item(self) -> bool:
        """Step over one item; False if it is not there yet."""
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            return False
        kind, line, after = self._buffer[self._at], self._buffer[self._at + 1 : end], end + 2
        inside = -1
        if kind in _BULKS and int(line) >= 0:
            after += int(line) + 2
            if after > len(self._buffer):
                return False
        elif kind in _LISTS:
            inside += max(0, int(line))
        elif kind == ord("%"):
            inside += 2 * int(line)
        elif kind == ord("|"):  # attributes stand in front of a reply
            inside = 2 * int(line)
        self._at = after
        self._missing += inside
        return True


@dataclass(frozen=True, slots=True)
class Request:
    """One command of a client.

    Attributes:
        name: the command in capitals, or the name that a script has in ``redisbroker/scripts.py``.
        raw: the bytes as they were sent.
    """

    name: str
    raw: bytes

    @property
    def words(self) -> list[bytes]:
        """The command and all its arguments."""
        return _words(self.raw)


def request(raw: bytes) -> Request:
    """Tell what a whole request asks."""
    words = _words(raw, 2)
    name = words[0].decode(errors="replace").upper() if words else ""
    if name in ("EVALSHA", "EVAL") and len(words) > 1:
        sha = words[1].decode() if name == "EVALSHA" else hashlib.sha1(words[1]).hexdigest()
        name = _names().get(sha, name)
    return Request(name, raw)


def _words(raw: bytes, most: int | None = None) -> list[bytes]:
    if not raw.startswith(b"*"):
        return raw.split()[:most]
    found: list[bytes] = []
    at = raw.index(b"\r\n") + 2
    while at < len(raw) and len(found) != most:
        end = raw.index(b"\r\n", at)
        size = int(raw[at + 1 : end])
        found.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return found


@cache
def _names() -> dict[str, str]:
    return {one.sha: name for name, one in vars(scripts).items() if isinstance(one, Script)}
