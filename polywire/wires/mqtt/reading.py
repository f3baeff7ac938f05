"""The packets, but PUBLISH, from their bytes: what stands between the fixed header and the end (MQTT 5 §3).

Each function reads one packet at one level, and raises `MqttError` for what the specifications do not allow there.
3.1 calls what it does not use "not used": at level 3 it is passed over, where later levels refuse it as reserved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polywire.wires.mqtt import properties
from polywire.wires.mqtt.fields import Fields
from polywire.wires.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from polywire.wires.mqtt.reasons import MqttError, Reason, connack_reason

__all__ = ["REASONS", "check_flags", "connect", "level_for", "packet"]

_NAMES: Final = (
    "reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
    "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip
"""By packet type, the upper half of the first byte (§2.1.2)."""

# --- the first byte (§2.1.3) -----------------------------------------------------------------------------------------

_FLAGS: Final = (0, 0, 0, 0, 0, 0, 2, 0, 2, 0, 2, 0, 0, 0, 0, 0)
"""The lower half of the first byte, by type; but for PUBLISH, where it means something."""


def check_flags(first: int, level: int | None) -> None:
    """Raises `MqttError` 0x81 for a first byte that no packet of this level has."""
    type_, flags = first >> 4, first & 0x0F
    if type_ == 0 or (type_ == 15 and level != 5):
        raise MqttError(Reason.MALFORMED_PACKET, f"packet type {type_} is reserved")
    if type_ == 3:
        _check_publish(flags)
    elif (flags ^ _FLAGS[type_]) & _used(type_, level):
        raise MqttError(Reason.MALFORMED_PACKET, f"{_NAMES[type_]}: reserved flags are set [MQTT-2.1.3-1]")


def _check_publish(flags: int) -> None:
    if flags & 0b0110 == 0b0110:
        raise MqttError(Reason.MALFORMED_PACKET, "PUBLISH: there is no QoS 3 [MQTT-3.3.1-4]")
    if flags & 0b1110 == 0b1000:
        raise MqttError(Reason.MALFORMED_PACKET, "PUBLISH: DUP at QoS 0 [MQTT-3.3.1-2]")


def _used(type_: int, level: int | None) -> int:
    """The flags that count. In 3.1 what has QoS 1 has no other, and may be a DUP (§2.1 there)."""
    if level != 3:
        return 0b1111
    return 0b0110 if _FLAGS[type_] else 0


# --- what packets have in common -------------------------------------------------------------------------------------


def _id(fields: Fields) -> int:
    packet_id = fields.two("packet identifier")
    if not packet_id:
        raise fields.not_allowed("packet identifier 0 [MQTT-2.2.1-3]")
    return packet_id


def _properties(fields: Fields, packet: type, level: int) -> Properties:
    """With their length before them; none below level 5."""
    if level < 5:
        return {}
    size = fields.varint("property length")
    return properties.read_part(fields.part(size, "properties"), packet) if size else {}


def _reason(fields: Fields, packet: type) -> int:
    reason = fields.byte("reason code")
    if reason not in REASONS[packet]:
        raise fields.not_allowed(f"reason code 0x{reason:02X} is not one of this packet")
    return reason


def _codes(codes: str) -> frozenset[int]:
    return frozenset(bytes.fromhex(codes))


REASONS: Final[dict[type, frozenset[int]]] = {
    Connack: _codes("00 80 81 82 83 84 85 86 87 88 89 8A 8C 90 95 97 99 9A 9B 9C 9D 9F"),  # table 3-1
    Puback: _codes("00 10 80 83 87 90 91 97 99"),  # table 3-4
    Pubrec: _codes("00 10 80 83 87 90 91 97 99"),
    Pubrel: _codes("00 92"),
    Pubcomp: _codes("00 92"),
    Suback: _codes("00 01 02 80 83 87 8F 91 97 9E A1 A2"),
    Unsuback: _codes("00 11 80 83 87 8F 91"),
    Disconnect: _codes("00 04 80 81 82 83 87 89 8B 8C 8D 8E 8F 90 93 94 95 96 97 98 99 9A 9B 9C 9D 9E 9F A0 A1 A2"),
    Auth: _codes("00 18 19"),  # table 3-11
}
"""What `Reason` calls them, by the tables of the packets' sections; 8C of DISCONNECT by table 2-6 alone."""

_SUBACK_CODES: Final = _codes("00 01 02 80")
"""Of 3.1.1, §3.9.3."""

# --- CONNECT (§3.1) --------------------------------------------------------------------------------------------------

_RESERVED: Final = 0x01
_CLEAN_START: Final = 0x02
_WILL: Final = 0x04
_WILL_QOS: Final = 0x18
_WILL_RETAIN: Final = 0x20
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80


def level_for(name: bytes, version: int) -> int | None:
    """The level in which a peer that says so is answered, which is its own if that exists. None: this is not MQTT."""
    if name == b"MQTT":
        return 5 if version >= 5 else 4
    return 3 if name == b"MQIsdp" else None


def connect(fields: Fields, level: int, bridge: bool) -> Connect:
    """From the connect flags on."""
    flags = fields.byte("connect flags")
    _check_connect_flags(fields, flags, level)
    keep_alive = fields.two("keep alive")
    found = _properties(fields, Connect, level)
    return Connect(
        level=level,
        client_id=fields.text("client identifier"),
        clean_start=bool(flags & _CLEAN_START),
        keep_alive=keep_alive,
        will=_will(fields, flags, level) if flags & _WILL else None,
        username=fields.text("user name") if flags & _USERNAME and not _left_out(fields, level) else None,
        password=fields.binary("password") if flags & _PASSWORD and not _left_out(fields, level) else None,
        properties=found,
        bridge=bridge,
    )


def _check_connect_flags(fields: Fields, flags: int, level: int) -> None:
    if flags & _RESERVED and level > 3:
        raise fields.malformed("the reserved connect flag is set [MQTT-3.1.2-3]")
    if flags & _WILL:
        if flags & _WILL_QOS == _WILL_QOS:
            raise fields.malformed("there is no Will QoS 3 [MQTT-3.1.2-12]")
    elif flags & (_WILL_QOS | _WILL_RETAIN) and level > 3:
        raise fields.not_allowed("Will QoS or Will Retain without a will [MQTT-3.1.2-11, MQTT-3.1.2-13]")
    if flags & _PASSWORD and not flags & _USERNAME and level < 5:
        raise fields.not_allowed("a password without a user name")  # [MQTT-3.1.2-22] of 3.1.1


def _left_out(fields: Fields, level: int) -> bool:
    """3.1 §3.1: the end of the packet takes precedence over the flags of user name and password."""
    return level == 3 and not fields.left


def _will(fields: Fields, flags: int, level: int) -> Will:
    found = _properties(fields, Will, level)
    return Will(
        topic=fields.binary("will topic"),
        payload=fields.binary("will payload"),
        qos=(flags & _WILL_QOS) >> 3,
        retain=bool(flags & _WILL_RETAIN),
        properties=found,
    )


# --- the others, in their order --------------------------------------------------------------------------------------


def _connack(fields: Fields, level: int) -> Connack:
    flags = fields.byte("acknowledge flags")
    if flags > 1 and level > 3:
        raise fields.malformed("reserved acknowledge flags are set [MQTT-3.2.2-1]")
    reason = _reason(fields, Connack) if level == 5 else _return_code(fields)
    present = level > 3 and bool(flags)
    if present and reason:
        raise fields.not_allowed("Session Present in a refusal [MQTT-3.2.2-6]")
    return Connack(reason, present, _properties(fields, Connack, level))


def _return_code(fields: Fields) -> int:
    code = fields.byte("return code")
    reason = connack_reason(code)
    if reason is None:
        raise fields.not_allowed(f"return code {code} is reserved")
    return reason


_Acknowledgement = Puback | Pubrec | Pubrel | Pubcomp


def _acknowledgement(packet: type[_Acknowledgement]) -> Callable[[Fields, int], _Acknowledgement]:
    """What is left out at the end is success without properties (§3.4.2.1, §3.4.2.2.1)."""

    def read(fields: Fields, level: int) -> _Acknowledgement:
        packet_id = _id(fields)
        if level < 5 or not fields.left:
            return packet(packet_id)
        reason = _reason(fields, packet)
        return packet(packet_id, reason, _properties(fields, packet, level) if fields.left else {})

    return read


def _subscribe(fields: Fields, level: int) -> Subscribe:
    packet_id = _id(fields)
    found = _properties(fields, Subscribe, level)
    filters: list[tuple[str, SubscriptionOptions]] = []
    while fields.left:
        filters.append((fields.text("topic filter"), _options(fields, level)))
    if not filters:
        raise fields.not_allowed("no topic filter [MQTT-3.8.3-2]")
    return Subscribe(packet_id, filters, found)


def _options(fields: Fields, level: int) -> SubscriptionOptions:
    """§3.8.3.1. Up to 3.1.1 there is nothing but the QoS."""
    byte = fields.byte("subscription options")
    if level == 3:
        byte &= 0x03
    if byte & (0xC0 if level == 5 else 0xFC):
        raise fields.malformed("reserved subscription options are set [MQTT-3.8.3-5]")
    options = _OPTIONS.get(byte)
    if options is None:
        raise fields.not_allowed("there is no QoS 3, and no Retain Handling 3")
    return options


_OPTIONS: Final = {
    qos | no_local << 2 | as_published << 3 | handling << 4: SubscriptionOptions(
        qos, bool(no_local), bool(as_published), handling
    )
    for qos in range(3)
    for no_local in range(2)
    for as_published in range(2)
    for handling in range(3)
}


def _suback(fields: Fields, level: int) -> Suback:
    packet_id = _id(fields)
    found = _properties(fields, Suback, level)
    return Suback(packet_id, _codes_left(fields, REASONS[Suback] if level == 5 else _SUBACK_CODES), found)


def _codes_left(fields: Fields, allowed: frozenset[int]) -> list[int]:
    codes = list(fields.take(fields.left, "reason codes"))
    if not codes:
        raise fields.not_allowed("no reason code")
    if not allowed.issuperset(codes):
        raise fields.not_allowed("a reason code is not one of this packet")
    return codes


def _unsubscribe(fields: Fields, level: int) -> Unsubscribe:
    packet_id = _id(fields)
    found = _properties(fields, Unsubscribe, level)
    filters: list[str] = []
    while fields.left:
        filters.append(fields.text("topic filter"))
    if not filters:
        raise fields.not_allowed("no topic filter [MQTT-3.10.3-2]")
    return Unsubscribe(packet_id, filters, found)


def _unsuback(fields: Fields, level: int) -> Unsuback:
    packet_id = _id(fields)
    if level < 5:
        return Unsuback(packet_id)
    found = _properties(fields, Unsuback, level)
    return Unsuback(packet_id, _codes_left(fields, REASONS[Unsuback]), found)


def _disconnect(fields: Fields, level: int) -> Disconnect:
    """What is left out at the end is a normal disconnection without properties (§3.14.2.1, §3.14.2.2.1)."""
    if level < 5 or not fields.left:
        return Disconnect()
    reason = _reason(fields, Disconnect)
    return Disconnect(reason, _properties(fields, Disconnect, level) if fields.left else {})


def _auth(fields: Fields, level: int) -> Auth:
    """Success may leave everything out (§3.15.2.1), though §3.15.2.2.2 asks for the method: only others must say it."""
    if not fields.left:
        return Auth()
    reason = _reason(fields, Auth)
    found = _properties(fields, Auth, level)
    if reason and Property.AUTHENTICATION_METHOD not in found:
        raise fields.not_allowed("no Authentication Method")
    return Auth(reason, found)


def _pingreq(_fields: Fields, _level: int) -> Pingreq:
    return Pingreq()


def _pingresp(_fields: Fields, _level: int) -> Pingresp:
    return Pingresp()


_READERS: Final[dict[int, Callable[[Fields, int], Packet]]] = {
    2: _connack,
    4: _acknowledgement(Puback),
    5: _acknowledgement(Pubrec),
    6: _acknowledgement(Pubrel),
    7: _acknowledgement(Pubcomp),
    8: _subscribe,
    9: _suback,
    10: _unsubscribe,
    11: _unsuback,
    12: _pingreq,
    13: _pingresp,
    14: _disconnect,
    15: _auth,
}


def packet(type_: int, data: bytes, at: int, end: int, level: int) -> Packet:
    """Any but CONNECT and PUBLISH, whose flags are checked: ``data`` from ``at`` to ``end``, all of it."""
    fields = Fields(data, _NAMES[type_], at, end)
    found = _READERS[type_](fields, level)
    fields.finish()
    return found
