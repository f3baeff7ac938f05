"""Types and payloads."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from annotated_types import Ge
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from polywire.contract.codec import Codec, field_error
from polywire.contract.duplicates import colons, count_members, duplicates
from polywire.core.errors import Denied, FieldError, Invalid


class Colour(Enum):
    RED = "red"


class Named(TypedDict):
    name: str


class Tree(msgspec.Struct):
    colour: Colour
    children: list[Tree] = []


@dataclass
class Point:
    x: float
    name: str | None = None


class Model(BaseModel):
    x: float
    name: str | None = None


class Opaque: ...


def wrong(call: Callable[[], Any]) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        call()
    return list(caught.value.fields)


@pytest.mark.parametrize(
    ("type", "value", "payload"),
    [
        (Point, Point(1.5, "a"), b'{"x":1.5,"name":"a"}'),
        (Model, Model(x=1.5, name="a"), b'{"x":1.5,"name":"a"}'),
        (Tree, Tree(Colour.RED, [Tree(Colour.RED)]), b'{"colour":"red","children":[{"colour":"red","children":[]}]}'),
        (Named, {"name": "a"}, b'{"name":"a"}'),
        (dict[str, list[int]], {"a": [1]}, b'{"a":[1]}'),
        (int | None, None, b"null"),
        (bytes, b"\xff", b"\xff"),
        (Any, {"a": 1}, b'{"a":1}'),
    ],
)
def test_there_and_back(type: Any, value: Any, payload: bytes) -> None:
    codec: Codec[Any] = Codec(type)
    assert codec.encode(value) == payload
    assert codec.decode(payload) == value


@pytest.mark.parametrize("type", [Opaque, list[Opaque], dict[str, tuple[Opaque, int]], complex, 5, "text"])
def test_no_message_type(type: Any) -> None:
    with pytest.raises(TypeError, match="cannot be a message type"):
        Codec(type)


def test_bytes_are_base64_among_builtins() -> None:
    codec: Codec[bytes] = Codec(bytes)
    assert codec.to_builtins(b"\xff") == "/w=="
    assert codec.from_builtins("/w==") == b"\xff"
    assert Codec[Any](Any).to_builtins(b"\xff") == "/w=="
    assert wrong(lambda: codec.from_builtins("?")) == [("$", "must be base64")]


# --- what is no JSON, or no JSON for us ------------------------------------------------------------------------------

MALFORMED = [
    b"",
    b" ",
    b'{"x":1',
    b'{"x":1}}',
    b'{"x":1} {"x":1}',
    b'{"x":1,}',
    b"{x:1}",
    b"{'x':1}",
    b'{"x":NaN}',
    b'{"x":Infinity}',
    b'{"x":-Infinity}',
    b'{"x":01}',
    b'{"x":1.}',
    b'{"x":.5}',
    b'{"x":+1}',
    b'{"x":0x1}',
    b'{"x":1,"name":"\xff"}',
    b'{"x":1,"name":"\xed\xa0\x80"}',
    b'{"x":1,"name":"\\ud800"}',
    b'{"x":1,"name":"\\udc00"}',
    b'{"x":1,"name":"\\x41"}',
    b'{"x":1,"name":"\n"}',
    b'{"x":1,"name":"',
    b"\xef\xbb\xbf{}",
    '{"x":1}'.encode("utf-16"),
    b"\x00",
    b"// {}",
    b"<x>1</x>",
]


@pytest.mark.parametrize("type", [Point, Model, Any, dict[str, Any], list[Decimal]])
@pytest.mark.parametrize("payload", MALFORMED)
def test_what_is_no_json(type: Any, payload: bytes) -> None:
    with pytest.raises(Invalid, match="the message is not JSON") as caught:
        Codec[Any](type).decode(payload)
    assert [field.path for field in caught.value.fields] == ["$"]


@pytest.mark.parametrize("type", [Point, Model, Tree, Any, list[Any], Named])
@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5_000 + b"]" * 5_000])
def test_what_is_nested_too_deeply(type: Any, payload: bytes) -> None:
    assert wrong(lambda: Codec[Any](type).decode(payload)) == [("$", "nested too deeply")]


def test_deep_builtins() -> None:
    """As another format may have them; they are no deeper than its own limit, but who knows."""
    deep: Any = {"colour": "red"}
    for _ in range(5_000):
        deep = {"colour": "red", "children": [deep]}
    assert wrong(lambda: Codec(Tree).from_builtins(deep)) == [("$", "nested too deeply")]
    assert wrong(lambda: Codec(Any).from_builtins({"a": float("nan")})) == [("$.a", "must be a finite number")]


@pytest.mark.parametrize("kind", [Point, Model])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (b"1e999", "must be a finite number"),
        (b"-1e999", "must be a finite number"),
        (b"9" * 400, "must be a finite number"),
        (b"9" * 5_000, "must be a finite number"),
        (b"1" * 100_000, "must be a finite number"),
        (b"true", "Expected `float`, got `bool`"),
        (b'"1"', "Expected `float`, got `str`"),
    ],
)
def test_numbers_out_of_range(kind: Any, number: bytes, message: str) -> None:
    found = wrong(lambda: Codec(kind).decode(b'{"x":%s}' % number))
    assert found in ([("$.x", message)], [("$.x", "number out of range")])


@pytest.mark.parametrize(
    "number", [2**63, 2**64, -(2**63) - 1, 10**300, -(10**4000)], ids=lambda n: f"{n.bit_length()} bits"
)
def test_integers_have_no_size(number: int) -> None:
    for hint in (int, Any, Annotated[int, Ge(-(10**4200))], list[int]):
        codec: Codec[Any] = Codec(hint)
        value = [number] if hint == list[int] else number
        assert codec.decode(codec.encode(value)) == value
        assert codec.from_builtins(codec.to_builtins(value)) == value


@pytest.mark.parametrize("hint", [int, Any])
def test_but_python_reads_no_more_than_so_many_digits(hint: Any) -> None:
    codec: Codec[Any] = Codec(hint)
    assert wrong(lambda: codec.decode(b"9" * (sys.get_int_max_str_digits() + 1)))[0][0] == "$"
    with pytest.raises(Invalid, match="cannot be written"):
        codec.encode(10**5_000)


# --- members that are there twice ------------------------------------------------------------------------------------


@dataclass
class Everything:
    x: int
    at: dt.datetime | None = None
    point: Point | None = None
    points: list[Point] = field(default_factory=list)
    named: dict[str, Point] = field(default_factory=dict)
    extra: Any = None
    more: Named | None = None
    row: tuple[int, Point] | None = None


@dataclass
class Changed:
    x: int
    y: int | None = None

    def __post_init__(self) -> None:
        self.y = 5


class Defaults(msgspec.Struct):
    """What it has without being told looks like members."""

    x: int
    point: FrozenPoint | None = msgspec.field(default_factory=lambda: FrozenPoint(1))
    points: list[FrozenPoint] = msgspec.field(default_factory=lambda: [FrozenPoint(1), FrozenPoint(2)])
    named: dict[str, int] = msgspec.field(default_factory=lambda: {"a": 1})
    text: str = "a long text that is not one object"


class FrozenPoint(msgspec.Struct, frozen=True):
    x: int


class FrozenHolder(msgspec.Struct):
    x: int
    point: FrozenPoint = FrozenPoint(1)
    row: FrozenRow | None = None


class FrozenRow(NamedTuple):
    x: int
    point: FrozenPoint = FrozenPoint(1)


@pytest.mark.parametrize("times", range(2, 8))
@pytest.mark.parametrize("hint", [Defaults, FrozenHolder])
def test_defaults_are_not_taken_for_members(hint: Any, times: int) -> None:
    payload = b"{" + b",".join([b'"x":1'] * times) + b"}"
    assert wrong(lambda: Codec(hint).decode(payload)) == [("$.x", "is given twice")]
    row = b'{"row":[1],' + payload[1:]
    if hint is FrozenHolder:
        assert wrong(lambda: Codec(hint).decode(row)) == [("$.x", "is given twice")]


@pytest.mark.parametrize(
    ("hint", "payload", "paths"),
    [
        (Point, b'{"x":1,"x":2}', ["$.x"]),
        (Point, b'{"x":1,"x":1}', ["$.x"]),
        (Point, b'{"x":1,"name":null,"name":null}', ["$.name"]),
        (Point, b'{"x" : 1 , "x" : 2}', ["$.x"]),
        (Point, b'{"x"\n\t:1,"x"\r\n:2}', ["$.x"]),
        (Point, b'{"x":1,"\\u0078":2}', ["$.x"]),
        (Point, b'{"x":1,"unknown":1,"unknown":2}', ["$.unknown"]),
        (Point, b'{"x":1,"unknown":{"a":1,"a":2}}', ["$.unknown.a"]),
        (Point, b'{"x":1,"name":"a:b","x":1}', ["$.x"]),
        (Model, b'{"x":1,"x":2}', ["$.x"]),
        (list[Point], b'[{"x":1},{"x":1,"x":2}]', ["$[1].x"]),
        (dict[str, int], b'{"a":1,"b b":2,"a":3,"b b":4,"b b":5}', ["$.a", '$["b b"]']),
        (dict[int, int], b'{"1":1,"1":2}', ['$["1"]']),
        (dict[str, Any], b'{"a":{"b":[{"c":1,"c":2}]}}', ["$.a.b[0].c"]),
        (Named, b'{"name":"a","name":"b"}', ["$.name"]),
        (Tree, b'{"colour":"red","children":[{"colour":"red","colour":"red"}]}', ["$.children[0].colour"]),
        (Everything, b'{"x":1,"at":"2026-01-01T00:00:00Z","at":"2026-01-01T00:00:00Z"}', ["$.at"]),
        (Everything, b'{"x":1,"extra":{"a":1,"a":2}}', ["$.extra.a"]),
        (Everything, b'{"x":1,"named":{"a":{"x":1,"x":1}},"points":[{"x":1}]}', ["$.named.a.x"]),
        (Everything, b'{"x":1,"more":{"name":"a"},"more":{"name":"a"}}', ["$.more"]),
        (Everything, b'{"x":1,"row":[1,{"x":1,"x":1}]}', ["$.row[1].x"]),
        (Changed, b'{"x":1,"x":2}', ["$.x"]),
        (Tree | None, b'{"colour":"red","colour":"red"}', ["$.colour"]),
    ],
)
def test_a_member_that_is_given_twice(hint: Any, payload: bytes, paths: list[str]) -> None:
    assert wrong(lambda: Codec[Any](hint).decode(payload)) == [(path, "is given twice") for path in paths]


def test_twice_and_wrong() -> None:
    assert wrong(lambda: Codec(Point).decode(b'{"x":1,"x":"a","name":5}')) == [
        ("$.x", "is given twice"),
        ("$.x", "Expected `float`, got `str`"),
        ("$.name", "Expected `str | null`, got `int`"),
    ]


@pytest.mark.parametrize(
    ("hint", "payload"),
    [
        (Point, b'{"x":1,"name":"{\\"x\\":1,\\"x\\":2}"}'),
        (Point, b'{"x":1,"name":"a:b: c :d"}'),
        (Point, b'{ "x" : 1 , "name" :\n"x" }'),
        (Point, b'{"x":1,"unknown":{"x":[{"x":1},{"x":2}]}}'),
        (Everything, b'{"x":1,"at":"2026-01-01T00:00:00+01:00","points":[{"x":1},{"x":2}],"extra":{"x":{"x":":"}}}'),
        (dict[str, str], b'{"http://a":"http://b","":":"}'),
    ],
)
def test_colons_are_no_members(hint: Any, payload: bytes) -> None:
    Codec[Any](hint).decode(payload)


class Pairs(NamedTuple):
    """An object that may have a member twice."""

    members: list[tuple[str, Any]]


_VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(':"\\ {}[]a', max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(st.text(':"\\ ab', max_size=2), inner), max_size=3).map(Pairs)
    ),
    max_leaves=10,
)


def written(value: Any, space: str) -> str:
    if isinstance(value, Pairs):
        members = (f"{json.dumps(name)}{space}:{space}{written(one, space)}" for name, one in value.members)
        return "{" + f"{space},{space}".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(one, space) for one in value) + "]"
    return json.dumps(value)


def doubled(value: Any) -> bool:
    if isinstance(value, Pairs):
        names = [name for name, _ in value.members]
        return len(set(names)) < len(names) or any(doubled(one) for _, one in value.members)
    return isinstance(value, list) and any(map(doubled, value))


@settings(max_examples=100, deadline=None)
@given(_VALUES, st.sampled_from(["", " ", "\n", "\r\n\t "]))
def test_members_are_counted_rightly(value: Any, space: str) -> None:
    payload = written(value, space).encode()
    read = json.loads(payload)
    assert count_members(read) <= colons(payload)
    assert bool(duplicates(payload)) == doubled(value)
    codec: Codec[Any] = Codec(list[Any])
    if doubled(value):
        assert {message for _, message in wrong(lambda: codec.decode(b"[%s]" % payload))} == {"is given twice"}
    else:
        assert codec.decode(b"[%s]" % payload) == [read]


# --- wrong fields ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "path"),
    [(b'{"x":"warm"}', "$.x"), (b"{}", "$.x"), (b"[1]", "$"), (b"null", "$"), (b'{"x":1,"name":1}', "$.name")],
)
def test_what_is_wrong_and_where(payload: bytes, path: str) -> None:
    for hint in (Point, Model):
        assert [field.path for field in _refused(hint, payload).fields] == [path]


def _refused(hint: Any, payload: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        Codec[Any](hint).decode(payload)
    return caught.value


@pytest.mark.parametrize("hint", [list[int], dict[str, int], list[Model], list[Named]])
def test_errors_are_bounded(hint: Any) -> None:
    many = {str(number): "x" for number in range(5_000)} if hint == dict[str, int] else ["x"] * 5_000
    error = _refused(hint, json.dumps(many).encode())
    assert len(error.fields) == 100
    assert "(and 99 more)" in error.detail


@pytest.mark.parametrize("text", ["1" * 1_000_000 + "x", "." * 1_000_000, "P" + "1" * 1_000_000, "P" + ".1" * 500_000])
def test_long_texts_are_judged_at_once(text: str) -> None:
    """A second of processor time would be long: they are linear, and not square."""
    payload, start = json.dumps([text]).encode(), time.process_time()
    for hint in (Decimal, dt.timedelta, dt.datetime, UUID, bytes, Colour):
        assert wrong(lambda: Codec(list[hint]).decode(payload))[0][0] == "$[0]"  # noqa: B023
    assert time.process_time() - start < 2


def test_long_names_are_cut_in_paths() -> None:
    error = _refused(dict[str, int], json.dumps({"n" * 100_000: "x"}).encode())
    assert len(error.fields[0].path) < 200
    assert len(error.detail) < 400


class Strict(msgspec.Struct):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")
        if self.low == 0:
            raise KeyError("zero")
        if self.low == 1:
            raise Denied("not for you")
        if self.low == 2:
            raise Invalid("not two", fields=[FieldError("$.low", "must not be two")])


def test_what_the_type_itself_refuses() -> None:
    codec: Codec[dict[str, list[Strict]]] = Codec(dict[str, list[Strict]])
    payload = b'{"a":[{"low":5,"high":6}],"b c":[{"low":3,"high":2}]}'
    assert wrong(lambda: codec.decode(payload))[0][1] == "low is above high"
    assert wrong(lambda: Codec(list[Strict]).decode(b'[{"low":3,"high":4},{"low":3,"high":2}]')) == [
        ("$[1]", "low is above high")
    ]
    assert wrong(lambda: Codec(Strict).decode(b'{"low":0,"high":2}')) == [("$", "KeyError: 'zero'")]
    assert wrong(lambda: Codec(Strict).decode(b'{"low":1,"high":2}')) == [("$", "Denied: not for you")]
    assert wrong(lambda: Codec(Strict).decode(b'{"low":2,"high":2}')) == [("$.low", "must not be two")]
    assert wrong(lambda: Codec(Strict).from_builtins({"low": 3, "high": 2})) == [("$", "low is above high")]
    assert wrong(lambda: Codec(Strict).decode(b'{"low":"a"}')) == [
        ("$.low", "Expected `int`, got `str`"),
        ("$.high", "required"),
    ]


# --- what cannot be written ------------------------------------------------------------------------------------------


def test_values_that_cannot_be_written() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for codec, value in (
        (Codec[Any](Any), endless),
        (Codec[Any](Any), object()),
        (Codec[Any](Any), {(1, 2): 3}),
        (Codec[Any](str), "\ud800"),
        (Codec[Any](bytes), "text"),
    ):
        with pytest.raises(Invalid):
            codec.encode(value)


NAN, INFINITY = float("nan"), float("inf")


@dataclass
class Numbers:
    one: float = 1
    many: list[float] = field(default_factory=list)
    exact: Decimal = Decimal(1)
    optional: float | None = None
    named: dict[str, float] = field(default_factory=dict)
    pair: tuple[str, float] = ("", 1)
    either: int | float | str = 1
    extra: Any = None
    below: Numbers | None = None
    note: str | None = None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Numbers(one=NAN), "$.one"),
        (Numbers(many=[1, INFINITY]), "$.many[1]"),
        (Numbers(exact=Decimal("NaN")), "$.exact"),
        (Numbers(exact=Decimal("-Infinity")), "$.exact"),
        (Numbers(optional=-INFINITY), "$.optional"),
        (Numbers(named={"a b": NAN}), '$.named["a b"]'),
        (Numbers(pair=("", NAN)), "$.pair[1]"),
        (Numbers(either=NAN), "$.either"),
        (Numbers(extra={"a": [NAN]}), "$.extra.a[0]"),
        (Numbers(below=Numbers(below=Numbers(one=NAN))), "$.below.below.one"),
    ],
)
def test_numbers_that_json_cannot_say(value: Numbers, path: str) -> None:
    codec: Codec[Numbers] = Codec(Numbers)
    assert wrong(lambda: codec.encode(value)) == [(path, "must be a finite number")]
    assert wrong(lambda: codec.to_builtins(value)) == [(path, "must be a finite number")]


@pytest.mark.parametrize("value", [NAN, [1, NAN], {"a": INFINITY}, {"a": (NAN,)}])
def test_numbers_that_json_cannot_say_anywhere(value: Any) -> None:
    with pytest.raises(Invalid, match="must be a finite number"):
        Codec[Any](Any).encode(value)


def test_null_is_no_number() -> None:
    codec: Codec[Numbers] = Codec(Numbers)
    value = Numbers(extra={"a": None, "b": [1, "NaN"]}, note="null NaN Infinity", below=Numbers())
    assert codec.decode(codec.encode(value)) == value


def test_a_value_of_another_type_is_written_as_it_is() -> None:
    """Who publishes in Python is trusted so far; the topic looks at what was written."""
    other: Any = {"x": "warm", "name": None}
    assert Codec(Point).encode(other) == b'{"x":"warm","name":null}'


# --- the rest --------------------------------------------------------------------------------------------------------


def test_the_text_of_an_error() -> None:
    assert field_error("Expected `float`, got `str` - at `$.a[0]`") == FieldError(
        "$.a[0]", "Expected `float`, got `str`"
    )
    assert field_error("Expected `int`, got `str` - at `key` in `$.a`") == FieldError(
        "$.a", "Expected `int`, got `str`"
    )
    assert field_error("Expected `object`") == FieldError("$", "Expected `object`")


def test_a_list_as_one_value() -> None:
    assert Codec[Any](list[int]).takes_lists
    assert Codec[Any](list).takes_lists
    assert not Codec[Any](Point).takes_lists
    assert not Codec[Any](Any).takes_lists


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=30), st.text('{}[]":,\\xname 10.eE-', max_size=30).map(str.encode)))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for hint in (Point, Model, Everything, Any):
        with contextlib.suppress(Invalid):
            Codec[Any](hint).decode(payload)


class Nested(BaseModel):
    below: Nested | None = None


class NestedStruct(msgspec.Struct):
    below: NestedStruct | None = None


def nested(depth: int) -> Any:
    value = None
    for _ in range(depth):
        value = {"below": value}
    return value


@pytest.mark.parametrize("hint", [Nested, NestedStruct, Any, dict[str, Any], Annotated[dict[str, Decimal | None], 1]])
def test_every_depth_is_read_or_refused(hint: Any) -> None:
    codec: Codec[Any] = Codec(hint)
    read = 0
    for depth in range(1, 1_500, 7):
        payload = b'{"below":' * depth + b"null" + b"}" * depth
        with contextlib.suppress(Invalid):
            value = codec.decode(payload)
            read = depth
            with contextlib.suppress(Invalid):
                codec.from_builtins(nested(depth))
            with contextlib.suppress(Invalid):
                codec.encode(value)
    assert read >= 1
