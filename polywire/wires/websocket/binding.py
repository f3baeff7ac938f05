"""Raw WebSocket frames and the core's words for them: a frame is a message.

| message | frame |
|---|---|
| content type of text (JSON, XML, ``text/*``) or none and looking like it, payload valid UTF-8 | text |
| anything else | binary |

A text frame becomes a message of `TEXT_TYPE`, a binary one of `BINARY_TYPE`: so text stays text and binary binary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from polywire.core.address import OTHER, is_pattern, is_reserved, legal_topic
from polywire.core.errors import NotFound, PolywireError
from polywire.core.message import Batch, Origin, Record
from polywire.formats.payloads import type_of
from polywire.server.encodings import Encodings
from polywire.server.frames import BINARY, TEXT, encode, encode_deflated, is_utf8
from polywire.server.websocket import Frames

__all__ = ["BINARY_TYPE", "TEXT_TYPE", "Address", "Encoder", "address_of", "close_code", "frame_of", "records_of"]

TEXT_TYPE: Final = "text/plain; charset=utf-8"
BINARY_TYPE: Final = "application/octet-stream"
DEFAULT_TOPIC: Final = "default"

GOING_AWAY: Final = 1001
TRY_AGAIN_LATER: Final = 1013

CLOSE_CODES: Final[dict[str, int]] = {
    "invalid": 1007,
    "unauthenticated": 1008,
    "denied": 1008,
    "not_found": 1008,
    "conflict": 1008,
    "limit_exceeded": 1008,
    "too_large": 1009,
    "unsupported": 1003,
    "internal": 1011,
    "unavailable": TRY_AGAIN_LATER,
    "deadline_exceeded": TRY_AGAIN_LATER,
}
"""From the core's errors to close codes (RFC 6455 §7.4.1): all that a raw WebSocket has to say what is wrong."""


def close_code(error: PolywireError) -> int:
    return CLOSE_CODES.get(error.code, 1011)


class Address(NamedTuple):
    """Where a connection stands: ``filter`` is what it reads of the topic, ``key`` what its messages get."""

    topic: str
    filter: str | None
    key: bytes | None

    @property
    def publishes_to(self) -> str:
        return self.topic if self.key is None else f"{self.topic}.{self.filter}"

    @property
    def reads_from(self) -> str:
        return f"{self.topic}.{'#' if self.filter is None else self.filter}"


def address_of(path: str, key: str | None) -> Address:
    """``/chat``, ``/ws/chat``, ``/chat/room1/left`` (key ``room1.left``), ``/`` (topic ``default``).

    Where the first word cannot be a topic's name, the whole is the key in topic ``_other``: ``/my:chat/room1``.

    ``key`` is the query's; where it is a pattern it chooses what is read, and what is sent has no key.
    Raises `NotFound` for ``/ws``, which names no topic.
    """
    words = path.strip("/")
    if words == "ws" or words.startswith("ws/"):
        words = words[3:]
        if not words:
            raise NotFound("a topic is missing in the path", hint="connect to /ws/TOPIC")
    topic, _, rest = words.partition("/")
    if topic and not (legal_topic(topic) or is_reserved(topic)):
        topic, rest = OTHER, words
    if rest:
        key = rest.replace("/", ".")
    if key is None:
        return Address(topic or DEFAULT_TOPIC, None, None)
    return Address(topic or DEFAULT_TOPIC, key, None if is_pattern(key) else key.encode())


def records_of(messages: Frames, key: bytes | None, origin: Origin) -> list[Record]:
    return [
        Record(payload, key, content_type=TEXT_TYPE if is_text else BINARY_TYPE, origin=origin)
        for is_text, payload in messages
    ]


def frame_of(batch: Batch, index: int, deflate_from: int | None) -> bytes:
    """One record as a frame; compressed if it has ``deflate_from`` bytes or more (None: never)."""
    record = batch.records[index]
    payload = record.payload
    opcode = TEXT if _is_text(type_of(record)) and is_utf8(payload) else BINARY
    if deflate_from is not None and len(payload) >= deflate_from:
        return encode_deflated(opcode, payload)
    return encode(opcode, payload)


FrameOf = Callable[[Batch, int, "int | None"], bytes]


class Encoder:
    """Encodes each batch once per format and keeps that with the batch. ``name`` is the format's."""

    def __init__(
        self, encodings: Encodings, *, deflate_from: int | None, name: str = "websocket", frame_of: FrameOf = frame_of
    ) -> None:
        self._encodings = encodings
        self._deflate_from = deflate_from
        self._frame_of = frame_of
        self._whole = (name, f"{name} deflated")
        self._frames = (f"{name} frames", f"{name} frames deflated")

    def whole(self, batch: Batch, deflates: bool) -> bytes:
        """Frames of all records, joined."""
        name = self._whole[deflates]
        encoded: bytes | None = batch.encoded.get(name)
        if encoded is None:
            deflate_from = self._deflate_from if deflates else None
            encoded = b"".join([self._frame_of(batch, index, deflate_from) for index in range(len(batch))])
            self._encodings.keep(batch, name, encoded, len(encoded))
        return encoded

    def some(self, batch: Batch, indexes: Iterable[int], deflates: bool) -> bytes:
        """Frames of these records, joined. A filter splits readers up, so each record is kept on its own."""
        name = self._frames[deflates]
        encoded: dict[int, bytes] | None = batch.encoded.get(name)
        if encoded is None:
            encoded = {}
            self._encodings.keep(batch, name, encoded, batch.size)
        deflate_from = self._deflate_from if deflates else None
        frames = []
        for index in indexes:
            frame = encoded.get(index)
            if frame is None:
                frame = encoded[index] = self._frame_of(batch, index, deflate_from)
            frames.append(frame)
        return b"".join(frames)


@lru_cache(maxsize=1_024)
def _is_text(content_type: str | None) -> bool:
    if content_type is None:
        return False
    essence, _, parameters = content_type.partition(";")
    essence = essence.strip().lower()
    if essence.startswith("text/"):
        charset = parameters.lower().partition("charset=")[2].strip(" \"'")
        return not charset or charset.startswith(("utf-8", "us-ascii"))
    return essence in ("application/json", "application/xml") or essence.endswith(("+json", "+xml"))
