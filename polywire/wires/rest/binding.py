"""Where REST and the core meet: HTTP headers → `Record`, receipts → JSON, errors → problem+json (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from polywire.core.durations import parse_duration
from polywire.core.errors import DeadlineExceeded, FieldError, Invalid, PolywireError, TooLarge, Unsupported
from polywire.core.message import Flag, Header, Message, Origin, Record
from polywire.formats import cloudevents
from polywire.formats.payloads import type_of
from polywire.server import problems
from polywire.server.envelope import check_json, encode, is_json_type, parse_time
from polywire.server.views import ReceiptView, receipt_view
from polywire.wires.rest import accept, problem_xml

__all__ = [
    "STATUS",
    "CallHeaders",
    "ContentType",
    "MethodNotAllowed",
    "Publication",
    "ReceiptView",
    "RequestTimeout",
    "Response",
    "call_headers",
    "content_type_of",
    "json_response",
    "ndjson_payloads",
    "problem",
    "publication",
    "raw_response",
    "receipt_view",
    "require_json",
    "status_of",
]

Headers = list[tuple[bytes, bytes]]


class Response(NamedTuple):
    """A whole answer. ``content-length`` is added when it is sent."""

    status: int
    body: bytes
    headers: Headers


JSON = b"application/json"
JSON_HEADERS: Headers = [(b"content-type", JSON)]


def json_response(status: int, value: Any) -> Response:
    return Response(status, encode(value), JSON_HEADERS)


# --- errors ----------------------------------------------------------------------------------------------------------


class MethodNotAllowed(Unsupported):
    """The path exists, the method does not. ``allow`` lists those that do."""

    code, title = "method_not_allowed", "Method not allowed"

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail, hint=f"allowed here: {allow}")
        self.allow = allow


class RequestTimeout(DeadlineExceeded):
    code, title, blame = "request_timeout", "Request body took too long", "caller"


STATUS = {
    **problems.STATUS,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "stale_cursor": 409,
    "stale_cursor.expired": 410,
}
"""Error code → HTTP status: HTTP's own table and what is finer here. ``code.reason`` goes before ``code`` where an
error says a reason."""


def status_of(error: PolywireError) -> int:
    return STATUS.get(f"{error.code}.{getattr(error, 'reason', '')}") or STATUS.get(error.code, 500)


_PROBLEMS = ("application/json", "application/problem+json", "application/problem+xml", "application/xml", "text/xml")


def problem(error: PolywireError, wanted: bytes | None = None) -> Response:
    """``{"type", "title", "status", "detail", "code", "hint", "errors": [{"path", "message"}]}`` and what the error
    adds; in XML for an Accept header that takes no JSON."""
    status, headers, body = problems.problem(error, status_of(error))
    headers = [pair for pair in headers if pair[0] != b"content-length"]
    if wanted is not None and (accept.choose(wanted, _PROBLEMS) or "").endswith("xml"):
        headers[0] = b"content-type", problem_xml.CONTENT_TYPE
        body = problem_xml.problem_xml(problems.problem_view(error, status))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return Response(status, body, headers)


# --- content types ---------------------------------------------------------------------------------------------------


class ContentType(NamedTuple):
    text: str
    json: bool
    lines: bool
    """One message a line (NDJSON, JSON Lines)."""
    form: Literal["xml", "form", "multipart", "event", "events"] | None = None
    """What is read in a way of its own."""


BYTES = ContentType("application/octet-stream", False, False)
_CONTENT_TYPE = re.compile(rb"[!-~][ -~]{0,255}")
_FORMS: dict[str, Literal["xml", "form", "multipart"]] = {
    "application/xml": "xml",
    "text/xml": "xml",
    "application/x-www-form-urlencoded": "form",
    "multipart/form-data": "multipart",
}
_LINES = {
    "application/x-ndjson",
    "application/jsonl",
    "application/ndjson",
    "application/x-jsonlines",
    "application/json-lines",
}


def content_type_of(raw: bytes | None) -> ContentType:
    """Without a content type, a body is bytes. Raises `Invalid` for one that no reader could be given back."""
    return BYTES if raw is None else _content_type(raw)


@lru_cache(maxsize=256)
def _content_type(raw: bytes) -> ContentType:
    if not _CONTENT_TYPE.fullmatch(raw):
        raise Invalid(
            "Content-Type: not a media type", fields=[FieldError("header.content-type", "1 to 256 printable ASCII")]
        )
    text = raw.decode("ascii")
    media = text.partition(";")[0].strip().lower()
    if media in _LINES:
        return ContentType("application/json", True, True)
    mode = cloudevents.mode_of(text)
    if mode is not None:
        return ContentType(text, True, False, "events" if mode == "batch" else "event")
    form = "xml" if media.endswith("+xml") else _FORMS.get(media)
    return ContentType(text, is_json_type(text), False, form)


def require_json(payload: bytes) -> None:
    """Raises `Invalid` that says what is wrong at which line, column and byte."""
    if wrong := check_json(payload):
        raise Invalid(
            f"the body is not well-formed JSON: {wrong}",
            hint="to publish bytes as they are, say another Content-Type",
            fields=[FieldError("$", wrong)],
        )


MOST_BAD_LINES = 100


def ndjson_payloads(body: bytes, most: int) -> list[bytes]:
    """The messages of an NDJSON body; blank lines are passed over. Raises `Invalid` (``$[3]`` for each bad one),
    `TooLarge`."""
    # Counted before anything is split: a megabyte of line ends would become a million objects.
    if body.count(b"\n") > most:
        raise TooLarge(f"more than {most} lines in one batch", hint="send several batches")
    payloads = [line for line in (raw.strip() for raw in body.split(b"\n")) if line]
    if not payloads:
        raise Invalid("the batch is empty", hint="send one JSON text a line")
    bad: list[FieldError] = []
    for index, payload in enumerate(payloads):
        if wrong := check_json(payload):
            bad.append(FieldError(f"$[{index}]", wrong))
            if len(bad) >= MOST_BAD_LINES:
                break
    if bad:
        raise Invalid(f"not well-formed JSON in {bad[0].path}: {bad[0].message}; nothing was stored", fields=bad)
    return payloads


# --- publishing ------------------------------------------------------------------------------------------------------


class Publication:
    """What the headers of a publish say about its messages."""

    __slots__ = (
        "correlation_id",
        "delay",
        "expires_in",
        "flags",
        "headers",
        "id",
        "key",
        "priority",
        "reply_to",
        "time",
    )

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.id = ""
        self.flags = 0
        self.delay: int | None = None
        self.expires_in: int | None = None
        self.priority = 0
        self.time: int | None = None
        self.reply_to: str | None = None
        self.correlation_id: bytes | None = None
        self.headers: list[Header] = []

    def records(self, payloads: list[bytes], content_type: str, now: int, origin: Origin) -> list[Record]:
        """One record for each payload. An idempotency key of a batch is made one for each of its messages."""
        expires = None if self.expires_in is None else now + self.expires_in
        single = len(payloads) == 1
        return [
            Record(
                payload,
                self.key,
                self.id if single or not self.id else f"{self.id}#{index}",
                content_type,
                list(self.headers),
                self.time,
                expires,
                self.priority,
                self.reply_to,
                self.correlation_id,
                self.flags,
                origin,
            )
            for index, payload in enumerate(payloads)
        ]


USER_HEADER = b"polywire-header-"


def publication(headers: Iterable[tuple[bytes, bytes]]) -> Publication | None:
    """Read the ``Polywire-*`` and ``Idempotency-Key`` headers; None if there are none. Raises `Invalid` naming the
    header."""
    special = [pair for pair in headers if pair[0][:9] == b"polywire-" or pair[0] == b"idempotency-key"]
    return _publication(special) if special else None


def _publication(special: list[tuple[bytes, bytes]]) -> Publication:
    said = Publication()
    seen: set[bytes] = set()
    for name, value in special:
        if name.startswith(USER_HEADER):
            said.headers.append((name[len(USER_HEADER) :].decode("latin-1"), _text(value)))
            continue
        if name in seen:
            raise _wrong(name, "given twice")
        seen.add(name)
        read = _READERS.get(name)
        if read is None:
            near = get_close_matches(name.decode("latin-1")[:64], [known.decode() for known in _READERS], 1)
            raise _wrong(name, "unknown header", hint=f"did you mean {near[0]}?" if near else None)
        try:
            read(said, value)
        except Invalid as error:
            raise _wrong(name, error.detail, hint=error.hint) from None
    return said


def _wrong(name: bytes, message: str, hint: str | None = None) -> Invalid:
    shown = name.decode("latin-1")[:64]
    return Invalid(f"header {shown}: {message}", hint=hint, fields=[FieldError(f"header.{shown}", message)])


def _text(value: bytes) -> str:
    """HTTP leaves the encoding open: UTF-8 where it is that, else Latin-1, which is what RFC 9110 calls historical."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _read_key(said: Publication, value: bytes) -> None:
    said.key = value


def _read_id(said: Publication, value: bytes) -> None:
    said.id = _identity(said, _text(value))


def _read_idempotency_key(said: Publication, value: bytes) -> None:
    text = _text(value)
    # The header is a structured string in its draft, quotes and all; most clients send the bare value.
    quoted = len(text) >= 2 and text[0] == text[-1] == '"'
    said.id = _identity(said, text[1:-1] if quoted else text)
    said.flags |= Flag.DEDUP


def _identity(said: Publication, text: str) -> str:
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise Invalid("an id has 1 to 255 printable characters")
    if said.id and said.id != text:
        raise Invalid("Polywire-Id and Idempotency-Key say different ids")
    return text


def _read_delay(said: Publication, value: bytes) -> None:
    said.delay = parse_duration(_text(value))


def _read_expires_in(said: Publication, value: bytes) -> None:
    said.expires_in = parse_duration(_text(value))


def _read_retain(said: Publication, value: bytes) -> None:
    text = _text(value).lower()
    if text not in ("true", "false", "1", "0"):
        raise Invalid("expected true or false")
    if text in ("true", "1"):
        said.flags |= Flag.RETAINED


def _read_priority(said: Publication, value: bytes) -> None:
    if not value.isdigit() or len(value) > 3 or int(value) > 255:
        raise Invalid("expected a whole number from 0 to 255")
    said.priority = int(value)


def _read_time(said: Publication, value: bytes) -> None:
    said.time = parse_time(_text(value))


def _read_reply_to(said: Publication, value: bytes) -> None:
    said.reply_to = _text(value)


def _read_correlation_id(said: Publication, value: bytes) -> None:
    said.correlation_id = value


_READERS = {
    b"polywire-key": _read_key,
    b"polywire-id": _read_id,
    b"idempotency-key": _read_idempotency_key,
    b"polywire-delay": _read_delay,
    b"polywire-expires-in": _read_expires_in,
    b"polywire-retain": _read_retain,
    b"polywire-priority": _read_priority,
    b"polywire-time": _read_time,
    b"polywire-reply-to": _read_reply_to,
    b"polywire-correlation-id": _read_correlation_id,
}


# --- calling ---------------------------------------------------------------------------------------------------------


class CallHeaders:
    """What the headers of a call say. Times are ms.

    ``job``: to be run on its own, and looked at later; ``delay``: not before so long.
    """

    __slots__ = ("delay", "headers", "idempotency", "job", "within")

    def __init__(self) -> None:
        self.within: int | None = None
        self.idempotency: str | None = None
        self.job = False
        self.delay: int | None = None
        self.headers: list[Header] = []


_SAYS_NOTHING = CallHeaders()


def call_headers(headers: Iterable[tuple[bytes, bytes]]) -> CallHeaders:
    """Read the ``Polywire-*``, ``Idempotency-Key`` and ``Prefer`` headers. Raises `Invalid` naming the header."""
    special = [pair for pair in headers if pair[0][:9] == b"polywire-" or pair[0] in (b"idempotency-key", b"prefer")]
    if not special:
        return _SAYS_NOTHING
    said = CallHeaders()
    seen: set[bytes] = set()
    for name, value in special:
        if name in seen and name != b"prefer" and not name.startswith(USER_HEADER):
            raise _wrong(name, "given twice")
        seen.add(name)
        if name == b"prefer":
            said.job = said.job or _prefers_async(value)
        elif name.startswith(USER_HEADER):
            said.headers.append((name[len(USER_HEADER) :].decode("latin-1"), _text(value)))
        elif name == b"idempotency-key":
            said.idempotency = _idempotency(name, value)
        elif name == b"polywire-timeout":
            said.within = _duration(name, value)
        elif name == b"polywire-delay":
            said.delay = _duration(name, value)
        else:
            known = "Polywire-Timeout, Polywire-Delay and Polywire-Header-NAME"
            raise _wrong(name, "unknown header", hint=f"a call takes {known}")
    if said.delay is not None and not said.job:
        raise _wrong(b"polywire-delay", "only a job can wait", hint="send Prefer: respond-async, too")
    if said.within is not None and said.job:
        raise _wrong(b"polywire-timeout", "nobody waits for a job", hint="leave out Prefer: respond-async, or this")
    return said


def _duration(name: bytes, value: bytes) -> int:
    try:
        duration = parse_duration(_text(value))
    except Invalid as error:
        raise _wrong(name, error.detail, hint=error.hint) from None
    if not duration:
        raise _wrong(name, "must be more than nothing")
    return duration


def _idempotency(name: bytes, value: bytes) -> str:
    said = Publication()
    try:
        _read_idempotency_key(said, value)
    except Invalid as error:
        raise _wrong(name, error.detail) from None
    return said.id


def _prefers_async(value: bytes) -> bool:
    """RFC 7240; other preferences are passed over, as it says."""
    return any(one.partition(b";")[0].strip().lower() == b"respond-async" for one in value.split(b","))


# --- a payload as it is ----------------------------------------------------------------------------------------------

_LONGEST_VALUE = 4_096
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")


def raw_response(message: Message) -> Response:
    """The payload's own bytes and content type. What the message says besides is in headers, where a header can say
    it; together they are a CloudEvent in binary mode."""
    record = message.record
    content_type = (type_of(record) or "").encode("utf-8", "replace")
    headers: Headers = [
        (b"content-type", content_type if _CONTENT_TYPE.fullmatch(content_type) else b"application/octet-stream"),
        # Strangers wrote this: a browser may neither guess a type nor run it as a page of ours.
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"polywire-position", str(message.position).encode()),
    ]
    said: list[tuple[str, Any]] = [("Polywire-Id", record.id), ("Polywire-Key", record.key)]
    said += [
        (f"Polywire-Header-{name}", value)
        for name, value in record.headers
        if _TOKEN.fullmatch(name) and not name.startswith(cloudevents.PREFIX)
    ]
    headers += [(name.encode(), value) for name, shown in said if (value := _header_value(shown)) is not None]
    event, _ = cloudevents.write_binary(message)
    headers += [(name, value) for name, value in event if name != b"content-type" and len(value) <= _LONGEST_VALUE]
    return Response(200, record.payload, headers)


def _header_value(value: Any) -> bytes | None:
    """None for what a header line cannot hold: line breaks, other control characters, no value at all."""
    if value is None:
        return None
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return None if any(byte < 32 or byte == 127 for byte in raw) else raw
