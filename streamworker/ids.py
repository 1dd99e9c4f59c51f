"""Entry ids: pairs of numbers that compare as the server compares ids."""

from __future__ import annotations

from typing import Final, TypeAlias

EntryId: TypeAlias = tuple[int, int]
"""Milliseconds and sequence number."""

MAX_SEQUENCE: Final = 2**64 - 1


def parse_id(entry_id: bytes | str) -> EntryId:
    """``b"123-4"`` as ``(123, 4)``; a missing sequence is 0."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def written(id: EntryId) -> str:
    """``(123, 4)`` as ``"123-4"``."""
    return f"{id[0]}-{id[1]}"


def below(id: EntryId) -> EntryId:
    """The greatest id that is smaller; ``(0, 0)`` for the smallest one."""
    milliseconds, sequence = id
    if sequence > 0:
        return milliseconds, sequence - 1
    return (milliseconds - 1, MAX_SEQUENCE) if milliseconds > 0 else (0, 0)
