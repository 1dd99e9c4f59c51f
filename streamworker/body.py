"""Bodies on the wire: what ``publish`` writes into an entry, and how a handler's body is read back out of one.

An entry is flat: the field ``data`` holds the body, ``type``, ``content-type`` and headers are fields of
their own. JSON and text carry no ``content-type``, which keeps a small entry small and makes an entry
written by ``redis-cli`` equal to ours; bytes are marked ``application/octet-stream``. Reading never looks
at the mark: the handler's annotation says what the body is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec

from streamworker.codec import Codec, codec_of, name_of_type
from streamworker.errors import ConfigError, UndecodableBody
from streamworker.message import field

Decode: TypeAlias = Callable[[list[bytes]], object]

_OURS = ("data", "type", "content-type")
_BINARY = (bytes, bytearray, memoryview)


def encode(body: Any, *, type: str | None = None, headers: Mapping[str, str] | None = None) -> list[bytes]:
    """The flat fields of an entry: name, value, name, value …, ``data`` first.

    Args:
        body: ``str`` and ``bytes`` travel as they are, everything else as JSON (NaN and infinity as null).
        type: the entry's type.
        headers: further fields, text to text.

    Raises:
        ConfigError: the body cannot be written as JSON, a header has a name that is ours, or type or a
            header is not text. No value is in the text of the error.
    """
    fields = [b"data", _data(body)]
    if type is not None:
        fields += b"type", _text("type", type)
    if isinstance(body, _BINARY):
        fields += b"content-type", b"application/octet-stream"
    for name, value in headers.items() if headers else ():
        encoded = _text("the name of a header", name)
        if name in _OURS or name.startswith("sw-") or not name:
            raise ConfigError(
                f"a header cannot be called {name!r}: data, type, content-type and sw-… are fields of our own; "
                "give it another name"
            )
        fields += encoded, _text(f"header {name!r}", value)
    return fields


def decoder(annotation: Any, source: str | None) -> Decode:
    """Compile what turns an entry's flat fields into the body that a handler's annotation asks for.

    ``bytes`` and ``str`` get the body as it is, everything else is JSON; ``Any`` takes any JSON value.
    A flat record becomes a dict of text first (the first field of a name counts, ``sw-…`` fields are
    left out, values that are not UTF-8 stay bytes) and is converted with msgspec's ``strict=False``.

    Args:
        annotation: the resolved annotation; ``Any`` for a missing one.
        source: None for the field ``data``, and an entry without it as a flat record; ``"fields"`` for
            the flat record always; else the name of the field.

    Returns:
        A function that raises UndecodableBody, and nothing else, with a reason that holds no payload.

    Raises:
        ConfigError: bodies cannot be decoded to this annotation.
    """
    codec = codec_of(annotation)
    if source == "fields":
        if codec.convert is None:
            raise ConfigError(
                f"body='fields' gives a record of named fields, which {name_of_type(annotation)} cannot hold; "
                "use a msgspec.Struct, dataclass, TypedDict, pydantic model or dict"
            )
        return partial(_decode_record, codec, "")
    name = b"data" if source is None else source.encode()
    missing = f"the entry has no field `{name.decode()}`"
    record = None
    if source is None and codec.convert is not None:
        record = partial(_decode_record, codec, f"{missing}, and its fields are no such record: ")
    parse = codec.parse

    # This runs once per message: nothing but one comparison stands before the parser.
    def decode(fields: list[bytes]) -> object:
        body = fields[1] if fields and fields[0] == name else field(fields, name)
        if body is None:
            if record is None:
                raise UndecodableBody(missing)
            return record(fields)
        try:
            return parse(body)
        except Exception as exc:  # noqa: BLE001  (the user's types run code of their own)
            why = _reason(codec, exc, body)
        # Raised outside of the except block: what the parser said holds payload, and must not be its context.
        raise UndecodableBody(why)

    return decode


def size_of(fields: list[bytes], source: str | None) -> int:
    """Bytes of the body in an entry's flat fields; of a flat record the sum of its values."""
    if source != "fields":
        body = field(fields, b"data" if source is None else source.encode())
        if body is not None or source is not None:
            return len(body or b"")
    return sum(map(len, fields[1::2]))


def _data(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, _BINARY):
        return bytes(body)
    if isinstance(body, str):
        return _text("a body", body)
    try:
        return _to_json(body) if hasattr(type(body), "__pydantic_serializer__") else _encoder.encode(body)
    except Exception as exc:  # noqa: BLE001  (the user's types run code of their own)
        # Only this text is known to hold a type's name and nothing of the value.
        told = str(exc) if isinstance(exc, TypeError) else ""
        why = told if re.fullmatch(r"Encoding objects of type [\w.]+ is unsupported", told) else type(exc).__name__
    raise ConfigError(f"a body of type {type(body).__qualname__!r} cannot be written as JSON: {why}")


def _text(what: str, value: str) -> bytes:
    if not isinstance(value, str):
        raise ConfigError(f"{what} must be a str, not {type(value).__qualname__!r}")
    try:
        return value.encode()
    except UnicodeEncodeError:
        pass  # it holds the whole text, so it must not be the context of ours
    raise ConfigError(f"{what} holds a lone surrogate, which UTF-8 cannot express")


def _to_json(model: Any) -> bytes:
    # By alias, because that is what the same model reads.
    json: bytes = type(model).__pydantic_serializer__.to_json(model, by_alias=True)
    return json


def _encode_other(value: Any) -> Any:
    if hasattr(type(value), "__pydantic_serializer__"):
        return msgspec.Raw(_to_json(value))
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)


def _decode_record(codec: Codec, context: str, fields: list[bytes]) -> object:
    record: dict[str, object] = {}
    for at in range(0, len(fields) - 1, 2):
        name, value = fields[at].decode(errors="replace"), fields[at + 1]
        if name.startswith("sw-") or name in record:
            continue
        try:
            record[name] = value if codec.binary(name) else value.decode()
        except UnicodeDecodeError:
            record[name] = value  # harmless unless the type wants text there, and then the reason names the field
    assert codec.convert is not None
    try:
        return codec.convert(record)
    except Exception as exc:  # noqa: BLE001  (the user's types run code of their own)
        why = context + _reason(codec, exc)
    raise UndecodableBody(why)


def _reason(codec: Codec, exc: Exception, body: bytes | None = None) -> str:
    if body == b"":
        return "the body is empty"
    if isinstance(exc, UnicodeDecodeError):
        return "the body is not UTF-8"
    if isinstance(exc, RecursionError):
        return "the body is nested too deeply"
    if body is not None and body.startswith(b"\xef\xbb\xbf"):
        return "the body starts with a byte order mark, which is not JSON"
    return codec.explain(exc)
