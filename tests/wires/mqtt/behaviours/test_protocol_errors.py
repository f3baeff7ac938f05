"""Packets that break the protocol: their connection ends (MQTT 5 §4.13), and no other notices."""

from __future__ import annotations

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import (
    CONNACK,
    DISCONNECT,
    acknowledge,
    connect,
    packet,
    ping,
    publish,
    string,
    subscribe,
    unsubscribe,
)

BAD_UTF8 = {
    "alone": b"a\x80",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\x80",
    "cut": b"\xe2\x82",
    "zero": b"a\0b",
}

# After CONNECT, by level: None is all.
ERRORS: dict[str, tuple[bytes, set[int] | None]] = {
    "a second CONNECT": (connect("again"), None),
    "CONNACK of a client": (packet(0x20, b"\0\0"), None),
    "SUBACK of a client": (packet(0x90, b"\0\1\0"), None),
    "UNSUBACK of a client": (packet(0xB0, b"\0\1"), None),
    "PINGRESP of a client": (packet(0xD0), None),
    "packet type 0": (packet(0x00), None),
    "AUTH at 3.1.1": (packet(0xF0), {3, 4}),
    "AUTH without a method": (packet(0xF0, b"\x18\0"), {5}),
    "QoS 3": (packet(0x36, string("t") + b"\0\1x"), None),
    "SUBSCRIBE with flags 0": (b"\x80" + subscribe(1, ("t", 0))[1:], {4}),
    "SUBSCRIBE with flags 0 at 5": (b"\x80" + subscribe(1, ("t", 0), level=5)[1:], {5}),
    "UNSUBSCRIBE with flags 0": (b"\xa0" + unsubscribe(1, "t")[1:], {4}),
    "UNSUBSCRIBE with flags 0 at 5": (b"\xa0" + unsubscribe(1, "t", level=5)[1:], {5}),
    "PUBREL with flags 0": (b"\x60\x02\0\1", {4, 5}),
    "PINGREQ with flags": (packet(0xC1), {4, 5}),
    "DISCONNECT with flags": (packet(0xE1), {4, 5}),
    "PUBACK with flags": (packet(0x41, b"\0\1"), {4, 5}),
    "SUBSCRIBE to nothing": (subscribe(1), {4}),
    "SUBSCRIBE to nothing at 5": (subscribe(1, level=5), {5}),
    "UNSUBSCRIBE from nothing": (unsubscribe(1), {4}),
    "SUBSCRIBE at QoS 3": (subscribe(1, ("t", 3)), {3, 4}),
    "SUBSCRIBE at QoS 3 at 5": (subscribe(1, ("t", 3), level=5), {5}),
    "SUBSCRIBE with reserved bits": (subscribe(1, ("t", 0xC1), level=5), {5}),
    "SUBSCRIBE with retain handling 3": (subscribe(1, ("t", 0x31), level=5), {5}),
    "SUBSCRIBE with id 0": (subscribe(0, ("t", 0)), {3, 4}),
    "SUBSCRIBE with id 0 at 5": (subscribe(0, ("t", 0), level=5), {5}),
    "SUBSCRIBE with identifier 0": (subscribe(1, ("t", 0), level=5, properties=b"\x0b\0"), {5}),
    "UNSUBSCRIBE with id 0": (unsubscribe(0, "t"), {3, 4}),
    "PUBLISH with id 0": (publish("t", b"x", 1, 0), {3, 4}),
    "PUBLISH with id 0 at 5": (publish("t", b"x", 2, 0, level=5), {5}),
    "PUBACK with id 0": (acknowledge(4, 0), None),
    "PUBLISH shorter than its topic": (packet(0x30, b"\0\x09abc"), None),
    "PUBLISH without an id": (packet(0x32, string("t")), None),
    "PUBLISH with properties longer than itself": (packet(0x30, string("t") + b"\x50ab"), {5}),
    "PUBLISH with a property length of 5 bytes": (packet(0x30, string("t") + b"\x80\x80\x80\x80\x01"), {5}),
    "SUBSCRIBE cut short": (packet(0x82, b"\0\1\0\x05ab"), {3, 4}),
    "PUBACK of one byte": (packet(0x40, b"\0"), None),
    "remaining length of 5 bytes": (b"\x30\xff\xff\xff\xff\x01", None),
    **{f"a name in bad UTF-8: {how}": (publish(name, b"x"), {3, 4}) for how, name in BAD_UTF8.items()},
    **{f"a name in bad UTF-8 at 5: {how}": (publish(name, b"x", level=5), {5}) for how, name in BAD_UTF8.items()},
}
# What mosquitto takes no offence at, and at which levels.
TOLERATED = {
    "SUBACK of a client": (3, 4),
    "UNSUBACK of a client": (3, 4),
    "PINGRESP of a client": (3, 4, 5),
    "PINGREQ with flags": (4, 5),
    "PUBACK with flags": (4, 5),
}
CASES = [
    pytest.param(level, name, id=f"{name} ({level})")
    for name, (_, levels) in ERRORS.items()
    for level in (3, 4, 5)
    if levels is None or level in levels
]


@pytest.mark.parametrize(("level", "name"), CASES)
def test_it_ends_its_connection_and_no_other(broker: Broker, topic: str, level: int, name: str) -> None:
    other = broker.connected(level=level)
    client = broker.raw(level, patience=3)
    client.connect(topic)
    client.send(ERRORS[name][0])
    if level in TOLERATED.get(name, ()) and broker.differs("lenient checks"):
        assert client.alive()
        return
    ends = client.rest()
    if level == 5:
        assert [end.kind for end in ends] in ([DISCONNECT], [])
        assert all(end.body[0] >= 0x80 for end in ends)
        assert ends != [] or broker.differs("a reason for every end")
    else:
        assert ends == []
    assert other.publish(topic, b"x") in (0, 0x10)


FIRST = {
    "PUBLISH": publish("t", b"x"),
    "SUBSCRIBE": subscribe(1, ("t", 0)),
    "PINGREQ": ping(),
    "DISCONNECT": packet(0xE0),
    "PUBREL": acknowledge(6, 1),
    "AUTH": packet(0xF0, b"\x18\0"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03",
    "zeros": bytes(100),
    "CONNECT of 256 MB": b"\x10\xff\xff\xff\x7f" + string("MQTT"),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
def test_a_connection_begins_with_connect(broker: Broker, topic: str, first: bytes) -> None:
    # [MQTT-3.1.0-1]
    other = broker.connected()
    client = broker.raw(patience=3)
    client.send(first)
    if first.startswith(b"\x10") and broker.differs("a CONNECT of any size"):
        client.close()
    else:
        assert all(end.kind in (CONNACK, DISCONNECT) for end in client.rest())
    assert other.publish(topic, b"x") in (0, 0x10)


def _connect(flags: int, rest: bytes = b"", name: bytes = b"MQTT", level: int = 4) -> bytes:
    return packet(0x10, string(name) + bytes([level, flags, 0, 60]) + string("x") + rest)


CONNECTS = {
    "reserved flag": _connect(0x03),
    "will QoS without a will": _connect(0x0A),
    "will retain without a will": _connect(0x22),
    "will QoS 3": _connect(0x1E, string("t") + string("x")),
    "password without user": _connect(0x42, string("secret")),
    "user that is missing": _connect(0x82),
    "will that is missing": _connect(0x06),
    "flags of the fixed header": b"\x11" + connect("x")[1:],
    "bytes after its end": _connect(0x02, b"more"),
    "client id in bad UTF-8": packet(0x10, string("MQTT") + b"\x04\x02\0\x3c" + string(b"\xff\xfe")),
    "user in bad UTF-8": _connect(0x82, string(b"\xff\xfe")),
    "will on bad UTF-8": _connect(0x06, string(b"\xff") + string("x")),
    "will on nothing": _connect(0x06, string("") + string("x")),
    "cut short": packet(0x10, string("MQTT") + b"\x04"),
    "MQTT 3.1's name with the level of 3.1.1": _connect(0x02, name=b"MQIsdp", level=4),
    "session expiry twice": connect("x", 5, properties=b"\x11\0\0\0\1\x11\0\0\0\1"),
    "receive maximum 0": connect("x", 5, properties=b"\x21\0\0"),
    "maximum packet size 0": connect("x", 5, properties=b"\x27\0\0\0\0"),
    "request problem information 2": connect("x", 5, properties=b"\x17\2"),
    "property of another packet": connect("x", 5, properties=b"\x23\0\1"),
    "authentication data without a method": connect("x", 5, properties=b"\x16\0\1x"),
}


@pytest.mark.parametrize("name", CONNECTS)
def test_a_connect_that_is_none(broker: Broker, topic: str, name: str) -> None:
    other = broker.connected()
    client = broker.raw(patience=3)
    client.send(CONNECTS[name])
    if name == "authentication data without a method" and broker.differs("lenient checks"):
        assert client.expect(CONNACK).body[1] == 0
        return
    ends = client.rest()
    assert all(end.kind in (CONNACK, DISCONNECT) and end.body[end.kind == CONNACK] != 0 for end in ends)
    assert other.publish(topic, b"x") in (0, 0x10)
