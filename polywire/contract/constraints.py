"""What stands beside a type in ``Annotated``: constraints and descriptions, in the words of several libraries.

`msgspec.Meta`, annotated_types and pydantic call the same things by the same names (``ge``, ``min_length`` ...), so
they are read by name, and none of them is imported here but msgspec.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from types import EllipsisType
from typing import Any

import msgspec

from polywire.contract.tree import Null, Type, Union

__all__ = ["Rules"]

_BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusive_minimum",
    "lt": "exclusive_maximum",
    "multiple_of": "multiple_of",
}
_LENGTHS = ("min_length", "max_length")
_LEAST = {"maximum", "exclusive_maximum", "max_length"}  # of two, the smaller one holds
# Of pydantic: validators that see the value before its type does, and changes of a text before it is measured.
_BEFORE = {"BeforeValidator", "WrapValidator", "PlainValidator"}
_CHANGES = ("strip_whitespace", "to_lower", "to_upper")
# What no tree can say, and what of annotated_types it cannot say of every type, as of dates.
_INEXPRESSIBLE = {"Predicate", "Not", "AfterValidator"}
_EXPRESSIBLE = {"Ge", "Gt", "Le", "Lt", "MultipleOf", "Timezone"}
_LIBRARIES = ("msgspec", "annotated_types", "pydantic", "typing_extensions")


class Rules:
    """What the metadata of one type says.

    ``values``: constraints by the names that the nodes of the tree have for them. ``foreign``: some are in words that
    msgspec does not know. ``before``: own code changes or judges the value before its type is looked at. ``unknown``:
    constraints that no tree can express.
    """

    def __init__(self, metadata: Iterable[Any]) -> None:
        self.values: dict[str, Any] = {}
        self.description: str | None = None
        self.discriminator: str | None = None
        self.foreign = False
        self.before = False
        self.unknown: list[Any] = []
        for item in _items(metadata):
            self._read(item)

    def _read(self, item: Any) -> None:
        name = type(item).__name__
        if name == "EncodedBytes":
            raise TypeError("bytes are base64 in JSON by themselves, and would be encoded twice")
        before = name in _BEFORE or any(getattr(item, change, None) for change in _CHANGES)
        self.before = self.before or before
        if name == "Discriminator" and isinstance(item.discriminator, str):
            self.discriminator = item.discriminator
        elif name == "FieldInfo":
            self.discriminator = item.discriminator if isinstance(item.discriminator, str) else self.discriminator
        self.description = _description(item) or self.description
        found = _constraints(item)
        if not isinstance(item, msgspec.Meta):
            self.foreign = self.foreign or bool(found)
            if before or name in _INEXPRESSIBLE or (not found and name in _EXPRESSIBLE):
                self.unknown.append(item)
        for key, value in found.items():
            self.values[key] = _both(key, self.values[key], value) if key in self.values else value

    def apply(self, node: Type, *, all: bool) -> Type:
        """``node`` with these constraints. Raises `TypeError` if ``all`` and it cannot have one of them."""
        used: set[str] = set()
        node = self._constrained(node, used)
        unused: list[Any] = [*(self.values.keys() - used), *self.unknown]
        if unused and all:
            raise TypeError(f"the constraint {unused[0]} cannot be put on {type(node).__name__}")
        return node

    def _constrained(self, node: Type, used: set[str]) -> Type:
        if isinstance(node, Union):
            return msgspec.structs.replace(node, members=tuple(self._constrained(one, used) for one in node.members))
        if not self.values or isinstance(node, Null):
            return node
        held = {key: value for key, value in self.values.items() if key in node.__struct_fields__}
        used.update(held)
        both = {
            key: value if (stated := getattr(node, key)) is None else _both(key, stated, value)
            for key, value in held.items()
        }
        return msgspec.structs.replace(node, **both) if both else node


def _items(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        if type(item).__name__ == "FieldInfo":
            yield from _items(item.metadata)
            yield item
        elif getattr(item, "__is_annotated_types_grouped_metadata__", False):
            yield from _items(item)
        else:
            yield item


def _constraints(item: Any) -> dict[str, Any]:
    if not any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(item).__mro__):
        return {}
    found: dict[str, Any] = {}
    for word, key in _BOUNDS.items():
        number = _number(getattr(item, word, None))
        if number is not None:
            found[key] = number
    for key in _LENGTHS:
        length = getattr(item, key, None)
        if length is not None and not (key == "min_length" and length == 0):
            found[key] = length
    pattern = getattr(item, "pattern", None)
    if pattern is not None:
        found["pattern"] = getattr(pattern, "pattern", pattern)
    aware = _aware(item)
    if aware is not None:
        found["aware"] = aware
    return found


def _number(bound: Any) -> int | float | None:
    """None for what is no bound of a number; those of dates stay with their library."""
    if isinstance(bound, Decimal) and bound.is_finite():
        return int(bound) if bound == bound.to_integral_value() else float(bound)
    if isinstance(bound, int) or (isinstance(bound, float) and math.isfinite(bound)):
        return bound
    return None


def _aware(item: Any) -> bool | None:
    """`msgspec.Meta` says True or False, annotated_types ``...`` or None."""
    if isinstance(item, msgspec.Meta):
        return item.tz
    if type(item).__name__ != "Timezone":
        return None
    if isinstance(item.tz, EllipsisType):
        return True
    return False if item.tz is None else None


def _description(item: Any) -> str | None:
    """`msgspec.Meta` and pydantic's ``Field`` call it so; ``Doc`` of PEP 727 and annotated_types otherwise."""
    for name in ("description", "documentation"):
        text = getattr(item, name, None)
        if isinstance(text, str):
            return text
    return None


def _both(key: str, one: Any, other: Any) -> Any:
    """The one constraint that says what two say."""
    if one == other:
        return one
    if key in ("pattern", "aware", "multiple_of"):
        raise TypeError(f"two constraints {key} ({one!r} and {other!r}) cannot be told as one")
    return min(one, other) if key in _LEAST else max(one, other)
