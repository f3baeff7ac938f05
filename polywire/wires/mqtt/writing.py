"""Packets to bytes, at any level: what a level cannot say is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from polywire.wires.mqtt import properties
from polywire.wires.mqtt.fields import PACKET_IDS, binary, byte, text, two, varint
from polywire.wires.mqtt.packets import (
    Acks,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from polywire.wires.mqtt.reasons import Reason, connack_code

__all__ = ["encode", "pubacks", "publish_head"]

_PUBACK: Final = b"\x40\x02"


def encode(packet: Packet, level: int) -> bytes:
    """The whole packet. Raises ValueError for what it cannot say: a string or number out of the range of its field, a
    CONNACK for a reason that 3.1.1 has no code for, AUTH below level 5."""
    return _WRITERS[type(packet)](packet, level)


def pubacks(ids: Sequence[int]) -> bytes:
    """One PUBACK that says success for each, at any level."""
    return _PUBACK + _PUBACK.join([PACKET_IDS[number] for number in ids]) if ids else b""


def publish_head(topic: bytes, qos: int, retain: bool, dup: bool, following: int) -> bytes:
    """A PUBLISH up to the end of its topic. ``following`` is the number of bytes that come after it: packet id,
    properties with their length (at level 5), payload. Raises ValueError for more than a packet can hold."""
    size = len(topic)
    first = 0x30 | dup << 3 | qos << 1 | retain
    return b"%c%b%b%b" % (first, varint(2 + size + following), two(size), topic)


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return byte(first) + varint(len(body)) + body


def _properties(found: Properties, level: int) -> bytes:
    return properties.write(found) if level == 5 else b""


def _publish(packet: Publish, level: int) -> bytes:
    parts = [PACKET_IDS[packet.id]] if packet.qos else []
    if level == 5:
        parts += [varint(len(packet.properties)), packet.properties]
    parts.append(packet.payload)
    rest = b"".join(parts)
    return publish_head(packet.topic, packet.qos, packet.retain, packet.dup, len(rest)) + rest


_PROTOCOLS: Final = {3: b"MQIsdp", 4: b"MQTT", 5: b"MQTT"}


def _connect(packet: Connect, _level: int) -> bytes:
    """At its own level."""
    level, will = packet.level, packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    payload = text(packet.client_id)
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        payload += _will(will, level)
    if packet.username is not None:
        payload += text(packet.username)
    if packet.password is not None:
        payload += binary(packet.password)
    variable_header = (
        binary(_PROTOCOLS[level]),
        byte(level | packet.bridge << 7),
        byte(flags),
        two(packet.keep_alive),
        _properties(packet.properties, level),
    )
    return _packet(0x10, *variable_header, payload)


def _will(will: Will, level: int) -> bytes:
    return _properties(will.properties, level) + binary(will.topic) + binary(will.payload)


def _connack(packet: Connack, level: int) -> bytes:
    """3.1 has no Session Present (its §3.2)."""
    code = packet.reason if level == 5 else connack_code(packet.reason)
    if code is None:
        raise ValueError(f"no return code for reason 0x{packet.reason:02X}")
    present = byte(packet.session_present and level > 3)
    return _packet(0x20, present, byte(code), _properties(packet.properties, level))


def _acknowledgement(first: int) -> Callable[[Puback | Pubrec | Pubrel | Pubcomp, int], bytes]:
    """Nothing is written that may be left out (§3.4.2.1, §3.4.2.2.1)."""

    def write(packet: Puback | Pubrec | Pubrel | Pubcomp, level: int) -> bytes:
        packet_id = two(packet.id)
        if level < 5 or not (packet.reason or packet.properties):
            return _packet(first, packet_id)
        if not packet.properties:
            return _packet(first, packet_id, byte(packet.reason))
        return _packet(first, packet_id, byte(packet.reason), properties.write(packet.properties))

    return write


def _subscribe(packet: Subscribe, level: int) -> bytes:
    filters = [text(filter_) + _options(options, level) for filter_, options in packet.filters]
    return _packet(0x82, two(packet.id), _properties(packet.properties, level), *filters)


def _options(options: SubscriptionOptions, level: int) -> bytes:
    qos, no_local, retain_as_published, retain_handling = options
    if level < 5:
        return byte(qos)
    return byte(qos | no_local << 2 | retain_as_published << 3 | retain_handling << 4)


def _suback(packet: Suback, level: int) -> bytes:
    """3.1.1 has one code for every failure; 3.1 has none, and hears the same."""
    codes = packet.reasons if level == 5 else [min(reason, Reason.UNSPECIFIED_ERROR) for reason in packet.reasons]
    return _packet(0x90, two(packet.id), _properties(packet.properties, level), bytes(codes))


def _unsubscribe(packet: Unsubscribe, level: int) -> bytes:
    return _packet(0xA2, two(packet.id), _properties(packet.properties, level), *map(text, packet.filters))


def _unsuback(packet: Unsuback, level: int) -> bytes:
    if level < 5:
        return _packet(0xB0, two(packet.id))
    return _packet(0xB0, two(packet.id), properties.write(packet.properties), bytes(packet.reasons))


def _disconnect(packet: Disconnect, level: int) -> bytes:
    if level < 5 or not (packet.reason or packet.properties):
        return b"\xe0\x00"
    return _packet(0xE0, byte(packet.reason), _properties(packet.properties, level) if packet.properties else b"")


def _auth(packet: Auth, level: int) -> bytes:
    if level < 5:
        raise ValueError("AUTH came with MQTT 5")
    if not (packet.reason or packet.properties):
        return b"\xf0\x00"
    return _packet(0xF0, byte(packet.reason), properties.write(packet.properties))


_WRITERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Acks: lambda packet, _level: pubacks(packet.ids),
    Puback: _acknowledgement(0x40),
    Pubrec: _acknowledgement(0x50),
    Pubrel: _acknowledgement(0x62),
    Pubcomp: _acknowledgement(0x70),
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: lambda _packet, _level: b"\xc0\x00",
    Pingresp: lambda _packet, _level: b"\xd0\x00",
    Disconnect: _disconnect,
    Auth: _auth,
}
