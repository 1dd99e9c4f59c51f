"""Names of the keys we keep beside a stream, all in the stream's own hash slot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one group on one stream.

    Attributes:
        stream: the user's stream; only publishing writes to it.
        retry: stream of due retries and redriven letters, for this group alone.
        delayed: sorted set of retries that wait for their time, with their payload.
        dead: stream of this group's dead letters.
        consumers: hash of heartbeats, markers and the floor.
    """

    stream: bytes
    retry: bytes
    delayed: bytes
    dead: bytes
    consumers: bytes

    @classmethod
    def of(cls, stream: str, group: str) -> Keys:
        """Name the keys of ``group`` on ``stream``.

        A stream with a hash tag of its own keeps it, behind a prefix that the other form cannot begin
        with; a colon in the group is escaped, so that no two groups ever share a key.
        """
        escaped = group.replace("%", "%25").replace(":", "%3A")
        prefix = f"sw:{stream}:{escaped}" if _has_tag(stream) else f"{{{stream}}}:{escaped}"

        def key(kind: str) -> bytes:
            return f"{prefix}:{kind}".encode()

        return cls(stream.encode(), key("retry"), key("delayed"), key("dead"), key("consumers"))

    def all(self) -> tuple[bytes, ...]:
        """The stream, and what is kept beside it."""
        return (self.stream, *self.beside)

    @property
    def beside(self) -> tuple[bytes, bytes, bytes, bytes]:
        """What is kept beside the stream: retry, delayed, dead, consumers."""
        return (self.retry, self.delayed, self.dead, self.consumers)


def owner_of(key: str) -> tuple[str, str] | None:
    """The stream and the group for which ``key`` is one of ours; None for any other key."""
    head, colon, kind = key.rpartition(":")
    if not colon or kind not in ("retry", "delayed", "dead", "consumers"):
        return None
    if key.startswith("sw:"):
        stream, colon, group = head[3:].rpartition(":")
    else:
        stream, colon, group = head.rpartition("}:")
        stream = stream.removeprefix("{")
    group = group.replace("%3A", ":").replace("%25", "%")
    # Only what we would name ourselves: others may have keys that end alike.
    return (stream, group) if colon and stream and key.encode() in Keys.of(stream, group).all() else None


def _has_tag(name: str) -> bool:
    opening = name.find("{")
    return opening >= 0 and name.find("}", opening + 1) > opening + 1
