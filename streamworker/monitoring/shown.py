"""Entries as people and scripts get them: type, headers and body apart, the body as text if it is one."""

from __future__ import annotations

import base64
import re
from typing import Final, Literal

import msgspec

from streamworker.ids import EntryId
from streamworker.logs import clean
from streamworker.message import field, headers_of
from streamworker.monitoring.entries import Letter

_CLASS: Final = re.compile(r"[\w.]+")
_FRAME: Final = re.compile(r'  File "(.+)", line (\d+), in (.+)$')


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
        place: where the error was raised, ``file:line in function``; None without a traceback.
        traceback: of the error, without local variables.
        consumer: which worker gave it up.
        redriven: how often it had been redriven before.
        edited: when and by whom it was edited, and which fields; None if it never was.
        was: those fields as they were published.
        entry: the original entry, under its own id; as edited, if it was.
    """

    id: str
    time: float | None
    reason: str | None
    error: str | None
    handler: str | None
    deliveries: int | None
    place: str | None
    traceback: str | None
    consumer: str | None
    redriven: int
    edited: str | None
    was: dict[str, str]
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
    return LetterShown(
        id=letter.id,
        time=time_of(letter.id),
        reason=facts.get("reason"),
        error=facts.get("error") or None,
        handler=facts.get("handler"),
        deliveries=_number(facts.get("deliveries", "")),
        place=place_in(facts.get("traceback", "")),
        traceback=facts.get("traceback") or None,
        consumer=facts.get("consumer"),
        redriven=letter.marks.redriven,
        edited=letter.marks.edited,
        was={
            name.decode(errors="replace"): value.decode(errors="backslashreplace") for name, value in letter.marks.was
        },
        entry=shown(facts.get("id", letter.id), letter.fields),
    )


def why(letter: LetterShown) -> str:
    """The reason and the error, printable; what both say is said once."""
    reason, error = letter.reason or "", letter.error or ""
    kind = error.partition(":")[0]
    if kind and reason.startswith(f"{kind} "):  # TimeoutError after 3 deliveries
        return f"{clean(error, 300)} ({clean(reason.removeprefix(f'{kind} '), 300)})"
    parts = [error] if reason and error.endswith(reason) else [reason, error]
    return ": ".join(clean(part, 300) for part in parts if part) or "no reason is kept"


def error_type(letter: LetterShown) -> str:
    """The error's class; of a letter without an error its reason, without the numbers in it."""
    if letter.error:
        kind = letter.error.partition(":")[0]
        return kind if _CLASS.fullmatch(kind) else letter.error
    return re.sub(r"\d+", "N", letter.reason or "") or "no reason is kept"


def short_place(place: str | None) -> str | None:
    """``gateway.py:88 in charge``, without the folder."""
    return None if place is None else place.rpartition("/")[2]


def place_in(traceback: str) -> str | None:
    """Where a traceback says that its first error was raised: ``file:line in function``; None if it does not."""
    found = None
    for line in traceback.split("\n"):
        frame = _FRAME.match(line)
        if frame is not None:
            found = f"{frame[1]}:{frame[2]} in {frame[3]}"
        elif found is not None and not line.startswith(" "):
            break  # the error itself; behind it stands what it came from
    return found


def time_of(id: str) -> float | None:
    """The time in an id; None if it is none."""
    made = (_number(id.partition("-")[0]) or 0) / 1000
    return made if 946_684_800 < made < 4_102_444_800 else None  # the years 2000 to 2100


def entry_id(text: str) -> EntryId | None:
    """An id as a user writes it, with or without a sequence number; None if it is none."""
    milliseconds, dash, sequence = text.partition("-")
    parts = (milliseconds, sequence) if dash else (milliseconds, "0")
    if not all(part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _number(text: str) -> int | None:
    """A number of ours; others may write thousands of digits there."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _record(fields: list[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at in range(0, len(fields), 2):
        if not fields[at].startswith(b"sw-"):  # the first field of a name counts, as for handlers
            found.setdefault(fields[at].decode(errors="replace"), fields[at + 1].decode(errors="replace"))
    return found
