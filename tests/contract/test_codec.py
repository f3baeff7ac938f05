"""Types and payloads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypedDict

import msgspec
import pytest

from polywire.contract.codec import Codec, field_error
from polywire.core.errors import FieldError, Invalid


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


class Opaque: ...


@pytest.mark.parametrize(
    ("type", "value", "payload"),
    [
        (Point, Point(1.5, "a"), b'{"x":1.5,"name":"a"}'),
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


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (b'{"x":"warm"}', "$.x"),
        (b"{}", "$"),
        (b"[1]", "$"),
        (b'{"x":1', "$"),
        (b"", "$"),
        (b'{"x":1,"name":"\xff"}', "$"),
        (b"[" * 100_000, "$"),
    ],
)
def test_what_is_wrong_and_where(payload: bytes, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        Codec[Any](Point).decode(payload)
    assert caught.value.fields[0].path == path


def test_a_deep_value_is_an_error_and_no_crash() -> None:
    with pytest.raises(Invalid, match="nested too deeply"):
        Codec[Any](Any).decode(b"[" * 100_000)


def test_values_that_cannot_be_written() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for codec, value in ((Codec[Any](Any), endless), (Codec[Any](Any), object()), (Codec[Any](bytes), "text")):
        with pytest.raises(Invalid):
            codec.encode(value)


def test_the_text_of_an_error() -> None:
    assert field_error("Expected `float`, got `str` - at `$.a[0]`") == FieldError(
        "$.a[0]", "Expected `float`, got `str`"
    )
    assert field_error("Expected `object`") == FieldError("$", "Expected `object`")


def test_a_list_as_one_value() -> None:
    assert Codec[Any](list[int]).takes_lists
    assert Codec[Any](list).takes_lists
    assert not Codec[Any](Point).takes_lists
    assert not Codec[Any](Any).takes_lists
