"""Forms and queries: names and texts → builtins by the type, and all that is wrong with them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.contract.codec import Codec
from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.formats.forms import FormLimits, read_fields, read_form
from polywire.formats.reading import checked
from tests.formats.hostile import MIB, mutations, prefixes, refusal, survives
from tests.formats.trees import trees


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@dataclass
class Address:
    city: str
    zip: int | None = None


@dataclass
class Person:
    name: str
    age: int = 0
    weight: float | None = None
    admin: bool = False
    tags: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    address: Address | None = None
    homes: list[Address] = field(default_factory=list)
    scores: dict[str, int] = field(default_factory=dict)
    size: Size | None = None
    day: date | None = None
    price: Decimal | None = None
    note: str | None = None
    extra: Any = None
    either: int | str = 0
    some: str | list[str] = ""


class Circle(msgspec.Struct, tag="circle"):
    radius: int


class Square(msgspec.Struct, tag="square"):
    side: int


class Odd(msgspec.Struct, rename={"dotted": "a.b", "bracketed": "c[d]"}):
    dotted: int
    bracketed: int = 0


def read(body: str | bytes, hint: Any = Person, **options: Any) -> Any:
    return read_form(body.encode() if isinstance(body, str) else body, Codec(hint).tree, **options)


def wrong(body: str, hint: Any = Person, at: str = "$") -> dict[str, str]:
    codec: Codec[Any] = Codec(hint)
    with pytest.raises(Invalid) as raised:
        checked(lambda: read_form(body.encode(), codec.tree, at=at), codec.from_builtins, at=at)
    return {field.path: field.message for field in raised.value.fields}


READ: list[tuple[Any, str, Any]] = [
    (Person, "name=Ada+Lovelace&age=36&weight=5.5e1", {"name": "Ada Lovelace", "age": 36, "weight": 55.0}),
    (Person, "name=%E2%82%AC+%2B%26%3D&&", {"name": "€ +&="}),
    (Person, "name=a=b&note", {"name": "a=b", "note": ""}),
    (Person, "", {}),
    *[(Person, f"admin={text}", {"admin": True}) for text in ("on", "true", "True", "TRUE", "1", "On")],
    *[(Person, f"admin={text}", {"admin": False}) for text in ("off", "false", "False", "0")],
    (Person, "tags=a&name=x&tags=b", {"tags": ["a", "b"], "name": "x"}),
    (Person, "tags=a", {"tags": ["a"]}),
    (Person, "tags[]=a&tags%5B%5D=b", {"tags": ["a", "b"]}),
    (Person, "tags[1]=b&tags[0]=a&tags.7=c", {"tags": ["a", "b", "c"]}),
    (Person, "numbers=1&numbers=&numbers=2", {"numbers": [1, 2]}),
    (Person, "tags=&tags=", {"tags": ["", ""]}),
    (Person, 'tags=["a","1"]&numbers=[]', {"tags": ["a", "1"], "numbers": []}),
    (Person, 'homes=[{"city":"a"},{"city":"b"}]', {"homes": [{"city": "a"}, {"city": "b"}]}),
    (Person, 'tags=[draft]&note=["a"]', {"tags": ["[draft]"], "note": '["a"]'}),
    (Person, 'tags=["a"]&tags=b', {"tags": ['["a"]', "b"]}),
    (Person, "address.city=Oslo&address.zip=1", {"address": {"city": "Oslo", "zip": 1}}),
    (Person, "address[city]=Oslo&address[zip]=", {"address": {"city": "Oslo", "zip": None}}),
    (Person, 'address={"city":"Oslo","zip":1}', {"address": {"city": "Oslo", "zip": 1}}),
    (Person, "homes[0].city=a&homes[1].city=b&homes[0].zip=1", {"homes": [{"city": "a", "zip": 1}, {"city": "b"}]}),
    (Person, "homes[0][city]=a&homes.1.city=b", {"homes": [{"city": "a"}, {"city": "b"}]}),
    (Person, 'homes={"city":"a"}&homes={"city":"b"}', {"homes": [{"city": "a"}, {"city": "b"}]}),
    (
        Person,
        'homes=[{"city":"a"}]&tags=["a"]&numbers=[1,2]',
        {"homes": [{"city": "a"}], "tags": ["a"], "numbers": [1, 2]},
    ),
    (Person, "tags=[a", {"tags": ["[a"]}),
    (Person, "scores.ada=3&scores[a.b]=4", {"scores": {"ada": 3, "a.b": 4}}),
    (Person, "size=2&day=2026-11-20&price=1.50", {"size": 2, "day": "2026-11-20", "price": "1.50"}),
    (
        Person,
        "age=&admin=&size=&day=&weight=&price=&address=",
        {"size": None, "day": None, "weight": None, "price": None, "address": None},
    ),
    (Person, "name=&note=", {"name": "", "note": ""}),
    (Person, "extra=1", {"extra": "1"}),
    (Person, "extra=1&extra=2", {"extra": ["1", "2"]}),
    (Person, "extra.a=1&extra.b.c=2&extra[d][e]=3", {"extra": {"a": "1", "b.c": "2", "d": {"e": "3"}}}),
    (Person, "either=7", {"either": 7}),
    (Person, "either=seven", {"either": "seven"}),
    (Person, "some=a", {"some": "a"}),
    (Person, "some=a&some=b", {"some": ["a", "b"]}),
    (Circle | Square, "side=2&type=square", {"side": 2, "type": "square"}),
    (Odd, "a.b=1&c[d]=2", {"a.b": 1, "c[d]": 2}),
    (dict[str, int], "a=1&b.c=2&d[e]=3", {"a": 1, "b.c": 2, "d[e]": 3}),
    (dict[str, Address], "home.city=Oslo", {"home": {"city": "Oslo"}}),
    (dict[Literal["x"], list[int]], "x=1&x=2", {"x": [1, 2]}),
    (Any, "a=1&b=2&b=3&c.d=4", {"a": "1", "b": ["2", "3"], "c.d": "4"}),
    (Person | None, "name=a", {"name": "a"}),
]


@pytest.mark.parametrize(("hint", "body", "value"), READ, ids=[body for _, body, _ in READ])
def test_what_is_read(hint: Any, body: str, value: Any) -> None:
    assert [*map(repr, sorted(read(body, hint).items()))] == [*map(repr, sorted(value.items()))]


def test_what_requests_sends() -> None:
    data = {"name": "Zoë & co", "age": 3, "admin": True, "tags": ["a b", "ü"], "weight": None, "note": "a\r\nb"}
    body = requests.Request("POST", "http://hub/", data=data).prepare().body
    assert isinstance(body, str)
    codec: Codec[Person] = Codec(Person)
    assert codec.from_builtins(read(body)) == Person("Zoë & co", 3, admin=True, tags=["a b", "ü"], note="a\r\nb")


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=5))
def test_what_urllib_encodes_comes_back(fields: dict[str, str]) -> None:
    fields = {name: text for name, text in fields.items() if (name + text).isprintable()}
    whole = {name: text for name, text in fields.items() if not name.startswith("[")}
    assert read(urlencode(whole), dict[str, str]) == whole


def test_a_query_and_its_paths() -> None:
    codec: Codec[Person] = Codec(Person)
    pairs = [("name", "a"), ("age", "x"), ("address.zip", "1"), ("nmae", "b")]
    with pytest.raises(Invalid) as raised:
        checked(lambda: read_fields(pairs, codec.tree, at="query"), codec.from_builtins, at="query")
    assert dict(raised.value.fields) == {
        "query.nmae": "unknown field; did you mean 'name'?",
        "query.age": "Expected `int`, got `str`",
        "query.address.city": "required",
    }
    assert raised.value.detail == "query.nmae: unknown field; did you mean 'name'? (and 2 more)"


WRONG: list[tuple[Any, str, dict[str, str]]] = [
    (Person, "name=a&name=b&age=1&age=2", {"$.name": "is given twice", "$.age": "is given twice"}),
    (
        Person,
        "age=1.5&weight=NaN&name=",
        {"$.age": "Expected `int`, got `float`", "$.weight": "Expected `float | null`, got `str`"},
    ),
    (Person, "", {"$.name": "required"}),
    (Person, "name=a&admin=yes", {"$.admin": "Expected `bool`, got `str`"}),
    (Person, "name=a&address=Oslo", {"$.address": "Expected `object | null`, got `str`"}),
    (Person, "name=a&address=%7B", {"$.address": "is not JSON: Input data was truncated"}),
    (Person, 'name=a&address={"city":"a","city":"b"}', {"$.address": "$.city is given twice"}),
    (Person, "name=a&address=&address.city=b", {"$.address": "is given both itself and by its fields"}),
    (Person, "name=a&age.x=1", {"$.age.x": "unknown field"}),
    (Person, "name=a&address.town=x&address.city=b", {"$.address.town": "unknown field"}),
    (Person, "name=a&homes[].city=b", {'$.homes[""]': "is no item: write [0], [1] ..."}),
    (Person, "name=a&homes.first.city=b", {"$.homes.first": "is no item: write [0], [1] ..."}),
    (Person, "name=a&homes[0].city=b&homes[0].city=c", {"$.homes[0].city": "is given twice"}),
    (Person, "name=%FF&note=%C3", {"$.name": "is not UTF-8", "$.note": "is not UTF-8"}),
    (Person, "nam[e=a", {"$.nam": "unknown field; did you mean 'name'?", "$.name": "required"}),
    (Circle | Square, "type=oval&side=1", {"$.type": 'not one of "circle", "square"'}),
]


@pytest.mark.parametrize(("hint", "body", "fields"), WRONG, ids=[body for _, body, _ in WRONG])
def test_all_that_is_wrong_is_named(hint: Any, body: str, fields: dict[str, str]) -> None:
    assert wrong(body, hint) == fields


@pytest.mark.parametrize("hint", [int, list[int], list[Person], str | None, tuple[int, int]])
def test_what_has_no_fields_cannot_be_a_form(hint: Any) -> None:
    with pytest.raises(Unsupported):
        read("a=1", hint)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(Invalid, match="not UTF-8 at byte 5"):
        read(b"name=\xff")


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_each_bound_is_a_setting() -> None:
    limits = FormLimits(fields=2, name_size=12, depth=2)
    assert read("extra[a][b]=1&name=2", limits=limits) == {"extra": {"a": {"b": "1"}}, "name": "2"}
    with pytest.raises(TooLarge):
        read("tags=1&tags=2&tags=3", limits=limits)
    with pytest.raises(Invalid, match="longer than 12"):
        read("extra.abcdefg=1", limits=limits)
    with pytest.raises(Invalid, match="more than 2 deep"):
        read("extra[][][]=", limits=limits)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"a=1&" * 10_000, TooLarge),
        (b"&" * 8 * MIB, TooLarge),
        (b"a." * 5_000 + b"=1", Invalid),
        (b"extra" + b"[a]" * 500 + b"=1", Invalid),
        (b"a" * 8 * MIB + b"=1", Invalid),
        (b"&".join(b"nam%d=1" % n for n in range(1_000)), Invalid),
        (b"&".join(b"homes[%d].nothing=1" % n for n in range(1_000)), Invalid),
        (b"homes[999999999999].city=1", Invalid),
        (b"address=" + b'{"city":' * 100_000, Invalid),
        (b"address={" + b"," * MIB, Invalid),
    ],
)
def test_more_than_the_bounds(body: bytes, error: type[Exception]) -> None:
    found = refusal(lambda: read(body), memory=5 * len(body) + MIB)
    assert isinstance(found, error)
    assert len(str(found)) < 1_000
    assert all(len(field.path) < 500 for field in found.fields)


def test_numbers_of_items_reserve_no_room() -> None:
    assert read("homes[999999999].city=b&homes[3].city=a") == {"homes": [{"city": "a"}, {"city": "b"}]}


BODY = b"name=a%20b&age=3&tags[]=x&tags=y&homes[0].city=z&address={%22city%22:1}&scores[a]=1&admin=on"


def test_cut_off_anywhere() -> None:
    for part in prefixes(BODY):
        survives(lambda part=part: read(part))  # type: ignore[misc]


@settings(max_examples=100, deadline=None)
@given(mutations(st.just(BODY)) | st.binary() | st.text("ab.[]=&%0", max_size=40).map(str.encode), trees())
def test_mutated_bytes_under_any_tree(body: bytes, tree: Any) -> None:
    survives(lambda: read_form(body, tree))
    survives(lambda: read(body))
