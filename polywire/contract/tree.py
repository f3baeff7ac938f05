"""The type tree: what a declared Python type means, in words that no protocol and no library of models owns.

Every document (OpenAPI, JSON Schema) and every format that is not JSON itself (XML, forms) is read off this tree, and
so is every error that names wrong fields. A tree is plain data: two models that mean the same have equal trees,
whatever family (dataclass, Struct, attrs, TypedDict, pydantic) they are written in.

Named types (objects, enumerations) stand in `Tree.definitions`, and the tree refers to them by name; so a type may
contain itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

__all__ = [
    "Anything",
    "Array",
    "Binary",
    "Boolean",
    "Constant",
    "Date",
    "DateTime",
    "Decimal",
    "Definition",
    "Duration",
    "Enumeration",
    "Field",
    "Integer",
    "Map",
    "Null",
    "Number",
    "Object",
    "Reference",
    "Row",
    "Text",
    "Time",
    "Tree",
    "Type",
    "Union",
    "Uuid",
    "types_in",
]

Scalar = str | int | float | bool | None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Anything(Node, frozen=True, kw_only=True):
    """No statement: any JSON value."""


class Null(Node, frozen=True, kw_only=True):
    pass


class Boolean(Node, frozen=True, kw_only=True):
    pass


class Bounds(Node, frozen=True, kw_only=True):
    """Of a number. ``minimum`` and ``maximum`` are inclusive."""

    minimum: int | float | None = None
    maximum: int | float | None = None
    exclusive_minimum: int | float | None = None
    exclusive_maximum: int | float | None = None
    multiple_of: int | float | None = None


class Integer(Bounds, frozen=True, kw_only=True):
    pass


class Number(Bounds, frozen=True, kw_only=True):
    """A binary floating-point number; never NaN or infinite."""


class Decimal(Bounds, frozen=True, kw_only=True):
    """In JSON a string, so that no digit is lost; a number is taken, too."""


class Lengths(Node, frozen=True, kw_only=True):
    """Of characters, bytes, items or members."""

    min_length: int | None = None
    max_length: int | None = None


class Text(Lengths, frozen=True, kw_only=True):
    """``pattern`` stands somewhere in the text, as Python's `re.search` finds it.

    ``format``: what the text is, in the words of JSON Schema (email, uri, ipv4 ...), where the type says so.
    """

    pattern: str | None = None
    format: str | None = None


class Binary(Lengths, frozen=True, kw_only=True):
    """Bytes; in text formats base64."""


class DateTime(Node, frozen=True, kw_only=True):
    """RFC 3339. ``aware``: with an offset (True), without (False), either (None)."""

    aware: bool | None = None


class Date(Node, frozen=True, kw_only=True):
    pass


class Time(Node, frozen=True, kw_only=True):
    aware: bool | None = None


class Duration(Node, frozen=True, kw_only=True):
    """ISO 8601: ``PT90S``."""


class Uuid(Node, frozen=True, kw_only=True):
    pass


class Constant(Node, frozen=True, kw_only=True):
    """One of these values exactly: a Literal."""

    values: tuple[Scalar, ...]


class Array(Lengths, frozen=True, kw_only=True):
    """Any number of ``item``. ``unique``: a set."""

    item: Type
    unique: bool = False


class Row(Node, frozen=True, kw_only=True):
    """A tuple: so many items, each of its own type; the last ``optional`` ones may be left out."""

    items: tuple[Type, ...]
    optional: int = 0


class Map(Lengths, frozen=True, kw_only=True):
    """An object with any member names; ``key`` says which names (Text, Integer, Uuid, an enumeration ...)."""

    key: Type
    value: Type


class Reference(Node, frozen=True, kw_only=True):
    """To a `Definition` of the tree."""

    name: str


class Union(Node, frozen=True, kw_only=True):
    """One of several. ``discriminator`` is the field that says which, where the members are tagged objects."""

    members: tuple[Type, ...]
    discriminator: str | None = None


class Field(Node, frozen=True, kw_only=True):
    """``name`` is its name outside (in JSON); ``attribute`` inside, in Python.

    ``default`` is what a missing field means, in JSON's words; `UNSET` where it is made anew each time
    (``default_factory``, a list) or where the field is ``required``. ``read_only``: it is in what the hub writes, and
    nobody gives it (a computed field).
    """

    name: str
    attribute: str
    type: Type
    required: bool
    default: Any = UNSET
    description: str | None = None
    read_only: bool = False


class Object(Node, frozen=True, kw_only=True):
    """``tag_field``: the field that holds ``tag`` and so tells this member of a union from the others.

    It is not among ``fields``. In a union it must be given; where the object stands alone it need not, unless
    ``tag_required``, but is right if it is. ``closed``: unknown fields are refused; else they are ignored.
    """

    name: str
    fields: tuple[Field, ...]
    description: str | None = None
    closed: bool = False
    tag_field: str | None = None
    tag: str | int | None = None
    tag_required: bool = False


class Enumeration(Node, frozen=True, kw_only=True):
    """Its values, in the order of their declaration."""

    name: str
    values: tuple[str | int, ...]
    description: str | None = None


Type = (
    Anything
    | Null
    | Boolean
    | Integer
    | Number
    | Decimal
    | Text
    | Binary
    | DateTime
    | Date
    | Time
    | Duration
    | Uuid
    | Constant
    | Array
    | Row
    | Map
    | Reference
    | Union
)
Definition = Object | Enumeration


class Tree(msgspec.Struct, frozen=True):
    """A type, and the definitions it refers to, by name."""

    root: Type
    definitions: dict[str, Definition] = {}

    def resolve(self, type: Type) -> Type | Definition:
        """What a reference stands for; any other type is itself."""
        return self.definitions[type.name] if isinstance(type, Reference) else type

    def tagged(self, union: Union) -> dict[str | int, Type]:
        """The members of a union by what its discriminator says of them; empty if it has none."""
        found: dict[str | int, Type] = {}
        for member in union.members if union.discriminator is not None else ():
            definition = self.resolve(member)
            if isinstance(definition, Object):
                found.update((tag, member) for tag in _tags(definition, union.discriminator))
        return found


def _tags(object: Object, discriminator: str | None) -> tuple[str | int, ...]:
    if object.tag_field == discriminator:
        return () if object.tag is None else (object.tag,)
    types = [field.type for field in object.fields if field.name == discriminator]
    values = types[0].values if types and isinstance(types[0], Constant) else ()
    return tuple(value for value in values if isinstance(value, (str, int)))


def types_in(tree: Tree) -> Iterator[Type]:
    """Every type that stands somewhere in a tree, once or more often."""
    waiting: list[Type] = [tree.root]
    for definition in tree.definitions.values():
        if isinstance(definition, Object):
            waiting.extend(field.type for field in definition.fields)
    while waiting:
        found = waiting.pop()
        yield found
        match found:
            case Array(item=item):
                waiting.append(item)
            case Row(items=items):
                waiting.extend(items)
            case Map(key=key, value=value):
                waiting += (key, value)
            case Union(members=members):
                waiting.extend(members)
            case _:
                pass
