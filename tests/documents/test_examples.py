"""Values made up for a type are values of the type."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest
from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from polywire import File
from polywire.contract.codec import Codec
from polywire.documents.examples import example_of
from polywire.documents.patterns import matching
from tests.contract.orders import FAMILIES


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Pair(NamedTuple):
    x: int
    y: str = ""


class Left(msgspec.Struct, tag=True):
    left: int


class Right(msgspec.Struct, tag=True):
    right: int


class Leaf(msgspec.Struct):
    name: str
    below: list[Leaf] = []
    twin: Leaf | None = None


class Branch(msgspec.Struct):
    inside: list[Branch]
    one: dict[str, Branch]


@dataclass
class AllOptional:
    size: int = 3
    names: list[str] = field(default_factory=list)


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(min_length=2, pattern="^[A-Z][a-z]+$")
    mail: str = pydantic.Field(pattern=r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$")

    @pydantic.computed_field
    @property
    def loud(self) -> str:
        return self.name.upper()


TYPES = [
    Any, None, bool, int, float, str, bytes, Decimal, UUID,
    dt.datetime, dt.date, dt.time, dt.timedelta,
    Annotated[dt.datetime, Meta(tz=False)], Annotated[dt.datetime, Meta(tz=True)], Annotated[dt.time, Meta(tz=True)],
    Annotated[int, Ge(100)], Annotated[int, Le(-5)], Annotated[int, Gt(3), Lt(5)], Annotated[int, MultipleOf(50)],
    Annotated[int, Ge(1000), MultipleOf(7)],
    Annotated[float, Gt(0), Lt(1)], Annotated[float, Ge(-1), Le(-0.5)], Annotated[float, Meta(multiple_of=0.25)],
    Annotated[str, Len(50)], Annotated[str, Len(0, 2)], Annotated[str, Meta(pattern=r"^\d{3}-\d{4}$")],
    Annotated[str, Meta(pattern="^(foo|bar)+[^a-z]?$", min_length=5)],
    Annotated[bytes, Len(9)], Annotated[bytes, Len(0, 1)],
    list[int], tuple[int, str], Pair, set[int], Annotated[list[str], Len(4)], Annotated[list[str], Len(0, 0)],
    Annotated[set[int], Len(3)], Annotated[set[str], Len(3)], Annotated[set[Colour], Len(2)],
    Annotated[set[Literal[1, 2, 3]], Len(3)],
    dict[str, int], dict[int, str], dict[Colour, int], dict[UUID, int], Annotated[dict[str, int], Len(3)],
    Colour, Literal["b", "a"], int | None, int | str, Left | Right, Leaf, Branch, AllOptional, Person, File,
    list[Left | None],
]  # fmt: skip


@pytest.mark.parametrize("hint", TYPES, ids=str)
def test_an_example_is_of_its_type(hint: Any) -> None:
    codec: Codec[Any] = Codec(hint)
    codec.from_builtins(example_of(codec.tree))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family: str) -> None:
    codec: Codec[Any] = Codec(FAMILIES[family])
    codec.from_builtins(example_of(codec.tree))


def test_it_says_something() -> None:
    assert example_of(Codec(AllOptional).tree) == {"size": 3}
    assert example_of(Codec(Leaf).tree) == {"name": "name"}
    assert example_of(Codec(Left | Right).tree) == {"type": "Left", "left": 21}
    assert "loud" not in example_of(Codec(Person).tree)


def numbers(whole: bool) -> Any:
    bounds = st.integers(-1_000, 1_000) if whole else st.floats(-1_000, 1_000)
    return st.tuples(bounds, bounds).map(sorted).filter(lambda pair: pair[1] - pair[0] > 2)


@settings(max_examples=200, deadline=None)
@given(numbers(whole=True), st.booleans())
def test_any_bounds_of_integers(bounds: list[int], exclusive: bool) -> None:
    lowest, highest = bounds
    meta = Meta(gt=lowest, lt=highest) if exclusive else Meta(ge=lowest, le=highest)
    codec: Codec[Any] = Codec(Annotated[int, meta])
    codec.from_builtins(example_of(codec.tree))


@settings(max_examples=200, deadline=None)
@given(numbers(whole=False), st.booleans())
def test_any_bounds_of_numbers(bounds: list[float], exclusive: bool) -> None:
    lowest, highest = bounds
    meta = Meta(gt=lowest, lt=highest) if exclusive else Meta(ge=lowest, le=highest)
    codec: Codec[Any] = Codec(Annotated[float, meta])
    codec.from_builtins(example_of(codec.tree))


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "", "abc", "a*", "a+b?", "[a-z]{3}", "[^abc]", r"\d\s\w", "(a|b)c", "(?:ab){2,}", "^x$", ".{4}", r"\.",
        "[A-Za-z0-9._%+-]+@[a-z]+", "(?i)abc", r"\bword\b", "a{0}b", "[\\d-]+", "[^\\W_]+", "x??y", "(?>ab)c",
    ],
)  # fmt: skip
def test_a_text_that_matches(pattern: str) -> None:
    for least in (0, 1, 5):
        found = matching(pattern, least)
        assert found is None or (re.search(pattern, found) and len(found) >= least)
    assert matching(pattern) is not None


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)b", "(", "a(?!b)b$"])
def test_no_text_is_found(pattern: str) -> None:
    assert matching(pattern) is None
