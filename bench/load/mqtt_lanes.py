"""Publishers, readers, and lanes of both: what the MQTT loads are made of.

A publisher sends a ring of messages over and over: equally long packets that differ in a number. A reader knows what
it must get, byte by byte, so a message that is lost, repeated, changed or overtaken is found as it comes, by one
comparison for all that was read. At QoS 1 the packet ids are cut out for the acknowledgements before that.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Container, Sequence
from contextlib import suppress

from bench.load.mqtt_client import PAYLOAD, PINGREQ, PINGRESP, expect, publish_packet, same

__all__ = ["BUFFER", "RING", "Lane", "Publisher", "Reader", "Ring", "Stream"]

RING = 20_000  # messages; packet ids are 1 to this
BUFFER = 1 << 19  # bytes that are read at once
_SEND = 1 << 18  # bytes that are sent at once
_PUBACK = b"\x40\x02"
_PATIENCE = 30.0  # seconds


class Stream:
    """Bytes that come again and again: ``turn`` is one round of them."""

    def __init__(self, turn: bytes) -> None:
        self._length = max(1, len(turn))
        # What is read at once may begin anywhere in the turn, and be more than one of them.
        self._bytes = turn * (2 + 2 * BUFFER // self._length)

    def check(self, came: bytearray | memoryview, after: int, what: str) -> int:
        """``after`` with the length of what came after it. Raises `ConnectionError` if it is anything else."""
        at = after % self._length
        if not self._bytes.startswith(came, at):
            wanted = self._bytes[at : at + 60]
            raise ConnectionError(f"{what} after {after:,} bytes: not {wanted!r} came, but {bytes(came[:60])!r}")
        return after + len(came)


class Ring:
    """``topics``: of each message in turn, all equally long."""

    def __init__(self, topics: Sequence[str], qos: int) -> None:
        self.qos = qos
        self.topics = [topics[number % len(topics)] for number in range(RING)]
        self.packets = [
            publish_packet(topic, number.to_bytes(4, "big") + b"x" * (PAYLOAD - 4), qos)
            for number, topic in enumerate(self.topics)
        ]
        """With packet id 0."""
        self.stride = len(self.packets[0])
        self.id_at = self.stride - PAYLOAD - 2
        assert {len(packet) for packet in self.packets} == {self.stride}, "the topics have different lengths"

    def sent(self) -> bytes:
        """One turn of what the publisher writes: at QoS 1 with packet ids from 1."""
        turn = bytearray(b"".join(self.packets))
        if self.qos:
            ids = struct.pack(f">{RING}H", *range(1, RING + 1))
            turn[self.id_at :: self.stride], turn[self.id_at + 1 :: self.stride] = ids[::2], ids[1::2]
        return bytes(turn)

    def acknowledgements(self) -> Stream:
        """PUBACKs in the order they are due, which is that of the PUBLISHes [MQTT-4.6.0-2]; none at QoS 0."""
        ids = range(1, RING + 1) if self.qos else ()
        return Stream(b"".join(_PUBACK + struct.pack(">H", number) for number in ids))

    def answers(self, packets: bytes | bytearray) -> bytes:
        """A PUBACK for each of these packets, which are whole."""
        acks = bytearray((_PUBACK + b"\0\0") * (len(packets) // self.stride))
        acks[2::4], acks[3::4] = packets[self.id_at :: self.stride], packets[self.id_at + 1 :: self.stride]
        return bytes(acks)

    def wanted(self, topics: Container[str] | None = None) -> Stream:
        """What a reader of these topics gets, or of all, ids blank."""
        own = [
            packet for topic, packet in zip(self.topics, self.packets, strict=True) if topics is None or topic in topics
        ]
        return Stream(b"".join(own))


class Publisher:
    def __init__(self, opened: socket.socket, ring: Ring) -> None:
        self.socket = opened
        self.qos = ring.qos
        self._stride = ring.stride
        self._turn = memoryview(ring.sent())
        self._acks = ring.acknowledgements()
        self._sent = self._acknowledged = 0  # bytes
        opened.setblocking(False)

    @property
    def sent(self) -> int:
        """Messages; one that is sent in part is one."""
        return -(-self._sent // self._stride)

    @property
    def whole(self) -> bool:
        """Whether no message is sent in part."""
        return self._sent % self._stride == 0

    @property
    def acknowledged(self) -> int:
        """Messages; at QoS 0 all that were sent, for no acknowledgement is due."""
        return self._acknowledged // 4 if self.qos else self.sent

    def send(self, until: int) -> bool:
        """As much as the socket takes, up to message number ``until``. Whether it may take more at once."""
        end = until * self._stride
        at = self._sent % len(self._turn)
        part = self._turn[at : at + min(_SEND, end - self._sent)]
        try:
            sent = self.socket.send(part)
        except BlockingIOError:
            return False
        self._sent += sent
        return sent == len(part) and self._sent < end

    def read(self, buffer: memoryview) -> None:
        came = _read(self.socket, buffer)
        self._acknowledged = self._acks.check(came, self._acknowledged, "PUBACK")


class Reader:
    """``wanted``: what it must get, ids blank."""

    def __init__(self, opened: socket.socket, ring: Ring, wanted: Stream) -> None:
        self.socket = opened
        self._ring = ring
        self._wanted = wanted
        self._got = 0  # bytes
        self._part = b""  # of a packet
        self._acks = b""
        opened.setblocking(False)

    @property
    def got(self) -> int:
        """Messages."""
        return self._got // self._ring.stride

    def read(self, buffer: memoryview) -> None:
        came = _read(self.socket, buffer)
        if self._ring.qos:
            self._take(self._part + bytes(came))
            self.acknowledge()
        else:
            self._got = self._wanted.check(came, self._got, "PUBLISH")

    def _take(self, came: bytes) -> None:
        stride, at = self._ring.stride, self._ring.id_at
        count = len(came) // stride
        packets, self._part = bytearray(came[: count * stride]), came[count * stride :]
        self._acks += self._ring.answers(packets)
        packets[at::stride] = packets[at + 1 :: stride] = bytes(count)
        self._got = self._wanted.check(packets, self._got, "PUBLISH")

    def acknowledge(self) -> None:
        """As much as the socket takes."""
        if self._acks:
            with suppress(BlockingIOError):
                self._acks = self._acks[self.socket.send(self._acks) :]

    def finish(self) -> None:
        """Until the server has read every acknowledgement. Raises `ConnectionError` if one more message came."""
        self.socket.settimeout(_PATIENCE)
        self.socket.sendall(self._acks + PINGREQ)
        self._acks = b""
        same(self._part + expect(self.socket, len(PINGRESP)), PINGRESP, "PINGRESP behind the last message")
        self.socket.setblocking(False)


class Lane:
    """A publisher and its readers. ``each``: every reader gets every message; else a message goes to one of them."""

    def __init__(self, publisher: Publisher, readers: Sequence[Reader], *, each: bool = True) -> None:
        self.publisher = publisher
        self.readers = readers
        self._each = each

    @property
    def settled(self) -> int:
        """Messages that everybody who should has, and that are acknowledged."""
        got = [reader.got for reader in self.readers]
        return min(min(got) if self._each else sum(got), self.publisher.acknowledged)

    @property
    def deliveries(self) -> int:
        return sum(reader.got for reader in self.readers)


def _read(opened: socket.socket, buffer: memoryview) -> memoryview:
    """What has come. Raises `ConnectionError` if the server has closed."""
    try:
        count = opened.recv_into(buffer)
    except BlockingIOError:
        return buffer[:0]
    if not count:
        raise ConnectionError("the server closed a connection")
    return buffer[:count]
