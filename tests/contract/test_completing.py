"""A value that was read is written like one that Python made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar

import attrs
import msgspec
import pytest

from polywire.contract.building import Types
from polywire.contract.codec import Codec
from polywire.contract.completing import completion

T = TypeVar("T")


@dataclass
class Place:
    city: str
    code: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Person:
    name: str
    home: Place
    others: dict[str, list[Place]] = field(default_factory=dict)
    boss: Person | None = None
    pair: tuple[Place, int] | None = None


@dataclass(slots=True)
class Slotted:
    city: str
    code: str | None = None


class Held(msgspec.Struct):
    place: Place


@attrs.define
class Kept:
    places: list[Place]


class Typed(TypedDict):
    place: Place


@dataclass
class Box(Generic[T]):
    inside: T
    label: str = "box"


PLACE = {"city": "Oslo"}
WHOLE = {"city": "Oslo", "code": None, "tags": []}


@pytest.mark.parametrize(
    ("type", "said", "written"),
    [
        (Place, PLACE, WHOLE),
        (list[Place], [PLACE, PLACE], [WHOLE, WHOLE]),
        (Held, {"place": PLACE}, {"place": WHOLE}),
        (Kept, {"places": [PLACE]}, {"places": [WHOLE]}),
        (Typed, {"place": PLACE}, {"place": WHOLE}),
        (Slotted, PLACE, {"city": "Oslo", "code": None}),
        (Box[Place], {"inside": PLACE}, {"inside": WHOLE, "label": "box"}),
        (Place | None, PLACE, WHOLE),
        (
            Person,
            {
                "name": "a",
                "home": PLACE,
                "others": {"x": [PLACE]},
                "boss": {"name": "b", "home": PLACE},
                "pair": [PLACE, 1],
            },
            {
                "name": "a",
                "home": WHOLE,
                "others": {"x": [WHOLE]},
                "boss": {"name": "b", "home": WHOLE, "others": {}, "boss": None, "pair": None},
                "pair": [WHOLE, 1],
            },
        ),
    ],
)
def test_defaults_are_written(type: Any, said: Any, written: Any) -> None:
    codec: Codec[Any] = Codec(type)
    read = codec.decode(msgspec.json.encode(said))
    assert msgspec.json.decode(codec.encode(read)) == written
    assert codec.to_builtins(codec.from_builtins(said)) == written


def test_what_is_given_stays() -> None:
    codec: Codec[Place] = Codec(Place)
    assert codec.decode(b'{"city":"x","code":"y","tags":["z"]}') == Place("x", "y", ["z"])


@pytest.mark.parametrize("type", [int, list[str], Slotted, dict[str, int]])
def test_types_that_lack_nothing_cost_nothing(type: Any) -> None:
    types = Types()
    types.add(type)
    assert completion(types) is None
