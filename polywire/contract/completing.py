"""Defaults that msgspec leaves to the class.

Of a plain dataclass msgspec sets only the fields that a payload has; the others are found on the class. Such a value
equals one that Python made, and yet it would be written without them. So they are put into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import UNSET

from polywire.contract.building import Types
from polywire.contract.shapes import Shape, is_attrs, is_pydantic
from polywire.contract.tree import Array, Map, Object, Reference, Row, Type, Union

__all__ = ["completion"]

_Defaults = tuple[tuple[str, Any], ...]


def completion(types: Types) -> Callable[[Any], None] | None:
    """What completes a value that msgspec made; None where none of the types needs it."""
    lacking = {name: found for name, source in types.sources.items() if (found := _left_out(*source))}
    if not lacking:
        return None
    table = _table(types, lacking)

    def complete(value: Any) -> None:
        waiting = [value]
        while waiting:
            item = waiting.pop()
            known = table.get(item.__class__)
            if known is not None:
                defaults, nested = known
                if defaults:
                    _fill(item.__dict__, defaults)
                waiting.extend([getattr(item, name) for name in nested])
            elif isinstance(item, dict):
                waiting.extend(item.values())
            elif isinstance(item, (list, tuple, set, frozenset)):
                waiting.extend(item)

    return complete


def _fill(attributes: dict[str, Any], defaults: _Defaults) -> None:
    for name, default in defaults:
        if name not in attributes:
            attributes[name] = default


def _left_out(cls: Any, shape: Shape) -> _Defaults:
    """The defaults that stand on the class and may be missing in its instances."""
    plain = (
        dataclasses.is_dataclass(cls) and not is_pydantic(cls) and not is_attrs(cls) and "__slots__" not in vars(cls)
    )
    return tuple((one.attribute, one.default) for one in shape.members if one.default is not UNSET) if plain else ()


def _table(types: Types, lacking: dict[str, _Defaults]) -> dict[Any, tuple[_Defaults, tuple[str, ...]]]:
    """By class: its defaults, and its attributes that may hold something that lacks some."""
    holding = set(lacking)
    objects = {name: made for name, made in types.definitions.items() if isinstance(made, Object)}
    grown = True
    while grown:
        more = {name for name, made in objects.items() if any(_nested(made, holding))} - holding
        holding |= more
        grown = bool(more)
    table: dict[Any, tuple[_Defaults, tuple[str, ...]]] = {}
    for name in holding & types.sources.keys():
        cls = types.sources[name][0]
        _, others = table.get(cls, ((), ()))  # one generic class may stand for several definitions
        table[cls] = lacking.get(name, ()), (*others, *_nested(objects[name], holding))
    return table


def _nested(made: Object, holding: set[str]) -> Iterator[str]:
    return (field.attribute for field in made.fields if not holding.isdisjoint(_references(field.type)))


def _references(type: Type) -> Iterator[str]:
    match type:
        case Reference(name=name):
            yield name
        case Array(item=item):
            yield from _references(item)
        case Row(items=items) | Union(members=items):
            for item in items:
                yield from _references(item)
        case Map(value=value):
            yield from _references(value)
        case _:
            pass
