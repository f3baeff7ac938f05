"""A message as JSON: one shape for every wire that shows messages in text (REST, SSE, WebSocket).

    {"id", "position", "key", "time", "content_type", "headers", "data" | "data_base64"}

``data`` is the payload itself where it is JSON (its bytes are put in as they are: large integers and the spelling of
numbers stay), or a string where it is text in UTF-8. Anything else is ``data_base64``. Where its publisher gave no
content type (MQTT 3.1.1 has none) it is shown as what it looks like (`polywire.formats.payloads`). Shown only where
they say something: ``topic`` (when messages of several topics are mixed), ``key_base64`` (a key that is not UTF-8;
``key`` is then null), ``producer_time``, ``expires``, ``priority``, ``reply_to``, ``correlation_id`` or
``correlation_id_base64``, ``retained``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from polywire.core.errors import Invalid
from polywire.core.message import Flag, Header, Message, Record
from polywire.formats.payloads import type_of

__all__ = [
    "MessageView",
    "check_json",
    "encode",
    "format_time",
    "is_json_type",
    "is_text_type",
    "message_view",
    "parse_time",
]

encode = msgspec.json.Encoder().encode
_skim = msgspec.json.Decoder(Raw).decode


class MessageView(msgspec.Struct, gc=False):
    """See the module's text."""

    id: str
    position: str
    key: str | None
    time: str
    content_type: str | None
    headers: dict[str, Any]
    topic: str | UnsetType = UNSET
    key_base64: bytes | UnsetType = UNSET
    producer_time: str | UnsetType = UNSET
    expires: str | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    reply_to: str | UnsetType = UNSET
    correlation_id: str | UnsetType = UNSET
    correlation_id_base64: bytes | UnsetType = UNSET
    retained: bool | UnsetType = UNSET
    data: Raw | str | UnsetType = UNSET
    data_base64: bytes | UnsetType = UNSET


def message_view(message: Message, *, topic: bool = False) -> MessageView:
    record = message.record
    view = MessageView(
        record.id,
        str(message.position),
        None,
        format_time(message.appended),
        record.content_type,
        headers_view(record.headers),
    )
    if topic:
        view.topic = message.topic
    if record.key is not None:
        _show_key(view, record.key)
    _show_payload(view, record)
    _show_properties(view, record)
    return view


def _show_key(view: MessageView, key: bytes) -> None:
    text = _text(key)
    if text is None:
        view.key_base64 = key
    else:
        view.key = text


def _show_payload(view: MessageView, record: Record) -> None:
    payload, content_type = record.payload, type_of(record)
    if content_type is not None:
        if is_json_type(content_type) and check_json(payload) is None:
            view.data = Raw(payload)
            return
        if is_text_type(content_type) and (text := _text(payload)) is not None:
            view.data = text
            return
    view.data_base64 = payload


def _show_properties(view: MessageView, record: Record) -> None:
    if record.time is not None:
        view.producer_time = format_time(record.time)
    if record.expires is not None:
        view.expires = format_time(record.expires)
    if record.priority:
        view.priority = record.priority
    if record.reply_to is not None:
        view.reply_to = record.reply_to
    if record.flags & Flag.RETAINED:
        view.retained = True
    if record.correlation_id is not None:
        text = _text(record.correlation_id)
        if text is None:
            view.correlation_id_base64 = record.correlation_id
        else:
            view.correlation_id = text


def headers_view(headers: list[Header]) -> dict[str, Any]:
    """By name; a name that repeats has a list of its values, in order. Bytes are ``{"base64": …}``."""
    shown: dict[str, Any] = {}
    repeated: set[str] = set()
    for name, value in headers:
        one = {"base64": value} if isinstance(value, bytes) else value
        if name not in shown:
            shown[name] = one
        elif name in repeated:
            shown[name].append(one)
        else:
            repeated.add(name)
            shown[name] = [shown[name], one]
    return shown


def check_json(payload: bytes) -> str | None:
    """What keeps these bytes from being one JSON text in UTF-8, and where; None if nothing does. Nothing is built of
    it."""
    try:
        if not payload.isascii():
            payload.decode()
        _skim(payload)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at {_place(payload, error.start)}"
    except RecursionError:
        return "nested too deeply"
    except msgspec.DecodeError as error:
        return _explain(payload, str(error))
    return None


def _explain(payload: bytes, message: str) -> str:
    what, found, rest = message.removeprefix("JSON is malformed: ").partition(" (byte ")
    if found:
        return f"{what} at {_place(payload, int(rest.rstrip(')')))}"
    return f"unfinished at {_place(payload, len(payload))}" if payload.strip() else "empty"


def _place(payload: bytes, index: int) -> str:
    line = payload.count(b"\n", 0, index) + 1
    column = index - payload.rfind(b"\n", 0, index)
    return f"line {line}, column {column} (byte {index})"


_LONGEST_TYPE = 255
"""Characters of a content type that are looked at, and remembered: no known type is longer."""


@lru_cache(maxsize=1_024)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_json_type(content_type: str) -> bool:
    media = _media_type(content_type[:_LONGEST_TYPE])
    return media == "application/json" or media.endswith("+json")


def is_text_type(content_type: str) -> bool:
    return _media_type(content_type[:_LONGEST_TYPE]).startswith("text/")


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_LAST_SECOND = 253_402_300_799  # the end of the year 9999, where RFC 3339 ends


def format_time(milliseconds: int) -> str:
    """RFC 3339 in UTC with milliseconds: ``2026-11-20T10:00:00.123Z``."""
    seconds, rest = divmod(milliseconds, 1_000)
    if not 0 <= seconds <= _LAST_SECOND:
        seconds = 0 if seconds < 0 else _LAST_SECOND
    return f"{_second(seconds)}.{rest:03d}Z"


def parse_time(text: str) -> int:
    """Milliseconds since the Unix epoch from RFC 3339; a time without an offset is UTC. Raises `Invalid`."""
    try:
        when = datetime.fromisoformat(text)
        stamp = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        stamp = -1.0
    if stamp < 0:
        raise Invalid(f"not a time: {text[:64]!r}", hint="write RFC 3339, as in 2026-11-20T10:00:00Z")
    return round(stamp * 1_000)
