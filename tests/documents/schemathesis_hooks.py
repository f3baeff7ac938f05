"""What schemathesis may not hold against the hub, each with its reason. Loaded by schemathesis itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import schemathesis
from schemathesis.core.deserialization import DeserializationContext
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

XML = "application/xml"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether the failure counts."""
    if isinstance(failure, AcceptedNegativeData):
        # Text has one spelling for the number 5 and the string "5", and an empty one for nothing.
        return case.media_type not in (XML, *FORMS) and not _is_left_empty(response)
    if isinstance(failure, RejectedPositiveData):
        return not (_is_lost_on_the_way(case) or _cannot_be_said(case, response))
    return True


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Of headers that contradict each other one is left out: nobody waits for a job, and only a job can wait."""
    if not case.headers or case.path.startswith("/topics") or case.meta.generation.mode.is_negative:
        return
    is_job = "respond-async" in case.headers.get("Prefer", "")
    case.headers.pop("Polywire-Timeout" if is_job else "Polywire-Delay", None)


def _is_left_empty(response: Any) -> bool:
    """A field of a query that is left empty counts as not given: browsers send it so."""
    return re.search(r"[?&][^=&]+=(?:&|$)", response.request.url) is not None


def _is_lost_on_the_way(case: Any) -> bool:
    """Into XML schemathesis writes null as the text `null`, and loses names beside a reference; an array without items
    cannot be told in a form."""
    return case.media_type == XML or (case.media_type in FORMS and [] in list(_values(case.body)))


def _cannot_be_said(case: Any, response: Any) -> bool:
    """By a schema: that 4.0 is no integer, and which characters can be printed."""
    return _has_whole_floats(list(_values(case.body))) or b"header.idempotency-key" in response.content


def _has_whole_floats(values: list[Any]) -> bool:
    return any(isinstance(value, float) and value.is_integer() for value in values)


def _values(value: Any) -> Iterator[Any]:
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _values(one)


@schemathesis.serializer("application/x-ndjson")
def _write_lines(context: Any, value: Any) -> bytes:
    items = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(one).encode() for one in items)


@schemathesis.deserializer("application/x-ndjson")
def _read_lines(context: DeserializationContext, response: Any) -> Any:
    return [json.loads(line) for line in response.content.splitlines()]
