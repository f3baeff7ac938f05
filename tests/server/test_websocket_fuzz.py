"""Hostile bytes: our reader and websockets' own must hear the same of any stream, however it is cut."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings, WebSocketSettings
from polywire.server.websocket import Frames
from polywire.server.websocket_protocol import WebSocketProtocol

LIMIT = 2_000
Heard = tuple[list[tuple[bool, bytes]], int | None]
"""The messages, and the code of the close that was sent."""


class Transport:
    """Only what the protocol asks of a transport; nothing leaves it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = pause_reading = resume_reading = close

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int) -> None: ...


class Listening:
    def __init__(self) -> None:
        self.messages: list[tuple[bool, bytes]] = []

    def received(self, messages: Frames) -> None:
        assert messages
        self.messages += messages

    def opened(self) -> None: ...
    def writable(self) -> None: ...
    def closed(self) -> None: ...


def recording(rng: random.Random) -> list[bytes]:
    """A conversation as clients hold it, frame by frame."""
    deflate = PerMessageDeflate(True, True, 15, 15)
    frames = []
    for _ in range(rng.randint(1, 12)):
        text = "".join(rng.choices("aäあ ", k=rng.choice([0, 1, 40, 60, 130, 700]))).encode()
        kind = rng.random()
        if kind < 0.5:
            frames.append(Frame(rng.choice([Opcode.TEXT, Opcode.BINARY]), text).serialize(mask=True))
        elif kind < 0.65:
            cut = rng.randint(0, len(text))
            frames.append(Frame(Opcode.TEXT, text[:cut], fin=False).serialize(mask=True))
            frames.append(Frame(Opcode.PING, b"?").serialize(mask=True))
            frames.append(Frame(Opcode.CONT, text[cut:]).serialize(mask=True))
        elif kind < 0.8:
            frames.append(Frame(Opcode.TEXT, text).serialize(mask=True, extensions=[deflate]))
        elif kind < 0.95:
            frames.append(Frame(rng.choice([Opcode.PING, Opcode.PONG]), text[:100]).serialize(mask=True))
        else:
            frames.append(Frame(Opcode.CLOSE, struct.pack(">H", 1000)).serialize(mask=True))
    return frames


def mutated(rng: random.Random, frames: list[bytes]) -> bytes:
    data = bytearray(b"".join(frames))
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        place = rng.randrange(len(data))
        what = rng.random()
        if what < 0.5:
            data[place] ^= 1 << rng.randrange(8)
        elif what < 0.7:
            data[place] = rng.choice([0, 0x7D, 0x7E, 0x7F, 0x80, 0xFD, 0xFE, 0xFF])
        elif what < 0.85:
            del data[place : place + rng.randint(1, 5)]
        else:
            data[place:place] = rng.randbytes(rng.randint(1, 5))
        if not data:
            break
    return bytes(data)


async def ours(data: bytes, rng: random.Random) -> Heard:
    settings = HttpSettings(websocket=WebSocketSettings(max_message_size=LIMIT))
    listener = HttpListener(settings, Access(SystemClock()))
    handler = Listening()
    listener.router.mount_websocket_fallback(lambda *_: handler)
    protocol = WebSocketProtocol(None, listener.state)  # type: ignore[arg-type]
    transport: Any = Transport()
    headers = [
        (b"host", b"localhost"),
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
    ]
    scope = {"method": "GET", "http_version": "1.1", "headers": headers, "client": None, "server": None}
    protocol.begin(transport, scope, b"/x", b"")
    head, _, _ = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    at = 0
    while at < len(data):
        size = rng.choice([1, 2, 3, 7, 50, 5_000])
        protocol.data_received(data[at : at + size])
        at += size
        assert len(protocol._unread) <= protocol._max_frame + 14
        while protocol._turn is not None:  # noqa: ASYNC110  it goes on in the loop's next turn
            await asyncio.sleep(0)
    sent = protocol._conn.close_sent
    protocol.connection_lost(None)
    return handler.messages, sent.code if sent else None


def theirs(data: bytes) -> Heard:
    """The protocol of websockets, with what the application above it has to add: whole messages, UTF-8, our limit."""
    conn = ServerProtocol(state=OPEN, max_size=LIMIT + LIMIT // 256 + 64)
    conn.extensions = [PerMessageDeflate(True, True, 15, 12)]
    messages: list[tuple[bool, bytes]] = []
    parts, is_text = b"", False
    conn.receive_data(data)
    for frame in conn.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            parts, is_text = b"", frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            continue
        parts += bytes(frame.data)
        if len(parts) > LIMIT:
            return messages, 1009
        if frame.fin:
            if is_text:
                try:
                    parts.decode()
                except UnicodeDecodeError:
                    return messages, 1007
            messages.append((is_text, parts))
    return messages, conn.close_sent.code if conn.close_sent else None


@pytest.mark.parametrize("seed", range(8))
async def test_our_reader_hears_what_websockets_hears(seed: int) -> None:
    rng = random.Random(seed)
    closes: set[int | None] = set()
    for number in range(250):
        data = mutated(rng, recording(rng))
        expected = theirs(data)
        # A frame that is not whole yet may be refused by its first bytes, by one of the two before the other.
        got = await ours(data, rng)
        early = got[0] == expected[0] and None in (got[1], expected[1]) and _incomplete(data)
        assert got == expected or early, (seed, number, data.hex())
        closes.add(expected[1])
    assert {None, 1002, 1007} <= closes, "the mutations reach the interesting places"


def _incomplete(data: bytes) -> bool:
    """Whether the last frame is cut off: ours then waits for its end, or for the peer's."""
    at = 0
    while len(data) - at >= 2:
        second = data[at + 1]
        size, head = second & 0x7F, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            if len(data) - at < head:
                return True
            size = int.from_bytes(data[at + 2 : at + head], "big")
        at += head + (4 if second & 0x80 else 0) + size
    return at != len(data)
