"""All wrong fields in one error, whether the reader or the codec found them."""

from __future__ import annotations

from typing import Any

import pytest

from polywire.core.errors import FieldError, Invalid
from polywire.formats.reading import Complaints, Misread, checked

WRONG = [FieldError("$.a", "is given twice")]


def misread() -> Any:
    raise Misread(WRONG, {"a": 1})


def refuse(_: Any) -> Any:
    raise Invalid("b is wrong", hint="write b", fields=[FieldError("$.a", "hidden"), FieldError("$.b[0]", "wrong")])


def test_what_both_found() -> None:
    with pytest.raises(Invalid) as raised:
        checked(misread, refuse)
    assert raised.value.fields == (*WRONG, FieldError("$.b[0]", "wrong"))
    assert raised.value.detail == "$.a: is given twice (and 1 more)"
    assert raised.value.hint == "write b"


def test_what_one_of_them_found() -> None:
    with pytest.raises(Invalid) as raised:
        checked(misread, lambda value: value)
    assert raised.value.fields == tuple(WRONG)
    with pytest.raises(Invalid) as raised:
        checked(dict, refuse)
    assert raised.value.detail == "b is wrong"
    assert checked(lambda: 1, lambda value: value + 1) == 2


def test_another_name_for_the_value() -> None:
    with pytest.raises(Invalid) as raised:
        checked(dict, refuse, at="query")
    assert [field.path for field in raised.value.fields] == ["query.a", "query.b[0]"]


def test_an_error_without_fields_is_of_the_whole() -> None:
    def refuse_whole(_: Any) -> Any:
        raise Invalid("no")

    with pytest.raises(Invalid) as raised:
        checked(misread, refuse_whole)
    assert raised.value.fields == (*WRONG, FieldError("$", "no"))


def test_paths_and_how_many_there_are() -> None:
    complaints = Complaints("query")
    complaints.add(((None, "a"), 3), "x")
    complaints.add((None, "two words"), "x")
    complaints.add(None, "x")
    assert [field.path for field in complaints.fields] == ["query.a[3]", 'query["two words"]', "query"]
    for _ in range(1_000):
        complaints.add((None, "n" * 10_000), "x")
    assert len(complaints.fields) == 100
    assert max(len(field.path) for field in complaints.fields) < 200
