"""Models of pydantic: their own words, their validators, and their mixing with other classes."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import inspect
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as model_dataclass

from polywire.contract.building import tree_of
from polywire.contract.codec import Codec
from polywire.contract.objects import object_type
from polywire.contract.tree import Array, Constant, Integer, Object, Reference, Text, Union
from polywire.core.errors import Invalid

REQUIRED = inspect.Parameter.empty


def wrong(call: Callable[[], Any]) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        call()
    return list(caught.value.fields)


def definition(type: Any, name: str) -> Object:
    found = tree_of(type).definitions[name]
    assert isinstance(found, Object)
    return found


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(min_length=2, description="With its number")
    zip_code: str = Field(alias="zipCode", pattern=r"^\d{5}$")


class User(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    age: Annotated[int, Field(ge=0, lt=150)] = 30
    address: Address | None = None
    friends: list[User] = []


def test_what_fields_say() -> None:
    address, user = definition(User, "Address"), definition(User, "User")
    assert address.description == "Where somebody lives."
    street, zip_code = address.fields
    assert (street.type, street.description) == (Text(min_length=2), "With its number")
    assert (zip_code.name, zip_code.attribute, zip_code.type) == ("zipCode", "zip_code", Text(pattern=r"^\d{5}$"))
    assert user.closed
    assert not address.closed
    assert user.fields[1].type == Integer(minimum=0, exclusive_maximum=150)
    assert user.fields[1].default == 30
    assert user.fields[3].type == Array(item=Reference(name="User"))


def test_aliases_are_the_only_names() -> None:
    codec: Codec[Address] = Codec(Address)
    value = codec.decode(b'{"street":"a 1","zipCode":"12345"}')
    assert value == Address(street="a 1", zipCode="12345")
    assert codec.encode(value) == b'{"street":"a 1","zipCode":"12345"}'
    assert wrong(lambda: codec.decode(b'{"street":"a 1","zip_code":"12345"}')) == [("$.zipCode", "required")]


def test_all_wrong_fields_of_nested_models() -> None:
    payload = b'{"name":1,"age":-1,"address":{"zipCode":"x"},"friends":[{"name":"a"},{"nam":"b"}],"more":1}'
    assert wrong(lambda: Codec(User).decode(payload)) == [
        ("$.name", "Expected `str`, got `int`"),
        ("$.age", "must be >= 0"),
        ("$.address.street", "required"),
        ("$.address.zipCode", r"must match ^\d{5}$"),
        ("$.friends[1].name", "required"),
        ("$.friends[1].nam", "unknown field"),
        ("$.more", "unknown field"),
    ]


class Two(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    a: int = Field(validation_alias="x", serialization_alias="y")


@pytest.mark.parametrize("type", [Two, list[Two], object_type("O", [("two", Two, REQUIRED)])])
def test_a_field_with_two_names(type: Any) -> None:
    with pytest.raises(TypeError, match="'a' is read as 'x' and written as 'y'"):
        Codec(type)


# --- unions ----------------------------------------------------------------------------------------------------------


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[Pet] = []


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Home(BaseModel):
    pet: Pet
    favourite: Cat | None = None


class TaggedCat(msgspec.Struct, tag_field="kind", tag="cat"):
    lives: int


class TaggedDog(msgspec.Struct, tag_field="kind", tag="dog"):
    tricks: list[TaggedCat | TaggedDog] = []


class TaggedHome(msgspec.Struct):
    pet: TaggedCat | TaggedDog
    favourite: TaggedCat | None = None


def test_a_discriminated_union_is_a_tagged_one() -> None:
    """The same tree as Structs have, but for the names."""
    models, structs = tree_of(Home), tree_of(TaggedHome)
    renamed = repr(structs).replace("Tagged", "").replace("attribute='kind'", "")
    assert repr(models) == renamed
    assert definition(Home, "Cat").tag == "cat"


@pytest.mark.parametrize("type", [Home, TaggedHome])
def test_errors_of_a_union(type: Any) -> None:
    codec: Codec[Any] = Codec(type)
    good = b'{"pet":{"kind":"dog","tricks":[{"kind":"cat","lives":9}]},"favourite":{"lives":1}}'
    assert codec.decode(good).pet.tricks[0].lives == 9
    assert wrong(lambda: codec.decode(b'{"pet":{"lives":9}}')) == [("$.pet.kind", "required")]
    assert wrong(lambda: codec.decode(b'{"pet":{"kind":"cow"}}')) == [("$.pet.kind", 'not one of "cat", "dog"')]
    assert wrong(lambda: codec.decode(b'{"pet":{"kind":"cat","lives":"x"}}')) == [
        ("$.pet.lives", "Expected `int`, got `str`")
    ]
    assert wrong(lambda: codec.decode(b'{"pet":{"kind":"dog","tricks":[{"kind":"cat"}]},"favourite":{"kind":1}}')) == [
        ("$.pet.tricks[0].lives", "required"),
        ("$.favourite.kind", "Expected `str`, got `int`"),
        ("$.favourite.lives", "required"),
    ]


class Kinds(BaseModel):
    counts: collections.Counter[str] = collections.Counter()
    queue: collections.deque[int] = collections.deque()
    both: collections.defaultdict[str, list[int]] = Field(default_factory=lambda: collections.defaultdict(list))


def test_containers_that_only_pydantic_knows() -> None:
    codec: Codec[Kinds] = Codec(Kinds)
    builtins = {"counts": {"a": 2}, "queue": [1, 2], "both": {"x": [1]}}
    assert codec.to_builtins(codec.from_builtins(builtins)) == builtins
    assert wrong(lambda: codec.from_builtins({"counts": {"a": "x"}, "queue": [""], "both": {"x": 1}})) == [
        ("$.counts.a", "Expected `int`, got `str`"),
        ("$.queue[0]", "Expected `int`, got `str`"),
        ("$.both.x", "Expected `array`, got `int`"),
    ]


class Required(BaseModel):
    kind: Literal["a", "b"]


class Other(BaseModel):
    kind: Literal["c"]


def test_a_discriminator_of_several_values() -> None:
    either: Any = Annotated[Required | Other, Field(discriminator="kind")]
    tree = tree_of(object_type("Holder", [("one", either, REQUIRED)]))
    union = tree.definitions["Holder"].fields[0].type  # type: ignore[union-attr]
    assert isinstance(union, Union)
    assert {tag: member.name for tag, member in tree.tagged(union).items()} == {  # type: ignore[union-attr]
        "a": "Required",
        "b": "Required",
        "c": "Other",
    }
    required = tree.definitions["Required"]
    assert isinstance(required, Object)
    assert required.fields[0].type == Constant(values=("a", "b"))
    other = tree.definitions["Other"]
    assert isinstance(other, Object)
    assert other.tag_required
    codec: Codec[Any] = Codec(Other)
    assert wrong(lambda: codec.decode(b"{}")) == [("$.kind", "required")]


class Plain(BaseModel):
    value: int | list[Plain] | Address | str


def test_a_union_that_nothing_tells_apart() -> None:
    codec: Codec[Plain] = Codec(Plain)
    for builtins in ({"value": 3}, {"value": "3"}, {"value": [{"value": 1}]}):
        assert codec.to_builtins(codec.from_builtins(builtins)) == builtins
    assert wrong(lambda: codec.from_builtins({"value": 1.5})) == [
        ("$.value", "Expected `int | array | object | str`, got `float`")
    ]
    assert wrong(lambda: codec.from_builtins({"value": [{"value": None}]})) == [
        ("$.value[0].value", "Expected `int | array | object | str`, got `null`")
    ]
    assert wrong(lambda: codec.from_builtins({"value": {"street": "a 1"}})) == [("$.value.zipCode", "required")]


# --- validators ------------------------------------------------------------------------------------------------------


class Booking(BaseModel):
    first: dt.date
    last: dt.date
    guests: Annotated[
        list[str], BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
    ] = []
    room: str = "1"
    rate: float = 1

    @field_validator("room")
    @classmethod
    def known(cls, room: str) -> str:
        if room not in ("1", "2"):
            raise ValueError("there is no such room")
        return room

    @model_validator(mode="after")
    def in_order(self) -> Booking:
        if self.first > self.last:
            raise ValueError("the last day is before the first")
        return self


class Bookings(BaseModel):
    all: list[Booking]
    by_name: dict[str, Booking | None] = {}


def test_validators_say_what_is_wrong_and_where() -> None:
    codec: Codec[Bookings] = Codec(Bookings)
    fine = {"first": "2026-01-01", "last": "2026-01-02"}
    payload = msgspec.json.encode(
        {"all": [fine, {**fine, "room": "9"}], "by_name": {"x": {**fine, "first": "2026-02-01"}, "y": None}}
    )
    assert wrong(lambda: codec.decode(payload)) == [
        ("$.all[1].room", "there is no such room"),
        ("$.by_name.x", "the last day is before the first"),
    ]


def test_validators_and_types_are_told_together() -> None:
    payload = b'{"first":"2026-01-01","last":"soon","room":"9","rate":true}'
    assert wrong(lambda: Codec(Booking).decode(payload)) == [
        ("$.last", "must be a date (RFC 3339)"),
        ("$.rate", "Expected `float`, got `bool`"),
        ("$.room", "there is no such room"),
    ]


def test_a_validator_before_the_type_sees_what_was_sent() -> None:
    codec: Codec[Booking] = Codec(Booking)
    payload = b'{"first":"2026-01-01","last":"2026-01-02","guests":"ann,bob"}'
    assert codec.decode(payload).guests == ["ann", "bob"]
    assert wrong(lambda: codec.decode(payload.replace(b'"ann,bob"', b"[1]"))) == [
        ("$.guests[0]", "Input should be a valid string")
    ]


class Reshaped(BaseModel):
    values: list[int]

    @model_validator(mode="before")
    @classmethod
    def reshape(cls, value: Any) -> Any:
        return {"values": value} if isinstance(value, list) else value


def test_a_validator_before_the_model_sees_what_was_sent() -> None:
    codec: Codec[list[Reshaped]] = Codec(list[Reshaped])
    assert codec.decode(b'[[1,2],{"values":[3]}]') == [Reshaped(values=[1, 2]), Reshaped(values=[3])]
    assert wrong(lambda: codec.decode(b'[{"values":["x"]}]'))[0][0] == "$[0].values[0]"


class Failing(BaseModel):
    a: int

    @field_validator("a")
    @classmethod
    def fail(cls, _: int) -> int:
        raise KeyError("no such thing")


def test_a_validator_that_fails() -> None:
    assert wrong(lambda: Codec(Failing).decode(b'{"a":1}')) == [("$", "KeyError: 'no such thing'")]


# --- values ----------------------------------------------------------------------------------------------------------


class Everything(BaseModel):
    number: float = 1.5
    exact: Decimal = Decimal("1.10")
    content: bytes = b"\xff"
    more: list[bytes | None] = []
    at: pydantic.AwareDatetime | None = None
    naive: pydantic.NaiveDatetime | None = None
    took: dt.timedelta = dt.timedelta(seconds=90)
    page: pydantic.HttpUrl | None = None
    secret: pydantic.UUID4 | None = None
    positive: pydantic.PositiveInt = 1
    address: pydantic.IPvAnyAddress | None = None
    letters: set[str] = set()


def test_what_is_written_is_read() -> None:
    codec: Codec[Everything] = Codec(Everything)
    value = Everything.model_validate(
        {"at": "2026-01-01T00:00:00Z", "page": "http://a.example/", "more": [b"\0", None], "address": "::1"}
    )
    payload = codec.encode(value)
    assert msgspec.json.decode(payload) == {
        "number": 1.5,
        "exact": "1.10",
        "content": "/w==",
        "more": ["AA==", None],
        "at": "2026-01-01T00:00:00Z",
        "naive": None,
        "took": "PT90S",
        "page": "http://a.example/",
        "secret": None,
        "positive": 1,
        "address": "::1",
        "letters": [],
    }
    assert codec.decode(payload) == value
    assert codec.from_builtins(codec.to_builtins(value)) == value


@pytest.mark.parametrize(
    ("field", "json", "message"),
    [
        ("at", '"2026-01-01T00:00:00"', "must be a date and time with an offset (RFC 3339)"),
        ("at", '"1"', "must be a date and time with an offset (RFC 3339)"),
        ("naive", '"2026-01-01T00:00:00Z"', "must be a date and time without an offset (RFC 3339)"),
        ("number", "1e999", "must be a finite number"),
        ("number", '"1.5"', "Expected `float`, got `str`"),
        ("positive", "0", "must be > 0"),
        ("positive", "9" * 5000, "number out of range"),
        ("took", '"1 day"', "must be a duration in days or smaller units (ISO 8601)"),
        ("content", '"é"', "must be base64"),
        ("page", '"no address"', "Input should be a valid URL, relative URL without a base"),
        ("letters[1]", '["a","a"]', "stands in the set already"),
    ],
)
def test_the_words_of_the_tree_count(field: str, json: str, message: str) -> None:
    name = field.partition("[")[0]
    payload = f'{{"{name}":{json}}}'.encode()
    assert wrong(lambda: Codec(Everything).decode(payload)) == [(f"$.{field}", message)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know(number: float) -> None:
    codec: Codec[Everything] = Codec(Everything)
    value = Everything(number=number)
    assert wrong(lambda: codec.encode(value)) == [("$.number", "must be a finite number")]
    assert wrong(lambda: codec.to_builtins(value)) == [("$.number", "must be a finite number")]


class Rectangle(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int

    @computed_field
    @property
    def area(self) -> int:
        """Its width, squared."""
        return self.width**2


def test_a_computed_field_is_written_and_not_read() -> None:
    codec: Codec[Rectangle] = Codec(Rectangle)
    assert codec.encode(Rectangle(width=3)) == b'{"width":3,"area":9}'
    assert codec.decode(b'{"width":3,"area":"whatever"}').area == 9
    assert Codec(list[Rectangle]).decode(b'[{"width":3,"area":9}]') == [Rectangle(width=3)]
    field = definition(Rectangle, "Rectangle").fields[1]
    assert (field.name, field.type, field.read_only, field.required) == ("area", Integer(), True, False)
    assert field.description == "Its width, squared."


class Names(RootModel[list[Annotated[str, Field(min_length=1)]]]):
    pass


def test_a_root_model_is_what_it_holds() -> None:
    codec: Codec[dict[str, Names]] = Codec(dict[str, Names])
    assert codec.decode(b'{"x":["a"]}') == {"x": Names(["a"])}
    assert codec.encode({"x": Names(["a"])}) == b'{"x":["a"]}'
    assert wrong(lambda: codec.decode(b'{"x":[""]}')) == [("$.x[0]", "must have at least 1 character")]


# --- with other classes ----------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: Annotated[int, msgspec.Meta(ge=0)]
    colour: Colour = Colour.RED


class Drawing(BaseModel):
    points: list[Point]
    named: dict[str, Point] = {}


class Folder(msgspec.Struct):
    drawing: Drawing
    others: dict[str, list[Drawing]] = {}
    user: User | None = None


def test_a_dataclass_in_a_model() -> None:
    codec: Codec[Drawing] = Codec(Drawing)
    value = codec.decode(b'{"points":[{"x":1}],"named":{"a":{"x":2,"colour":"red"}}}')
    assert value == Drawing(points=[Point(1)], named={"a": Point(2)})
    assert codec.decode(codec.encode(value)) == value
    assert wrong(lambda: codec.decode(b'{"points":[{"x":-1},{}],"named":{"a":{"x":2,"colour":"blue"}}}')) == [
        ("$.points[0].x", "must be >= 0"),
        ("$.points[1].x", "required"),
        ("$.named.a.colour", 'must be "red"'),
    ]


def test_a_model_in_a_struct() -> None:
    codec: Codec[Folder] = Codec(Folder)
    payload = b'{"drawing":{"points":[{"x":1}]},"others":{"a":[{"points":[]}]},"user":{"name":"ann"}}'
    value = codec.decode(payload)
    assert value == Folder(Drawing(points=[Point(1)]), {"a": [Drawing(points=[])]}, User(name="ann"))
    assert codec.decode(codec.encode(value)) == value
    assert codec.from_builtins(codec.to_builtins(value)) == value
    assert wrong(lambda: codec.decode(b'{"drawing":{"points":[{"x":"1"}]},"others":{"a":[{}]},"user":{"nam":1}}')) == [
        ("$.drawing.points[0].x", "Expected `int`, got `str`"),
        ("$.others.a[0].points", "required"),
        ("$.user.name", "required"),
        ("$.user.nam", "unknown field"),
    ]


class Diary(msgspec.Struct):
    days: dict[str, list[Booking]]


def test_validators_of_a_model_in_a_struct() -> None:
    codec: Codec[Diary] = Codec(Diary)
    fine = {"first": "2026-01-01", "last": "2026-01-02"}
    payload = msgspec.json.encode({"days": {"a": [fine], "b": [fine, {**fine, "room": "7"}]}})
    assert wrong(lambda: codec.decode(payload)) == [("$.days.b[1].room", "there is no such room")]
    assert wrong(lambda: codec.from_builtins(msgspec.json.decode(payload))) == [
        ("$.days.b[1].room", "there is no such room")
    ]


def test_any_model_can_be_a_parameter() -> None:
    hints: list[tuple[str, Any, Any]] = [
        ("pet", Pet, REQUIRED),
        ("count", Annotated[int, Field(ge=1)], REQUIRED),
        ("either", User | Address | None, None),
        ("points", list[Point], []),
    ]
    codec: Codec[Any] = Codec(object_type("request", hints))
    value = codec.decode(b'{"pet":{"kind":"cat","lives":9},"count":1,"either":{"name":"ann"}}')
    assert (value.pet, value.count, value.either, value.points) == (Cat(lives=9), 1, User(name="ann"), [])
    assert codec.to_builtins(value)["pet"] == {"kind": "cat", "lives": 9}
    assert wrong(lambda: codec.decode(b'{"pet":{"kind":"cat"},"count":0,"either":1,"points":[{"x":-1}]}')) == [
        ("$.pet.lives", "required"),
        ("$.count", "must be >= 1"),
        ("$.either", "Expected `object | null`, got `int`"),
        ("$.points[0].x", "must be >= 0"),
    ]


@dataclasses.dataclass
class Site:
    page: pydantic.HttpUrl
    mirrors: list[pydantic.HttpUrl] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    "type", [Site, object_type("Site", [("page", pydantic.HttpUrl, REQUIRED), ("mirrors", list[pydantic.HttpUrl], [])])]
)
def test_other_types_of_pydantic(type: Any) -> None:
    codec: Codec[Any] = Codec(type)
    payload = b'{"page":"http://a.example/","mirrors":["http://b.example/"]}'
    value = codec.decode(payload)
    assert value.mirrors == [pydantic.HttpUrl("http://b.example/")]
    assert codec.encode(value) == payload
    assert Codec[Any](Any).encode(value) == payload
    assert wrong(lambda: codec.decode(b'{"page":"no address"}')) == [
        ("$.page", "Input should be a valid URL, relative URL without a base")
    ]


@model_dataclass
class Measured:
    celsius: float = Field(ge=-273)


def test_a_dataclass_of_pydantic() -> None:
    codec: Codec[list[Measured]] = Codec(list[Measured])
    assert codec.decode(b'[{"celsius":3}]') == [Measured(3)]
    assert wrong(lambda: codec.decode(b'[{"celsius":-300}]')) == [("$[0].celsius", "must be >= -273")]


class Struct(msgspec.Struct):
    a: Measured


class WithStruct(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    a: list[Folder]


@pytest.mark.parametrize(
    ("type", "message"),
    [
        (Struct, "Measured is a type of pydantic, but no model, in a class that pydantic does not read"),
        (WithStruct, r"Folder stands in a model of pydantic, which cannot read it \(at \$\.a\[\*\]\)"),
        (pydantic.create_model("M", a=(pydantic.Base64Bytes, ...)), r"at \$\.a"),
        (pydantic.create_model("M", a=(Callable[[int], int], ...)), r"Callable cannot be described: .* \(at \$\.a\)"),
        (pydantic.create_model("M", a=(bytes | str, ...)), r"a union of bytes and another text .*at \$\.a"),
    ],
)
def test_what_cannot_be_told(type: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Codec(type)


def test_pydantic_is_imported_only_for_its_models() -> None:
    script = (
        "import sys, dataclasses, polywire\n"
        "from polywire.contract.codec import Codec\n"
        "@dataclasses.dataclass\n"
        "class A:\n"
        "    a: int\n"
        "Codec(A).decode(b'{\"a\":1}')\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


class Sum(BaseModel):
    left: Sum | Product | int
    right: Sum | Product | int


class Product(BaseModel):
    left: Sum | Product | int
    right: Sum | Product | int


class Leaf(BaseModel):
    leaf: int


class Branch(BaseModel):
    below: list[Leaf | Branch] = []


def test_a_union_that_would_be_read_for_years() -> None:
    with pytest.raises(TypeError, match="Sum and Product are members of one union, and contain it: they need a discri"):
        Codec(Sum)
    codec: Codec[Branch] = Codec(Branch)
    deep: Any = {"leaf": 1}
    for _ in range(30):
        deep = {"below": [deep, {"below": "x"}]}
    assert len(wrong(lambda: codec.from_builtins(deep))) == 30


@dataclasses.dataclass
class Household:
    head: User
    pets: list[Pet] = dataclasses.field(default_factory=list)
    where: Annotated[str, msgspec.Meta(max_length=3)] | None = None


def test_a_model_in_a_dataclass() -> None:
    codec: Codec[Household] = Codec(Household)
    value = codec.decode(b'{"head":{"name":"ann"},"pets":[{"kind":"cat","lives":9}],"where":"abc"}')
    assert value == Household(User(name="ann"), [Cat(lives=9)], "abc")
    assert codec.decode(codec.encode(value)) == value
    assert wrong(lambda: codec.decode(b'{"head":{"name":"ann","age":-1},"pets":[{"kind":"cat"}],"where":"abcd"}')) == [
        ("$.head.age", "must be >= 0"),
        ("$.pets[0].lives", "required"),
        ("$.where", "must have at most 3 characters"),
    ]


def test_what_is_no_model_is_written_as_it_is() -> None:
    assert Codec[Any](User).encode({"name": "ann"}) == b'{"name":"ann"}'
    assert Codec[Any](list[User]).to_builtins([{"name": "ann"}]) == [{"name": "ann"}]
    assert Codec[Any](Any).encode({"user": Address(street="a 1", zipCode="12345")}) == (
        b'{"user":{"street":"a 1","zipCode":"12345"}}'
    )
    with pytest.raises(Invalid, match="cannot be written"):
        Codec[Any](User).encode(object())
