"""Trees and JSON values that hypothesis draws, for formats that a tree guides."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from hypothesis import strategies as st

from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Boolean,
    Constant,
    DateTime,
    Decimal,
    Enumeration,
    Field,
    Integer,
    Map,
    Null,
    Number,
    Object,
    Reference,
    Row,
    Text,
    Tree,
    Type,
    Union,
)

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=8),
    st.sampled_from(["", " ", "3", "3.0", "true", "1", "on", "a", "item", "entry", " a\r\n\tb ", "&<>\"']]>", "\x00"]),
)
NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "item", "entry", "key", "type", "nil", "xmlns", "xml", "a:b", "", "@id"]), TEXTS
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, 1.0, -0.0]),
    TEXTS,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)

_CONSTANTS = st.lists(
    st.one_of(st.booleans(), st.integers(-2, 3), st.sampled_from(["", "1", "true", "a", " a"])), min_size=1, max_size=3
)
_OBJECTS = ["A", "B", "C"]
_PLAIN: st.SearchStrategy[Type] = st.one_of(
    st.sampled_from([Anything(), Null(), Boolean(), Integer(), Number(), Decimal(), Text(), Binary(), DateTime()]),
    _CONSTANTS.map(lambda values: Constant(values=tuple(values))),
    st.sampled_from([*_OBJECTS, "E"]).map(lambda name: Reference(name=name)),
)
TYPES: st.SearchStrategy[Type] = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        inner.map(lambda item: Array(item=item)),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: Row(items=tuple(items))),
        inner.map(lambda value: Map(key=Text(), value=value)),
        st.lists(inner, min_size=1, max_size=4).map(lambda members: Union(members=tuple(members))),
    ),
    max_leaves=5,
)


@st.composite
def _objects(draw: st.DrawFn, name: str) -> Object:
    tagged = draw(st.booleans())
    fields = [
        Field(name=field, attribute="x", type=draw(TYPES), required=draw(st.booleans()))
        for field in draw(st.lists(NAMES, max_size=3, unique=True))
    ]
    return Object(
        name=name,
        fields=tuple(fields),
        closed=draw(st.booleans()),
        tag_field="type" if tagged else None,
        tag=name if tagged else None,
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree, also one that no Python type has: unions of what can hardly be told apart."""
    root = draw(TYPES)
    if draw(st.booleans()):
        members = tuple(Reference(name=name) for name in _OBJECTS)
        root = Union(members=(*members, root), discriminator=draw(st.sampled_from(["type", None])))
    definitions: dict[str, Any] = {name: draw(_objects(name)) for name in _OBJECTS}
    definitions["E"] = Enumeration(name="E", values=tuple(draw(st.lists(TEXTS | st.integers(0, 3), max_size=3))))
    return Tree(root, definitions)


@st.composite
def values_of(draw: st.DrawFn, tree: Tree) -> Any:
    """What the tree declares, but now and then."""
    return _value(draw, tree, tree.root, 5)


def _value(draw: st.DrawFn, tree: Tree, type: Type, depth: int) -> Any:
    if depth == 0 or draw(st.integers(0, 15)) == 7:
        return draw(SCALARS)
    known = tree.resolve(type)
    if isinstance(known, Object):
        value = {field.name: _value(draw, tree, field.type, depth - 1) for field in known.fields if draw(st.booleans())}
        return {known.tag_field: known.tag, **value} if known.tag_field else value
    if isinstance(known, (Array, Row)):
        items = known.items if isinstance(known, Row) else [known.item] * draw(st.integers(0, 3))
        return [_value(draw, tree, item, depth - 1) for item in items]
    if isinstance(known, Map):
        return {key: _value(draw, tree, known.value, depth - 1) for key in draw(st.lists(NAMES, max_size=3))}
    if isinstance(known, Union):
        return _value(draw, tree, draw(st.sampled_from(known.members)), depth)
    return draw(_scalar(known))


def _scalar(type: Any) -> st.SearchStrategy[Any]:
    if isinstance(type, (Constant, Enumeration)):
        return st.sampled_from(type.values) if type.values else TEXTS
    if isinstance(type, Anything):
        return VALUES
    return {
        Null: st.none(),
        Boolean: st.booleans(),
        Integer: st.integers(),
        Number: st.floats(allow_nan=False, allow_infinity=False),
        Decimal: st.decimals(allow_nan=False, allow_infinity=False).map(str),
        Binary: st.binary(max_size=8).map(lambda value: b64encode(value).decode()),
        DateTime: st.datetimes().map(lambda value: value.isoformat()),
    }.get(type.__class__, TEXTS)
