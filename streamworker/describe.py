"""Describe errors for dead letters and logs: always short, always UTF-8, never able to fail or to fool a terminal."""

from __future__ import annotations

import re
import traceback
from collections import deque
from itertools import islice
from types import CodeType, FrameType, TracebackType
from typing import Final

from streamworker.logs import without_logins

_MOST_ERROR: Final = 1000  # bytes
_MOST_TRACEBACK: Final = 8000
_FIRST_FRAMES: Final = 8
_LAST_FRAMES: Final = 24
_MOST_EXCEPTIONS: Final = 8
_MARGIN: Final = 1100  # characters: what is cut must not begin or end within a URL's password

# Control characters, what ends a line for some terminals and log viewers, what turns the direction of writing,
# what is invisible, and surrogates, which no UTF-8 stream can write.
_ESCAPED: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def describe_error(exception: BaseException) -> tuple[str, str]:
    """The error in one line (at most 1 kB) and its traceback (at most 8 kB), without local variables.

    Takes bounded time, whatever the exception holds: a text of 50 MB, a ``__str__`` that raises, a thousand
    frames, a long chain of causes. What is too long keeps its head and its tail.
    """
    return printable(_told(exception), _MOST_ERROR), _lines(_traceback(exception))


def place_of(exception: BaseException | None) -> str:
    """Where ``exception`` was raised: ``file:line in function``, or nothing for one that was never raised."""
    frames = exception.__traceback__ if exception is not None else None
    if frames is None:
        return ""
    while frames.tb_next is not None:
        frames = frames.tb_next
    return place(frames.tb_frame.f_code, frames.tb_lineno)


def place(code: CodeType, line: int | None) -> str:
    """``file:line in function``."""
    return printable(f"{code.co_filename}:{line} in {code.co_name}", _MOST_ERROR)


def printable(value: object, most: int) -> str:
    """``str(value)`` in one line of at most ``most`` bytes of UTF-8, with control characters escaped."""
    return _cut(_text_of(value), most, " [...] ")


def _lines(text: str) -> str:
    return "\n".join(line for line in _cut(text, _MOST_TRACEBACK, "\n[...]\n", keep="\n").split("\n") if line)


def _cut(text: str, most: int, mark: str, keep: str = "") -> str:
    # Escaping only makes a text longer, so no more than this is ever looked at.
    head = _escape(without_logins(text[: most + _MARGIN])[: most + 1], keep).encode()
    if len(head) <= most and len(text) <= most:
        return head.decode()
    room = (most - len(mark)) // 2
    tail = _escape(without_logins(text[-most - _MARGIN :])[-most:], keep).encode()
    return head[:room].decode(errors="ignore") + mark + tail[-room:].decode(errors="ignore")


def _escape(text: str, keep: str) -> str:
    return _ESCAPED.sub(lambda found: found[0] if found[0] == keep else ascii(found[0])[1:-1], text)


def _told(exception: BaseException) -> str:
    """``ValueError: text``, like the last line of a traceback."""
    text = _text_of(exception)
    return f"{type(exception).__name__}: {text}" if text else type(exception).__name__


def _text_of(value: object) -> str:
    try:
        return str(value)
    except (Exception, SystemExit):  # noqa: BLE001  (the user's __str__)
        return f"<{type(value).__name__} that cannot be shown as text>"


def _traceback(exception: BaseException) -> str:
    """The exception first, then what it was made of or raised from; a few of them at most."""
    found: list[tuple[str, BaseException]] = [("", exception)]
    seen = {id(exception)}
    for _, one in found:  # grows while it is read
        more: list[tuple[str, BaseException | None]] = []
        if isinstance(one, BaseExceptionGroup):
            more += [("in the group", member) for member in one.exceptions[:_MOST_EXCEPTIONS]]
        if one.__cause__ is not None:
            more.append(("caused by", one.__cause__))
        elif not one.__suppress_context__:
            more.append(("while handling", one.__context__))
        for relation, other in more:
            if other is not None and id(other) not in seen and len(found) < _MOST_EXCEPTIONS:
                seen.add(id(other))
                found.append((f"{relation}:\n", other))
    return "\n".join(
        relation + "".join(_frames(one.__traceback__)) + _cut(_told(one), _MOST_ERROR, " [...] ")
        for relation, one in found
    )


def _frames(innermost_last: TracebackType | None) -> list[str]:
    frames = traceback.walk_tb(innermost_last)
    first = list(islice(frames, _FIRST_FRAMES))
    last: deque[tuple[FrameType, int]] = deque(maxlen=_LAST_FRAMES)
    count = 0
    for frame in frames:
        last.append(frame)
        count += 1
    told = traceback.StackSummary.extract(iter(first), capture_locals=False).format()
    if count > len(last):
        told.append(f"  [{count - len(last)} frames]\n")
    told += traceback.StackSummary.extract(iter(last), capture_locals=False).format()
    return told
