"""MQTT 3.1.1 over raw sockets: the few packets that the loads need, encoded beforehand where they are many."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

__all__ = [
    "ACCEPTED", "DISCONNECT", "PAYLOAD", "PINGREQ", "PINGRESP", "connect", "connect_packet", "expect", "publish_packet",
    "same", "subscribe", "subscribe_packet",
]  # fmt: skip

PAYLOAD = 100  # bytes of a message
KEEP_ALIVE = 600  # seconds; no load is silent for as long
PINGREQ, PINGRESP, DISCONNECT = b"\xc0\0", b"\xd0\0", b"\xe0\0"
ACCEPTED = b"\x20\x02\0\0"
_FILTERS = 500  # in one SUBSCRIBE
_PATIENCE = 30.0  # seconds for an answer


def connect_packet(client_id: str) -> bytes:
    """Clean session, no credentials."""
    return _packet(0x10, _text("MQTT") + struct.pack(">BBH", 4, 0x02, KEEP_ALIVE) + _text(client_id))


def publish_packet(topic: str, payload: bytes, qos: int) -> bytes:
    """With packet id 0, where there is one: it takes the place of the id."""
    return _packet(0x30 | qos << 1, _text(topic) + (b"\0\0" if qos else b"") + payload)


def subscribe_packet(filters: Sequence[str], qos: int) -> bytes:
    """With packet id 1."""
    asked = b"".join(_text(one) + bytes([qos]) for one in filters)
    return _packet(0x82, struct.pack(">H", 1) + asked)


def connect(port: int) -> socket.socket:
    """Raises `ConnectionError` if the connection is refused."""
    opened = socket.create_connection(("127.0.0.1", port), _PATIENCE)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.sendall(connect_packet(f"bench-{os.urandom(8).hex()}"))
    same(expect(opened, len(ACCEPTED)), ACCEPTED, "CONNACK")
    return opened


def subscribe(opened: socket.socket, filters: Sequence[str], qos: int) -> None:
    """Raises `ConnectionError` if one of them is not granted as asked for."""
    for first in range(0, len(filters), _FILTERS):
        some = filters[first : first + _FILTERS]
        opened.sendall(subscribe_packet(some, qos))
        granted = _packet(0x90, struct.pack(">H", 1) + bytes([qos]) * len(some))
        same(expect(opened, len(granted)), granted, "SUBACK")


def expect(opened: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes. Raises `ConnectionError` if the server closes instead, `TimeoutError`."""
    got = b""
    while len(got) < count:
        part = opened.recv(count - len(got))
        if not part:
            raise ConnectionError(f"the server closed a connection after {got!r}")
        got += part
    return got


def same(got: bytes, wanted: bytes, what: str) -> None:
    """Raises `ConnectionError` if not."""
    if got != wanted:
        raise ConnectionError(f"{what}: {wanted[:20]!r} was expected, {got[:20]!r} came")


def _packet(first: int, following: bytes) -> bytes:
    return bytes([first]) + _remaining_length(len(following)) + following


def _remaining_length(number: int) -> bytes:
    """MQTT 3.1.1 §2.2.3: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded
