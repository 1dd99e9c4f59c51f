"""The copies that retries and dead letters carry: an entry's fields as one value, byte for byte."""

from __future__ import annotations

import msgspec

# MessagePack: a list of byte strings, name, value, name, value … It keeps the order and duplicate names.
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


def pack(fields: list[bytes]) -> bytes:
    """One value for a flat list of names and values."""
    return _encode(fields)


def unpack(packed: bytes) -> list[bytes]:
    """The flat list again; a value that is no such copy gives no fields, so the message is undecodable."""
    try:
        return _decode(packed)
    except msgspec.DecodeError:
        return []
