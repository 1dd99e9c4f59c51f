"""Entries as people and scripts get them: type, headers and body apart, the body as text if it is one."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec

from streamworker.logs import clean
from streamworker.message import field, headers_of
from streamworker.monitoring.entries import Letter
from streamworker.monitoring.facts import EntryId


class EntryShown(msgspec.Struct, frozen=True, kw_only=True):
    """One entry.

    Attributes:
        id: its id.
        published: when, Unix time in seconds; None if its id is no time.
        type: its ``type`` field; None without one.
        headers: its other fields; what is not UTF-8 has replacement characters.
        body: the field ``data``, as text or in base64; None for a flat record.
        encoding: which of them; None without a body.
        fields: of a flat record, all fields but ours; None where there is a body.
        size: bytes of fields and values.
    """

    id: str
    published: float | None
    type: str | None
    headers: dict[str, str]
    body: str | None
    encoding: Literal["text", "base64"] | None
    fields: dict[str, str] | None
    size: int


class LetterShown(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter.

    Attributes:
        id: its own id in the dead stream.
        time: when it came, Unix time in seconds; None if its id is no time.
        reason, error, handler, deliveries: why, and after what; None where it does not tell.
        entry: the original entry, under its own id.
    """

    id: str
    time: float | None
    reason: str | None
    error: str | None
    handler: str | None
    deliveries: int | None
    entry: EntryShown


def shown(id: str, fields: list[bytes]) -> EntryShown:
    """The entry with these fields, flat."""
    fields = fields[: len(fields) // 2 * 2]
    data, type = field(fields, b"data"), field(fields, b"type")
    encoding: Literal["text", "base64"] | None = None
    body: str | None = None
    if data is not None:
        try:
            body, encoding = data.decode(), "text"
        except UnicodeDecodeError:
            body, encoding = base64.b64encode(data).decode(), "base64"
    return EntryShown(
        id=id,
        published=time_of(id),
        type=None if type is None else type.decode(errors="replace"),
        headers=headers_of(fields),
        body=body,
        encoding=encoding,
        fields=_record(fields) if data is None else None,
        size=sum(map(len, fields)),
    )


def letter_shown(letter: Letter) -> LetterShown:
    """The dead letter with the entry that it keeps."""
    facts = letter.facts
    deliveries = facts.get("deliveries", "")
    return LetterShown(
        id=letter.id,
        time=time_of(letter.id),
        reason=facts.get("reason"),
        error=facts.get("error") or None,
        handler=facts.get("handler"),
        deliveries=int(deliveries) if deliveries.isascii() and deliveries.isdigit() else None,
        entry=shown(facts.get("id", letter.id), letter.fields),
    )


def why(letter: LetterShown) -> str:
    """The reason and the error, printable; the error alone where it says the reason too."""
    reason, error = letter.reason or "", letter.error or ""
    parts = [error] if reason and error.endswith(reason) else [reason, error]
    return ": ".join(clean(part, 300) for part in parts if part) or "no reason is kept"


def time_of(id: str) -> float | None:
    """The time in an id; None if it is none."""
    milliseconds = id.partition("-")[0]
    made = int(milliseconds) / 1000 if milliseconds.isascii() and milliseconds.isdigit() else 0.0
    return made if 946_684_800 < made < 4_102_444_800 else None  # the years 2000 to 2100


def entry_id(text: str) -> EntryId | None:
    """An id as a user writes it, with or without a sequence number; None if it is none."""
    milliseconds, dash, sequence = text.partition("-")
    parts = (milliseconds, sequence) if dash else (milliseconds, "0")
    if not all(part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _record(fields: list[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at in range(0, len(fields), 2):
        if not fields[at].startswith(b"sw-"):  # the first field of a name counts, as for handlers
            found.setdefault(fields[at].decode(errors="replace"), fields[at + 1].decode(errors="replace"))
    return found
