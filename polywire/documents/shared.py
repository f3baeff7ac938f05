"""What many operations of an OpenAPI document share: problems, request headers, the hub's own schemas."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "DURATION",
    "HEADERS",
    "PROBLEMS",
    "SCHEMAS",
    "SECURITY",
    "event_schema",
    "lines_schema",
    "problem_responses",
    "problems",
]

Json = dict[str, Any]

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "Invalid": (400, "The request is wrong; every wrong field is named."),
    "Unauthenticated": (401, "An API key is missing, or not known."),
    "Denied": (403, "The caller may not."),
    "NotFound": (404, "There is no such thing."),
    "NotAcceptable": (406, "It cannot be answered in what Accept names."),
    "RequestTimeout": (408, "The body did not come in time."),
    "Conflict": (409, "It exists with other content, or its state forbids this."),
    "StaleCursor": (410, "What the cursor points at is kept no more."),
    "TooLarge": (413, "Over a limit of size."),
    "Unsupported": (415, "The body is of a type that is not taken here."),
    "LimitExceeded": (429, "Over a limit of number or rate; `Retry-After` says when to come again."),
    "Internal": (500, "A fault of the hub or of the operation."),
    "Unavailable": (503, "Not now; `Retry-After` says when to come again."),
    "DeadlineExceeded": (504, "It took longer than it was given."),
}
"""Component and status of each error that an answer may be, and what it means."""

_OF_BODIES: Final = ("RequestTimeout",)
_OF_CURSORS: Final = ("StaleCursor",)
_OF_ANSWERS: Final = ("NotAcceptable",)


def problems(*, body: bool, answer: bool, cursor: bool = False) -> Json:
    """The responses that tell a problem. ``body``: the request may have one; ``answer``: there are forms to choose
    from; ``cursor``: it takes one."""
    left_out = {
        *(() if body else _OF_BODIES),
        *(() if answer else _OF_ANSWERS),
        *(() if cursor else _OF_CURSORS),
    }
    return {
        str(status): {"$ref": f"#/components/responses/{name}"}
        for name, (status, _) in PROBLEMS.items()
        if name not in left_out
    }


def problem_responses(problem: str) -> Json:
    """``problem``: the schema's reference."""
    told = {"schema": {"$ref": problem}}
    content = {"application/problem+json": told, "application/problem+xml": told}
    return {name: _problem_response(status, text, content) for name, (status, text) in PROBLEMS.items()}


def _problem_response(status: int, text: str, content: Json) -> Json:
    if status not in (401, 429, 503):
        return {"description": text, "content": content}
    if status == 401:
        headers = {"WWW-Authenticate": {"description": "How to say who is asking.", "schema": {"type": "string"}}}
    else:
        headers = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {"description": text, "headers": headers, "content": content}


DURATION: Final = {
    "type": "string",
    "pattern": r"^(?:(?:[0-9]{1,3}(?:\.[0-9]{1,3})?(?:ms|s|m|h|d|w))+|[0-9]{1,8})$",
    "examples": ["30s", "500ms", "1h30m"],
}
"""As `polywire.core.durations` reads it, without its longest."""


def _header(name: str, text: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": text, "schema": schema}


HEADERS: Final[dict[str, Json]] = {
    "Timeout": _header("Polywire-Timeout", "How long the call may take: a duration as `30s`.", DURATION),
    "Prefer": _header(
        "Prefer",
        "`respond-async`: a job is made of the call, which is answered at once (RFC 7240).",
        {"type": "string", "examples": ["respond-async"]},
    ),
    "CallDelay": _header("Polywire-Delay", "Of a job: not to be begun before. A duration as `10m`.", DURATION),
    "IfNoneMatch": _header(
        "If-None-Match", "The `ETag` of an answer that the caller has: 304 if it is still the same.", {"type": "string"}
    ),
    "Key": _header("Polywire-Key", "The message's key; as `?key=`.", {"type": "string"}),
    "Id": _header("Polywire-Id", "The message's id.", {"type": "string", "minLength": 1, "maxLength": 255}),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        "What was done under this key before is not done again.",
        {"type": "string", "minLength": 1, "maxLength": 255},
    ),
    "Delay": _header("Polywire-Delay", "Publish it later: a duration as `30s`.", DURATION),
    "ExpiresIn": _header("Polywire-Expires-In", "After that it is of no use any more: a duration as `1h`.", DURATION),
    "Retain": _header("Polywire-Retain", "Keep it as the latest of its key.", {"type": "boolean"}),
    "Priority": _header("Polywire-Priority", "", {"type": "integer", "minimum": 0, "maximum": 255}),
    "LastEventId": _header("Last-Event-ID", "Go on after this event; a browser says it by itself.", {"type": "string"}),
}


def event_schema(data: Json | None) -> Json:
    """Of a server-sent event: each is told like this, not the stream as a whole. ``data``: of its JSON; None: any
    text."""
    told: Json = {"type": "string"}
    if data is not None:
        told |= {"contentMediaType": "application/json", "contentSchema": data}
    properties = {"id": {"type": "string"}, "event": {"type": "string"}, "data": told, "retry": {"type": "integer"}}
    return {"type": "object", "properties": properties}


def lines_schema(item: Json) -> Json:
    """Of lines of JSON: all of them are told as an array."""
    return {"type": "array", "items": item}


SECURITY: Final[Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_TIME: Final = {"type": "string", "format": "date-time"}
_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}

SCHEMAS: Final[dict[str, Json]] = {
    "Problem": {
        "type": "object",
        "description": "What went wrong, as RFC 9457 has it.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and where."},
            "code": {"type": "string", "description": "For programs: the same on every protocol."},
            "hint": {"type": "string", "description": "What can be done about it."},
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "errors": {
                "type": "array",
                "description": "Every wrong field.",
                "items": {
                    "type": "object",
                    "required": ["path", "message"],
                    "properties": {
                        "path": {"type": "string", "examples": ["$.readings[3].celsius", "query.limit"]},
                        "message": _TEXT,
                    },
                },
            },
        },
    },
    "Receipt": {
        "type": "object",
        "description": "Where a published message stands.",
        "required": ["id", "position", "topic", "key", "time"],
        "properties": {
            "id": _TEXT,
            "position": {**_TEXT_OR_NULL, "description": "Null while a delayed message waits."},
            "topic": _TEXT,
            "key": _TEXT_OR_NULL,
            "key_base64": {"type": "string", "contentEncoding": "base64", "description": "A key that is not text."},
            "time": _TIME,
            "due": {**_TIME, "description": "When a delayed message is published."},
            "duplicate": {"type": "boolean", "description": "It was published before, under this idempotency key."},
        },
    },
    "Receipts": {
        "type": "object",
        "description": "Of a batch.",
        "required": ["count", "receipts"],
        "properties": {"count": {"type": "integer"}, "receipts": {"type": "array", "items": {"$ref": "Receipt"}}},
    },
    "Message": {
        "type": "object",
        "description": "A message of a topic.",
        "required": ["id", "position", "key", "time", "content_type", "headers"],
        "properties": {
            "id": _TEXT,
            "position": _TEXT,
            "topic": _TEXT,
            "key": _TEXT_OR_NULL,
            "key_base64": {"type": "string", "contentEncoding": "base64"},
            "time": {**_TIME, "description": "When it was stored."},
            "content_type": _TEXT_OR_NULL,
            "headers": {"type": "object"},
            "data": {"description": "The payload, where it is JSON or text."},
            "data_base64": {"type": "string", "contentEncoding": "base64", "description": "Any other payload."},
            "producer_time": _TIME,
            "expires": _TIME,
            "priority": {"type": "integer"},
            "reply_to": _TEXT,
            "correlation_id": _TEXT,
            "correlation_id_base64": {"type": "string", "contentEncoding": "base64"},
            "retained": {"type": "boolean"},
        },
    },
    "Job": {
        "type": "object",
        "description": "A call that runs on its own, and whose result is kept.",
        "required": ["id", "operation", "status", "submitted", "attempt"],
        "properties": {
            "id": _TEXT,
            "operation": _TEXT,
            "status": {"type": "string", "enum": ["waiting", "running", "succeeded", "failed", "cancelled"]},
            "submitted": _TIME,
            "attempt": {"type": "integer", "description": "How often it was begun."},
            "due": {**_TIME, "description": "When it is tried, or tried again."},
            "started": _TIME,
            "ended": _TIME,
            "expires": {**_TIME, "description": "When it is forgotten."},
            "progress": {"description": "What it reported last."},
            "result": {"description": "Of one that succeeded."},
            "result_base64": {"type": "string", "contentEncoding": "base64"},
            "content_type": _TEXT,
            "error": {"type": "object", "description": "Of one that failed, or of the attempt before."},
        },
    },
    "JobEvent": {
        "type": "object",
        "description": "What happened to a job.",
        "required": ["time", "attempt"],
        "properties": {
            "cursor": {"type": "string", "description": "Of a line: to go on `after`. An event has it as `id`."},
            "event": {
                "type": "string",
                "enum": ["submitted", "started", "progress", "retrying", "succeeded", "failed", "cancelled"],
            },
            "time": _TIME,
            "attempt": {"type": "integer"},
            "due": _TIME,
            "progress": {},
            "result": {},
            "result_base64": {"type": "string", "contentEncoding": "base64"},
            "content_type": _TEXT,
            "error": {"type": "object"},
        },
    },
    "StreamError": {
        "type": "object",
        "description": "The last line of a stream that failed.",
        "required": ["error"],
        "properties": {"error": {"$ref": "Problem"}},
    },
    "CloudEvent": {
        "type": "object",
        "description": "CloudEvents 1.0, in structured mode.",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "subject": _TEXT,
            "time": _TIME,
            "datacontenttype": _TEXT,
            "partitionkey": {"type": "string", "description": "The message's key."},
            "data": {},
            "data_base64": {"type": "string", "contentEncoding": "base64"},
        },
    },
    "Reset": {
        "type": "object",
        "description": "`event: reset`: messages were missed, or the place to go on from is not known.",
        "required": ["reason", "oldest", "newest"],
        "properties": {"reason": _TEXT, "oldest": _TEXT, "newest": _TEXT},
    },
}
"""The hub's own. A reference here is the name alone."""
