"""Operations in an OpenAPI document: where each is called, what it takes, what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from polywire.contract.codec import Codec
from polywire.contract.files import File
from polywire.contract.operations import Arguments, OperationContract
from polywire.contract.tree import Field
from polywire.core.errors import Invalid
from polywire.documents.bodies import BYTES, EVENTS, MULTIPART, OCTETS, Body, given, holds_files, in_media_type
from polywire.documents.draft import Draft, Json
from polywire.documents.examples import example_of_field
from polywire.documents.jobs import accepted
from polywire.documents.samples import arguments_example, operation_sample
from polywire.documents.shared import event_schema, lines_schema, problems

__all__ = ["Place", "add_operation", "places"]

CALL = "call"
_ALIASES = frozenset({"text/xml", "application/jsonl", "application/ndjson"})
"""Answered to those who ask for them, and not worth a line each."""
_ETAG: Json = {"description": "Of exactly this answer.", "schema": {"type": "string"}}


class Place(NamedTuple):
    """One way to an operation: method and path, and where its arguments come from."""

    method: str
    path: str
    in_path: Arguments | None
    in_query: Arguments | None
    in_body: Arguments | None
    status: int | None


def places(contract: OperationContract) -> Iterator[Place]:
    """On its own path if it has one; by its name otherwise, with GET as well if it is safe."""
    route = contract.route
    if route is not None:
        yield Place(route.method, route.path, route.in_path, route.in_query, route.in_body, contract.status)
        return
    path = f"/operations/{contract.name}"
    given = contract.request if contract.request.parameters else None
    yield Place("POST", path, None, None, given, None)
    if contract.safe:
        yield Place("GET", path, None, given, None, None)


def add_operation(draft: Draft, contract: OperationContract) -> None:
    tag = contract.name.rpartition(".")[0] or "operations"
    draft.tags.setdefault(tag, "")
    for place in places(contract):
        operation = _operation(draft, contract, place)
        operation["tags"] = [tag]
        sample = operation_sample(draft.schemas, contract, place, draft.base)
        needs_key = draft.needs_key(CALL, contract.name)
        draft.add(place.path, place.method, operation, sample, needs_key=needs_key)


def _operation(draft: Draft, contract: OperationContract, place: Place) -> Json:
    twin = place.method == "GET" and contract.route is None
    described: Json = {"operationId": draft.id(f"{contract.name}.get" if twin else contract.name)}
    if contract.summary:
        described["summary"] = contract.summary
    if more := contract.description.partition("\n\n")[2].strip():
        described["description"] = more  # than the summary says
    described["tags"] = []
    described["parameters"] = [
        *_parameters(draft, place.in_path, "path"),
        *_parameters(draft, place.in_query, "query"),
        draft.header("Timeout"),
        *(draft.header(name) for name in _headers(contract, place)),
    ]
    if place.in_body is not None:
        described["requestBody"] = _body(draft, place.in_body)
    described["responses"] = {
        **_success(draft, contract, place),
        **(accepted(draft) if _may_be_job(contract, place) else {}),
        **problems(body=place.in_body is not None, answer=contract.reply is not None),
    }
    return described


def _headers(contract: OperationContract, place: Place) -> tuple[str, ...]:
    if _may_be_job(contract, place):
        return "IdempotencyKey", "Prefer", "CallDelay"
    return ("IfNoneMatch",) if _has_tag(contract, place) else ()


def _may_be_job(contract: OperationContract, place: Place) -> bool:
    """A safe operation may be asked again: there is no need to keep what it answered."""
    return place.method != "GET" and not contract.streams


def _has_tag(contract: OperationContract, place: Place) -> bool:
    return place.method == "GET" and contract.reply is not None and not contract.streams


# --- path and query --------------------------------------------------------------------------------------------------


def _parameters(draft: Draft, arguments: Arguments | None, at: str) -> Iterator[Json]:
    if arguments is None:
        return
    fields = draft.schemas.fields(arguments)
    if fields is None:
        yield _free_parameters(draft, arguments)
        return
    for field in fields:
        yield _parameter(draft, field, at)


def _parameter(draft: Draft, field: Field, at: str) -> Json:
    type_given = given(field.type)
    described: Json = {"name": field.name, "in": at}
    if field.description:
        described["description"] = field.description
    if field.required or at == "path":
        described["required"] = True
    described["schema"] = draft.schema(type_given)
    if field.default is not UNSET and field.default is not None:
        described["schema"] = {**described["schema"], "default": field.default}
    if draft.schemas.is_object(type_given) and at == "query":
        described |= {"style": "deepObject", "explode": True}
    if described.get("required"):
        described["example"] = example_of_field(type_given, field.name, draft.schemas.definitions)
    return described


def _free_parameters(draft: Draft, arguments: Arguments) -> Json:
    """The names are the caller's."""
    parameter = arguments.parameters[0]
    schema = draft.schema(given(draft.schemas.type(parameter.hint)))
    return {"name": parameter.name, "in": "query", "style": "form", "explode": True, "schema": schema}


# --- body ------------------------------------------------------------------------------------------------------------


def _body(draft: Draft, arguments: Arguments) -> Json:
    draft.use(draft.schemas.names_in(arguments))
    schemas = draft.schemas
    body = Body(
        schemas.arguments(arguments),
        schemas.fields(arguments) or (),
        schemas.arguments_tree(arguments),
        arguments_example(schemas, arguments),
    )
    content: Json = {}
    for media in draft.rules.takes(arguments):
        if media not in _ALIASES and (made := in_media_type(draft, body, media)) is not None:
            content[media] = made
    if MULTIPART in content and holds_files(draft, body):  # what most would send comes first
        content = {MULTIPART: content.pop(MULTIPART), **content}
    return {"required": not _may_be_empty(arguments), "content": content}


def _may_be_empty(arguments: Arguments) -> bool:
    if arguments.raw is not None:
        return True
    try:
        arguments.nothing()
    except Invalid:
        return False
    return True


# --- answers ---------------------------------------------------------------------------------------------------------


def _success(draft: Draft, contract: OperationContract, place: Place) -> Json:
    reply = contract.reply
    if reply is None:
        return {str(place.status or 204): {"description": "Done."}}
    content = {media: _answer(draft, reply, media, streams=contract.streams) for media in _offered(draft, contract)}
    described: Json = {"description": _says(contract), "content": content}
    if not _has_tag(contract, place):
        return {str(place.status or 200): described}
    described["headers"] = {"ETag": _ETAG}
    return {
        str(place.status or 200): described,
        "304": {"description": "The caller has this answer already.", "headers": {"ETag": _ETAG}},
    }


def _offered(draft: Draft, contract: OperationContract) -> list[str]:
    """A file is answered under its own type, whatever that is."""
    offers = [media for media in draft.rules.offers(contract) if media not in _ALIASES]
    if contract.reply is not None and contract.reply.type is File:
        offers = ["*/*", *(media for media in offers if media != OCTETS)]
    return offers


def _answer(draft: Draft, reply: Codec[Any], media: str, *, streams: bool) -> Json:
    schema = draft.schema(draft.schemas.type(reply.type))
    if streams:
        return {"schema": _event(draft, schema) if media == EVENTS else lines_schema(_line(draft, schema))}
    if media in (OCTETS, "*/*"):
        return {"schema": BYTES}
    return {"schema": schema}


def _event(draft: Draft, item: Json) -> Json:
    """An item, an error, or the end."""
    return event_schema({"anyOf": [item, draft.own("Problem"), {"type": "object", "maxProperties": 0}]})


def _line(draft: Draft, item: Json) -> Json:
    return {"anyOf": [item, draft.own("StreamError")]}


def _says(contract: OperationContract) -> str:
    if not contract.streams:
        return "The result."
    return "Item after item, as they come: each a line of JSON, or the `data` of an event. An error is the last."
