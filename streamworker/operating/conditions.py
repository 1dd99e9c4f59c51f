"""Conditions on dead letters, as an operator writes them: ``error ~ Timeout``, ``deliveries >= 5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from streamworker.errors import ConfigError
from streamworker.monitoring.shown import LetterShown, error_type, short_place

Condition: TypeAlias = Callable[[LetterShown], bool]

_TEXTS: Final[dict[str, Callable[[LetterShown], str | None]]] = {
    "error": lambda letter: letter.error,
    "error-type": error_type,
    "reason": lambda letter: letter.reason,
    "handler": lambda letter: letter.handler,
    "place": lambda letter: letter.place,
    "traceback": lambda letter: letter.traceback,
    "consumer": lambda letter: letter.consumer,
    "edited": lambda letter: letter.edited,
    "type": lambda letter: letter.entry.type,
    "body": lambda letter: letter.entry.body,
    "id": lambda letter: letter.entry.id,
}
_NUMBERS: Final[dict[str, Callable[[LetterShown], float | None]]] = {
    "deliveries": lambda letter: letter.deliveries,
    "redriven": lambda letter: letter.redriven,
    "size": lambda letter: letter.entry.size,
}
_COMPARED: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_HEADER: Final = "header."
_WRITTEN: Final = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(!=|!~|<=|>=|=|~|<|>)\s*(.*?)\s*", re.DOTALL)

FIELDS: Final = (*_TEXTS, *_NUMBERS, f"{_HEADER}NAME")
"""What a condition can be about."""


def condition(text: str) -> Condition:
    """What ``text`` asks of a letter.

    ``FIELD ~ PATTERN`` and ``!~`` search for a regular expression, ``=`` and ``!=`` compare, numbers also by
    ``<``, ``<=``, ``>``, ``>=``. A letter without the field fulfils ``!=`` and ``!~`` alone. A place is
    compared without its folder if VALUE names none.

    Raises:
        ConfigError: it cannot be understood; the text says why.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no condition: write FIELD OPERATOR VALUE, as in 'error ~ Timeout'")
    name, sign, value = found[1], found[2], _unquoted(found[3])
    if name in _NUMBERS:
        return _of_number(_NUMBERS[name], name, sign, value)
    if name.startswith(_HEADER):
        header = name.removeprefix(_HEADER)
        return _of_text(lambda letter: letter.entry.headers.get(header), name, sign, value)
    if name == "place" and sign in ("=", "!=") and "/" not in value:  # as it is shown in a table
        return _of_text(lambda letter: short_place(letter.place), name, sign, value)
    if name in _TEXTS:
        return _of_text(_TEXTS[name], name, sign, value)
    raise ConfigError(f"{name!r} is nothing that a dead letter has: a condition is about {', '.join(FIELDS)}")


def _of_number(get: Callable[[LetterShown], float | None], name: str, sign: str, value: str) -> Condition:
    if sign not in _COMPARED:
        raise ConfigError(f"{name} is a number: compare it with one of {', '.join(_COMPARED)}")
    try:
        wanted = float(value)
    except ValueError:
        raise ConfigError(f"{name} is a number, and {value!r} is none") from None
    compare = _COMPARED[sign]

    def holds(letter: LetterShown) -> bool:
        number = get(letter)
        return compare(number, wanted) if number is not None else sign == "!="

    return holds


def _of_text(get: Callable[[LetterShown], str | None], name: str, sign: str, value: str) -> Condition:
    if sign in ("=", "!="):
        return lambda letter: (get(letter) == value) == (sign == "=")
    if sign not in ("~", "!~"):
        raise ConfigError(f"{name} is text: compare it by =, !=, ~ or !~")
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ConfigError(f"{value!r} is no regular expression: {error}") from None

    def matches(letter: LetterShown) -> bool:
        text = get(letter)
        return (text is not None and pattern.search(text) is not None) == (sign == "~")

    return matches


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
