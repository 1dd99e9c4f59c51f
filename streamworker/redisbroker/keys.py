"""Names of the keys we keep beside a stream, all in the stream's own hash slot, and arithmetic on entry ids."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SEQUENCE = 2**64 - 1


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


def _has_tag(name: str) -> bool:
    opening = name.find("{")
    return opening >= 0 and name.find("}", opening + 1) > opening + 1


def parse_id(entry_id: bytes | str) -> tuple[int, int]:
    """``b"123-4"`` as ``(123, 4)``, which compares as Redis does; a missing sequence is 0."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def just_below(milliseconds: int, sequence: int) -> str:
    """The greatest id that is smaller; ``0-0`` for the smallest one."""
    if sequence > 0:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{MAX_SEQUENCE}" if milliseconds > 0 else "0-0"
