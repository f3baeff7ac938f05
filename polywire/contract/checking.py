"""A type tree as a check of JSON-like builtins that finds all that is wrong with a value, and where.

A tree is compiled once into nested functions. Each returns None for a value that is right, or what is wrong: the
paths start at the value that was looked at, and each level puts its own step before them. So a right value costs no
paths.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection
from typing import Any

from polywire.contract.paths import ROOT, member
from polywire.contract.scalars import (
    NOT_FINITE,
    SCALARS,
    Check,
    Wrong,
    constant,
    expected,
    is_of_another_kind,
    key_check,
    kinds_of,
    lengths,
    one_of,
)
from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Boolean,
    Constant,
    Date,
    DateTime,
    Decimal,
    Duration,
    Enumeration,
    Integer,
    Map,
    Null,
    Number,
    Object,
    Reference,
    Row,
    Text,
    Time,
    Tree,
    Type,
    Union,
    Uuid,
)
from polywire.core.errors import FieldError

__all__ = ["MOST", "NOT_FINITE", "TWICE", "Checker", "non_finite"]

MOST = 100
"""Wrong fields that one error names."""

TWICE = "is given twice"

_REQUIRED = "required"
_ABSENT: Any = object()


class Checker:
    """What is wrong with values, by a tree.

    ``judged``: the definitions (name, None) and fields (name, field) whose own code sees the value first, and so alone
    knows what is wrong with it.
    """

    def __init__(self, tree: Tree, judged: Collection[tuple[str, str | None]] = ()) -> None:
        self._judged = judged
        self._tree = tree
        self._named: dict[str, Check | None] = {}
        for name, definition in tree.definitions.items():
            if (name, None) not in judged:
                self._named[name] = (
                    constant(definition) if isinstance(definition, Enumeration) else self._object(definition)
                )
        self._check = None if ("", None) in judged else self._of(tree.root)

    def wrong(self, value: Any) -> Wrong:
        """All wrong fields, at most `MOST`; empty if there are none."""
        if self._check is None:
            return []
        try:
            found = self._check(value)
        except RecursionError:
            return [FieldError(ROOT, "nested too deeply")]
        return [FieldError(ROOT + path, message) for path, message in found[:MOST]] if found else []

    def _of(self, type: Type) -> Check | None:  # noqa: PLR0911 - one line for each kind of type
        """None for a type that takes anything."""
        match type:
            case Anything():
                return None
            case Reference():
                return self._reference(type.name)
            case Array():
                return self._array(type)
            case Row():
                return self._row(type)
            case Map():
                return self._map(type)
            case Union():
                return self._union(type)
        return SCALARS[type.__class__](type)

    def _reference(self, name: str) -> Check | None:
        if (name, None) in self._judged or not isinstance(self._tree.definitions[name], (Object, Enumeration)):
            return None
        made, named = self._named.get(name), self._named
        if made is not None:
            return made

        def check(value: Any) -> Wrong | None:  # it is not made yet: the type contains itself
            return named[name](value)  # type: ignore[misc]

        return check

    # --- containers ----------------------------------------------------------------------------------------------

    def _object(self, object: Object) -> Check:
        names = {field.name for field in object.fields}
        fields = [
            (
                field.name,
                member(field.name),
                None if field.read_only or (object.name, field.name) in self._judged else self._of(field.type),
                field.required,
            )
            for field in object.fields
        ]
        if object.tag_field is not None:
            tag = Constant(values=(object.tag,))
            fields.insert(0, (object.tag_field, member(object.tag_field), constant(tag), object.tag_required))
            names.add(object.tag_field)
        closed = object.closed

        def check(value: Any) -> Wrong | None:
            if type(value) is not dict:
                return expected("object", value)
            found: Wrong | None = None
            for name, step, child, required in fields:
                item = value.get(name, _ABSENT)
                if item is _ABSENT:
                    wrong: Wrong | None = [FieldError("", _REQUIRED)] if required else None
                else:
                    wrong = child(item) if child is not None else None
                if wrong is not None:
                    found = _under(step, wrong, found)
            if closed and not (value.keys() <= names):
                for name in itertools.islice((name for name in value if name not in names), MOST):
                    found = _under(member(str(name)), [FieldError("", "unknown field")], found)
            return found

        return check

    def _array(self, node: Array) -> Check:
        sizes, child, unique = lengths(node, "items"), self._of(node.item), node.unique

        def check(value: Any) -> Wrong | None:
            if type(value) is not list:
                return expected("array", value)
            found = sizes(len(value)) if sizes is not None else None
            if child is not None:
                for index, item in enumerate(value):
                    wrong = child(item)
                    if wrong is not None:
                        found = _under(f"[{index}]", wrong, found)
                        if len(found) >= MOST:
                            return found
            return _repeated(value) if unique and found is None else found

        return check

    def _row(self, row: Row) -> Check:
        children = [self._of(item) for item in row.items]
        most, least = len(children), len(children) - row.optional
        text = f"{most} items" if most == least else f"{least} to {most} items"

        def check(value: Any) -> Wrong | None:
            if type(value) is not list:
                return expected("array", value)
            if not least <= len(value) <= most:
                return [FieldError("", f"must have {text}, not {len(value)}")]
            found: Wrong | None = None
            for index, (child, item) in enumerate(zip(children, value, strict=False)):
                wrong = child(item) if child is not None else None
                if wrong is not None:
                    found = _under(f"[{index}]", wrong, found)
            return found

        return check

    def _map(self, map: Map) -> Check:
        sizes, child = lengths(map, "members"), self._of(map.value)
        key = None if map.key == Text() else key_check(self._tree.resolve(map.key), self._of(map.key))

        def check(value: Any) -> Wrong | None:
            if type(value) is not dict:
                return expected("object", value)
            found = sizes(len(value)) if sizes is not None else None
            for name, item in value.items():
                wrong = key(name) if key is not None else None
                if wrong is None and child is not None:
                    wrong = child(item)
                if wrong is not None:
                    found = _under(member(str(name)), wrong, found)
                    if len(found) >= MOST:
                        break
            return found

        return check

    # --- one of several ------------------------------------------------------------------------------------------

    def _union(self, union: Union) -> Check | None:
        tagged = self._tree.tagged(union)
        plain = [one for one in union.members if one not in tagged.values()]
        if not tagged:
            return self._any_of(plain)
        by_tag = {tag: self._of(member) for tag, member in tagged.items()}
        others = self._any_of(plain) if plain else None
        field, words = union.discriminator or "", one_of(tuple(by_tag))

        def check(value: Any) -> Wrong | None:
            if type(value) is not dict:
                return others(value) if others is not None else expected("object", value)
            if field not in value:
                return [FieldError(member(field), _REQUIRED)]
            tag = value[field]
            if type(tag) not in (str, int) or tag not in by_tag:
                return [FieldError(member(field), words)]
            child = by_tag[tag]
            return child(value) if child is not None else None

        return check

    def _any_of(self, members: list[Type]) -> Check | None:
        """The first that fits; if none does, what is wrong for the one that comes nearest."""
        checks = [self._of(one) for one in members]
        if None in checks:
            return None
        words = " | ".join(dict.fromkeys(self._word(one) for one in members))
        if len(checks) == 2 and isinstance(members[1], Null):
            return _optional(checks[0], words)

        def check(value: Any) -> Wrong | None:
            nearest: Wrong | None = None
            for one in checks:
                wrong = one(value)  # type: ignore[misc]
                if wrong is None:
                    return None
                if not is_of_another_kind(wrong) and (nearest is None or _distance(wrong) < _distance(nearest)):
                    nearest = wrong
            return nearest if nearest is not None else expected(words, value)

        return check

    def _word(self, type: Type) -> str:
        found = self._tree.resolve(type)
        return kinds_of(found) if isinstance(found, (Constant, Enumeration)) else _TYPE_WORDS[found.__class__]


def _optional(check: Any, words: str) -> Check:
    def optional(value: Any) -> Wrong | None:
        if value is None:
            return None
        wrong: Wrong | None = check(value)
        return expected(words, value) if wrong is not None and is_of_another_kind(wrong) else wrong

    return optional


def _under(step: str, wrong: Wrong, found: Wrong | None) -> Wrong:
    """``wrong``, which is at ``step``, after what was found before."""
    stepped = [FieldError(step + path, message) for path, message in wrong]
    if found is None:
        return stepped
    found.extend(stepped)
    return found


def _distance(wrong: Wrong) -> tuple[int, int]:
    """How far a value is from what a member of a union wants: first by what it lacks, then by all that is wrong."""
    lacking = [path for path, message in wrong if message == _REQUIRED and path.count(".") + path.count("[") == 1]
    return len(lacking), len(wrong)


def _repeated(values: list[Any]) -> Wrong | None:
    """The items of a set that stand in it twice."""
    seen: set[str] = set()
    found: Wrong = []
    for index, value in enumerate(values):
        text = json.dumps(value, sort_keys=True)
        if text in seen:
            found.append(FieldError(f"[{index}]", "stands in the set already"))
            if len(found) == MOST:
                break
        seen.add(text)
    return found or None


_TYPE_WORDS: dict[Any, str] = {
    Null: "null",
    Boolean: "bool",
    Integer: "int",
    Number: "float",
    Decimal: "decimal",
    Text: "str",
    Binary: "bytes",
    DateTime: "datetime",
    Date: "date",
    Time: "time",
    Duration: "duration",
    Uuid: "uuid",
    Array: "array",
    Row: "array",
    Map: "object",
    Object: "object",
}


def non_finite(value: Any) -> Wrong:
    """The numbers in JSON-like builtins that JSON cannot say: NaN, infinity."""
    found: Wrong = []
    waiting: list[tuple[str, Any]] = [(ROOT, value)]
    while waiting and len(found) < MOST:
        path, item = waiting.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                found.append(FieldError(path, NOT_FINITE))
        elif isinstance(item, dict):
            waiting.extend((path + member(str(name)), one) for name, one in reversed(item.items()))
        elif isinstance(item, (list, tuple)):
            waiting.extend((f"{path}[{index}]", item[index]) for index in range(len(item) - 1, -1, -1))
    return found
