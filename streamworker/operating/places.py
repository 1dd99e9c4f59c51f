"""Places in a stream, as an operator names them: an id, a time, so long ago, the beginning or the end."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, TypeAlias

from streamworker.errors import ConfigError
from streamworker.ids import MAX_SEQUENCE, EntryId, below
from streamworker.monitoring.facts import StreamFacts
from streamworker.monitoring.shown import entry_id

Place: TypeAlias = str
"""``beginning``, ``end``, an entry's id, a date and time (UTC unless it says otherwise), or how long ago: ``2h``."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN: Final = re.compile(r"([0-9]+(?:[.][0-9]+)?)(ms|[smhdw])")


def from_(place: Place, stream: StreamFacts) -> EntryId:
    """The lowest id that is meant by "from this place on"."""
    found = _where(place, stream)
    return found if isinstance(found, tuple) else (found, 0)


def upto(place: Place, stream: StreamFacts) -> EntryId:
    """The highest id that is meant by "up to this place"."""
    found = _where(place, stream)
    return found if isinstance(found, tuple) else (found, MAX_SEQUENCE)


def behind(place: Place, stream: StreamFacts) -> EntryId:
    """The id behind which a group reads that is to be given the entry at this place next; at the end, nothing old."""
    if place == "end":
        return stream.last_generated
    return below(from_(place, stream))


def seconds_of(text: str) -> float | None:
    """``90s``, ``2h``, ``1d12h`` in seconds; None if it is no such thing."""
    parts = _SPAN.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def time_of(text: str, now: float) -> float | None:
    """A date and time, or how long before ``now``, as Unix time in seconds; None if it is neither."""
    ago = seconds_of(text)
    if ago is not None:
        return now - ago
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def check_utf8(what: str, name: str) -> None:
    """A name on a command line may be any bytes; what we keep has names of UTF-8.

    Raises:
        ConfigError: it is none.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} {name!r} is no UTF-8: only other programs have such names; use redis-cli") from None


def _where(place: Place, stream: StreamFacts) -> EntryId | int:
    """An id, or milliseconds."""
    if place == "beginning":
        return (0, 0)
    if place == "end":
        return stream.last_generated
    id = entry_id(place)
    if id is not None and "-" in place:
        return id
    time = time_of(place, stream.now) if id is None or len(place) == 8 else None  # 20261123 is a date
    if time is not None:
        return max(0, int(time * 1000))
    if id is not None:
        return id[0]
    raise ConfigError(
        f"{place!r} is no place in a stream: write beginning, end, an entry's id, a date and time as in "
        "2026-11-23T14:00, or how long ago as in 2h"
    )
