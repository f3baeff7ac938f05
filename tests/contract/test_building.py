"""Python types as trees."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum, IntFlag
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import attrs
import msgspec
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, LowerCase, Lt, MaxLen, MinLen, MultipleOf, Timezone, doc
from msgspec import UNSET, Meta, UnsetType
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from typing_extensions import TypeAliasType

from polywire.contract import tree
from polywire.contract.building import Types, tree_of
from polywire.contract.codec import Codec
from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Constant,
    DateTime,
    Enumeration,
    Integer,
    Map,
    Null,
    Number,
    Object,
    Reference,
    Row,
    Text,
    Union,
    Uuid,
)
from polywire.core.errors import Invalid
from tests.contract.strategies import FAMILIES, MISSING

T = TypeVar("T")


def root(hint: Any) -> Any:
    return tree_of(hint).root


def fields(hint: Any) -> dict[str, Any]:
    made = tree_of(hint)
    found = made.resolve(made.root)
    assert isinstance(found, Object)
    return {field.name: field for field in found.fields}


class Level(Enum):
    """How bad it is."""

    WARNING = "warning"
    ALARM = "alarm"
    FINE = "fine"


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    x: int
    y: str = "a"


UserId = NewType("UserId", int)
Names = TypeAliasType("Names", list[str])
ListOf = TypeAliasType("ListOf", list[T], type_params=(T,))


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Any, Anything()),
        (object, Anything()),
        (None, Null()),
        (list, Array(item=Anything())),
        (Sequence[int], Array(item=Integer())),
        (tuple, Array(item=Anything())),
        (typing.Tuple, Array(item=Anything())),  # noqa: UP006
        (tuple[int, ...], Array(item=Integer())),
        (tuple[int, str], Row(items=(Integer(), Text()))),
        (tuple[()], Array(item=Anything())),
        (frozenset[str], Array(item=Text(), unique=True)),
        (dict, Map(key=Text(), value=Anything())),
        (Mapping[int, list[str]], Map(key=Integer(), value=Array(item=Text()))),
        (bytearray, Binary()),
        (Pair, Row(items=(Integer(), Text()), optional=1)),
        (Rights, Integer()),
        (UserId, Integer()),
        (Names, Array(item=Text())),
        (ListOf[int], Array(item=Integer())),
        (Literal["b", "a", 2], Constant(values=("b", "a", 2))),
        (int | None, Union(members=(Integer(), Null()))),
        (None | int, Union(members=(Integer(), Null()))),
        (float | str | None, Union(members=(Number(), Text(), Null()))),
        (T, Anything()),
        (Level, Reference(name="Level")),
    ],
)
def test_plain_types(hint: Any, expected: Any) -> None:
    if hint == tuple[()]:
        expected = Row(items=())
    assert root(hint) == expected


def test_enumerations_keep_their_order() -> None:
    assert tree_of(Level).definitions["Level"] == Enumeration(
        name="Level", values=("warning", "alarm", "fine"), description="How bad it is."
    )


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Annotated[int, Meta(ge=1, lt=9)], Integer(minimum=1, exclusive_maximum=9)),
        (Annotated[int, Ge(1), Lt(9)], Integer(minimum=1, exclusive_maximum=9)),
        (Annotated[int, Interval(gt=1, le=9), MultipleOf(3)], Integer(exclusive_minimum=1, maximum=9, multiple_of=3)),
        (Annotated[int, Ge(1), Ge(3), Le(9), Le(5)], Integer(minimum=3, maximum=5)),
        (Annotated[Annotated[int, Meta(ge=1)], Le(3)], Integer(minimum=1, maximum=3)),
        (Annotated[float, Gt(0.5)], Number(exclusive_minimum=0.5)),
        (Annotated[Decimal, Ge(Decimal("0.5")), Le(Decimal(7))], tree.Decimal(minimum=0.5, maximum=7)),
        (Annotated[str, Len(1, 5)], Text(min_length=1, max_length=5)),
        (Annotated[str, MinLen(1), Meta(pattern="a")], Text(min_length=1, pattern="a")),
        (Annotated[str, StringConstraints(pattern="a", max_length=3)], Text(max_length=3, pattern="a")),
        (Annotated[bytes, MaxLen(3)], Binary(max_length=3)),
        (Annotated[list[int], MinLen(1)], Array(item=Integer(), min_length=1)),
        (Annotated[dict[str, int], Meta(max_length=2)], Map(key=Text(), value=Integer(), max_length=2)),
        (Annotated[int | None, Ge(1)], Union(members=(Integer(minimum=1), Null()))),
        (Annotated[int | str, Ge(1), MaxLen(2)], Union(members=(Integer(minimum=1), Text(max_length=2)))),
        (Annotated[dt.datetime, Meta(tz=True)], DateTime(aware=True)),
        (Annotated[dt.datetime, Timezone(...)], DateTime(aware=True)),
        (Annotated[dt.datetime, Timezone(None)], DateTime(aware=False)),
        (Annotated[int, "whatever", 5], Integer()),
    ],
)
def test_constraints(hint: Any, expected: Any) -> None:
    assert root(hint) == expected


BOUNDED = [
    # the type in msgspec's words, in those of annotated_types, what fits, what does not
    (Annotated[int, Meta(ge=1)], Annotated[int, Ge(1)], 1, 0, "must be >= 1"),
    (Annotated[int, Meta(gt=1)], Annotated[int, Gt(1)], 2, 1, "must be > 1"),
    (Annotated[int, Meta(le=1)], Annotated[int, Le(1)], 1, 2, "must be <= 1"),
    (Annotated[int, Meta(lt=1)], Annotated[int, Lt(1)], 0, 1, "must be < 1"),
    (Annotated[int, Meta(multiple_of=3)], Annotated[int, MultipleOf(3)], 6, 7, "must be a multiple of 3"),
    (Annotated[float, Meta(ge=1.5)], Annotated[float, Ge(1.5)], 1.5, 1.4, "must be >= 1.5"),
    (Annotated[str, Meta(min_length=2)], Annotated[str, MinLen(2)], "ab", "a", "must have at least 2 characters"),
    (Annotated[str, Meta(max_length=2)], Annotated[str, MaxLen(2)], "ab", "abc", "must have at most 2 characters"),
    (Annotated[bytes, Meta(max_length=2)], Annotated[bytes, MaxLen(2)], "aGk=", "aGlp", "must have at most 2 bytes"),
    (Annotated[list[int], Meta(min_length=1)], Annotated[list[int], MinLen(1)], [1], [], "must have at least 1 item"),
    (
        Annotated[dict[str, int], Meta(max_length=1)],
        Annotated[dict[str, int], Len(0, 1)],
        {"a": 1},
        {"a": 1, "b": 2},
        "must have at most 1 member",
    ),
    (
        Annotated[dt.datetime, Meta(tz=True)],
        Annotated[dt.datetime, Timezone(...)],
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00",
        "must be a date and time with an offset (RFC 3339)",
    ),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("meta", "types", "fits", "wrong", "message"), BOUNDED)
def test_constraints_hold_in_every_family(
    family: str, meta: Any, types: Any, fits: Any, wrong: Any, message: str
) -> None:
    made = [FAMILIES[family]([("a", hint, MISSING), ("b", list[hint], MISSING)]) for hint in (meta, types)]
    assert fields(made[0]) == fields(made[1])
    for hint in made:
        codec: Codec[Any] = Codec(hint)
        codec.from_builtins({"a": fits, "b": [fits, fits]})
        for value, paths in (
            ({"a": wrong, "b": [fits, wrong]}, ["$.a", "$.b[1]"]),
            ({"a": fits, "b": [wrong]}, ["$.b[0]"]),
        ):
            for read in (lambda: codec.decode(msgspec.json.encode(value)), lambda: codec.from_builtins(value)):  # noqa: B023
                with pytest.raises(Invalid) as caught:
                    read()
                assert [(field.path, field.message) for field in caught.value.fields] == [
                    (path, message) for path in paths
                ]


# --- classes ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Documented:
    """A class.

    With more to say.
    """

    a: Annotated[int, Meta(description="of the type")]
    """below, and not needed"""
    b: int = 1
    """Below the field."""
    c: int = dataclasses.field(default=2, metadata={"description": "In its metadata."})
    d: Annotated[int, doc("In Doc.")] = 3
    e: Annotated[int, Field(description="In Field.")] = 4
    f: int = 5


class Child(Documented):
    pass


@dataclasses.dataclass
class Bare:
    a: int


def test_descriptions() -> None:
    made = tree_of(Documented).definitions["Documented"]
    assert made.description == "A class.\n\nWith more to say."
    assert [field.description for field in fields(Documented).values()] == [
        "of the type",
        "Below the field.",
        "In its metadata.",
        "In Doc.",
        "In Field.",
        None,
    ]
    assert tree_of(Child).definitions["Child"].description is None
    assert fields(Child)["b"].description == "Below the field."


def test_what_a_dataclass_or_a_tuple_says_of_itself_is_no_description() -> None:
    assert Bare.__doc__ == "Bare(a: 'int')"
    assert tree_of(Bare).definitions["Bare"].description is None


class Options(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    first_name: str = "x"
    tags: list[str] = []
    maybe: int | UnsetType = UNSET
    level: Level = Level.ALARM
    at: dt.date = dt.date(2026, 1, 31)
    content: bytes = b"hi"
    last: Final[int]


def test_defaults_in_the_words_of_json() -> None:
    made = fields(Options)
    assert [(name, field.attribute) for name, field in made.items()][:2] == [
        ("firstName", "first_name"),
        ("tags", "tags"),
    ]
    assert {name: field.default for name, field in made.items()} == {
        "firstName": "x",
        "tags": UNSET,
        "maybe": UNSET,
        "level": "alarm",
        "at": "2026-01-31",
        "content": "aGk=",
        "last": UNSET,
    }
    assert [name for name, field in made.items() if field.required] == ["last"]
    assert made["maybe"].type == Integer()
    assert tree_of(Options).definitions["Options"].closed  # type: ignore[union-attr]


class Base(TypedDict):
    a: int


class Partial(Base, total=False):
    b: Required[Annotated[int, Ge(1)]]
    c: NotRequired[str]
    d: str


def test_what_a_typed_dict_demands() -> None:
    assert {name: field.required for name, field in fields(Partial).items()} == {
        "a": True,
        "b": True,
        "c": False,
        "d": False,
    }


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    next: str | None = None


@dataclasses.dataclass
class Readings(Page[int]):
    total: int = 0


class StructPage(msgspec.Struct, Generic[T]):
    items: list[T]


class ModelPage(BaseModel, Generic[T]):
    items: list[T]


@pytest.mark.parametrize("hint", [Page[Level], StructPage[Level], ModelPage[Level], attrs.define(Page)[Level]])
def test_generic_classes(hint: Any) -> None:
    assert fields(hint)["items"].type == Array(item=Reference(name="Level"))
    assert [name for name in tree_of(hint).definitions if name != "Level"][0].endswith("Page_Level")  # noqa: RUF015


def test_a_subclass_of_a_generic_one() -> None:
    assert fields(Readings)["items"].type == Array(item=Integer())
    assert fields(Page)["items"].type == Array(item=Anything())


class Tree(msgspec.Struct):
    left: Tree | None = None
    forest: dict[str, list[Tree]] = {}


def test_a_class_that_contains_itself() -> None:
    made = fields(Tree)
    assert made["left"].type == Union(members=(Reference(name="Tree"), Null()))
    assert made["forest"].type == Map(key=Text(), value=Array(item=Reference(name="Tree")))


def _reading(field: str) -> Any:
    return dataclasses.make_dataclass("Reading", [(field, int)])


def test_classes_with_one_name() -> None:
    one, other, third = _reading("a"), _reading("b"), _reading("c")
    types = Types()
    holder = dataclasses.make_dataclass("Holder", [("x", one), ("y", list[other])])
    assert types.add(holder) == Reference(name="Holder")
    assert types.add(third) == Reference(name="Reading3")
    assert types.add(other) == Reference(name="Reading2")
    assert types.add(list[one]) == Array(item=Reference(name="Reading"))
    assert list(types.definitions) == ["Holder", "Reading", "Reading2", "Reading3"]
    assert tree_of(other).root == Reference(name="Reading")


# --- what cannot be told ---------------------------------------------------------------------------------------------


class Opaque: ...


class Rows(msgspec.Struct, array_like=True):
    a: int


class Mixed(Enum):
    A = 1.5


class Loop(NamedTuple):
    next: Loop | None


@dataclasses.dataclass
class Outer:
    inner: dict[str, list[Opaque]]


@attrs.define
class Later:
    a: int
    b: int = attrs.Factory(lambda self: self.a, takes_self=True)


class Undefined(BaseModel):
    a: list[Nowhere]  # type: ignore[name-defined]  # noqa: F821


@dataclasses.dataclass
class Missing:
    a: Nowhere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Outer, r"Opaque is neither .* \(at \$\.inner\.\*\[\*\]\)"),
        (dict[str, tuple[int, complex]], r"complex is neither .* \(at \$\.\*\[1\]\)"),
        (Rows, "Rows is array_like"),
        (dict[tuple[int, ...], int], "Array cannot be the name of a member of an object"),
        (dict[bool, int], "Boolean cannot be the name"),
        (Mixed, "values that are neither text nor integers"),
        (Loop, "the type contains itself, and is no class"),
        (Missing, "an annotation of Missing cannot be resolved: name 'Nowhere' is not defined"),
        (Undefined, "Undefined is not complete: name 'Nowhere' is not defined"),
        (dict[str, Later], r"takes_self=True"),
        (list[Annotated[int, MinLen(1)]], r"the constraint min_length cannot be put on Integer \(at \$\[\*\]\)"),
        (Annotated[dt.date, Ge(dt.date(2026, 1, 1))], "the constraint .* cannot be put on Date"),
        (LowerCase[str], "the constraint .* cannot be put on Text"),
        (Annotated[dt.datetime, Timezone("Europe/Vienna")], "the constraint .* cannot be put on DateTime"),
        (Annotated[int, MultipleOf(2), MultipleOf(3)], "two constraints multiple_of"),
        (int | str | dt.date, "more than one str-like type"),
        (
            dataclasses.make_dataclass("D", [("a", dict[str, int | str | dt.date])]),
            r"more than one str-like .*\$\.a\.\*",
        ),
        (bytes | str, "a union of bytes and another text"),
        (Literal[b"a"], "the literal b'a' is neither"),  # type: ignore[valid-type]
        (Annotated[int, AfterValidator(abs)], "the constraint AfterValidator.* cannot be put on Integer"),
        (Annotated[str, StringConstraints(to_lower=True)], "the constraint .* cannot be put on Text"),
        ({}, "{} is no type"),
        (Annotated[int | None, Meta(ge=1)], "Can only set `ge` on a numeric type"),
    ],
)
def test_what_cannot_be_told(hint: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"cannot be a message type: .*{message}"):
        Codec(hint)


def test_a_tree_is_quickly_made() -> None:
    """A model takes less than a millisecond; ten times that is allowed here, where other programs run."""
    hints = [(f"f{number}", list[int] | None) for number in range(10)]
    made = [dataclasses.make_dataclass(f"D{number}", hints) for number in range(20)]
    start = time.perf_counter()
    for hint in made:
        Codec(hint)
    assert time.perf_counter() - start < 20 * 0.01


def test_ids_are_text_with_a_form() -> None:
    assert root(dict[UUID, UUID]) == Map(key=Uuid(), value=Uuid())
