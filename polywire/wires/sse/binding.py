"""Messages → event stream blocks (HTML, "Server-sent events", §9.2.6).

A block per message: ``id`` is the cursor after it; ``data`` its payload where that is JSON or text in UTF-8. Any
other payload is ``event: binary`` with base64 in ``data``. A line end inside a payload would end the field, so each
line is a ``data`` field of its own (CR and CRLF count as line ends there, and reach the client as LF).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from polywire.core.errors import PolywireError
from polywire.core.message import Batch, Message
from polywire.core.position import Cursor
from polywire.core.streams import Reset
from polywire.formats.payloads import type_of
from polywire.server.envelope import encode, is_json_type, is_text_type, message_view

__all__ = ["blocks", "end_block", "id_block", "reset_block", "retry_block", "unknown_block"]

_LINE_END = re.compile(rb"\r\n|\r|\n")


class _Encoded(NamedTuple):
    """All blocks of a batch, and where each ends."""

    blocks: bytes
    ends: list[int]


def blocks(batch: Batch, indexes: Sequence[int] | None, *, envelope: bool) -> bytes:
    """The blocks of these records (None: all). Encoded once per batch, however many streams there are."""
    name = "sse+envelope" if envelope else "sse"
    encoded = batch.encoded.get(name)
    if encoded is None:
        encoded = batch.encoded[name] = _encode_batch(batch, envelope)
    if indexes is None:
        return encoded.blocks
    return b"".join([encoded.blocks[encoded.ends[i - 1] if i else 0 : encoded.ends[i]] for i in indexes])


def _encode_batch(batch: Batch, envelope: bool) -> _Encoded:
    make = _enveloped if envelope else _bare
    parts: list[bytes] = []
    ends: list[int] = []
    end = 0
    for index in range(len(batch)):
        part = make(batch.message(index))
        parts.append(part)
        end += len(part)
        ends.append(end)
    return _Encoded(b"".join(parts), ends)


def _bare(message: Message) -> bytes:
    record = message.record
    payload = record.payload
    if not _is_text(type_of(record), payload):
        return b"id: %b\nevent: binary\ndata: %b\n\n" % (str(message.position).encode(), base64.b64encode(payload))
    return b"id: %b\n%b\n" % (str(message.position).encode(), _data(payload))


def _enveloped(message: Message) -> bytes:
    # JSON text may hold line ends between its tokens, as its publisher laid it out.
    return b"id: %b\n%b\n" % (str(message.position).encode(), _data(encode(message_view(message))))


def _is_text(content_type: str | None, payload: bytes) -> bool:
    if content_type is None or not (is_json_type(content_type) or is_text_type(content_type)):
        return False
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _data(value: bytes) -> bytes:
    if b"\n" not in value and b"\r" not in value:
        return b"data: %b\n" % value
    return b"".join([b"data: %b\n" % line for line in _LINE_END.split(value)])


def reset_block(reset: Reset) -> bytes:
    """What the client missed for good, and from where it can read. ``id`` is where the stream goes on."""
    return _reset(reset.reason, reset.oldest, reset.newest, reset.resumed)


def _reset(reason: str, oldest: Cursor, newest: Cursor, resumed: Cursor) -> bytes:
    shown = {"reason": reason, "oldest": str(oldest), "newest": str(newest)}
    return b"id: %b\nevent: reset\ndata: %b\n\n" % (str(resumed).encode(), msgspec.json.encode(shown))


def unknown_block(oldest: Cursor, newest: Cursor) -> bytes:
    """The same for a cursor that no hub ever gave; the stream goes on at its end."""
    return _reset("unknown", oldest, newest, newest)


def end_block(error: PolywireError) -> bytes:
    """The last block. Its name is not ``error``: that is what an EventSource calls a lost connection."""
    return b"event: end\ndata: %b\n\n" % msgspec.json.encode({"code": error.code, "detail": error.detail})


def id_block(cursor: Cursor) -> bytes:
    """No data, so nothing is dispatched; but a client that connects again says from where (§9.2.6, "last event ID")."""
    return b"id: %b\n\n" % str(cursor).encode()


def retry_block(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds
