"""Property blocks (MQTT 5 §2.2.2) ↔ dicts.

A value is an int, a str, or bytes. User properties are a list of (name, value), subscription identifiers a list of int,
in their order; everything else stands once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from polywire.wires.mqtt import fields as write_field
from polywire.wires.mqtt.fields import MOST_VARINT, Fields
from polywire.wires.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["NAMES", "read", "read_part", "write"]


class _Kind(NamedTuple):
    """How values of a type are read and written."""

    read: Callable[[Fields, str], Any]
    write: Callable[[Any], bytes]


class _Rule(NamedTuple):
    """``packets`` may carry it; ``bounds`` of a number, if its type allows more; ``listed``: it may be repeated, but
    not in a packet of ``once``."""

    name: str
    kind: _Kind
    packets: tuple[type, ...]
    bounds: range | None = None
    listed: bool = False
    once: tuple[type, ...] = ()


_BYTE: Final = _Kind(Fields.byte, write_field.byte)
_TWO: Final = _Kind(Fields.two, write_field.two)
_FOUR: Final = _Kind(Fields.four, write_field.four)
_VARINT: Final = _Kind(Fields.varint, write_field.varint)
_BINARY: Final = _Kind(Fields.binary, write_field.binary)
_TEXT: Final = _Kind(Fields.text, write_field.text)
_PAIR: Final = _Kind(Fields.pair, write_field.pair)

_MESSAGE: Final = (Publish, Will)
_OPENING: Final = (Connect, Connack)
_LOGIN: Final = (Connect, Connack, Auth)
_ANSWERS: Final = (Connack, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Disconnect, Auth)
_ALL: Final = (*_ANSWERS, Connect, Publish, Will, Subscribe, Unsubscribe)

_SWITCH: Final = range(2)
_WILDCARDS: Final = frozenset("+#")
_P: Final = Property
_RULES: Final[dict[int, _Rule]] = {
    _P.PAYLOAD_FORMAT_INDICATOR: _Rule("Payload Format Indicator", _BYTE, _MESSAGE, _SWITCH),
    _P.MESSAGE_EXPIRY_INTERVAL: _Rule("Message Expiry Interval", _FOUR, _MESSAGE),
    _P.CONTENT_TYPE: _Rule("Content Type", _TEXT, _MESSAGE),
    _P.RESPONSE_TOPIC: _Rule("Response Topic", _TEXT, _MESSAGE),
    _P.CORRELATION_DATA: _Rule("Correlation Data", _BINARY, _MESSAGE),
    _P.SUBSCRIPTION_IDENTIFIER: _Rule(
        "Subscription Identifier",
        _VARINT,
        (Publish, Subscribe),
        range(1, MOST_VARINT + 1),
        listed=True,
        once=(Subscribe,),
    ),
    _P.SESSION_EXPIRY_INTERVAL: _Rule("Session Expiry Interval", _FOUR, (Connect, Connack, Disconnect)),
    _P.ASSIGNED_CLIENT_IDENTIFIER: _Rule("Assigned Client Identifier", _TEXT, (Connack,)),
    _P.SERVER_KEEP_ALIVE: _Rule("Server Keep Alive", _TWO, (Connack,)),
    _P.AUTHENTICATION_METHOD: _Rule("Authentication Method", _TEXT, _LOGIN),
    _P.AUTHENTICATION_DATA: _Rule("Authentication Data", _BINARY, _LOGIN),
    _P.REQUEST_PROBLEM_INFORMATION: _Rule("Request Problem Information", _BYTE, (Connect,), _SWITCH),
    _P.WILL_DELAY_INTERVAL: _Rule("Will Delay Interval", _FOUR, (Will,)),
    _P.REQUEST_RESPONSE_INFORMATION: _Rule("Request Response Information", _BYTE, (Connect,), _SWITCH),
    _P.RESPONSE_INFORMATION: _Rule("Response Information", _TEXT, (Connack,)),
    _P.SERVER_REFERENCE: _Rule("Server Reference", _TEXT, (Connack, Disconnect)),
    _P.REASON_STRING: _Rule("Reason String", _TEXT, _ANSWERS),
    _P.RECEIVE_MAXIMUM: _Rule("Receive Maximum", _TWO, _OPENING, range(1, 1 << 16)),
    _P.TOPIC_ALIAS_MAXIMUM: _Rule("Topic Alias Maximum", _TWO, _OPENING),
    _P.TOPIC_ALIAS: _Rule("Topic Alias", _TWO, (Publish,), range(1, 1 << 16)),
    _P.MAXIMUM_QOS: _Rule("Maximum QoS", _BYTE, (Connack,), _SWITCH),
    _P.RETAIN_AVAILABLE: _Rule("Retain Available", _BYTE, (Connack,), _SWITCH),
    _P.USER_PROPERTY: _Rule("User Property", _PAIR, _ALL, listed=True),
    _P.MAXIMUM_PACKET_SIZE: _Rule("Maximum Packet Size", _FOUR, _OPENING, range(1, 1 << 32)),
    _P.WILDCARD_SUBSCRIPTION_AVAILABLE: _Rule("Wildcard Subscription Available", _BYTE, (Connack,), _SWITCH),
    _P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: _Rule("Subscription Identifier Available", _BYTE, (Connack,), _SWITCH),
    _P.SHARED_SUBSCRIPTION_AVAILABLE: _Rule("Shared Subscription Available", _BYTE, (Connack,), _SWITCH),
}
"""Table 2-4, and what the sections of the packets add."""

NAMES: Final[dict[int, str]] = {identifier: rule.name for identifier, rule in _RULES.items()}

_ALLOWED: Final[dict[type, dict[int, _Rule]]] = {
    packet: {identifier: rule for identifier, rule in _RULES.items() if packet in rule.packets} for packet in _ALL
}
_WHERE: Final[dict[type, str]] = {packet: f"properties of {packet.__name__.upper()}" for packet in _ALL}
_OUT_OF_RANGE: Final = {Property.TOPIC_ALIAS: Reason.TOPIC_ALIAS_INVALID}
"""Any other value out of its range is a Protocol Error."""


def read(block: bytes, packet: type) -> Properties:
    """A block without its length, from a packet of this type, or `Will`.

    Raises `MqttError`: 0x81 for what is cut short, no such property, or not one of this packet (§2.2.2.2); 0x82 for a
    repeated one and a value out of its range; 0x94 for Topic Alias 0.
    """
    return read_part(Fields(block, _WHERE[packet]), packet) if block else {}


def read_part(fields: Fields, packet: type) -> Properties:
    """`read`, of all that is in ``fields``."""
    rules = _ALLOWED[packet]
    found: Properties = {}
    while fields.at < fields.end:
        identifier = fields.byte("identifier")  # a Variable Byte Integer, of which all have one byte so far
        rule = rules.get(identifier)
        if rule is None:
            raise fields.malformed(f"{NAMES.get(identifier, f'0x{identifier:02X}')} is not one of them")
        value = rule.kind.read(fields, rule.name)
        if rule.bounds is not None and value not in rule.bounds:
            reason = _OUT_OF_RANGE.get(identifier, Reason.PROTOCOL_ERROR)
            raise MqttError(reason, f"{fields.where}: {rule.name} cannot be {value}")
        if identifier not in found:
            found[identifier] = [value] if rule.listed else value
        elif rule.listed and packet not in rule.once:
            found[identifier].append(value)
        else:
            raise fields.not_allowed(f"{rule.name} stands there twice")
    _check_together(fields, found)
    return found


def _check_together(fields: Fields, found: Properties) -> None:
    if Property.AUTHENTICATION_DATA in found and Property.AUTHENTICATION_METHOD not in found:  # §3.1.2.11.10
        raise fields.not_allowed("Authentication Data without Authentication Method")
    if Property.RESPONSE_TOPIC in found and not _WILDCARDS.isdisjoint(found[Property.RESPONSE_TOPIC]):
        raise fields.not_allowed("the Response Topic contains a wildcard [MQTT-3.3.2-14]")


def write(properties: Properties) -> bytes:
    """The block with its length before it. Raises ValueError for a value that its type cannot say."""
    if not properties:
        return b"\0"
    parts: list[bytes] = []
    for identifier, value in properties.items():
        rule = _RULES[identifier]
        tag = bytes((identifier,))
        parts += [tag + rule.kind.write(one) for one in (value if rule.listed else (value,))]
    block = b"".join(parts)
    return write_field.varint(len(block)) + block
