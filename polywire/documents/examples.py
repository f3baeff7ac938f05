"""Values made up for a type: for the commands, snippets and forms that people are shown to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from polywire.contract import tree as types
from polywire.contract.tree import Definition, Tree, Type
from polywire.documents.patterns import matching

__all__ = ["example_of", "example_of_field"]

_DEEPEST = 6
_FIXED: dict[type[Type], Any] = {
    types.Anything: "hello",
    types.Null: None,
    types.Boolean: True,
    types.Date: "2026-01-31",
    types.Duration: "PT90S",
    types.Uuid: "6f1c0e0a-8a3b-4f5e-9d2c-1b7a5c3e9f00",
}
_FORMATS = {
    "email": "ada@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
}


def example_of(tree: Tree) -> Any:
    """JSON-like builtins that are a value of the type, as far as the tree tells; fields that may be left out are."""
    return _Example(tree.definitions).value(tree.root, "", 0)


def example_of_field(type: Type, name: str, definitions: Mapping[str, Definition]) -> Any:
    """As `example_of`, of a type that stands under a name, which texts repeat."""
    return _Example(definitions).value(type, name, 0)


class _Example:
    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self._definitions = definitions

    def value(self, type: Type, name: str, depth: int) -> Any:  # noqa: PLR0911 - one line for each kind of type
        match type:
            case types.Reference():
                return self._definition(self._definitions[type.name], depth)
            case types.Union():
                return self._member(type, name, depth)
            case types.Array():
                return self._array(type, name, depth)
            case types.Row():
                count = len(type.items) - type.optional
                return [self.value(item, name, depth + 1) for item in type.items[:count]]
            case types.Map():
                return self._map(type, name, depth)
            case types.Constant():
                return type.values[0]
            case types.Text():
                return _text(type, name or "hello")
            case types.Binary():
                return _binary(type)
            case types.Integer() | types.Number() | types.Decimal():
                return _number(type)
            case types.DateTime():
                return "2026-01-31T12:00:00" + ("" if type.aware is False else "Z")
            case types.Time():
                return "12:00:00" + ("Z" if type.aware else "")
        return _FIXED[type.__class__]

    def _definition(self, definition: Definition, depth: int) -> Any:
        if isinstance(definition, types.Enumeration):
            return definition.values[0]
        told = [field for field in definition.fields if field.required and not field.read_only]
        # Nothing at all would show nothing: then a field that may be left out is told.
        if not told and depth == 0:
            told = [field for field in definition.fields if not field.read_only][:1]
        shown: dict[str, Any] = {} if definition.tag_field is None else {definition.tag_field: definition.tag}
        for field in told:
            kept = field.default is not UNSET and field.default is not None and depth == 0
            shown[field.name] = field.default if kept else self.value(field.type, field.name, depth + 1)
        return shown

    def _member(self, union: types.Union, name: str, depth: int) -> Any:
        """The first that is not null; null where a type would contain itself without end."""
        members = [one for one in union.members if not isinstance(one, types.Null)]
        if not members or (depth > _DEEPEST and len(members) < len(union.members)):
            return None
        return self.value(members[0], name, depth + 1)

    def _array(self, type: types.Array, name: str, depth: int) -> list[Any]:
        least = type.min_length or 0
        if depth > _DEEPEST or type.max_length == 0:
            return []
        first = self.value(type.item, name.removesuffix("s"), depth + 1)
        if not type.unique:
            return [first] * max(1, least)
        return [first, *self._others(type.item, first, least - 1)]

    def _others(self, item: Type, first: Any, count: int) -> list[Any]:
        """Different from the first and from each other, where the type makes that easy."""
        if isinstance(item, types.Reference) and isinstance(found := self._definitions[item.name], types.Enumeration):
            return list(found.values[1 : count + 1])
        if isinstance(item, types.Constant):
            return list(item.values[1 : count + 1])
        step = getattr(item, "multiple_of", None) or 1
        numbered = isinstance(first, (int, float))
        return [first + step * n if numbered else f"{first}{n}" for n in range(1, count + 1)]

    def _map(self, type: types.Map, name: str, depth: int) -> dict[str, Any]:
        count = max(type.min_length or 0, 0 if depth > _DEEPEST or type.max_length == 0 else 1)
        if not count:
            return {}
        key = self.value(type.key, "name", depth + 1)
        keys = [key, *self._others(type.key, key, count - 1)]
        return {str(one): self.value(type.value, name, depth + 1) for one in keys}


def _text(type: types.Text, name: str) -> str:
    least, most = type.min_length or 0, type.max_length
    if type.pattern is not None:
        found = matching(type.pattern, least)
        return found if found is not None else name
    if type.format in _FORMATS:
        return _FORMATS[type.format]
    return name.ljust(least, "-")[:most]


def _binary(type: types.Binary) -> str:
    """Base64 of "hello", of so many bytes as may be."""
    import base64

    least, most = type.min_length or 0, type.max_length
    return base64.b64encode(b"hello".ljust(least, b"!")[:most]).decode()


def _number(type: types.Integer | types.Number | types.Decimal) -> Any:
    whole = isinstance(type, types.Integer)
    number: float = 21 if whole else 21.5
    step = type.multiple_of
    lowest, highest = _lowest(type, whole=whole), _highest(type, whole=whole)
    if lowest is not None and number < lowest:
        number = lowest
    if highest is not None and number > highest:
        number = highest if lowest is None or highest >= lowest else lowest
    if step:
        number = math.floor(number / step) * step
        if lowest is not None and number < lowest:
            number += step
    return format(number, "g") if isinstance(type, types.Decimal) else int(number) if whole else number


def _lowest(type: types.Bounds, *, whole: bool) -> float | None:
    found = [type.minimum] if type.minimum is not None else []
    if type.exclusive_minimum is not None:
        found.append(type.exclusive_minimum + _beyond(type.exclusive_minimum, type.exclusive_maximum, whole=whole))
    return max(found, default=None)


def _highest(type: types.Bounds, *, whole: bool) -> float | None:
    found = [type.maximum] if type.maximum is not None else []
    if type.exclusive_maximum is not None:
        found.append(type.exclusive_maximum - _beyond(type.exclusive_minimum, type.exclusive_maximum, whole=whole))
    return min(found, default=None)


def _beyond(low: float | None, high: float | None, *, whole: bool) -> float:
    """How far from a bound that is excluded."""
    if whole:
        return 1
    return min(1.0, (high - low) / 2) if low is not None and high is not None else 1.0
