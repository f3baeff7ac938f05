"""Where JSON-RPC and the core meet: parameters → `Record`, messages → notifications, errors → codes."""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from polywire.core.durations import parse_duration
from polywire.core.errors import FieldError, Internal, Invalid, PolywireError, TooLarge
from polywire.core.limits import Limits
from polywire.core.message import Batch, Flag, Header, Origin, Record
from polywire.core.position import Cursor
from polywire.core.streams import Reset
from polywire.core.subscription import Delivery
from polywire.server.encodings import Encodings
from polywire.server.envelope import check_json, encode, is_json_type, message_view, parse_time
from polywire.wires.websocket.jsonrpc.codec import notification
from polywire.wires.websocket.jsonrpc.params import MessageParams, PublishParams, Wrong

__all__ = [
    "CODES",
    "Cancelled",
    "MessageTexts",
    "UnknownMethod",
    "code_of",
    "deliveries_text",
    "ended_text",
    "error_body",
    "item_text",
    "json_text",
    "placed_in_params",
    "publication",
    "reset_text",
]

_logger = logging.getLogger("polywire.jsonrpc")

# --- errors ----------------------------------------------------------------------------------------------------------


class UnknownMethod(PolywireError):
    code, title, blame = "unknown_method", "Method not found", "caller"


class Cancelled(PolywireError):
    """The caller asked for the end of its own call."""

    code, title, blame = "cancelled", "Cancelled", "caller"


CODES: Final[dict[str, int]] = {
    "parse_error": -32700,
    "invalid_request": -32600,
    "unknown_method": -32601,
    "invalid": -32602,
    "internal": -32603,
    "unauthenticated": -32001,
    "denied": -32003,
    "not_found": -32004,
    "conflict": -32009,
    "too_large": -32013,
    "unsupported": -32015,
    "limit_exceeded": -32029,
    "unavailable": -32053,
    "deadline_exceeded": -32054,
    "cancelled": -32099,
}
"""Error code → JSON-RPC's (§5.1). Where it defines none, the last digits are those of the HTTP status: 404 → -32004,
503 → -32053."""


def code_of(error: PolywireError) -> int:
    """That of the error's code, or of the nearest class above it that has one."""
    codes = (getattr(above, "code", "") for above in type(error).__mro__)
    return next((CODES[code] for code in codes if code in CODES), CODES["internal"])


_lenient = msgspec.json.Encoder(enc_hook=str).encode  # an application's error may carry anything


def error_body(error: PolywireError) -> bytes:
    """``{"code", "message", "data"}``; ``data`` is the error as every wire shows it, and when a retry helps."""
    try:
        data = error.as_dict()
        if error.retry_after is not None:
            data["retry_after"] = error.retry_after
        return _lenient({"code": code_of(error), "message": error.detail, "data": data})
    except Exception:
        _logger.exception("an error cannot be written as JSON")
        return error_body(Internal("the request failed, and its error cannot be told"))


def placed_in_params(error: PolywireError, where: Mapping[int | None, str]) -> PolywireError:
    """The error with paths that point into the parameters: ``where`` says for each message of a batch (None: for the
    only one) what its payload stands under."""
    fields: list[FieldError] = []
    for path, message in error.fields:
        match = _OF_BATCH.match(path) if None not in where else None
        if match is None:
            fields.append(FieldError(where.get(None, "$") + path.removeprefix("$"), message))
            continue
        index, rest = int(match[1]), path[match.end() :]
        of_message = f"$.messages[{index}]"
        fields.append(FieldError(where.get(index, of_message) + rest if rest else of_message, message))
    error.fields = tuple(fields)
    return error


_OF_BATCH = re.compile(r"\$\[(\d{1,9})\]")

# --- publishing ------------------------------------------------------------------------------------------------------

JSON, OCTETS = "application/json", "application/octet-stream"
_CONTENT_TYPE = re.compile(r"[!-~][ -~]{0,255}")
_INTEGER = 1 << 63


def publication(said: PublishParams, now: int, origin: Origin, limits: Limits) -> tuple[list[Record], int | None]:
    """The records, and when they are due (ms since the epoch). Raises `Invalid` naming all wrong fields, `TooLarge`."""
    _check_numbers(said, limits)
    wrong = Wrong()
    delay = wrong.read("$.delay", parse_duration, said.delay)
    due = None if delay is None else now + delay
    if said.messages is None:
        records = [_record(said, "$", wrong, now, origin)]
    else:
        for name in _given(said):
            wrong.add(f"$.{name}", "belongs to one message: say it in each of messages")
        if not said.messages:
            wrong.add("$.messages", "at least one message")
        records = [_record(one, f"$.messages[{index}]", wrong, now, origin) for index, one in enumerate(said.messages)]
    wrong.check()
    return records, due


def _check_numbers(said: PublishParams, limits: Limits) -> None:
    """What will be too many is refused before anything is made of it. Raises `TooLarge`."""
    messages: Sequence[MessageParams] = (said,) if said.messages is None else said.messages
    if len(messages) > limits.batch_messages:
        raise TooLarge(f"a batch has at most {limits.batch_messages} messages, not {len(messages)}")
    for one in messages:
        if one.headers:
            number = sum(len(value) if isinstance(value, list) else 1 for value in one.headers.values())
            if number > limits.headers_size:
                raise TooLarge(f"headers have at most {limits.headers_size} bytes, and these are {number}")


_OF_A_MESSAGE = {field.name: field.default for field in msgspec.structs.fields(MessageParams)}


def _given(said: PublishParams) -> list[str]:
    return [name for name, default in _OF_A_MESSAGE.items() if (value := getattr(said, name)) and value != default]


def _record(said: MessageParams, path: str, wrong: Wrong, now: int, origin: Origin) -> Record:
    payload, content_type = _payload(said, path, wrong)
    expires = None if said.expires_in is None else wrong.read(f"{path}.expires_in", parse_duration, said.expires_in)
    flags = Flag.RETAINED if said.retain else 0
    if said.idempotency_key is not None:
        flags |= Flag.DEDUP
    return Record(
        payload,
        _either(said, "key", path, wrong),
        _identity(said, path, wrong),
        content_type,
        _headers(said.headers, f"{path}.headers", wrong) if said.headers else [],
        None if said.time is None else wrong.read(f"{path}.time", parse_time, said.time),
        None if expires is None else now + expires,
        said.priority,
        said.reply_to,
        _either(said, "correlation_id", path, wrong),
        flags,
        origin,
    )


def _payload(said: MessageParams, path: str, wrong: Wrong) -> tuple[bytes, str]:
    """Without a content type, ``data`` is JSON and ``data_base64`` bytes; text under another type is a string."""
    content_type = said.content_type
    if content_type is not None and not _CONTENT_TYPE.fullmatch(content_type):
        wrong.add(f"{path}.content_type", "expected a media type of 1 to 256 printable ASCII characters")
        content_type = None
    if said.data_base64 is not None:
        if said.data:
            wrong.add(f"{path}.data_base64", "given beside data")
        elif content_type is not None and is_json_type(content_type) and (why := check_json(said.data_base64)):
            wrong.add(f"{path}.data_base64", f"not well-formed JSON: {why}")
        return said.data_base64, content_type or OCTETS
    if not said.data:
        wrong.add(f"{path}.data", 'required; an empty payload is "data_base64": ""')
        return b"", JSON
    if content_type is None or is_json_type(content_type):
        # A copy: what is stored must not hold on to the frame it came in.
        return bytes(said.data), content_type or JSON
    text = _string(said.data)
    if text is None:
        wrong.add(f"{path}.data", f"expected a string, as {content_type!r} is not JSON; bytes go into data_base64")
    return text or b"", content_type


def _string(raw: Raw) -> bytes | None:
    try:
        return msgspec.json.decode(raw, type=str).encode()
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _either(said: MessageParams, name: str, path: str, wrong: Wrong) -> bytes | None:
    """A value that is text, or bytes in base64 under its other name."""
    text: str | None = getattr(said, name)
    raw: bytes | None = getattr(said, f"{name}_base64")
    if text is None:
        return raw
    if raw is not None:
        wrong.add(f"{path}.{name}_base64", f"given beside {name}")
    return text.encode()


def _identity(said: MessageParams, path: str, wrong: Wrong) -> str:
    if said.id is not None and said.idempotency_key is not None and said.id != said.idempotency_key:
        wrong.add(f"{path}.id", "is not what idempotency_key says")
    for name in ("id", "idempotency_key"):
        value: str | None = getattr(said, name)
        if value is not None and not value.isprintable():
            wrong.add(f"{path}.{name}", "expected printable characters")
    return said.idempotency_key or said.id or ""


def _headers(given: dict[str, Any], path: str, wrong: Wrong) -> list[Header]:
    """As messages show them: a list is a header that repeats, ``{"base64": …}`` is bytes."""
    headers: list[Header] = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else (value,):
            if wrong.full:
                return headers
            read = wrong.read(f"{path}.{name[:64]}", _header, (one,))
            headers.append((name, read[0] if read else None))
    return headers


def _header(value: tuple[Any]) -> tuple[Any]:
    (one,) = value
    if isinstance(one, dict) and one.keys() == {"base64"} and isinstance(one["base64"], str):
        try:
            return (base64.b64decode(one["base64"], validate=True),)
        except (binascii.Error, ValueError):
            raise Invalid("not base64") from None
    if isinstance(one, int) and not -_INTEGER <= one < _INTEGER:
        raise Invalid("expected an integer of 64 bits")
    if isinstance(one, (dict, list)):
        raise Invalid('expected text, a number, true, false, null, {"base64": …}, or a list of those')
    return value


# --- messages --------------------------------------------------------------------------------------------------------


class MessageTexts:
    """Notifications of messages. A message is encoded once, whoever reads it; and as subscriptions are counted on each
    connection, most are number 1: so the whole notification of a batch is the same for most, and kept too."""

    def __init__(self, encodings: Encodings) -> None:
        self._encodings = encodings

    def some(self, batch: Batch, indexes: Sequence[int], subscription: int) -> bytes:
        """One ``message`` notification of these records of a batch, at least one."""
        texts: dict[int, bytes] | None = batch.encoded.get("jsonrpc")
        if texts is None:
            texts = {}
            self._encodings.keep(batch, "jsonrpc", texts, 2 * batch.size)  # its texts come as they are asked for
        shown: list[bytes] = []
        for index in indexes:
            text = texts.get(index)
            if text is None:
                text = texts[index] = encode(message_view(batch.message(index)))
            shown.append(text)
        cursor = Cursor(batch.epoch, batch.offset + indexes[-1])
        return notification(
            "message",
            b'{"subscription":%d,"messages":[%b],"cursor":"%b"}'
            % (subscription, b",".join(shown), str(cursor).encode()),
        )


def deliveries_text(deliveries: Sequence[Delivery], subscription: int) -> bytes:
    """A ``delivery`` notification."""
    shown = [
        {
            "delivery": f"{subscription}.{one.token}",
            "attempt": one.attempt,
            "redelivered": one.redelivered,
            "message": message_view(one.message, topic=True),
        }
        for one in deliveries
    ]
    return notification("delivery", encode({"subscription": subscription, "deliveries": shown}))


def reset_text(reset: Reset, subscription: int) -> bytes:
    """What the reader missed for good, and from where it goes on."""
    shown = {
        "subscription": subscription,
        "reason": reset.reason,
        "oldest": str(reset.oldest),
        "newest": str(reset.newest),
        "resumed": str(reset.resumed),
    }
    return notification("reset", encode(shown))


def ended_text(error: PolywireError, subscription: int) -> bytes:
    return notification("ended", b'{"subscription":%d,"error":%b}' % (subscription, error_body(error)))


def item_text(call: bytes, item: bytes) -> bytes:
    """``call`` is the id of the request as it was written, ``item`` JSON."""
    return notification("item", b'{"call":%b,"item":%b}' % (call, item))


json_text = encode
"""What a built-in method answers."""
