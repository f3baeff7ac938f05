"""One model in six families: one tree, one schema, one JSON, the same wrong fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from polywire.contract.codec import Codec
from polywire.core.errors import Invalid
from polywire.documents.json_schema import json_schema
from tests.contract.orders import FAMILIES

LINE = {"sku": "ab", "count": 3, "price": "9.90", "colours": ["red"]}
ORDER = {
    "id": "123e4567-e89b-12d3-a456-426614174000",
    "status": "paid",
    "lines": [LINE, {**LINE, "colours": []}],
    "named": {"one": LINE, "two words": LINE},
    "placed": "2026-01-31T12:00:00Z",
    "due": "2026-02-28",
    "weight": 1.5,
    "tags": ["x"],
    "size": "m",
    "signature": "aGk=",
    "took": "PT90S",
    "at": "12:30:00",
    "place": [1.5, 2.5],
    "first": None,
    "extra": {"anything": [1, None]},
}
CODECS: dict[str, Codec[Any]] = {name: Codec(family) for name, family in FAMILIES.items()}


def wrong_fields(call: Callable[[], Any]) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        call()
    return list(caught.value.fields)


def test_one_tree() -> None:
    trees = [codec.tree for codec in CODECS.values()]
    assert all(tree == trees[0] for tree in trees)
    assert set(trees[0].definitions) == {"Order", "Line", "Status"}
    assert trees[0].definitions["Status"].values == ("sent", "new", "paid")  # type: ignore[union-attr]


def test_one_schema() -> None:
    schemas = [json.dumps(json_schema(codec.tree)) for codec in CODECS.values()]
    assert all(schema == schemas[0] for schema in schemas)


def test_one_json() -> None:
    payload = msgspec.json.encode(ORDER)
    for codec in CODECS.values():
        value = codec.decode(payload)
        assert codec.to_builtins(value) == ORDER
        assert codec.from_builtins(ORDER) == value
        assert codec.decode(codec.encode(value)) == value
        assert msgspec.json.decode(codec.encode(value)) == ORDER


def test_defaults_and_unknown_fields() -> None:
    line = {"sku": "ab", "count": 3, "price": "9.90"}
    for codec in CODECS.values():
        value = codec.from_builtins({**ORDER, "first": line, "unknown": 1})
        first = value["first"] if isinstance(value, dict) else value.first
        assert (first.get("colours", []) if isinstance(first, dict) else first.colours) == []
        assert "unknown" not in codec.to_builtins(value)


def _set(*steps: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(order: Any) -> None:
        for step in steps[:-1]:
            order = order[step]
        order[steps[-1]] = value

    return change


def _drop(*steps: Any) -> Callable[[dict[str, Any]], None]:
    def change(order: Any) -> None:
        for step in steps[:-1]:
            order = order[step]
        del order[steps[-1]]

    return change


# What is done to the order, and what is then wrong with it.
FAULTS: list[tuple[Callable[[dict[str, Any]], None], str, str]] = [
    (_set("lines", 1, "count", value=0), "$.lines[1].count", "must be >= 1"),
    (_set("lines", 1, "count", value=1001), "$.lines[1].count", "must be <= 1000"),
    (_set("lines", 0, "count", value=True), "$.lines[0].count", "Expected `int`, got `bool`"),
    (_set("lines", 0, "count", value=1.0), "$.lines[0].count", "Expected `int`, got `float`"),
    (_set("lines", 0, "count", value="3"), "$.lines[0].count", "Expected `int`, got `str`"),
    (_drop("lines", 1, "price"), "$.lines[1].price", "required"),
    (_set("lines", 1, "price", value="dear"), "$.lines[1].price", "must be a decimal number"),
    (_set("lines", 1, "price", value="NaN"), "$.lines[1].price", "must be a finite number"),
    (_set("lines", 1, "price", value="1_0"), "$.lines[1].price", "must be a decimal number"),
    (_set("lines", 1, "price", value=None), "$.lines[1].price", "Expected `decimal`, got `null`"),
    (_set("lines", 0, value=[]), "$.lines[0]", "Expected `object`, got `array`"),
    (_set("lines", value=[]), "$.lines", "must have at least 1 item"),
    (_set("lines", value={}), "$.lines", "Expected `array`, got `object`"),
    (_set("named", "two words", "sku", value="a"), '$.named["two words"].sku', "must have at least 2 characters"),
    (_set("named", "one", "sku", value="a" * 21), "$.named.one.sku", "must have at most 20 characters"),
    (_set("named", "one", "colours", value=["a", 1]), "$.named.one.colours[1]", "Expected `str`, got `int`"),
    (_drop("named", "one", "sku"), "$.named.one.sku", "required"),
    (_set("status", value="lost"), "$.status", 'not one of "sent", "new", "paid"'),
    (_set("status", value=1), "$.status", "Expected `str`, got `int`"),
    (_set("size", value="xl"), "$.size", 'not one of "s", "m", "l"'),
    (_set("id", value="123"), "$.id", "must be a UUID"),
    (_set("placed", value="yesterday"), "$.placed", "must be a date and time (RFC 3339)"),
    (_set("placed", value="2026-01-31"), "$.placed", "must be a date and time (RFC 3339)"),
    (_set("placed", value=1), "$.placed", "Expected `datetime`, got `int`"),
    (_set("due", value="2026-02-30"), "$.due", "must be a date (RFC 3339)"),
    (_set("due", value=5), "$.due", "Expected `date | null`, got `int`"),
    (_set("weight", value=0), "$.weight", "must be > 0"),
    (_set("weight", value="heavy"), "$.weight", "Expected `float`, got `str`"),
    (_drop("weight"), "$.weight", "required"),
    (_set("tags", value=["x", "y", "x"]), "$.tags[2]", "stands in the set already"),
    (_set("tags", value=["x", 1]), "$.tags[1]", "Expected `str`, got `int`"),
    (_set("signature", value="no base64!"), "$.signature", "must be base64"),
    (_set("signature", value="a-_="), "$.signature", "must be base64"),
    (_set("took", value="90"), "$.took", "must be a duration in days or smaller units (ISO 8601)"),
    (_set("took", value="P1Y"), "$.took", "must be a duration in days or smaller units (ISO 8601)"),
    (_set("at", value="noon"), "$.at", "must be a time of day (RFC 3339)"),
    (_set("place", value=[1.0]), "$.place", "must have 2 items, not 1"),
    (_set("place", value=[1.0, "x"]), "$.place[1]", "Expected `float`, got `str`"),
    (_set("first", value={"sku": "ab", "count": 1}), "$.first.price", "required"),
    (_set("first", value=1), "$.first", "Expected `object | null`, got `int`"),
]


@pytest.mark.parametrize(("change", "path", "message"), FAULTS)
@pytest.mark.parametrize("family", CODECS)
def test_each_fault(family: str, change: Callable[[dict[str, Any]], None], path: str, message: str) -> None:
    order = json.loads(json.dumps(ORDER))
    change(order)
    payload, codec = msgspec.json.encode(order), CODECS[family]
    assert wrong_fields(lambda: codec.decode(payload)) == [(path, message)]
    assert wrong_fields(lambda: codec.from_builtins(order)) == [(path, message)]


@pytest.mark.parametrize("family", CODECS)
def test_three_faults_at_once(family: str) -> None:
    order = json.loads(json.dumps(ORDER))
    for change in (_set("lines", 1, "count", value=0), _set("named", "one", "price", value="x"), _drop("weight")):
        change(order)
    expected = [
        ("$.lines[1].count", "must be >= 1"),
        ("$.named.one.price", "must be a decimal number"),
        ("$.weight", "required"),
    ]
    payload, codec = msgspec.json.encode(order), CODECS[family]
    assert wrong_fields(lambda: codec.decode(payload)) == expected
    assert wrong_fields(lambda: codec.from_builtins(order)) == expected
    with pytest.raises(Invalid, match=r"the message is not a valid Order: .* at \$\.lines\[1\]\.count \(and 2 more\)"):
        codec.decode(payload)
