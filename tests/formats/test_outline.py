"""Text by type: what a number is, and which of several types a text means."""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec
import pytest

from polywire.contract.codec import Codec
from polywire.formats.outline import Choice, Fields, Nullable, Scalar, outline_of, read_number, spell


class Level(enum.Enum):
    LOW = "low"
    HIGH = "1"


class Node(msgspec.Struct):
    value: int
    next: Node | None = None


def scalar(hint: Any) -> Scalar:
    outline = outline_of(Codec(hint).tree)
    if isinstance(outline, Nullable):
        outline = outline.outline
    if isinstance(outline, Choice):
        assert outline.scalar is not None
        return outline.scalar
    assert isinstance(outline, Scalar)
    return outline


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("-0", 0), ("+3", 3), ("007", 7), ("3.", 3.0), (".5", 0.5), ("-1e3", -1000.0), ("1E+2", 100.0)],
)
def test_numbers(text: str, number: float) -> None:
    found = read_number(text)
    assert (type(found), found) == (type(number), number)


@pytest.mark.parametrize(
    "text",
    ["", " 3", "3 ", "1_000", "0x10", "NaN", "inf", "1e999", "1e", "--1", ".", "e5", "٣", "1,5", "9" * 5_000, "1\n"],
)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize("value", [0, -1, 10**40, 0.1, -0.0, 1e-300, 1.7976931348623157e308, True, False, "", "3"])
def test_what_is_spelled_is_read_again(value: Any) -> None:
    assert repr(scalar(type(value)).read(spell(value))) == repr(value)


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int | str, "3", 3),
        (int | str, " 3 ", 3),
        (int | str, " x ", " x "),
        (bool | int, "1", 1),
        (bool | int, "true", True),
        (bool | None, "1", True),
        (float | str | None, "1e2", 100.0),
        (Literal["1", 1, 2], "1", "1"),
        (Literal["a", 1], "1", 1),
        (Literal["a", 1], "7", 7),
        (Literal["a", " "], " ", " "),
        (Literal["a", "b"], " a\n", "a"),
        (Level, "1", "1"),
        (Level, " low ", "low"),
        (Level, "other", "other"),
        (bytes, " A A\nE=", "AAE="),
        (int, " x ", "x"),
    ],
)
def test_which_of_several_a_text_means(hint: Any, text: str, value: Any) -> None:
    assert repr(scalar(hint).read(text)) == repr(value)


def test_a_type_that_contains_itself() -> None:
    outline = outline_of(Codec(Node).tree)
    assert isinstance(outline, Fields)
    following = outline.fields["next"]
    assert isinstance(following, Nullable)
    assert following.outline is outline


def test_an_outline_is_made_once() -> None:
    tree = Codec(Node).tree
    assert outline_of(tree) is outline_of(tree)


def test_objects_that_only_their_looks_tell_apart() -> None:
    first, second = Fields("A", closed=False), Fields("B", closed=False)
    first.fields = {"a": Scalar(), "b": Scalar()}
    second.fields = {"a": Scalar(), "c": Scalar()}
    first.required, second.required = frozenset("a"), frozenset("ac")
    choice = Choice()
    choice.objects = [first, second]
    assert choice.object(["a"], None) is first
    assert choice.object(["a", "c"], None) is second
    assert choice.object(["b", "c"], None) is first
    choice.tags = {"b": second}
    assert choice.object(["a"], "b") is second
    assert choice.object(["a"], "x") is first
