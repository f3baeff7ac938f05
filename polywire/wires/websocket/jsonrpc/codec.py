"""JSON-RPC 2.0 texts ↔ requests, answers, notifications (https://www.jsonrpc.org/specification).

Reading never fails: what is no request becomes a `Fault`, which says why and to which id that is answered. An id is
kept as the bytes it was written in, and goes back so. Of a member that stands twice in an object the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from polywire.core.errors import FieldError, Invalid, PolywireError, TooLarge

__all__ = [
    "NOTHING",
    "NULL",
    "Fault",
    "InvalidRequest",
    "ParseError",
    "Received",
    "Request",
    "answer",
    "batch",
    "error_answer",
    "id_key",
    "notification",
    "read",
]

NULL: Final = b"null"
NOTHING: Final = Raw(b"")
MOST_ID: Final = 256
"""Bytes of an id: it is kept until its request is answered, and goes back with the answer."""


class ParseError(Invalid):
    code, title = "parse_error", "Parse error"


class InvalidRequest(Invalid):
    """Well-formed JSON that is no request (specification §4)."""

    code, title = "invalid_request", "Invalid request"


class Request:
    """``id`` is JSON as it came, or None for a notification; ``key`` is equal for ids that mean the same. ``params``
    is a JSON object or array, or empty. ``batch`` is whoever collects the answers, if it came with others."""

    __slots__ = ("batch", "id", "key", "method", "params")

    def __init__(self, method: str, params: Raw, id: bytes | None, key: Any = None) -> None:
        self.method = method
        self.params = params
        self.id = id
        self.key = key
        self.batch: Any = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.id!r}>"


class Fault(NamedTuple):
    """Something in the place of a request, and the id to answer it to."""

    error: PolywireError
    id: bytes


class Received(NamedTuple):
    items: Sequence[Request | Fault]
    batch: bool


class _Shape(msgspec.Struct, gc=False):
    """What nearly all requests look like; members that the specification does not know are passed over."""

    jsonrpc: str
    method: str
    params: Raw = NOTHING
    id: Raw = NOTHING


_shape = msgspec.json.Decoder(_Shape).decode
_raws = msgspec.json.Decoder(list[Raw]).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_anything = msgspec.json.Decoder(Any).decode
_encode = msgspec.json.Encoder().encode
_DEEP: Final = "nested too deeply"

# --- reading ---------------------------------------------------------------------------------------------------------


def read(payload: bytes, most: int) -> Received:
    """One frame: a request, or a batch of at most ``most``."""
    try:
        if not payload.isascii():
            payload.decode()
        first = payload.lstrip(b" \t\r\n")[:1]
        if first == b"[":
            return _read_batch(payload, most)
        return Received((_request(payload),), False)
    except UnicodeDecodeError as error:
        return _unreadable(f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return _unreadable(_DEEP)
    except msgspec.DecodeError as error:
        return _unreadable(_reason(error))


def _unreadable(why: str) -> Received:
    return Received((Fault(ParseError(f"not well-formed JSON: {why}"), NULL),), False)


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def _read_batch(payload: bytes, most: int) -> Received:
    items = _raws(payload)
    if not items:
        error: PolywireError = InvalidRequest("a batch holds at least one request")
        return Received((Fault(error, NULL),), False)
    if len(items) > most:
        error = TooLarge(f"a batch has at most {most} requests, not {len(items)}", extra={"limit": most})
        return Received((Fault(error, NULL),), False)
    return Received([_request(item) for item in items], True)


def _request(text: bytes | Raw) -> Request | Fault:
    """Raises `msgspec.DecodeError` for what is not JSON."""
    try:
        shape = _shape(text)
    except msgspec.ValidationError:
        return _wrong(text)
    params = shape.params
    if params and not _structured(params):
        if bytes(params) != NULL:
            return _wrong(text)
        params = NOTHING  # null says the same
    if shape.jsonrpc != "2.0":
        return _wrong(text)
    written = bytes(shape.id)
    if not written:
        return Request(shape.method, params, None)
    key = id_key(written)
    return _wrong(text) if key is None else Request(shape.method, params, written, key)


def _structured(params: Raw) -> bool:
    return bytes(memoryview(params)[:1]) in (b"{", b"[")


def id_key(written: bytes) -> tuple[str, Any] | None:
    """What two spellings of one id have in common: ``1`` and ``1.0``. None for what cannot be an id (§4)."""
    if len(written) > MOST_ID:
        return None
    try:
        value = _anything(written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if value is None:
        return "null", None
    if isinstance(value, str):
        return "text", value
    return None if isinstance(value, (bool, list, dict)) else ("number", value)


def _wrong(text: bytes | Raw) -> Fault:
    """Why this JSON is no request. Raises `msgspec.DecodeError` if it is no JSON either."""
    try:
        members = _members(text)
    except msgspec.ValidationError:
        return Fault(InvalidRequest("a request is a JSON object"), NULL)
    wrong = [FieldError(f"$.{name}", why) for name, why in _faults(members)]
    written = bytes(members.get("id", NULL))
    said = ", ".join(f"{field.path} {field.message}" for field in wrong)
    return Fault(
        InvalidRequest(f"not a request: {said}", fields=wrong), written if id_key(written) is not None else NULL
    )


def _faults(members: dict[str, Raw]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if _text(members.get("jsonrpc")) != "2.0":
        found.append(("jsonrpc", 'must be "2.0"'))
    if "method" not in members and ("result" in members or "error" in members):
        found.append(("method", "is missing: the hub asks nothing, so nothing is to be answered"))
    elif _text(members.get("method")) is None:
        found.append(("method", "must be a string"))
    params = members.get("params")
    if params is not None and not _structured(params) and bytes(params) != NULL:
        found.append(("params", "must be an object or an array"))
    if "id" in members and id_key(bytes(members["id"])) is None:
        found.append(("id", f"must be a string, a number or null of at most {MOST_ID} bytes"))
    return found


def _text(raw: Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        value = _anything(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


# --- writing ---------------------------------------------------------------------------------------------------------


def answer(id: bytes, result: bytes) -> bytes:
    """``result`` is JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, result)


def error_answer(id: bytes, error: bytes) -> bytes:
    """``error`` is JSON: ``{"code", "message", "data"}`` (§5.1)."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, error)


def batch(answers: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(answers)


def notification(method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encode(method), params)
