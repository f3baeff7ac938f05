"""Annotations of classes: evaluated, with what stands for their type variables, and out of their wrappings."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

import typing_extensions

__all__ = ["class_hints", "class_of", "unwrap"]

# Words about a field, not about its values. `typing_extensions` has its own of each that Python 3.11 lacks.
_WRAPPINGS = {
    typing.Final,
    typing.ClassVar,
    typing.Required,
    typing.NotRequired,
    typing_extensions.Required,
    typing_extensions.NotRequired,
    typing_extensions.ReadOnly,
}
_ALIASES = tuple({typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)})


def class_of(type: Any) -> Any:
    """``Page`` of ``Page[int]``; anything else is itself."""
    return typing.get_origin(type) or type


def class_hints(type: Any) -> dict[str, Any]:
    """The annotations of a class or of a generic one with its arguments (``Page[int]``), base classes first.

    Raises `TypeError` where one names what is not there.
    """
    cls = class_of(type)
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise TypeError(f"an annotation of {cls.__qualname__} cannot be resolved: {error}") from None
    variables = _variables(type)
    if not any(variables.values()):
        return hints
    owners = {name: base for base in reversed(cls.__mro__) for name in inspect.get_annotations(base)}
    return {name: _filled(hint, variables.get(owners.get(name), {})) for name, hint in hints.items()}


def _variables(type: Any) -> dict[Any, dict[Any, Any]]:
    """What each class of the family puts in the place of its type variables."""
    found: dict[Any, dict[Any, Any]] = {}

    def look(alias: Any, outer: dict[Any, Any]) -> None:
        cls = class_of(alias)
        parameters = getattr(cls, "__parameters__", ())
        arguments = [_filled(argument, outer) for argument in typing.get_args(alias)]
        found.setdefault(cls, dict(zip(parameters, arguments, strict=False)))
        for base in cls.__dict__.get("__orig_bases__", ()):
            if class_of(base) not in (typing.Generic, typing.Protocol) and hasattr(class_of(base), "__dict__"):
                look(base, found[cls])

    look(type, {})
    return found


def _filled(hint: Any, variables: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or not variables or isinstance(hint, type):
        return hint
    return hint[tuple(variables.get(parameter, parameter) for parameter in parameters)]


def unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """A hint without ``Annotated``, ``NotRequired``, ``NewType``, aliases and so on; and all its metadata."""
    metadata: list[Any] = []
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            metadata[:0] = hint.__metadata__
            hint = hint.__origin__
        elif origin in _WRAPPINGS:
            hint = hint.__args__[0]
        elif isinstance(origin, _ALIASES):
            hint = origin.__value__[hint.__args__]
        elif isinstance(hint, _ALIASES):
            hint = hint.__value__
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        else:
            return (types.NoneType if hint is None else hint), metadata
