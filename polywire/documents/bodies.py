"""The body of a request in each of its media types: schema and example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from polywire.contract import tree as types
from polywire.contract.tree import Field, Tree, Type
from polywire.documents.draft import Draft, Json
from polywire.formats.xml import write_xml

__all__ = [
    "BYTES",
    "EVENTS",
    "FORM",
    "JSON",
    "LINES",
    "MULTIPART",
    "OCTETS",
    "XML",
    "Body",
    "given",
    "holds_files",
    "in_media_type",
]

JSON: Final = "application/json"
XML: Final = "application/xml"
OCTETS: Final = "application/octet-stream"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
LINES: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
BYTES: Final[Json] = {"type": "string", "format": "binary"}


class Body(NamedTuple):
    """A type as a body. ``fields`` are those of an object; ``example`` is in JSON-like builtins, or `UNSET`."""

    schema: Json
    fields: Sequence[Field]
    tree: Tree
    example: Any


def in_media_type(draft: Draft, body: Body, media: str) -> Json | None:
    """None where the type cannot well be told in this media type."""
    if media == OCTETS:
        return {"schema": BYTES}
    if media == XML:
        return _with_example(body.schema, _written(body))
    if media in (FORM, MULTIPART):
        return _form(draft, body, files=media == MULTIPART)
    return _with_example(body.schema, body.example)


def holds_files(draft: Draft, body: Body) -> bool:
    return any(draft.schemas.is_file(given(field.type)) for field in body.fields)


def _with_example(schema: Json, example: Any) -> Json:
    return {"schema": schema} if example is UNSET else {"schema": schema, "example": example}


def _written(body: Body) -> Any:
    """An example in XML. Its root may have any name; the type's own reads best."""
    if body.example is UNSET:
        return UNSET
    root = body.tree.root
    name = root.name if isinstance(root, types.Reference) and root.name.isidentifier() else "request"
    return write_xml(body.example, body.tree, name).decode()


def _form(draft: Draft, body: Body, *, files: bool) -> Json | None:
    """A form takes no unknown names. In one with files a file is its bytes, with name and type around them."""
    if not body.fields or not all(_fits(draft, field.type, files=files) for field in body.fields):
        return None
    binary = [field for field in body.fields if _is_binary(draft, field.type)] if files else []
    own = draft.schemas.inline(body.schema)
    properties = {**own["properties"], **{field.name: _part(field) for field in binary}}
    schema = {**own, "properties": properties, "additionalProperties": False}
    return _with_example(schema, UNSET if binary else body.example)


def _part(field: Field) -> Json:
    several = isinstance(given(field.type), types.Array)
    part: Json = {"type": "array", "items": BYTES} if several else dict(BYTES)
    return {**part, "description": field.description} if field.description else part


def _fits(draft: Draft, type: Type, *, files: bool) -> bool:
    """Whether a field of a form can say it without names within names."""
    type_given = given(type)
    if draft.schemas.is_file(type_given):
        return files
    if isinstance(type_given, types.Array):
        return _is_scalar(draft, given(type_given.item)) or (files and draft.schemas.is_file(type_given.item))
    return _is_scalar(draft, type_given)


def _is_scalar(draft: Draft, type: Type) -> bool:
    if isinstance(type, types.Reference):
        return isinstance(draft.schemas.definitions[type.name], types.Enumeration)
    return not isinstance(type, (types.Union, types.Array, types.Row, types.Map, types.Anything))


def _is_binary(draft: Draft, type: Type) -> bool:
    type_given = given(type)
    if isinstance(type_given, types.Array):
        return _is_binary(draft, type_given.item)
    return isinstance(type_given, types.Binary) or draft.schemas.is_file(type_given)


def given(type: Type) -> Type:
    """What a type is where null cannot be said, as in a query or a form: who means null leaves the field out."""
    if not isinstance(type, types.Union):
        return type
    members = tuple(member for member in type.members if not isinstance(member, types.Null))
    return members[0] if len(members) == 1 else types.Union(members=members, discriminator=type.discriminator)
