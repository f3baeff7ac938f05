"""Schemas that say what is accepted: jsonschema judges as the codec does."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from annotated_types import Ge, Le, Len, MultipleOf
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import BaseModel, Field, HttpUrl

from polywire.contract.building import Types, tree_of
from polywire.contract.codec import Codec
from polywire.contract.texts import DURATION
from polywire.contract.tree import Decimal as DecimalNode
from polywire.contract.tree import Map, Tree, types_in
from polywire.core.errors import Invalid
from polywire.documents.json_schema import OPENAPI, definition_schemas, json_schema, type_schema
from tests.contract.orders import FAMILIES
from tests.contract.strategies import mutated, samples

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def schema(hint: Any) -> dict[str, Any]:
    made = json_schema(tree_of(hint))
    assert made.pop("$schema") == "https://json-schema.org/draft/2020-12/schema"
    return made


class Status(Enum):
    SENT = "sent"
    NEW = "new"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    x: int
    y: str = ""


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Any, {}),
        (None, {"type": "null"}),
        (bool, {"type": "boolean"}),
        (Annotated[int, Ge(1), Le(5), MultipleOf(2)], {"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 2}),
        (
            Annotated[float, msgspec.Meta(gt=0, lt=1)],
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ),
        (Annotated[str, Len(1, 3)], {"type": "string", "minLength": 1, "maxLength": 3}),
        (Annotated[str, msgspec.Meta(pattern="^a")], {"type": "string", "pattern": "^a"}),
        (dt.datetime, {"type": "string", "format": "date-time"}),
        (dt.date, {"type": "string", "format": "date"}),
        (dt.time, {"type": "string", "format": "time"}),
        (dt.timedelta, {"type": "string", "format": "duration", "pattern": f"^{DURATION}$"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}),
        (Literal["a"], {"type": "string", "const": "a"}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (None | int, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (
            Annotated[list[int], Len(1, 2)],
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        ),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (
            tuple[int, str],
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        (
            Pair,
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1, "maxItems": 2},
        ),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (
            Annotated[dict[Status, int], Len(1)],
            {
                "type": "object",
                "additionalProperties": {"type": "integer"},
                "propertyNames": {"enum": ["sent", "new"]},
                "minProperties": 1,
                "$defs": {"Status": {"title": "Status", "type": "string", "enum": ["sent", "new"]}},
            },
        ),
        (
            dict[Level, Any],
            {
                "type": "object",
                "additionalProperties": {},
                "propertyNames": {"enum": ["1", "2"]},
                "$defs": {"Level": {"title": "Level", "type": "integer", "enum": [1, 2]}},
            },
        ),
        (dict[UUID, Any], {"type": "object", "additionalProperties": {}, "propertyNames": {"format": "uuid"}}),
    ],
)
def test_each_type(hint: Any, expected: dict[str, Any]) -> None:
    assert schema(hint) == expected


@dataclass
class Reading:
    """What a sensor measured."""

    sensor: Annotated[str, msgspec.Meta(description="Its name")]
    celsius: float = 20.5
    """In the shade."""
    status: Status = Status.NEW
    children: list[Reading] = field(default_factory=list)
    parent: Reading | None = None


READING = {
    "title": "Reading",
    "description": "What a sensor measured.",
    "type": "object",
    "properties": {
        "sensor": {"type": "string", "description": "Its name"},
        "celsius": {"type": "number", "description": "In the shade.", "default": 20.5},
        "status": {"$ref": "#/$defs/Status", "default": "new"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Reading"}},
        "parent": {"anyOf": [{"$ref": "#/$defs/Reading"}, {"type": "null"}], "default": None},
    },
    "required": ["sensor"],
}


def test_an_object() -> None:
    status = {"title": "Status", "type": "string", "enum": ["sent", "new"]}
    assert schema(Reading) == {"$ref": "#/$defs/Reading", "$defs": {"Reading": READING, "Status": status}}


def test_references_of_openapi() -> None:
    types = Types()
    root = types.add(list[Reading])
    assert type_schema(root, types.definitions, OPENAPI) == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Reading"},
    }
    made = json.dumps(definition_schemas(types.definitions, OPENAPI))
    assert made == json.dumps({"Reading": READING, "Status": definition_schemas(types.definitions)["Status"]}).replace(
        "#/$defs/", "#/components/schemas/"
    )


def test_a_document_has_only_the_definitions_that_it_needs() -> None:
    types = Types()
    types.add(Reading)
    level = types.add(Level)
    assert list(json_schema(Tree(level, types.definitions))["$defs"]) == ["Level"]


class Cat(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


PETS = [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}]


def test_a_tagged_union() -> None:
    types = Types()
    root = types.add(Cat | Dog | None)
    assert type_schema(root, types.definitions, OPENAPI) == {
        "anyOf": [
            {
                "oneOf": PETS,
                "required": ["type"],
                "discriminator": {
                    "propertyName": "type",
                    "mapping": {"Cat": "#/components/schemas/Cat", "Dog": "#/components/schemas/Dog"},
                },
            },
            {"type": "null"},
        ]
    }
    assert definition_schemas(types.definitions)["Cat"] == {
        "title": "Cat",
        "type": "object",
        "properties": {"type": {"type": "string", "const": "Cat"}, "lives": {"type": "integer"}},
        "required": ["lives"],
        "additionalProperties": False,
    }


class Account(BaseModel):
    page: HttpUrl
    name: str = Field(min_length=1, examples=["ann"])


def test_formats_of_pydantic() -> None:
    assert schema(Account)["$defs"]["Account"]["properties"]["page"] == {
        "type": "string",
        "format": "uri",
        "minLength": 1,
        "maxLength": 2083,
    }


# --- the codec and the schema agree ----------------------------------------------------------------------------------

FORMATS = FormatChecker(formats=())


def _readable(format: str, hint: Any) -> None:
    @FORMATS.checks(format)
    def check(value: Any) -> bool:
        if not isinstance(value, str):
            return True
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            return False
        return True


for name, hint in {
    "date-time": dt.datetime,
    "date": dt.date,
    "time": dt.time,
    "duration": dt.timedelta,
    "uuid": UUID,
}.items():
    _readable(name, hint)


def accepts(codec: Codec[Any], builtins: Any) -> bool:
    try:
        codec.from_builtins(builtins)
    except Invalid:
        return False
    return True


def validator(tree: Tree) -> Draft202012Validator:
    schema = json_schema(tree)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FORMATS)


@QUICK
@given(st.one_of(samples(), samples(families=("pydantic", "dataclass"))))
def test_what_is_written_is_valid(sample: tuple[Any, Any]) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    validator(codec.tree).validate(codec.to_builtins(value))


@QUICK
@given(st.one_of(samples(), samples(families=("pydantic", "dataclass"))), st.data())
def test_what_is_valid_is_accepted_and_nothing_else(sample: tuple[Any, Any], data: st.DataObject) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    assume(not codec.raw)
    assume(not any(map(_says_more, types_in(codec.tree))))
    builtins = data.draw(mutated(codec.to_builtins(value)))
    assume(not _is_strange(builtins))
    assert accepts(codec, builtins) == validator(codec.tree).is_valid(builtins), builtins


def _says_more(type: Any) -> bool:
    """What no schema can say: bounds of decimals in text, and of numbers in names; bytes within base64."""
    return (
        (isinstance(type, DecimalNode) and type != DecimalNode())
        or (isinstance(type, Map) and type.key.__class__.__name__ in ("Integer", "Reference"))
        or (type.__class__.__name__ == "Binary" and type.min_length is not None)
    )


def _is_strange(value: Any) -> bool:
    """1.0 is an integer to JSON Schema; and to Python, ``$`` stands before the end of a last line, too."""
    if isinstance(value, dict):
        return any(map(_is_strange, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(_is_strange, value))
    return value.is_integer() if isinstance(value, float) else isinstance(value, str) and value.endswith("\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_schema_of_each_family_is_a_schema(family: str) -> None:
    Draft202012Validator.check_schema(json_schema(tree_of(FAMILIES[family])))


def test_numbers_that_are_integers_to_the_schema_only() -> None:
    """Told in the module's docstring."""
    assert Draft202012Validator(schema(int)).is_valid(1.0)
    assert not accepts(Codec(int), 1.0)
    assert Draft202012Validator(schema(Annotated[Decimal, Ge(1)])).is_valid("0")
    assert not accepts(Codec(Annotated[Decimal, Ge(1)]), "0")
