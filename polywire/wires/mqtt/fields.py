"""The values that packets are made of (MQTT 5 §1.5), read and written."""

from __future__ import annotations

from typing import Final

from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["MOST_VARINT", "PACKET_IDS", "Fields", "binary", "byte", "four", "pair", "text", "two", "varint"]

MOST_VARINT: Final = 268_435_455
"""The largest Variable Byte Integer, of four bytes (§1.5.5)."""

_MOST_TWO: Final = 0xFFFF

PACKET_IDS: Final[list[bytes]] = [number.to_bytes(2, "big") for number in range(_MOST_TWO + 1)]
"""Every Two Byte Integer as it is written."""


class Fields:
    """The part of ``data`` from ``at`` to ``end``, read value by value; ``where`` is its name in errors.

    Every method takes the name of what it reads, and raises `MqttError` 0x81 when that is cut short by the end, or is
    not what its type allows.
    """

    __slots__ = ("at", "data", "end", "where")

    def __init__(self, data: bytes, where: str, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.where = where
        self.at = at
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self.end - self.at

    def take(self, size: int, what: str) -> bytes:
        at = self.at
        if at + size > self.end:
            raise self.malformed(f"it ends within the {what}")
        self.at = at + size
        return self.data[at : at + size]

    def byte(self, what: str) -> int:
        at = self.at
        if at >= self.end:
            raise self.malformed(f"it ends before the {what}")
        self.at = at + 1
        return self.data[at]

    def two(self, what: str) -> int:
        return int.from_bytes(self.take(2, what), "big")

    def four(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "big")

    def varint(self, what: str) -> int:
        """A Variable Byte Integer of at most four bytes, and no more than it needs [MQTT-1.5.5-1]."""
        value = shift = 0
        while True:
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 21:
                raise self.malformed(f"the {what} is longer than four bytes")
        if shift and not byte:
            raise self.malformed(f"the {what} has more bytes than it needs")
        return value

    def binary(self, what: str) -> bytes:
        data, start = self.data, self.at + 2
        end = start + int.from_bytes(data[start - 2 : start], "big")
        if end > self.end:
            raise self.malformed(f"it ends within the {what}")
        self.at = end
        return data[start:end]

    def text(self, what: str) -> str:
        """Well-formed UTF-8 without surrogates and U+0000 [MQTT-1.5.4-1, MQTT-1.5.4-2]. Characters that a receiver
        *may* refuse are let pass, and a byte order mark is a character [MQTT-1.5.4-3]."""
        raw = self.binary(what)
        try:
            value = raw.decode()
        except UnicodeDecodeError as error:
            raise self.malformed(f"the {what} is not UTF-8 at byte {error.start}") from None
        if "\0" in value:
            raise self.malformed(f"the {what} contains U+0000")
        return value

    def pair(self, what: str) -> tuple[str, str]:
        return self.text(what), self.text(what)

    def part(self, size: int, what: str) -> Fields:
        """The next ``size`` bytes, to be read on their own."""
        at = self.at
        if at + size > self.end:
            raise self.malformed(f"it ends within the {what}")
        self.at = at + size
        return Fields(self.data, f"{what} of {self.where}", at, self.at)

    def finish(self) -> None:
        """Raises `MqttError` 0x81 if something is left."""
        if self.at != self.end:
            raise self.malformed(f"{self.left} bytes too many")

    def malformed(self, detail: str) -> MqttError:
        return MqttError(Reason.MALFORMED_PACKET, f"{self.where}: {detail}")

    def not_allowed(self, detail: str) -> MqttError:
        return MqttError(Reason.PROTOCOL_ERROR, f"{self.where}: {detail}")


# --- writing: ValueError for what the type cannot say ----------------------------------------------------------------


def varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    if 0 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value <= MOST_VARINT:
        raise ValueError(f"{value} is no Variable Byte Integer: 0 to {MOST_VARINT}")
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def byte(value: int) -> bytes:
    return bytes((value,))


def two(value: int) -> bytes:
    if not 0 <= value <= _MOST_TWO:
        raise ValueError(f"{value} is no Two Byte Integer")
    return PACKET_IDS[value]


def four(value: int) -> bytes:
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{value} is no Four Byte Integer")
    return value.to_bytes(4, "big")


def binary(value: bytes) -> bytes:
    if len(value) > _MOST_TWO:
        raise ValueError(f"{len(value)} bytes are too many: at most {_MOST_TWO}")
    return PACKET_IDS[len(value)] + value


def text(value: str) -> bytes:
    if "\0" in value:
        raise ValueError("U+0000 in a string")
    return binary(value.encode())


def pair(value: tuple[str, str]) -> bytes:
    name, content = value
    return text(name) + text(content)
