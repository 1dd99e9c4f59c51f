"""A message: one delivery of an entry, as a handler sees it, and as the runtime holds it."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """One delivery of an entry.

    Attributes:
        id: the entry's id; the same over all deliveries, retries and redrives.
        stream: the stream it was published to.
        group: the consumer group; empty for a broadcast.
        handler: the handler's name.
        type: the entry's ``type`` field, or None.
        headers: the entry's other fields as text, without ``data``, ``type``, ``content-type`` and ``sw-…``.
        deliveries: how many times it was handed over, this one included, crashes counted.
        published: when it was published, Unix time in seconds (from the id, so by the server's clock).
        consumer: this worker's name in the group.
        size: bytes of the body.
    """

    id: str
    stream: str
    group: str
    handler: str
    type: str | None
    headers: dict[str, str]
    deliveries: int
    published: float
    consumer: str
    size: int


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One delivery as the runtime holds it while it is in flight.

    Attributes:
        key: the stream it was read from: the user's, or the group's retry stream.
        id: the entry's id in ``key``; ``(key, id)`` names it in flight.
        origin: the id in the user's stream, which the handler sees.
        fields: the original fields, flat: name, value, name, value …
        deliveries: Redis' count, this delivery included; with the owner it is the fence.
        acked: it was acknowledged before its handler ran.
        alone: it is a suspect, and runs while nothing else does.
        superseded: the stream began anew and another entry came under this id: nothing is settled for this one.
    """

    key: bytes
    id: bytes
    origin: bytes
    fields: list[bytes]
    deliveries: int
    acked: bool = False
    alone: bool = False
    superseded: bool = False


def field(fields: list[bytes], name: bytes) -> bytes | None:
    """The value of the first field called ``name`` in a flat list, or None."""
    for at in range(0, len(fields) - 1, 2):
        if fields[at] == name:
            return fields[at + 1]
    return None


def headers_of(fields: list[bytes], source: str | None = None) -> dict[str, str]:
    """The fields that are headers, as text; what is not UTF-8 is shown with replacement characters.

    Args:
        fields: the entry's, flat.
        source: where the handler takes the body from, its ``body=`` option. A flat record has no headers:
            all its fields are the body.
    """
    if source == "fields" or (source is None and field(fields, b"data") is None):
        return {}
    own = ((source or "data").encode(), b"type", b"content-type")
    return {
        fields[at].decode(errors="replace"): fields[at + 1].decode(errors="replace")
        for at in range(0, len(fields) - 1, 2)
        if fields[at] not in own and not fields[at].startswith(b"sw-")
    }


def published_at(entry_id: bytes) -> float:
    """The publish time that an automatic entry id carries, Unix time in seconds; 0 if it is no id at all."""
    milliseconds = entry_id.partition(b"-")[0]
    return int(milliseconds) / 1000 if milliseconds.isdigit() else 0.0
