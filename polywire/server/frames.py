"""WebSocket frames as bytes (RFC 6455 §5.2): what the hub sends, and how long what it receives is. Pure."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = [
    "BINARY",
    "CLOSE",
    "PING",
    "PONG",
    "TEXT",
    "WINDOW_BITS",
    "encode",
    "encode_deflated",
    "frame_size",
    "is_utf8",
]

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

WINDOW_BITS: Final = 12
"""Of what the hub deflates: each message on its own (no context takeover), so that one encoding suits every peer."""

_FIN: Final = 0x80
_RSV1: Final = 0x40
_EMPTY_BLOCK: Final = b"\x00\x00\xff\xff"


def encode(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, unmasked frame."""
    return _head(_FIN | opcode, len(payload)) + payload


def encode_deflated(opcode: int, payload: bytes) -> bytes:
    """The frame compressed (RFC 7692 §7.2.1), or as it is where that is not shorter."""
    deflater = zlib.compressobj(wbits=-WINDOW_BITS, memLevel=5)
    deflated = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    deflated = deflated[: -len(_EMPTY_BLOCK)]
    if len(deflated) >= len(payload):
        return encode(opcode, payload)
    return _head(_FIN | _RSV1 | opcode, len(deflated)) + deflated


def is_utf8(payload: bytes) -> bool:
    """Whether it can be a text message (RFC 6455 §8.1)."""
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def frame_size(data: bytes | bytearray, at: int = 0) -> tuple[int, int]:
    """Size of the head and of the payload of the frame that starts at ``at``; (0, 0) while that cannot be told."""
    available = len(data) - at
    if available < 2:
        return 0, 0
    second = data[at + 1]
    size, head = second & 0x7F, 2
    if size == 126:
        head = 4
    elif size == 127:
        head = 10
    if available < head:
        return 0, 0
    if head > 2:
        size = int.from_bytes(data[at + 2 : at + head], "big")
    return head + (4 if second & 0x80 else 0), size
