"""Bytes ↔ packets of MQTT 3.1, 3.1.1 and 5, in both directions.

PUBLISH is nearly all there is to read, so it is read in one loop over the buffer, and runs of PUBACK at once; the rest
is in `reading`. A packet is looked at when it is there as a whole, but its first bytes at once: what no packet begins
with and what is too large is never waited for.
"""

from __future__ import annotations

import re
import sys
from array import array
from typing import Final

from polywire.wires.mqtt import reading
from polywire.wires.mqtt.fields import PACKET_IDS, Fields
from polywire.wires.mqtt.packets import Acks, Connect, Packet, Pubcomp, Publish, Pubrec, Pubrel
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.writing import encode, pubacks, publish_head

__all__ = ["PACKET_IDS", "Decoder", "encode", "pubacks", "publish_head"]

_CONNECT: Final = 1
_VERSION: Final = 0x7F
"""The highest bit of the protocol level says that a bridge of mosquitto's connects."""
_PUBACK: Final = 0x40
_SHORT: Final[dict[int, type[Pubrec | Pubrel | Pubcomp]]] = {0x50: Pubrec, 0x62: Pubrel, 0x70: Pubcomp}
_RUNS: Final = {
    first << 8 | length: re.compile(rb"(?:\x%02x\x%02x..%b)++" % (first, length, left), re.DOTALL)
    for first in (_PUBACK, *_SHORT)
    for length, left in ((2, b""), (4, rb"\x00\x00"))
}
"""PUBACKs, PUBRECs, PUBRELs, PUBCOMPs that say success and no more, by first byte and remaining length: as short as
can be, or with the reason and the property length written out, as gmqtt does. Possessive: the match keeps nothing to go
back to, however long the run."""
_USUAL: Final = frozenset(b"\x10\x20\x40\x50\x62\x70\x82\x90\xa2\xb0\xc0\xd0\xe0")
"""First bytes that are right at every level."""
_SWAPPED: Final = sys.byteorder == "little"

_PUBLISH: Final[list[tuple[int, bool, bool] | None]] = [None] * 256
"""By first byte: QoS, RETAIN and DUP of a PUBLISH (§3.3.1). None for what it is not, or is not valid."""
for _qos in range(3):
    for _retain in (False, True):
        for _dup in (False, True) if _qos else (False,):
            _PUBLISH[0x30 | _dup << 3 | _qos << 1 | _retain] = (_qos, _retain, _dup)


_MESSAGE: Final = 3
"""The type of PUBLISH."""


class Decoder:
    """What one peer sends.

    ``level`` is set by its CONNECT, or given for a peer that sends none: the other end of the same connection. Where
    CONNECT is refused it is the level to answer in, or None if there is none to be told.
    """

    __slots__ = ("_needed", "_unread", "error", "level", "maximum_packet_size", "maximum_request_size")

    def __init__(
        self, *, maximum_packet_size: int, maximum_request_size: int | None = None, level: int | None = None
    ) -> None:
        """``maximum_request_size``: of packets that carry no message. They are read at once, and cost more by the
        byte."""
        self.maximum_packet_size = maximum_packet_size
        self.maximum_request_size = maximum_packet_size if maximum_request_size is None else maximum_request_size
        self.level = level
        self.error: MqttError | None = None
        self._unread = bytearray()  # the beginning of a packet, less than maximum_packet_size
        self._needed = 0  # so many bytes of it have to be there before more can be read

    def receive(self, data: bytes) -> list[Packet]:
        """The packets that are complete now, in their order.

        What is wrong is not raised: the packets before it are returned, ``error`` says what it is, and nothing is read
        any more.
        """
        packets: list[Packet] = []
        if self.error is not None:
            return packets
        unread = self._unread
        if unread:
            if len(unread) + len(data) < self._needed:
                unread += data
                return packets
            data = b"".join((unread, data))
            unread.clear()
        try:
            unread += data[self._read(data, packets) :]
        except MqttError as error:
            self.error = error.with_traceback(None)
        return packets

    def _read(self, data: bytes, packets: list[Packet]) -> int:
        """Where the first packet begins that is not complete."""
        at, size = 0, len(data)
        while at < size:
            if _PUBLISH[data[at]] is not None and self.level is not None:
                at = self._read_publishes(data, at, packets)
                if at == size:
                    break
            after = self._read_other(data, at, packets)
            if after == at:
                break
            at = after
        return at

    def _read_publishes(self, data: bytes, at: int, packets: list[Packet]) -> int:  # noqa: PLR0912 - calls cost time
        """A run of PUBLISHes, and where it ends: with what is not one, is not whole, or has to be looked at closer."""
        size, most, has_properties = len(data), self.maximum_packet_size, self.level == 5
        kinds, append = _PUBLISH, packets.append
        try:
            while size - at > 1:
                kind = kinds[data[at]]
                if kind is None:
                    return at
                length, body = data[at + 1], at + 2
                if length > 0x7F:
                    more = data[body] if body < size else 0
                    if 0 < more < 0x80:  # nearly every length has one byte or two
                        length, body = length & 0x7F | more << 7, body + 1
                    else:
                        body, length = self._remaining_length(data, at)
                        if not body:
                            return at
                end = body + length
                if end > size or end - at > most:
                    return at
                qos, retain, dup = kind
                here = body + 2 + (data[body] << 8 | data[body + 1])
                topic, packet_id, block = data[body + 2 : here], 0, b""
                if qos:
                    packet_id = data[here] << 8 | data[here + 1]
                    here += 2
                if has_properties:
                    if data[here]:
                        block, here = _block(data, here, end)
                    else:
                        here += 1
                if here > end or (qos and not packet_id):
                    raise _no_packet_id() if here <= end else _cut_short()
                append(Publish(topic, data[here:end], qos, packet_id, retain, dup, block))
                at = end
        except IndexError:  # a field of the last packet stands behind the end of the buffer
            raise _cut_short() from None
        return at

    def _read_other(self, data: bytes, at: int, packets: list[Packet]) -> int:
        """One packet, or a run of PUBACKs, and where it ends: ``at`` if it is not complete."""
        size, level, first = len(data), self.level, data[at]
        if level is None and first >> 4 != _CONNECT:
            raise MqttError(Reason.PROTOCOL_ERROR, "the first packet has to be CONNECT [MQTT-3.1.0-1]")
        if first not in _USUAL:
            reading.check_flags(first, level)
        length, body = (data[at + 1], at + 2) if size - at > 1 else (0xFF, 0)
        if length > 0x7F:
            body, length = self._remaining_length(data, at)
        if not body:
            self._needed = size - at + 1
            return at
        end = body + length
        most = self.maximum_packet_size if first >> 4 == _MESSAGE else self.maximum_request_size
        if end - at > most:
            raise MqttError(Reason.PACKET_TOO_LARGE, f"{end - at} bytes: at most {most}")
        if end > size:
            self._needed = end - at
            return at
        run = _RUNS.get(first << 8 | length)
        if run is not None and (length == 2 or level == 5) and (found := run.match(data, at)):
            return _read_run(data, at, found.end(), length, packets)
        if level is None or first >> 4 == _CONNECT:
            packets.append(self._read_connect(data, at, body, end))
        else:
            packets.append(reading.packet(first >> 4, data, body, end, level))
        return end

    def _remaining_length(self, data: bytes, at: int) -> tuple[int, int]:
        """Where the fixed header ends, and how many bytes follow it (§2.1.4). (0, 0): it is not complete."""
        length = shift = 0
        for here in range(at + 1, min(at + 5, len(data))):
            byte = data[here]
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                self._check_shortest(byte, shift)
                return here + 1, length
            shift += 7
        if shift > 21:
            raise MqttError(Reason.MALFORMED_PACKET, "the remaining length is longer than four bytes")
        return 0, 0

    def _check_shortest(self, last: int, shift: int) -> None:
        """[MQTT-1.5.5-1]. 3.1.1 has no such rule."""
        if shift and not last and self.level == 5:
            raise MqttError(Reason.MALFORMED_PACKET, "the remaining length has more bytes than it needs")

    def _read_connect(self, data: bytes, at: int, body: int, end: int) -> Connect:
        """Whatever is wrong with it: as soon as the level is read, it is known."""
        fields = Fields(data, "CONNECT", body, end)
        name, version = fields.binary("protocol name"), fields.byte("protocol level")
        level = reading.level_for(name, version & _VERSION)
        if self.level is None:
            self.level = level
        if level is None or level != version & _VERSION:
            raise MqttError(Reason.UNSUPPORTED_PROTOCOL_VERSION, "the hub speaks MQTT 3.1, 3.1.1 and 5 [MQTT-3.1.2-2]")
        self._check_shortest(data[body - 1], body - at - 2)
        packet = reading.connect(fields, level, bridge=version > _VERSION)
        fields.finish()
        return packet


def _read_run(data: bytes, at: int, end: int, length: int, packets: list[Packet]) -> int:
    """A run of successes, and where it ends."""
    numbers = array("H", data[at:end])[1 :: length // 2 + 1]
    if _SWAPPED:
        numbers.byteswap()
    ids = numbers.tolist()
    wrong = 0 in ids
    if wrong:
        del ids[ids.index(0) :]
    kind = _SHORT.get(data[at])
    if kind is not None:
        packets += [kind(packet_id) for packet_id in ids]
    elif ids:
        packets.append(Acks(ids))
    if wrong:
        raise MqttError(Reason.PROTOCOL_ERROR, "packet identifier 0 is acknowledged [MQTT-2.2.1-3]")
    return end


def _block(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """The properties of a PUBLISH without their length, and where they end."""
    if at >= end:
        raise _cut_short()
    fields = Fields(data, "PUBLISH", at, end)
    block = fields.take(fields.varint("property length"), "properties")
    return block, fields.at


def _no_packet_id() -> MqttError:
    return MqttError(Reason.PROTOCOL_ERROR, "PUBLISH: packet identifier 0 [MQTT-2.2.1-3]")


def _cut_short() -> MqttError:
    return MqttError(Reason.MALFORMED_PACKET, "PUBLISH: it ends within its fields")
