"""What a type tree means to a format that is text: which characters may be a number, where a list may stand.

An `Outline` is made once per tree (`outline_of`) and read many times. It never refuses: text that is not what it says
stays text, so that the `Codec` names it together with everything else that is wrong, in the same words as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from polywire.contract import tree as types

__all__ = [
    "ANYTHING",
    "Anything",
    "Choice",
    "Fields",
    "Items",
    "Members",
    "Nullable",
    "Outline",
    "Scalar",
    "objects_in",
    "outline_of",
    "plain",
    "read_boolean",
    "read_number",
    "sequence_in",
    "spell",
]

BLANK: Final = " \t\r\n"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}
_MISSING: Final = object()


class Outline:
    __slots__ = ()


class Anything(Outline):
    __slots__ = ()


ANYTHING: Final = Anything()


class Scalar(Outline):
    """One value without members. Of several in a union the narrowest that fits is meant: a constant, a number, a
    boolean, then text."""

    __slots__ = ("binary", "boolean", "free", "number", "read", "values")

    def __init__(
        self,
        *,
        values: dict[str, Any] | None = None,
        number: bool = False,
        boolean: bool = False,
        free: bool = False,
        binary: bool = False,
    ) -> None:
        self.values = values or {}
        self.number = number
        self.boolean = boolean
        self.free = free
        """Every text is one, the empty one and blanks included."""
        self.binary = binary
        self.read: Callable[[str], Any] = self._reader()
        """The builtin that a text means; the text itself where it means none."""

    def _reader(self) -> Callable[[str], Any]:
        if self.values or (self.number + self.boolean + self.free + self.binary) > 1:
            return self._read
        if self.number:
            return _number_or_text
        if self.boolean:
            return _boolean_or_text
        if self.free:
            return _same
        return _without_blanks if self.binary else _stripped

    def _read(self, text: str) -> Any:
        stripped = text.strip(BLANK)
        found = self.values.get(text, _MISSING)
        if found is _MISSING:
            found = self.values.get(stripped, _MISSING)
        if found is not _MISSING:
            return found
        if self.number and (number := read_number(stripped)) is not None:
            return number
        if self.boolean and (boolean := read_boolean(stripped)) is not None:
            return boolean
        return text if self.free or self.values else stripped

    def merged(self, other: Scalar) -> Scalar:
        return Scalar(
            values={**other.values, **self.values},
            number=self.number or other.number,
            boolean=self.boolean or other.boolean,
            free=self.free or other.free,
            binary=self.binary or other.binary,
        )


class Items(Outline):
    """An array. ``rows``: the outlines of its first items, ``rest`` of those after them."""

    __slots__ = ("rest", "rows")

    def __init__(self, rest: Outline = ANYTHING, rows: tuple[Outline, ...] = ()) -> None:
        self.rest = rest
        self.rows = rows

    def item(self, index: int) -> Outline:
        return self.rows[index] if index < len(self.rows) else self.rest


class Members(Outline):
    """An object with any names."""

    __slots__ = ("value",)

    def __init__(self, value: Outline = ANYTHING) -> None:
        self.value = value

    def member(self, _: str) -> Outline:
        return self.value


class Fields(Outline):
    """An object with fields. ``required`` are the names of those that must be there."""

    __slots__ = ("closed", "fields", "name", "required")

    def __init__(self, name: str, *, closed: bool) -> None:
        self.name = name
        self.closed = closed
        self.fields: dict[str, Outline] = {}
        self.required: frozenset[str] = frozenset()

    def member(self, name: str) -> Outline:
        """Of a name that is not declared, anything."""
        return self.fields.get(name, ANYTHING)

    def fit(self, names: Collection[str]) -> tuple[bool, int, int]:
        """How well it explains an object of these names: the greater the better."""
        known = sum(name in self.fields for name in names)
        missing = sum(name not in names for name in self.required)
        return (not missing and known == len(names), known - missing, -len(self.fields))


class Nullable(Outline):
    __slots__ = ("outline",)

    def __init__(self, outline: Outline) -> None:
        self.outline = outline


class Choice(Outline):
    """One of several. ``tags`` are the objects by the text of their ``discriminator``."""

    __slots__ = ("discriminator", "objects", "scalar", "sequence", "tags")

    def __init__(self) -> None:
        self.scalar: Scalar | None = None
        self.sequence: Items | None = None
        self.objects: list[Fields | Members] = []
        self.discriminator: str | None = None
        self.tags: dict[str, Fields] = {}

    def object(self, names: Collection[str], tag: str | None) -> Fields | Members:
        """The one that an object of these names is, by its tag or else by its looks."""
        if tag is not None and tag in self.tags:
            return self.tags[tag]
        fields = [one for one in self.objects if isinstance(one, Fields)]
        maps = [one for one in self.objects if isinstance(one, Members)]
        best = max(fields, key=lambda one: one.fit(names), default=None)
        if best is None or (maps and not best.fit(names)[0]):
            return maps[0]
        return best


def plain(outline: Outline) -> Outline:
    """What it is if it is not null."""
    return outline.outline if isinstance(outline, Nullable) else outline


def sequence_in(outline: Outline) -> Items | None:
    """The array that a value of the outline may be."""
    outline = plain(outline)
    if isinstance(outline, Choice):
        return outline.sequence
    return outline if isinstance(outline, Items) else None


def objects_in(outline: Outline) -> bool:
    """Whether a value of the outline may be an object, by declaration."""
    outline = plain(outline)
    if isinstance(outline, Choice):
        return bool(outline.objects)
    return isinstance(outline, (Fields, Members))


# --- text ------------------------------------------------------------------------------------------------------------


def read_number(text: str) -> int | float | None:
    """As JSON has numbers, ``+3``, ``.5`` and ``007`` besides; None for what is none, or too large for one."""
    if _INTEGER.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # more digits than Python converts
            return None
    if _NUMBER.fullmatch(text) is None:
        return None
    number = float(text)
    return number if number - number == 0 else None


def read_boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text)


def spell(value: str | float | bool) -> str:
    """The text that `read_number` and `read_boolean` read again."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _same(text: str) -> str:
    return text


def _stripped(text: str) -> str:
    return text.strip(BLANK)


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _number_or_text(text: str) -> Any:
    stripped = text.strip(BLANK)
    number = read_number(stripped)
    return stripped if number is None else number


def _boolean_or_text(text: str) -> Any:
    stripped = text.strip(BLANK)
    return _BOOLEANS.get(stripped, stripped)


# --- from the tree ---------------------------------------------------------------------------------------------------

_MOST: Final = 4_096
_made: dict[int, tuple[types.Tree, Outline]] = {}


def outline_of(tree: types.Tree) -> Outline:
    """Made once for each tree. The tree is kept with its outline, so no other can have its id."""
    made = _made.get(id(tree))
    if made is None:
        if len(_made) >= _MOST:
            _made.clear()
        made = _made[id(tree)] = tree, _Maker(tree).outline(tree.root)
    return made[1]


class _Maker:
    def __init__(self, tree: types.Tree) -> None:
        self._tree = tree
        self._named: dict[str, Outline] = {}

    def outline(self, type: types.Type) -> Outline:
        return _MAKERS[type.__class__](self, type)

    def reference(self, type: types.Reference) -> Outline:
        made = self._named.get(type.name)
        if made is None:
            definition = self._tree.definitions[type.name]
            if isinstance(definition, types.Enumeration):
                made = self._named[type.name] = _constants(definition.values)
            else:
                made = self._object(type.name, definition)
        return made

    def _object(self, name: str, definition: types.Object) -> Fields:
        made = Fields(definition.name, closed=definition.closed)
        self._named[name] = made  # before its fields: it may contain itself
        if definition.tag_field is not None:
            made.fields[definition.tag_field] = _constants((definition.tag,))
        for field in definition.fields:
            made.fields[field.name] = self.outline(field.type)
        made.required = frozenset(field.name for field in definition.fields if field.required)
        return made

    def array(self, type: types.Array) -> Outline:
        return Items(self.outline(type.item))

    def row(self, type: types.Row) -> Outline:
        return Items(rows=tuple(map(self.outline, type.items)))

    def map(self, type: types.Map) -> Outline:
        return Members(self.outline(type.value))

    def constant(self, type: types.Constant) -> Outline:
        made = _constants(type.values)
        return Nullable(made) if None in type.values else made

    def union(self, type: types.Union) -> Outline:
        members = list(_flat(type.members))
        outlines = [self.outline(member) for member in members if not isinstance(member, types.Null)]
        nullable = len(outlines) < len(members) or any(isinstance(outline, Nullable) for outline in outlines)
        outlines = [outline.outline if isinstance(outline, Nullable) else outline for outline in outlines]
        if not outlines:
            return Nullable(Scalar())
        made = outlines[0] if len(outlines) == 1 else self._choice(type, outlines)
        return Nullable(made) if nullable else made

    def _choice(self, type: types.Union, outlines: list[Outline]) -> Outline:
        if any(isinstance(outline, Anything) for outline in outlines):
            return ANYTHING
        made = Choice()
        made.discriminator = type.discriminator
        for outline in outlines:
            if isinstance(outline, Scalar):
                made.scalar = made.scalar.merged(outline) if made.scalar else outline
            elif isinstance(outline, Items):
                made.sequence = made.sequence or outline
            elif isinstance(outline, (Fields, Members)):
                made.objects.append(outline)
        for tag, member in self._tree.tagged(type).items():
            outline = self.outline(member)
            if isinstance(outline, Fields):
                made.tags[spell(tag)] = outline
        return made


def _flat(members: Iterable[types.Type]) -> Iterable[types.Type]:
    for member in members:
        if isinstance(member, types.Union):
            yield from _flat(member.members)
        else:
            yield member


def _constants(values: Iterable[Any]) -> Scalar:
    given = [value for value in values if value is not None]
    made = {spell(value): value for value in given if not isinstance(value, str)}
    made |= {value: value for value in given if isinstance(value, str)}
    number = any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    return Scalar(values=made, number=number)


_MAKERS: dict[type[types.Type], Callable[[_Maker, Any], Outline]] = {
    types.Anything: lambda _, __: ANYTHING,
    types.Null: lambda _, __: Nullable(Scalar()),
    types.Boolean: lambda _, __: Scalar(boolean=True),
    types.Integer: lambda _, __: Scalar(number=True),
    types.Number: lambda _, __: Scalar(number=True),
    types.Text: lambda _, __: Scalar(free=True),
    types.Binary: lambda _, __: Scalar(binary=True),
    types.Constant: _Maker.constant,
    types.Array: _Maker.array,
    types.Row: _Maker.row,
    types.Map: _Maker.map,
    types.Reference: _Maker.reference,
    types.Union: _Maker.union,
    **dict.fromkeys(
        (types.Decimal, types.DateTime, types.Date, types.Time, types.Duration, types.Uuid),
        lambda _, __: Scalar(),  # text in JSON, too
    ),
}
