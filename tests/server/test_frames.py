"""Our frames, read by websockets; and the sizes of frames that websockets made."""

from __future__ import annotations

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from polywire.server.frames import BINARY, TEXT, encode, encode_deflated, frame_size

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000]


def parse(data: bytes, extensions: list[PerMessageDeflate] | None = None) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
    with pytest.raises(StopIteration) as stop:
        next(parsing)
    assert not reader.buffer
    frame = stop.value.value
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_we_encode_others_read(size: int, opcode: int) -> None:
    frame = parse(encode(opcode, b"x" * size))
    assert (frame.opcode, bytes(frame.data), frame.fin) == (opcode, b"x" * size, True)


@pytest.mark.parametrize("payload", [b"", b"ab", b"polywire " * 1_000, bytes(range(256)) * 10])
def test_what_we_deflate_others_inflate(payload: bytes) -> None:
    encoded = encode_deflated(BINARY, payload)
    frame = parse(encoded, [PerMessageDeflate(True, True, 12, 12)])
    assert bytes(frame.data) == payload
    assert len(encoded) <= len(payload) + 4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_frame_size_is_told_as_soon_as_the_head_is_there(size: int, masked: bool) -> None:
    data = b"before" + Frame(Opcode.BINARY, b"x" * size).serialize(mask=masked)
    head = len(data) - size - 6
    assert frame_size(data, 6) == (head, size)
    assert frame_size(data[: 6 + head], 6) == (head, size)
    without_mask = head - (4 if masked else 0)
    assert frame_size(data[: 6 + without_mask - 1], 6) == (0, 0)
