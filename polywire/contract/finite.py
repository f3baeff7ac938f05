"""Whether a value has numbers that JSON cannot say: NaN and infinity, which writers turn into null or text."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from typing import Any

from polywire.contract.tree import (
    Anything,
    Array,
    Decimal,
    Map,
    Null,
    Number,
    Object,
    Reference,
    Row,
    Tree,
    Type,
    Union,
    types_in,
)

__all__ = ["Finite"]

Test = Callable[[Any], bool]


class Finite:
    """Looks at the values of one type, quickly: only where the tree has numbers.

    ``written(payload)``: whether what was written looks as if it had been such a number. ``sure(value)``: whether the
    value has none; False means only that somebody has to look closer.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._objects: dict[str, Test | None] = {}
        self._test = self._of(tree.root)
        self._decimals = any(isinstance(one, (Decimal, Anything)) for one in types_in(tree))

    def written(self, payload: bytes) -> bool:
        if self._test is None:
            return False
        return payload.find(b"null") >= 0 or (
            self._decimals and (payload.find(b"NaN") >= 0 or payload.find(b"Infinity") >= 0)
        )

    def sure(self, value: Any) -> bool:
        try:
            return self._test is None or self._test(value)
        except (AttributeError, TypeError, RecursionError):  # it is not of the type
            return False

    def _of(self, type: Type) -> Test | None:  # noqa: PLR0911 - one line for each kind of type
        """None for what has no numbers in it."""
        match type:
            case Number() | Decimal():
                return _is_finite
            case Anything():
                return _is_plain
            case Reference(name=name):
                return self._object(name)
            case Array(item=item):
                return _of_items(self._of(item))
            case Map(value=item):
                test = self._of(item)
                return None if test is None else lambda value: all(map(test, value.values()))
            case Row(items=items):
                return self._row([self._of(item) for item in items])
            case Union(members=members):
                return self._union([self._of(member) for member in members if not isinstance(member, Null)])
        return None

    def _row(self, tests: list[Test | None]) -> Test | None:
        if not any(tests):
            return None
        return lambda value: all(test is None or test(item) for test, item in zip(tests, value, strict=False))

    def _union(self, tests: list[Test | None]) -> Test | None:
        if not any(tests):
            return None
        only = tests[0]
        if len(tests) > 1 or only is None:
            return _is_plain
        return lambda value: value is None or only(value)

    def _object(self, name: str) -> Test | None:
        if name in self._objects:
            return self._objects[name]
        definition = self._tree.definitions[name]
        if not isinstance(definition, Object):
            return None
        tests: list[tuple[str, Test]] = []

        def made(value: Any) -> bool:
            if isinstance(value, dict):
                return all(test(value[name]) for name, test in tests if name in value)
            return all(test(getattr(value, name)) for name, test in tests)

        self._objects[name] = made  # before its fields are looked at: it may contain itself
        tests += [(field.attribute, test) for field in definition.fields if (test := self._of(field.type)) is not None]
        if not tests:
            self._objects[name] = None
        return self._objects[name]


def _of_items(test: Test | None) -> Test | None:
    return None if test is None else lambda value: all(map(test, value))


def _is_finite(value: Any) -> bool:
    return value.is_finite() if isinstance(value, decimal.Decimal) else math.isfinite(value)


def _is_plain(value: Any) -> bool:
    """Of one of several types: what is no container can be told."""
    if isinstance(value, (float, decimal.Decimal)):
        return _is_finite(value)
    return value is None or isinstance(value, (str, int, bytes))
