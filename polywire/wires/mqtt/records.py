"""PUBLISH ↔ `Record`.

| PUBLISH | record |
|---|---|
| payload | payload, byte for byte |
| QoS 0 | `Flag.VOLATILE` |
| RETAIN | `Flag.RETAINED` |
| Content Type | content type; none where there is none, and at levels 3 and 4 |
| Response Topic, Correlation Data | reply-to, correlation id |
| User Properties | headers |
| Message Expiry Interval | expires |
| the QoS, and the properties as they are | native |

``native`` is one byte, the QoS, and the property block without Topic Alias, Message Expiry Interval and Subscription
Identifiers: what a reader at level 5 is told unaltered, in order, repeats kept ([MQTT-3.3.2-4] and others). Bit 2 of
the first byte marks an event in structured mode: its payload is the event's data, for typed topics and readers of all
protocols. Behind the block, which then has its length in front, stands the payload as it came, if that is not too long:
MQTT readers get it back.

A payload without a content type says nothing of itself, and nothing is guessed here, where every microsecond counts:
who shows it as text or JSON looks at it then (`polywire.server.envelope`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from polywire.core.errors import Invalid
from polywire.core.message import Batch, Flag, Message, Origin, Record
from polywire.formats.cloudevents import PREFIX, write_structured
from polywire.wires.mqtt import events
from polywire.wires.mqtt import fields as write_field
from polywire.wires.mqtt.fields import Fields
from polywire.wires.mqtt.packets import Properties, Property, Publish, Will
from polywire.wires.mqtt.properties import read
from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["WIRE", "block_of", "expiry_of", "levels_of", "payload_of", "qos_of", "record_of", "record_of_will"]

WIRE: Final = "mqtt"
"""As it stands in the origin of records."""
_PLAIN: Final = (b"\x00", b"\x01", b"\x02")
"""``native`` of what has no properties, by QoS: shared by nearly all records."""
_STRUCTURED: Final = 4
_KEPT: Final = 16 << 10
"""Bytes of a structured event that are kept as they came. ``native`` counts as properties, which are bounded."""
_ELSEWHERE: Final = 2
"""The QoS of a message of another protocol: readers get it at the QoS they asked for."""
_FOREVER: Final = 0xFFFF_FFFF
_USUAL: Final = 256
_REMEMBERED: Final = 4_096
"""Property blocks that are remembered, if they have no more than so many bytes: publishers repeat themselves."""


# --- in --------------------------------------------------------------------------------------------------------------


def record_of(publish: Publish, key: bytes | None, origin: Origin, now: int) -> Record:
    """``key`` is that of `names.read_name`; ``now`` in ms since the epoch.

    Raises `MqttError` for properties that break the protocol, `Invalid` for a payload or event that is not what the
    properties say.
    """
    block = publish.properties
    if not block:
        qos = publish.qos
        flags = (0 if qos else Flag.VOLATILE) | (Flag.RETAINED if publish.retain else 0)
        return Record(publish.payload, key, "", None, [], None, None, 0, None, None, flags, origin, _PLAIN[qos])
    said = _read_usual(block) if len(block) <= _USUAL else _read(block)
    return _told(said, publish, key, origin, now)


def record_of_will(will: Will, key: bytes | None, origin: Origin, now: int) -> Record:
    """A will, as its publish says it from ``now`` on (MQTT 5 §3.1.3.2). Raises as `record_of`."""
    block = b"".join(
        _property(identifier, one)
        for identifier, value in will.properties.items()
        if identifier in _WRITE and identifier not in _HOP
        for one in (value if identifier == Property.USER_PROPERTY else (value,))
    )
    return _told(_said(will.properties, block), will, key, origin, now)


class _Said(NamedTuple):
    """What the properties of a PUBLISH say. ``block`` is what goes on to readers; ``native`` by QoS, shared by all that
    say the same; ``expiry`` in ms."""

    block: bytes
    native: tuple[bytes, ...]
    content_type: str | None
    user: list[tuple[str, str]]
    reply_to: str | None
    correlation_id: bytes | None
    expiry: int | None
    is_text: bool
    event: str | None


def _read(block: bytes) -> _Said:
    given = read(block, Publish)
    if Property.SUBSCRIPTION_IDENTIFIER in given:
        raise MqttError(Reason.PROTOCOL_ERROR, "a client sends no Subscription Identifier [MQTT-3.3.4-6]")
    if Property.TOPIC_ALIAS in given or Property.MESSAGE_EXPIRY_INTERVAL in given:
        block = _forwarded(block)
    return _said(given, block)


_read_usual = lru_cache(maxsize=_REMEMBERED)(_read)


def _said(given: Properties, block: bytes) -> _Said:
    reply_to: str | None = given.get(Property.RESPONSE_TOPIC)
    if reply_to == "":
        raise MqttError(Reason.PROTOCOL_ERROR, "the Response Topic is empty [MQTT-4.7.3-1]")
    content_type = given.get(Property.CONTENT_TYPE) or None
    user = given.get(Property.USER_PROPERTY, [])
    expiry = given.get(Property.MESSAGE_EXPIRY_INTERVAL)
    event = "structured" if events.is_structured(content_type) else "binary" if events.is_binary(user) else None
    return _Said(
        block,
        tuple(qos + block for qos in _PLAIN),
        content_type,
        user,
        reply_to,
        given.get(Property.CORRELATION_DATA),
        None if expiry is None else 1_000 * expiry,
        given.get(Property.PAYLOAD_FORMAT_INDICATOR) == 1,
        event,
    )


_WRITE: Final[dict[int, Callable[[Any], bytes]]] = {
    Property.PAYLOAD_FORMAT_INDICATOR: write_field.byte,
    Property.MESSAGE_EXPIRY_INTERVAL: write_field.four,
    Property.CONTENT_TYPE: write_field.text,
    Property.RESPONSE_TOPIC: write_field.text,
    Property.CORRELATION_DATA: write_field.binary,
    Property.USER_PROPERTY: write_field.pair,
}


def _property(identifier: int, value: object) -> bytes:
    """Raises ValueError for what it cannot say."""
    return bytes((identifier,)) + _WRITE[identifier](value)


_SIZES: Final = {Property.PAYLOAD_FORMAT_INDICATOR: 1, Property.MESSAGE_EXPIRY_INTERVAL: 4, Property.TOPIC_ALIAS: 2}
"""Bytes of the properties of a PUBLISH that have a fixed size. The others are strings, user properties two."""
_HOP: Final = (Property.TOPIC_ALIAS, Property.MESSAGE_EXPIRY_INTERVAL)


def _forwarded(block: bytes) -> bytes:
    """A block that `read` took, without what is of this hop alone."""
    parts: list[bytes] = []
    at, end = 0, len(block)
    while at < end:
        first, identifier = at, block[at]
        at += 1
        if identifier in _SIZES:
            at += _SIZES[identifier]
        else:
            for _ in range(2 if identifier == Property.USER_PROPERTY else 1):
                at += 2 + int.from_bytes(block[at : at + 2], "big")
        if identifier not in _HOP:
            parts.append(block[first:at])
    return b"".join(parts)


def _told(said: _Said, packet: Publish | Will, key: bytes | None, origin: Origin, now: int) -> Record:
    payload, qos = packet.payload, packet.qos
    flags = (0 if qos else Flag.VOLATILE) | (Flag.RETAINED if packet.retain else 0)
    if said.is_text and not payload.isascii():
        _check_text(payload)
    expires = None if said.expiry is None else now + said.expiry
    event = None if said.event is None else _event(said, payload, key, qos)
    if event is None or (packet.retain and payload and not event.payload):
        # Without data, and retained, an event would be taken for the end of what is retained.
        return Record(
            payload, key, "", said.content_type, [*said.user], None, expires, 0,
            said.reply_to, said.correlation_id, flags, origin, said.native[qos],
        )  # fmt: skip
    event.expires, event.flags, event.origin = expires, flags, origin
    event.reply_to, event.correlation_id = said.reply_to, said.correlation_id
    return event


def _event(said: _Said, payload: bytes, key: bytes | None, qos: int) -> Record:
    if said.event == "binary":
        record = events.read_binary(said.user, said.content_type, payload, key)
        record.native = said.native[qos]
    else:
        record = events.read_structured(said.user, payload, key)
        kept = payload if len(payload) <= _KEPT else b""
        record.native = bytes((qos | _STRUCTURED,)) + write_field.varint(len(said.block)) + said.block + kept
    return record


def _check_text(payload: bytes) -> None:
    """§3.3.2.3.2: a receiver may look, and says 0x99."""
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the payload is not UTF-8 at byte {error.start}, as its format indicator says") from None


# --- out -------------------------------------------------------------------------------------------------------------


def qos_of(record: Record) -> int:
    """At which it was published; a reader gets it at this or at what it asked for, whichever is less."""
    if record.flags & Flag.VOLATILE:
        return 0
    native = _native_of(record)
    return _ELSEWHERE if native is None else native[0] & 3


def levels_of(batch: Batch) -> bytes:
    """`qos_of` for each record. Kept with the batch."""
    levels: bytes | None = batch.encoded.get(_LEVELS)
    if levels is None:
        levels = batch.encoded[_LEVELS] = bytes([qos_of(record) for record in batch.records])
    return levels


_LEVELS: Final = "mqtt levels"


def _native_of(record: Record) -> bytes | None:
    origin = record.origin
    return record.native or None if origin is not None and origin.wire == WIRE else None


def payload_of(message: Message) -> bytes:
    """As MQTT has it: an event that came in structured mode is one again."""
    native = _native_of(message.record)
    if native is None or not native[0] & _STRUCTURED:
        return message.record.payload
    return _structured(native)[1] or write_structured(message)


def block_of(message: Message) -> bytes:
    """Properties for a reader at level 5, without their length, what is left of the message's life, and what is of the
    reader's subscription."""
    native = _native_of(message.record)
    if native is None:
        return _block_of_fields(message)
    return _structured(native)[0] if native[0] & _STRUCTURED else native[1:]


def _structured(native: bytes) -> tuple[bytes, bytes]:
    """The property block, and the payload as it came, or nothing."""
    fields = Fields(native, "native", 1)
    return fields.take(fields.varint("size"), "block"), native[fields.at :]


def expiry_of(record: Record, now: int) -> bytes:
    """The Message Expiry Interval: what is left of it, at least a second [MQTT-3.3.2-6]; nothing if it never ends."""
    if record.expires is None:
        return b""
    left = min(max(-((now - record.expires) // 1_000), 1), _FOREVER)
    return _property(Property.MESSAGE_EXPIRY_INTERVAL, left)


def _block_of_fields(message: Message) -> bytes:
    """Of a message of another protocol. What MQTT cannot say of it is left out: a text with U+0000 or of more than
    65,535 bytes, a reply-to that is no topic name."""
    record = message.record
    block = _content_type(record.content_type) if record.content_type else b""
    if not record.headers and record.reply_to is None and record.correlation_id is None:
        return block
    said: list[tuple[int, object]] = []
    if record.reply_to and "+" not in record.reply_to and "#" not in record.reply_to:
        said.append((Property.RESPONSE_TOPIC, record.reply_to))
    if record.correlation_id is not None:
        said.append((Property.CORRELATION_DATA, record.correlation_id))
    said += [(Property.USER_PROPERTY, pair) for pair in _user_properties(message)]
    return block + b"".join(_sayable(said))


@lru_cache(maxsize=256)
def _content_type(value: str) -> bytes:
    return b"".join(_sayable([(Property.CONTENT_TYPE, value)]))


def _user_properties(message: Message) -> list[tuple[str, str]]:
    headers = message.record.headers
    if not headers:
        return []
    if events.was_event(message.record):
        others = [header for header in headers if not header[0].startswith(PREFIX)]
        return [*events.attributes_of(message), *((name, _text(value)) for name, value in others)]
    return [(name, _text(value)) for name, value in headers]


def _text(value: object) -> str:
    """A header's value: bytes as the text they are, or else in base64."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return b64encode(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _sayable(said: Iterable[tuple[int, object]]) -> Iterable[bytes]:
    for identifier, value in said:
        try:
            yield _property(identifier, value)
        except ValueError:
            continue
