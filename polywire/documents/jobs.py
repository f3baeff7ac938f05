"""Jobs in an OpenAPI document: calls that run on their own, and how they are looked at."""

from __future__ import annotations

from collections.abc import Sequence

from polywire.contract.operations import OperationContract
from polywire.documents.bodies import EVENTS, JSON, LINES
from polywire.documents.draft import Draft, Json
from polywire.documents.shared import DURATION, event_schema, lines_schema, problems
from polywire.documents.snippets import Sample

__all__ = ["SAMPLE_JOB", "accepted", "add_jobs"]

SAMPLE_JOB = "JOB"
"""Stands in snippets for the id of a job."""
_TAG = "jobs"
_PATH = "/jobs/{id}"
_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": SAMPLE_JOB}
_CALL = "call"


def accepted(draft: Draft) -> Json:
    """The answer to ``Prefer: respond-async``."""
    text = {"type": "string"}
    headers = {
        "Location": {"description": "Where the job is looked at.", "schema": text},
        "Preference-Applied": {"description": "`respond-async`", "schema": text},
    }
    described = {"description": "A job was made of it.", "headers": headers, "content": _job(draft)}
    return {"202": described}


def _job(draft: Draft) -> Json:
    return {JSON: {"schema": draft.own("Job")}}


def add_jobs(draft: Draft, operations: Sequence[OperationContract]) -> None:
    """``operations`` are those that the reader can make jobs of; without any there is nothing to look at."""
    if not operations:
        return
    draft.tags[_TAG] = "Calls that run on their own, made with `Prefer: respond-async`."
    needs_key = all(draft.needs_key(_CALL, one.name) for one in operations)
    url = f"{draft.base}/jobs/{SAMPLE_JOB}"
    draft.add(_PATH, "GET", _info(draft), Sample("GET", url), needs_key=needs_key)
    draft.add(_PATH, "DELETE", _cancel(draft), Sample("DELETE", url), needs_key=needs_key)
    events = Sample("GET", f"{url}/events", answer="lines")
    draft.add(f"{_PATH}/events", "GET", _events(draft), events, needs_key=needs_key)


def _info(draft: Draft) -> Json:
    wait = {
        "name": "wait",
        "in": "query",
        "description": "How long to wait for its end: a duration as `10s`.",
        "schema": {**DURATION, "default": "0s"},
    }
    return {
        "operationId": draft.id("get_job"),
        "summary": "How a job stands.",
        "tags": [_TAG],
        "parameters": [_ID, wait],
        "responses": {
            "200": {"description": "At once, or when it has ended.", "content": _job(draft)},
            **problems(body=False, answer=False),
        },
    }


def _cancel(draft: Draft) -> Json:
    return {
        "operationId": draft.id("cancel_job"),
        "summary": "Cancel a job.",
        "tags": [_TAG],
        "parameters": [_ID],
        "responses": {
            "200": {"description": "It is cancelled.", "content": _job(draft)},
            **problems(body=False, answer=False),
        },
    }


def _events(draft: Draft) -> Json:
    event = {"anyOf": [draft.own("JobEvent"), draft.own("Problem")]}
    line = {"anyOf": [draft.own("JobEvent"), draft.own("StreamError")]}
    after = {
        "name": "after",
        "in": "query",
        "description": "Only what happened after this event.",
        "schema": {"type": "string"},
    }
    content = {EVENTS: {"schema": event_schema(event)}, LINES: {"schema": lines_schema(line)}}
    return {
        "operationId": draft.id("follow_job"),
        "summary": "What happens to a job, to its end.",
        "tags": [_TAG],
        "parameters": [_ID, after, draft.header("LastEventId")],
        "responses": {
            "200": {"description": "Event after event, as they come.", "content": content},
            "204": {"description": "The reader has seen the last one."},
            **problems(body=False, answer=True),
        },
    }
