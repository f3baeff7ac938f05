"""A client of hand-written bytes: it says what no library would say, and sees every packet as it came.

It knows nothing of Polywire's codec, so that one cannot hide the other's mistakes.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Self

__all__ = [
    "CONNACK",
    "DISCONNECT",
    "PINGRESP",
    "PUBACK",
    "PUBCOMP",
    "PUBLISH",
    "PUBREC",
    "PUBREL",
    "SUBACK",
    "UNSUBACK",
    "Packet",
    "RawClient",
    "Received",
    "acknowledge",
    "connect",
    "number",
    "packet",
    "ping",
    "properties_of",
    "publish",
    "read_publish",
    "string",
    "subscribe",
    "unsubscribe",
    "user_property",
    "will",
]  # fmt: skip

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK = 2, 3, 4, 5, 6, 7, 9, 11
PINGRESP, DISCONNECT = 13, 14
NAMES = {3: b"MQIsdp", 4: b"MQTT", 5: b"MQTT"}


# --- writing ---------------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    """A variable byte integer, MQTT 5 §1.5.5."""
    digits = bytearray()
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(digits)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("!H", len(data)) + data


def user_property(name: str, value: str) -> bytes:
    return b"\x26" + string(name) + string(value)


def packet(first: int, body: bytes = b"") -> bytes:
    """``first``: type and flags, the first byte of the fixed header."""
    return bytes([first]) + number(len(body)) + body


def _properties(level: int, properties: bytes) -> bytes:
    return number(len(properties)) + properties if level == 5 else b""


def will(topic: str, payload: bytes, *, level: int = 4, properties: bytes = b"") -> bytes:
    return _properties(level, properties) + string(topic) + string(payload)


def connect(
    client_id: str = "",
    level: int = 4,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    properties: bytes = b"",
    last_will: bytes = b"",
    will_flags: int = 0x04,
    login: tuple[str, str] | None = None,
) -> bytes:
    """``last_will``: of `will`; ``will_flags``: 0x04, with 0x08 or 0x10 for its QoS and 0x20 for its retain."""
    flags = (0x02 if clean else 0) | (will_flags if last_will else 0) | (0xC0 if login else 0)
    head = string(NAMES[level]) + struct.pack("!BBH", level, flags, keep_alive)
    named = b"".join(string(part) for part in login or ())
    return packet(0x10, head + _properties(level, properties) + string(client_id) + last_will + named)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    qos: int = 0,
    id: int = 0,
    *,
    level: int = 4,
    dup: bool = False,
    retain: bool = False,
    properties: bytes = b"",
) -> bytes:
    first = 0x30 | (0x08 if dup else 0) | qos << 1 | (0x01 if retain else 0)
    identifier = struct.pack("!H", id) if qos else b""
    return packet(first, string(topic) + identifier + _properties(level, properties) + payload)


def acknowledge(kind: int, id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL, PUBCOMP of success. [MQTT-3.6.1-1]: PUBREL carries flags."""
    return packet(kind << 4 | (0x02 if kind == PUBREL else 0), struct.pack("!H", id))


def subscribe(id: int, *filters: tuple[str, int], level: int = 4, properties: bytes = b"") -> bytes:
    """``filters``: each with its options byte; at levels 3 and 4 that is the QoS."""
    body = b"".join(string(name) + bytes([options]) for name, options in filters)
    return packet(0x82, struct.pack("!H", id) + _properties(level, properties) + body)


def unsubscribe(id: int, *filters: str, level: int = 4) -> bytes:
    return packet(0xA2, struct.pack("!H", id) + _properties(level, b"") + b"".join(map(string, filters)))


def ping() -> bytes:
    return packet(0xC0)


# --- reading ---------------------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes

    @property
    def id(self) -> int:
        """Of all but PUBLISH, which is read as `Received`."""
        return int.from_bytes(self.body[:2], "big")


class Received(NamedTuple):
    """A PUBLISH."""

    topic: str
    payload: bytes
    qos: int
    id: int
    dup: bool
    retain: bool
    properties: dict[int, list[bytes]]


_FIXED = {0x01: 1, 0x17: 1, 0x19: 1, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1,
          0x13: 2, 0x21: 2, 0x22: 2, 0x23: 2, 0x02: 4, 0x11: 4, 0x18: 4, 0x27: 4}  # fmt: skip


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def properties_of(data: bytes, at: int) -> tuple[dict[int, list[bytes]], int]:
    """The properties at this place by identifier, each value as its bytes stand there; and where they end."""
    length, at = _read_number(data, at)
    end, found = at + length, dict[int, list[bytes]]()
    while at < end:
        kind, start = data[at], at + 1
        if kind in _FIXED:
            at = start + _FIXED[kind]
        elif kind == 0x0B:
            at = _read_number(data, start)[1]
        else:
            at = start
            for _ in range(2 if kind == 0x26 else 1):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
        found.setdefault(kind, []).append(data[start:at])
    return found, at


def read_publish(packet: Packet, level: int) -> Received:
    body, qos = packet.body, packet.flags >> 1 & 3
    at = 2 + int.from_bytes(body[:2], "big")
    topic, identifier = body[2:at].decode(), 0
    if qos:
        identifier, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    properties: dict[int, list[bytes]] = {}
    if level == 5:
        properties, at = properties_of(body, at)
    return Received(topic, body[at:], qos, identifier, bool(packet.flags & 8), bool(packet.flags & 1), properties)


class RawClient:
    """``level`` says how PUBLISHes are read. A read waits ``patience`` seconds at most, then raises `TimeoutError`."""

    def __init__(self, host: str, port: int, level: int = 4, *, patience: float = 10) -> None:
        self.level = level
        self._socket = socket.create_connection((host, port), timeout=patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, *packets: bytes) -> Self:
        self._socket.sendall(b"".join(packets))
        return self

    def connect(self, client_id: str = "", **options: object) -> Packet:
        """CONNECT, and the CONNACK that answers it."""
        self.send(connect(client_id, self.level, **options))  # type: ignore[arg-type] - those of `connect`
        return self.expect(CONNACK)

    def subscribe(self, *filters: tuple[str, int], id: int = 1, properties: bytes = b"") -> Packet:
        self.send(subscribe(id, *filters, level=self.level, properties=properties))
        return self.expect(SUBACK)

    def publish(self, topic: str, payload: bytes = b"", qos: int = 0, id: int = 0, **options: object) -> Self:
        return self.send(publish(topic, payload, qos, id, level=self.level, **options))  # type: ignore[arg-type]

    def packet(self) -> Packet | None:
        """The next packet; None at the end of the connection."""
        while True:
            if len(self._buffer) >= 2 and (found := self._cut()):
                return found
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data

    def _cut(self) -> Packet | None:
        for end in range(2, min(len(self._buffer), 5) + 1):
            if self._buffer[end - 1] < 0x80:
                length, at = _read_number(self._buffer, 1)
                if len(self._buffer) < at + length:
                    return None
                first, body = self._buffer[0], self._buffer[at : at + length]
                self._buffer = self._buffer[at + length :]
                return Packet(first >> 4, first & 15, body)
        return None

    def expect(self, kind: int) -> Packet:
        """The next packet, which must be of this kind."""
        found = self.packet()
        assert found is not None, f"the connection ended; packet {kind} was expected"
        assert found.kind == kind, f"{found} instead of packet {kind}"
        return found

    def receive(self) -> Received:
        """The next packet, which must be a PUBLISH."""
        return self.read(self.expect(PUBLISH))

    def read(self, packet: Packet) -> Received:
        """What a PUBLISH says."""
        return read_publish(packet, self.level)

    def rest(self) -> list[Packet]:
        """Everything until the other side ends the connection, which it must."""
        found = []
        while (packet := self.packet()) is not None:
            found.append(packet)
        return found

    def alive(self) -> bool:
        """Whether a ping is answered; what came before the answer is given up."""
        try:
            self.send(ping())
        except OSError:
            return False
        while (packet := self.packet()) is not None:
            if packet.kind == PINGRESP:
                return True
        return False

    def reset(self) -> None:
        """Close with a reset (RST) instead of an end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
