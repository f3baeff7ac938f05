"""Members that a JSON object has twice: readers disagree which of the two counts, so none does.

Nearly always a count of bytes shows that there are none. Every member has one colon outside of texts, so a payload has
at least as many colons as members; if the value it was read as needs as many members, none was there twice.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable
from enum import Enum
from typing import Any

from msgspec import UNSET

from polywire.contract.building import Types
from polywire.contract.checking import MOST, TWICE
from polywire.contract.paths import ROOT, member
from polywire.contract.shapes import is_typed_dict
from polywire.contract.tree import Anything, Array, Enumeration, Map, Null, Object, Reference, Row, Type, Union
from polywire.core.errors import FieldError

__all__ = ["colons", "count_members", "counter", "duplicates"]

Count = Callable[[Any], int]


def colons(payload: bytes) -> int:
    """At least as many as there are members: the colon of a member follows a quote or white space.

    Times and addresses have colons, too, which do not count here.
    """
    return payload.count(b'":') + sum(map(payload.count, (b" :", b"\n:", b"\t:", b"\r:")))


def count_members(value: Any) -> int:
    """Of all objects in JSON-like builtins."""
    if type(value) is dict:
        number = len(value)
        for item in value.values():
            if type(item) is dict or type(item) is list:
                number += count_members(item)
        return number
    if type(value) is list:
        return sum([count_members(item) for item in value if type(item) is dict or type(item) is list])
    return 0


class _Doubled(dict[str, Any]):
    """An object with names that stood in it twice."""

    names: list[str]


def duplicates(payload: bytes) -> list[FieldError]:
    """The paths of members that stand in their object twice, in well-formed JSON. Raises `RecursionError`."""
    any_doubled = False

    def read(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal any_doubled
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        any_doubled = True
        doubled, seen = _Doubled(made), set[str]()
        doubled.names = [name for name, _ in pairs if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        return doubled

    value = json.loads(payload, object_pairs_hook=read, parse_int=float)
    return _named(value) if any_doubled else []


def _named(value: Any) -> list[FieldError]:
    found: list[FieldError] = []
    waiting: list[tuple[str, Any]] = [(ROOT, value)]
    while waiting and len(found) < MOST:
        path, item = waiting.pop()
        if isinstance(item, _Doubled):
            found.extend(FieldError(path + member(name), TWICE) for name in dict.fromkeys(item.names))
        if isinstance(item, dict):
            waiting.extend((path + member(name), one) for name, one in reversed(item.items()))
        elif isinstance(item, list):
            waiting.extend((f"{path}[{index}]", item[index]) for index in range(len(item) - 1, -1, -1))
    return found[:MOST]


# --- how many members a value needs ----------------------------------------------------------------------------------


def counter(types: Types, root: Type) -> int | Count | None:
    """How many members a payload has at least that was read by msgspec as a value of ``root``; None: there are none.

    A number where that is the same for all values.
    """
    return _Counting(types).of(root)


class _Counting:
    def __init__(self, types: Types) -> None:
        self._types = types
        self._objects: dict[str, int | Count | None] = {}

    def of(self, type: Type) -> int | Count | None:  # noqa: PLR0911 - one line for each kind of type
        match type:
            case Reference():
                return self._named(type.name)
            case Array():
                return _of_items(self.of(type.item))
            case Row():
                given = len(type.items) - type.optional  # defaults of a named tuple look as if they had been given
                return _of_row([self.of(item) for item in type.items[:given]])
            case Map():
                return _of_map(self.of(type.value))
            case Union():
                return self._union(type)
            case Anything():
                return count_members
        return None

    def _union(self, union: Union) -> int | Count | None:
        """Of an optional type; which of several it is cannot be seen on the value, so 0 is what is sure."""
        members = [self.of(member) for member in union.members if not isinstance(member, Null)]
        if all(member is None for member in members):
            return None
        if len(members) > 1 or len(members) == len(union.members):
            return 0
        only = members[0]
        return lambda value: 0 if value is None else _call(only, value)

    def _named(self, name: str) -> int | Count | None:
        if isinstance(self._types.definitions[name], Enumeration):
            return None
        if name not in self._objects:
            objects = self._objects
            objects[name] = lambda value: _call(objects[name], value)  # while it is made: it may contain itself
            objects[name] = self._object(name)
        return self._objects[name]

    def _object(self, name: str) -> int | Count:
        cls, shape = self._types.sources[name]
        definition = self._types.definitions[name]
        fields = definition.fields if isinstance(definition, Object) else ()
        children = {field.attribute: child for field in fields if (child := self.of(field.type)) is not None}
        required = sum(member.required for member in shape.members)
        if hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__"):
            return required  # it may change what was read
        if is_typed_dict(cls):
            return _of_dict(children)
        given = [member.attribute for member in shape.members if member.required]
        always = [(attribute, children[attribute]) for attribute in given if attribute in children]
        optional = [
            (member.attribute, member.default, children.get(member.attribute))
            for member in shape.members
            if not member.required and (isinstance(member.default, _SIMPLE) or member.factory in _EMPTY)
        ]
        return _of_fields(required, always, optional) if always or optional else required


def _of_dict(children: dict[str, int | Count]) -> Count:
    return lambda value: len(value) + sum(_call(child, value[key]) for key, child in children.items() if key in value)


# A default of these types that was not given is this very object, and one of these factories makes something empty.
# Any other default may look as if it had been given.
_SIMPLE = (type(None), str, int, float, bytes, Enum, dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID)
_EMPTY = (list, dict, set, tuple, frozenset)


def _of_fields(
    required: int, always: list[tuple[str, int | Count]], optional: list[tuple[str, Any, int | Count | None]]
) -> Count:
    def count(value: Any) -> int:
        number = required
        for attribute, child in always:
            number += _call(child, getattr(value, attribute))
        for attribute, default, below in optional:
            item = getattr(value, attribute)
            if item if default is UNSET else item is not default:
                number += 1 + _call(below, item)
        return number

    return count


def _of_items(item: int | Count | None) -> Count | None:
    if item is None:
        return None
    if isinstance(item, int):
        return lambda values: item * len(values)
    return lambda values: sum(map(item, values))


def _of_map(item: int | Count | None) -> Count:
    if item is None:
        return len
    if isinstance(item, int):
        return lambda values: len(values) * (item + 1)
    return lambda values: len(values) + sum(map(item, values.values()))


def _of_row(items: list[int | Count | None]) -> int | Count | None:
    if all(item is None for item in items):
        return None
    return lambda values: sum(
        _call(item, value) for item, value in zip(items, values, strict=False) if item is not None
    )


def _call(count: int | Count | None, value: Any) -> int:
    return count(value) if callable(count) else count or 0
