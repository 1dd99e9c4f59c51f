"""What a handler's signature asks for: which parameter gets the body, which the message, and how to call it so."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from streamworker.errors import ConfigError
from streamworker.handler import Handler
from streamworker.message import Message

Plan: TypeAlias = Callable[[object, Message | None], Any]

_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a handler asks for.

    Attributes:
        body: the name of the parameter that gets the body, if one does.
        annotation: its resolved annotation, ``Any`` without one.
        message: whether a parameter gets the message.
        plan: calls the handler's function with a body and a message, leaving out what it does not take.
    """

    body: str | None
    annotation: Any
    message: bool
    plan: Plan


def read_signature(handler: Handler) -> Asked:
    """Apply the rules of ``App.on`` to a handler's signature.

    The first positional parameter gets the body, unless it is the message; the message goes to a parameter
    annotated ``Message``, or called ``message`` without an annotation. All others must have defaults.

    Raises:
        ConfigError: the signature does not fit, or a name in an annotation cannot be resolved. The text
            names the handler, the parameter and what to change.
    """
    parameters = _parameters(handler)
    message = _message_of(handler, parameters)
    body = _body_of(parameters, message)
    needed = [one for one in parameters if _is_needed(one)]
    extra = [one.name for one in needed if one is not body and one is not message]
    if extra:
        raise ConfigError(
            f"{handler} wants {len(needed)} arguments ({', '.join(one.name for one in needed)}); it gets the body and, "
            f"if it asks for it, the message: give {' and '.join(map(repr, extra))} a default"
        )
    return Asked(
        body=None if body is None else body.name,
        annotation=None if body is None else _resolve(handler, body),
        message=message is not None,
        plan=_plan(handler, parameters, body, message),
    )


def outermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that is really called: behind partials, and behind an object's ``__call__``."""
    while isinstance(function, partial):
        function = function.func
    call: Callable[..., Any] = function if inspect.isroutine(function) else type(function).__call__
    return call


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that the user wrote: behind partials and the wrappers that ``functools.wraps`` marked."""
    while isinstance(function, partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, partial) else inspect.unwrap(function)
    return outermost(function)


def _parameters(handler: Handler) -> list[Parameter]:
    try:
        signature = inspect.signature(handler.function)
    except (TypeError, ValueError, NameError) as exc:  # NameError: Python 3.14 evaluates annotations here
        raise ConfigError(f"{handler}: Python cannot tell its signature ({exc}); wrap it in a function") from exc
    function = outermost(handler.function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{handler} has a 'yield', so calling it would run nothing of it; use 'return'")
    return list(signature.parameters.values())


def _message_of(handler: Handler, parameters: list[Parameter]) -> Parameter | None:
    found = [one for one in parameters if one.kind not in _VARIABLE and _asks_for_message(handler, one)]
    if len(found) > 1:
        names = " and ".join(repr(one.name) for one in found)
        raise ConfigError(f"{handler}: parameters {names} both ask for the message; one of them is enough")
    return found[0] if found else None


def _asks_for_message(handler: Handler, parameter: Parameter) -> bool:
    if parameter.annotation is Parameter.empty:
        return parameter.name == "message"
    try:
        return _is_message(_resolve(handler, parameter))
    except ConfigError:
        if _is_needed(parameter):
            raise
        return False  # it keeps its default, so what it is does not matter


def _is_message(annotation: Any) -> bool:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_is_message(one) for one in get_args(annotation))
    return annotation is Message


def _body_of(parameters: list[Parameter], message: Parameter | None) -> Parameter | None:
    if parameters and parameters[0] is not message and parameters[0].kind in _POSITIONAL:
        return parameters[0]
    # Behind the message, or behind what a partial has filled in by name, only what has no default wants a body.
    return next((one for one in parameters if one is not message and _is_needed(one)), None)


def _is_needed(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty and parameter.kind not in _VARIABLE


def _resolve(handler: Handler, parameter: Parameter) -> Any:
    """One annotation; only those that matter are resolved, so a return type for type checkers is not in the way."""
    if parameter.annotation is Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": parameter.annotation}
    names = getattr(innermost(handler.function), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, {}, include_extras=True)["it"]
    except Exception as exc:
        raise ConfigError(
            f"{handler}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be resolved "
            f"({exc}); define or import what it names at the top level of the module, "
            "not inside a function or under TYPE_CHECKING"
        ) from exc


def _plan(handler: Handler, parameters: list[Parameter], body: Parameter | None, message: Parameter | None) -> Plan:
    """By position as far as that goes without a gap, otherwise by name."""
    by_position: list[int] = []  # 0 is the body, 1 the message
    by_name: list[tuple[str, int]] = []
    for at, parameter in enumerate(parameters):
        if parameter is not body and parameter is not message:
            continue
        what = 0 if parameter is body else 1
        if parameter.kind in _POSITIONAL and at == len(by_position):
            by_position.append(what)
        elif parameter.kind is Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"{handler}: parameter {parameter.name!r} stands behind one that gets nothing; swap them")
        else:
            by_name.append((parameter.name, what))
    return _called(handler.function, tuple(by_position), tuple(by_name))


def _called(function: Callable[..., Any], by_position: tuple[int, ...], by_name: tuple[tuple[str, int], ...]) -> Plan:
    def general(*given: object) -> Any:
        return function(*[given[what] for what in by_position], **{name: given[what] for name, what in by_name})

    # The usual signatures cost no more than the call itself.
    if by_name:
        return general
    plans: dict[tuple[int, ...], Plan] = {
        (): lambda _body, _message: function(),
        (0,): lambda body, _message: function(body),
        (1,): lambda _body, message: function(message),
        (0, 1): function,
    }
    return plans.get(by_position, general)
