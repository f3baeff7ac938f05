"""A request for an operation, or for a topic, with values made up for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import UNSET

from polywire.contract.files import File
from polywire.contract.operations import Arguments, OperationContract
from polywire.contract.tree import Field
from polywire.core.errors import PolywireError
from polywire.documents.examples import example_of, example_of_field
from polywire.documents.schemas import Schemas
from polywire.documents.snippets import Answer, FilePart, Sample

if TYPE_CHECKING:
    from polywire.documents.operations import Place

__all__ = ["arguments_example", "operation_sample", "query_text"]

_TEXT = "hello"


def arguments_example(schemas: Schemas, arguments: Arguments) -> Any:
    """A request in JSON-like builtins; `UNSET` where none was found that the types' own checks take."""
    example = example_of(schemas.arguments_tree(arguments))
    try:
        arguments.from_builtins(example)
    except PolywireError:
        return UNSET
    return example


def operation_sample(schemas: Schemas, contract: OperationContract, place: Place, base: str) -> Sample:
    path, query = place.path, []
    for field in _fields(schemas, place.in_path):
        value = example_of_field(field.type, field.name, schemas.definitions)
        path = path.replace("{" + field.name + "}", quote(query_text(value), safe=""))
    for field in _fields(schemas, place.in_query):
        if field.required:
            query += _pairs(field.name, example_of_field(field.type, field.name, schemas.definitions))
    sample = Sample(place.method, base + path, query, answer=_answer(contract))
    return sample if place.in_body is None else _with_body(sample, schemas, place.in_body)


def _fields(schemas: Schemas, arguments: Arguments | None) -> tuple[Field, ...]:
    return () if arguments is None else schemas.fields(arguments) or ()


def _answer(contract: OperationContract) -> Answer:
    if contract.streams:
        return "lines"
    if contract.reply is None:
        return "nothing"
    return "bytes" if contract.reply.raw or contract.reply.type is File else "json"


def _with_body(sample: Sample, schemas: Schemas, arguments: Arguments) -> Sample:
    if arguments.raw is not None:
        return sample._replace(text=_TEXT, headers=[("Content-Type", "application/octet-stream")])
    fields = schemas.fields(arguments) or ()
    files = [field.name for field in fields if field.required and schemas.is_file(field.type)]
    example = example_of(schemas.arguments_tree(arguments))
    if not files or not isinstance(example, Mapping):
        return sample._replace(json=example)
    pairs = [pair for name, value in example.items() if name not in files for pair in _pairs(name, value)]
    return sample._replace(files=[FilePart(name, "hello.txt", _TEXT) for name in files], fields=pairs)


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [(name, query_text(one)) for one in value]
    if isinstance(value, Mapping):
        return [(f"{name}[{key}]", query_text(one)) for key, one in value.items()]
    return [(name, query_text(value))]


def query_text(value: Any) -> str:
    """A value where only text can stand."""
    return value if isinstance(value, str) else json.dumps(value)
