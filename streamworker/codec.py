"""A codec: how the bodies of one annotated type are read, and what a person is told when one does not fit.

What parsers say may quote the body, and reasons end up in logs; so only texts that are known to be made
of the type's own names and constraints pass, everything else is told in words of ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import UnionType
from typing import Annotated, Any, NewType, Union, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

from streamworker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Codec:
    """How one annotation is read.

    Attributes:
        parse: makes a value of a body's bytes.
        convert: makes a value of a flat record's fields; None if the type cannot hold named fields.
        explain: why either failed, without any of the payload.
        binary: whether a field of a record is bytes and stays as it is.
    """

    parse: Callable[[bytes], object]
    convert: Callable[[dict[str, object]], object] | None
    explain: Callable[[Exception], str]
    binary: Callable[[str], bool] = lambda _: False


def codec_of(annotation: Any) -> Codec:
    """Compile the codec of a resolved annotation; raises ConfigError if there cannot be one."""
    try:
        return _pydantic_codec(annotation) if _is_pydantic(annotation) else _msgspec_codec(annotation)
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"bodies cannot be decoded to {name_of_type(annotation)}: {exc}") from exc


def name_of_type(annotation: Any) -> str:
    """What a message to the user calls an annotation."""
    return f"`{annotation.__qualname__ if isinstance(annotation, type) else annotation}`"


def _msgspec_codec(annotation: Any) -> Codec:
    parse: Callable[[bytes], object] = msgspec.json.Decoder(annotation).decode
    shape = shapes.type_info(annotation)
    for part in _parts(shape):
        # msgspec takes any class and then decodes nothing to it: every message would be dead-lettered.
        if isinstance(part, shapes.CustomType) and part.cls is not object:
            raise ConfigError(
                f"bodies cannot be decoded to {name_of_type(annotation)}: {name_of_type(part.cls)} is no "
                "msgspec.Struct, dataclass, TypedDict, pydantic model or other type that msgspec knows"
            )
    bare = _bare(annotation)
    if bare is bytes:
        parse = bytes if annotation is bytes else partial(msgspec.convert, type=annotation)
    elif bare is str:
        text = partial(str, encoding="utf-8")
        parse = text if annotation is str else lambda body: msgspec.convert(text(body), annotation)
    alternatives = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
    if not any(isinstance(one, _RECORDS) for one in alternatives):
        return Codec(parse, None, _explain)
    convert = partial(msgspec.convert, type=annotation, strict=False)
    return Codec(parse, convert, _explain, _binary_fields(alternatives))


_STRUCTURES = (shapes.StructType, shapes.DataclassType, shapes.TypedDictType)
_RECORDS = (*_STRUCTURES, shapes.DictType, shapes.AnyType, shapes.CustomType)


def _parts(shape: Any) -> Iterator[shapes.Type]:
    """All types that ``shape`` is made of; recursive types are visited once."""
    seen: set[int] = set()
    waiting = [shape]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tuple):
            waiting += one
        elif isinstance(one, shapes.Type | shapes.Field) and id(one) not in seen:
            seen.add(id(one))
            waiting += [getattr(one, name) for name in one.__struct_fields__]
            if isinstance(one, shapes.Type):
                yield one


def _binary_fields(alternatives: tuple[shapes.Type, ...]) -> Callable[[str], bool]:
    """Which fields of a record are bytes and stay as they are: msgspec would read their text as base64."""

    def binary(shape: shapes.Type) -> bool:
        options = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
        return any(isinstance(one, shapes.BytesType) for one in options)

    if any(isinstance(one, shapes.DictType) and binary(one.value_type) for one in alternatives):
        return lambda _: True
    structures = [one for one in alternatives if isinstance(one, _STRUCTURES)]
    return frozenset(
        part.encode_name for structure in structures for part in structure.fields if binary(part.type)
    ).__contains__


# Texts of msgspec that are made of the type's names and constraints alone. All others may echo the value.
_SAFE = re.compile(
    r"Expected |Object missing required field |JSON is malformed: |Input data was truncated"
    r"|Invalid (RFC3339|ISO8601|UUID|decimal|base64|epoch) |Invalid UUID|[A-Z]\w+ (value )?(is )?out of range"
)
_ECHO = re.compile(r"(Invalid enum value|Invalid value) .*?((?: - at `[^`]*`(?: in `[^`]*`)?)?)", re.DOTALL)


def _explain(exc: Exception) -> str:
    text = str(exc) if isinstance(exc, msgspec.DecodeError) and exc.__cause__ is None else ""
    if _SAFE.match(text):
        return text
    if text.startswith("Object contains unknown field "):
        return "Object contains a field that the type does not have"
    if echo := _ECHO.fullmatch(text):
        return ("Invalid enum value" if "enum" in echo[1] else "Unknown tag") + echo[2]
    # A cause is what __post_init__ raised; its text is the user's, and usually quotes the value.
    return f"{type(exc.__cause__ or exc).__name__} raised by the body's type"


def _is_pydantic(annotation: Any) -> bool:
    if "pydantic" not in sys.modules:  # nobody can have used it then
        return False
    waiting = [annotation]
    while waiting:
        one = waiting.pop()
        if hasattr(one, "__pydantic_validator__"):
            return True
        waiting += [one.__supertype__] if isinstance(one, NewType) else get_args(one)
    return False


def _pydantic_codec(annotation: Any) -> Codec:
    pydantic: Any = sys.modules["pydantic"]
    adapter = pydantic.TypeAdapter(annotation)
    names = frozenset(_strings(adapter.core_schema))

    def explain(exc: Exception) -> str:
        if not isinstance(exc, pydantic.ValidationError):
            return f"{type(exc).__name__} raised by the body's type"
        errors = exc.errors(include_url=False, include_input=False)
        told = [_explain_pydantic(error, names) for error in errors[:3]]
        return "; ".join(told) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")

    return Codec(adapter.validate_json, adapter.validate_python, explain)


def _strings(schema: Any) -> Iterator[str]:
    """Every string of a pydantic schema, so every name that the type itself knows."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one


# What pydantic puts into an error from the type, not from the input.
_CONSTRAINTS = {
    "gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length", "field_type", "expected",
    "pattern", "class", "class_name", "max_digits", "decimal_places", "whole_digits", "expected_schemes",
}  # fmt: skip


def _explain_pydantic(error: Any, names: frozenset[str]) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    why = kind
    if kind == "json_invalid" or context.keys() <= _CONSTRAINTS:
        # Made again from the kind: a validator may raise any text under any name, or under one of its own.
        with suppress(KeyError, TypeError):
            why = sys.modules["pydantic_core"].PydanticKnownError(kind, context or None).message()
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if part in names else "[...]" for part in error["loc"]
    )
    return f"{why} - at `${path}`" if path else str(why)


def _bare(annotation: Any) -> Any:
    """The annotation without NewType, Annotated, alias and Optional around it."""
    while True:
        if isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif get_origin(annotation) in (Union, UnionType):
            options = [one for one in get_args(annotation) if one is not type(None)]
            if len(options) != 1:
                return annotation
            annotation = options[0]
        else:
            return annotation
