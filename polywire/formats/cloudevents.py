"""CloudEvents 1.0.2 ↔ messages: the HTTP binding's binary mode, the JSON format's structured and batch modes.

| attribute | message |
|---|---|
| ``id`` | id |
| ``time`` | producer time, in milliseconds; header ``ce-time``, if there is more to it: an offset, a finer fraction |
| ``datacontenttype`` | content type |
| ``partitionkey`` (the partitioning extension) | key; header ``ce-partitionkey`` where the address has another key |
| ``source``, ``type``, ``subject``, ``dataschema``, extensions | headers ``ce-source``, ``ce-type`` ... |
| data | payload |

A message that was not published as an event is one of source ``/topics/NAME`` and a type that is given; its ``subject``
is its key, its time the producer's or else the log's, its ``datacontenttype`` at least what it looks like.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, Literal
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Raw

from polywire.contract.duplicates import duplicates
from polywire.contract.paths import ROOT, member
from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.core.message import Flag, Header, Message, Record
from polywire.formats.payloads import type_of
from polywire.formats.reading import Complaints, Path, refused

__all__ = [
    "BATCH",
    "DEFAULT_TYPE",
    "PREFIX",
    "STRUCTURED",
    "attributes_of",
    "deduplicate",
    "is_binary",
    "mode_of",
    "read_attributes",
    "read_batch",
    "read_binary",
    "read_structured",
    "write_batch",
    "write_binary",
    "write_structured",
]

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
DEFAULT_TYPE: Final = "polywire.message"
PREFIX: Final = "ce-"

Value = str | int | bool
Headers = list[tuple[bytes, bytes]]


def mode_of(content_type: str | None) -> Literal["structured", "batch"] | None:
    """What a body of this type holds; None: no event, unless `is_binary`. Raises `Unsupported` for another format of
    events than JSON."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if not media.startswith("application/cloudevents"):
        return None
    if media in (STRUCTURED, BATCH):
        return "structured" if media == STRUCTURED else "batch"
    raise Unsupported(f"events as {media[:64]!r}", hint=f"send {STRUCTURED} or {BATCH}")


def is_binary(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request is an event in binary mode. Names are in lower case."""
    return any(name == b"ce-specversion" for name, _ in headers)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Record:
    """HTTP binding §3.1. Raises `Invalid` naming all wrong attributes, as ``header.ce-source``."""
    complaints = Complaints("header")
    given: dict[str, Any] = {}
    for raw, value in headers:
        if raw == b"content-type":
            given["datacontenttype"] = value.decode("latin-1")
        elif raw.startswith(b"ce-"):
            name = raw[3:].decode("latin-1")
            place = (None, PREFIX + name)
            text = _unescaped(value)
            if name == "datacontenttype":
                complaints.add(place, "is said by Content-Type")
            elif name in given:
                complaints.add(place, "is given twice")
            elif text is None:
                complaints.add(place, "is not UTF-8")
            else:
                given[name] = text
    record = _Reader(complaints, lambda name: (None, _header_of(name))).record(given)
    if complaints.fields:
        raise refused(complaints.fields)
    record.payload = body
    return record


def read_attributes(given: dict[str, Any], at: str) -> Record:
    """Of a binding that has them under their own names and unescaped; data is not among them. Raises `Invalid` naming
    all wrong attributes, as ``{at}.source``."""
    complaints = Complaints(at)
    record = _Reader(complaints, lambda name: (None, name)).record(given)
    if complaints.fields:
        raise refused(complaints.fields)
    return record


def read_structured(body: bytes) -> Record:
    """JSON format §3. Raises `Invalid` naming all wrong attributes, as ``$.source``."""
    complaints = Complaints()
    record = _structured(_checked_json(body), None, complaints)
    if complaints.fields:
        raise refused(complaints.fields)
    return record


def read_batch(body: bytes, *, most: int) -> list[Record]:
    """JSON format §4. Raises as `read_structured`, with paths as ``$[3].source``, and `TooLarge`."""
    try:
        events = _read_list(_checked_json(body))
    except msgspec.DecodeError:
        raise Invalid("a batch of events is a JSON array") from None
    if len(events) > most:
        raise TooLarge(f"the batch has {len(events)} events; the limit is {most}")
    complaints = Complaints()
    records = [_structured(bytes(event), (None, index), complaints) for index, event in enumerate(events)]
    if complaints.fields:
        raise refused(complaints.fields)
    return records


_read_list = msgspec.json.Decoder(list[Raw]).decode
_read_object = msgspec.json.Decoder(dict[str, Raw]).decode
_skim = msgspec.json.Decoder(Raw).decode


def _checked_json(body: bytes) -> bytes:
    try:
        if not body.isascii():
            body.decode()
        _skim(body)
    except UnicodeDecodeError as error:
        raise Invalid(f"the event is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Invalid("the event is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise Invalid(f"the event is not JSON: {error}") from None
    return body


def _structured(body: bytes, path: Path, complaints: Complaints) -> Record:
    try:
        members = _read_object(body)
    except msgspec.DecodeError:
        complaints.add(path, "must be an object")
        return Record()
    for name in _doubled(body, members):
        complaints.add((path, name), "is given twice")
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    given = {name: value for name, raw in members.items() if (value := _attribute(raw)) is not None}
    record = _Reader(complaints, lambda name: (path, name)).record(given)
    if encoded is not None and bytes(encoded) != b"null":
        if data is not None and bytes(data) != b"null":
            complaints.add((path, "data_base64"), "is given besides data")
        record.payload = _from_base64(encoded, (path, "data_base64"), complaints)
    elif data is not None:
        record.payload = _from_json(data, record, (path, "data"), complaints)
    return record


_read_attribute = msgspec.json.Decoder(str | bool | int | None).decode


def _attribute(raw: Raw) -> Any:
    """As its JSON type has it; what no attribute may be stays JSON, to be complained of."""
    try:
        return _read_attribute(raw)
    except msgspec.DecodeError:
        return raw


def _doubled(body: bytes, members: dict[str, Raw]) -> list[str]:
    """Attributes that stand there twice. Nearly always, counting shows that none does."""
    data = members.get("data", b"")
    rest = body.replace(bytes(data), b"", 1) if len(bytes(data)) > 64 else body
    few = len(members) <= 64 and len(rest) <= 65_536
    if few and b"\\" not in rest and all(rest.count(b'"%b"' % name.encode()) == 1 for name in members):
        return []
    try:
        found = {field.path for field in duplicates(body)}
    except RecursionError:
        raise Invalid("the event is nested too deeply") from None
    return [name for name in members if ROOT + member(name) in found]


def _from_base64(raw: Raw, path: Path, complaints: Complaints) -> bytes:
    try:
        return b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except (msgspec.DecodeError, Base64Error, ValueError):
        complaints.add(path, "must be base64")
        return b""


def _from_json(raw: Raw, record: Record, path: Path, complaints: Complaints) -> bytes:
    """§3.1.2: JSON stays as it is written; of any other type it is a text."""
    if record.content_type is None:
        record.content_type = "application/json"
    if _is_json_type(record.content_type):
        return bytes(raw)
    charset = _charset(record.content_type) or "utf-8"
    try:
        return msgspec.json.decode(raw, type=str).encode(_CHARSETS[charset])
    except msgspec.DecodeError:
        complaints.add(path, "must be a string, as datacontenttype is not JSON")
    except (UnicodeEncodeError, KeyError):
        complaints.add(path, f"cannot be written in the charset {charset!r}; use data_base64")
    return b""


_CHARSETS: Final = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1"}


def _unescaped(value: bytes) -> str | None:
    """HTTP binding §3.1.3.2; None for what is no UTF-8."""
    try:
        text = value.strip(b" \t").decode()
        if '"' in text:
            text = _QUOTED.sub(_unquoted, text)
        return unquote_to_bytes(text).decode() if "%" in text else text
    except UnicodeDecodeError:
        return None


def _unquoted(match: re.Match[str]) -> str:
    """A quoted text that does not end is none, and stays as it is."""
    return _ESCAPED.sub(r"\1", match[1]) if match[2] else match[0]


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)("?)', re.DOTALL)
"""Also one that does not end: else each quote in it would be tried as another beginning."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


# --- attributes ------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z0-9]+")
_ILLEGAL = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""Controls, surrogates and noncharacters (spec, "Type System")."""
_PCHAR = r"[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2}"
_URI = re.compile(
    rf"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*+):)?(?P<authority>//(?:{_PCHAR}|[\[\]])*+)?"
    rf"(?P<path>(?:{_PCHAR}|/)*+)(?:\?(?:{_PCHAR}|[/?])*+)?(?:\#(?:{_PCHAR}|[/?])*+)?"
)
"""RFC 3986 §4.1."""
_MEDIA_TYPE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+/[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*(?:;[\t\x20-\x7e]*)?")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:)([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LONGEST_ID = 255
_LARGEST = 2**31


class _Reader:
    """Attributes → a record without payload; what is wrong goes to the complaints."""

    def __init__(self, complaints: Complaints, place: Callable[[str], Path]) -> None:
        self._complaints = complaints
        self._place = place

    def record(self, given: dict[str, Any]) -> Record:
        if self._text(given, "specversion") not in ("1.0", None):
            self._wrong("specversion", "must be 1.0")
        record = Record(headers=[])
        record.id = self._text(given, "id") or ""
        if len(record.id) > _LONGEST_ID:
            self._wrong("id", f"must have at most {_LONGEST_ID} characters")
        self._read_time(given, record)
        record.content_type = self._optional(
            given, "datacontenttype", _is_media_type, "must be a media type (RFC 2046)"
        )
        key = self._optional(given, "partitionkey", bool, "must not be empty")
        record.key = key.encode() if key is not None else None
        for name, value in given.items():
            if name not in _FIELDS:
                self._header(given, name, value, record.headers)
        for name in ("source", "type"):
            if name not in given:
                self._wrong(name, "required")
        return record

    def _header(self, given: dict[str, Any], name: str, value: Any, headers: list[Header]) -> None:
        if _NAME.fullmatch(name) is None or name == "data":
            self._wrong(name, "attribute names are lower-case letters and digits, and not data")
        elif name in _CHECKS:
            text = self._optional(given, name, *_CHECKS[name])
            headers.append((PREFIX + name, text))
        elif isinstance(value, str):
            headers.append((PREFIX + name, self._legal(name, value)))
        elif isinstance(value, bool) or (isinstance(value, int) and -_LARGEST <= value < _LARGEST):
            headers.append((PREFIX + name, value))
        else:
            self._wrong(name, "must be a string, a boolean or an integer of 32 bits")

    def _text(self, given: dict[str, Any], name: str) -> str | None:
        """A required string that is not empty."""
        if name not in given:
            self._wrong(name, "required")
            return None
        return self._optional(given, name, bool, "must not be empty")

    def _optional(self, given: dict[str, Any], name: str, fits: Callable[[str], Any], words: str) -> str | None:
        value = given.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self._wrong(name, "must be a string")
            return None
        if not fits(value):
            self._wrong(name, words)
            return None
        return self._legal(name, value)

    def _legal(self, name: str, value: str) -> str | None:
        if _ILLEGAL.search(value):
            self._wrong(name, "must not have control characters or noncharacters")
            return None
        return value

    def _read_time(self, given: dict[str, Any], record: Record) -> None:
        text = self._optional(given, "time", _milliseconds, "must be a time as in 2026-11-20T10:00:00Z (RFC 3339)")
        if text is None:
            return
        exact = _milliseconds(text)
        if exact and exact[0] >= 0:  # a message's time does not go back before 1970
            record.time = exact[0]
        if record.time is None or _written(record.time) != text:
            record.headers.append((PREFIX + "time", text))

    def _wrong(self, name: str, message: str) -> None:
        self._complaints.add(self._place(name), message)


def _header_of(name: str) -> str:
    return "content-type" if name == "datacontenttype" else PREFIX + name


def _milliseconds(text: str) -> tuple[int] | None:
    """Since 1970, rounded down; a leap second is the one before it. In a tuple, as 0 is a time, too."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    date, minutes, seconds, fraction, offset = match.groups()
    if seconds == "60":
        seconds = "59"
    try:
        when = datetime.fromisoformat(f"{date}T{minutes}{seconds}{offset.upper()}")
    except ValueError:
        return None
    return (round((when - _EPOCH).total_seconds()) * 1_000 + int(((fraction or ".0")[1:] + "00")[:3]),)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


_LAST: Final = 253_402_300_799_999  # of the year 9999, where RFC 3339 ends


def _written(milliseconds: int) -> str:
    seconds, rest = divmod(min(max(milliseconds, 0), _LAST), 1_000)
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{when}.{rest:03d}Z" if rest else f"{when}Z"


def _is_reference(text: str) -> bool:
    match = _URI.fullmatch(text)
    if not text or match is None:
        return False
    return bool(match["scheme"] or match["authority"]) or ":" not in match["path"].partition("/")[0]


def _is_uri(text: str) -> bool:
    match = _URI.fullmatch(text)
    return match is not None and match["scheme"] is not None


def _is_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text) is not None


_FIELDS: Final = ("specversion", "id", "time", "datacontenttype", "partitionkey")
"""Kept in fields of the record."""
_CHECKS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "source": (_is_reference, "must be a URI-reference (RFC 3986) and not empty"),
    "type": (bool, "must not be empty"),
    "subject": (bool, "must not be empty"),
    "dataschema": (_is_uri, "must be an absolute URI (RFC 3986)"),
}


# --- deduplication ---------------------------------------------------------------------------------------------------


def deduplicate(record: Record) -> None:
    """Make an event's source and id, which name it together, the record's idempotency key.

    The id it came with goes on as the header ``ce-id``. A record that is no event stays as it is.
    """
    source = next((value for name, value in record.headers if name == "ce-source"), None)
    if source is None:
        return
    identity = f"{source} {record.id}"  # a source has no spaces
    if len(identity) > _LONGEST_ID:
        identity = blake2b(identity.encode(), digest_size=32).hexdigest()
    record.headers.append((PREFIX + "id", record.id))
    record.id = identity
    record.flags |= Flag.DEDUP


# --- writing ---------------------------------------------------------------------------------------------------------


def attributes_of(message: Message, *, default_type: str = DEFAULT_TYPE) -> dict[str, Value]:
    """Without data. What no attribute can hold (a key that is no text, a control character) is left out."""
    record = message.record
    said = _said(record.headers)
    found: dict[str, Value] = {
        "specversion": "1.0",
        "id": said.pop("id", record.id),
        "source": f"/topics/{quote(message.topic, safe='')}",
        "type": default_type,
    }
    content_type, time = record.content_type, record.time
    key = _key_text(record.key)
    if not ("source" in said and "type" in said):  # it was not published as an event
        content_type = type_of(record)
        time = message.appended if time is None else time
        if key is not None:
            found["subject"] = key
    if content_type is not None and _is_media_type(content_type):
        found["datacontenttype"] = content_type
    if time is not None:
        found["time"] = _written(time)
    if key is not None:
        found["partitionkey"] = key
    return found | said


def _said(headers: Sequence[Header]) -> dict[str, Value]:
    """The attributes among the headers, each as its first header has it."""
    found: dict[str, Value] = {}
    for name, value in headers:
        attribute = name[len(PREFIX) :] if name.startswith(PREFIX) else ""
        if attribute not in found and attribute not in _NEVER and _NAME.fullmatch(attribute):
            shown = _shown(value)
            if shown is not None and _can_be(attribute, shown):
                found[attribute] = shown
    return found


_NEVER: Final = ("data", "specversion", "datacontenttype")


def _shown(value: Any) -> Value | None:
    """A header's value as an attribute has it."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, float) or (isinstance(value, int) and not -_LARGEST <= value < _LARGEST):
        return str(value)
    return value if isinstance(value, (str, int)) else None


def _can_be(attribute: str, value: Value) -> bool:
    if not isinstance(value, str):
        return attribute not in _CHECKS and attribute not in ("id", "time", "partitionkey")
    if _ILLEGAL.search(value) or (attribute in ("id", "partitionkey") and not value):
        return False
    if attribute == "time":
        return _milliseconds(value) is not None
    return attribute not in _CHECKS or bool(_CHECKS[attribute][0](value))


def _key_text(key: bytes | None) -> str | None:
    text = _text(key or b"")
    return None if not text or _ILLEGAL.search(text) else text


def write_binary(message: Message, *, default_type: str = DEFAULT_TYPE) -> tuple[Headers, bytes]:
    """Headers and body (HTTP binding §3.1)."""
    headers: Headers = []
    for name, value in attributes_of(message, default_type=default_type).items():
        if name == "datacontenttype":
            headers.append((b"content-type", str(value).encode()))
        else:
            headers.append((f"{PREFIX}{name}".encode(), _escaped(value)))
    return headers, message.record.payload


def _escaped(value: Value) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return quote(str(value), safe=_UNRESERVED).encode()


_UNRESERVED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def write_structured(message: Message, *, default_type: str = DEFAULT_TYPE) -> bytes:
    """JSON format §3: JSON as it is, text in UTF-8 as a string, anything else in base64."""
    return msgspec.json.encode(_event(message, default_type))


def write_batch(messages: Iterable[Message], *, default_type: str = DEFAULT_TYPE) -> bytes:
    """JSON format §4."""
    return msgspec.json.encode([_event(message, default_type) for message in messages])


def _event(message: Message, default_type: str) -> dict[str, Any]:
    event: dict[str, Any] = dict(attributes_of(message, default_type=default_type))
    payload, content_type = message.record.payload, message.record.content_type
    if not payload:
        return event
    if content_type is None:
        content_type = event.get("datacontenttype")
    if content_type is not None:
        if _is_json_type(content_type):
            if _is_json(payload):
                return event | {"data": Raw(payload)}
        elif _is_text_type(content_type) and (text := _text(payload)) is not None:
            return event | {"data": text}
    return event | {"data_base64": b64encode(payload).decode()}


def _is_json(payload: bytes) -> bool:
    try:
        _checked_json(payload)
    except Invalid:
        return False
    return True


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _is_json_type(content_type: str) -> bool:
    subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _is_text_type(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    is_text = media.startswith("text/") or media.endswith(("/xml", "+xml"))
    return is_text and _charset(content_type) in (None, "utf-8", "utf8", "us-ascii")


def _charset(content_type: str) -> str | None:
    match = re.search(r";[ \t]*charset[ \t]*=[ \t]*\"?([A-Za-z0-9_.:+\-]{1,40})", content_type, re.IGNORECASE)
    return match[1].lower() if match else None
