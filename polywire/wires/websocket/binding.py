"""Raw WebSocket frames and the core's words for them: a frame is a message.

| message | frame |
|---|---|
| content type of text (JSON, XML, ``text/*``), payload valid UTF-8 | text |
| anything else | binary |

A text frame becomes a message of `TEXT_TYPE`, a binary one of `BINARY_TYPE`: so text stays text and binary binary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from polywire.core.address import OTHER, is_pattern, is_reserved, legal_topic
from polywire.core.errors import NotFound, PolywireError
from polywire.core.message import Batch, Origin, Record
from polywire.server.frames import BINARY, TEXT, encode, encode_deflated
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


def frame_of(record: Record, deflate_from: int | None) -> bytes:
    """One record as a frame; compressed if it has ``deflate_from`` bytes or more (None: never)."""
    payload = record.payload
    opcode = TEXT if _is_text(record.content_type) and _is_utf8(payload) else BINARY
    if deflate_from is not None and len(payload) >= deflate_from:
        return encode_deflated(opcode, payload)
    return encode(opcode, payload)


class Encoder:
    """Encodes each batch once per format and keeps that with the batch, for as long as its readers are likely to come.

    A batch lives in the hub's tail much longer than that; so the encodings kept at one time are bounded.
    """

    def __init__(self, *, deflate_from: int | None, kept_size: int) -> None:
        self._deflate_from = deflate_from
        self._kept_size = kept_size
        self._size = 0
        self._kept: deque[tuple[Batch, str, int]] = deque()

    def whole(self, batch: Batch, deflates: bool) -> bytes:
        """Frames of all records, joined."""
        name = "websocket deflated" if deflates else "websocket"
        encoded: bytes | None = batch.encoded.get(name)
        if encoded is None:
            deflate_from = self._deflate_from if deflates else None
            encoded = b"".join([frame_of(record, deflate_from) for record in batch.records])
            batch.encoded[name] = encoded
            self._keep(batch, name, len(encoded))
        return encoded

    def some(self, batch: Batch, indexes: Iterable[int], deflates: bool) -> bytes:
        """Frames of these records, joined. A filter splits readers up, so each record is kept on its own."""
        name = "websocket frames deflated" if deflates else "websocket frames"
        encoded: dict[int, bytes] | None = batch.encoded.get(name)
        if encoded is None:
            encoded = batch.encoded[name] = {}
            self._keep(batch, name, batch.size)
        deflate_from = self._deflate_from if deflates else None
        records = batch.records
        frames = []
        for index in indexes:
            frame = encoded.get(index)
            if frame is None:
                frame = encoded[index] = frame_of(records[index], deflate_from)
            frames.append(frame)
        return b"".join(frames)

    def _keep(self, batch: Batch, name: str, size: int) -> None:
        self._kept.append((batch, name, size))
        self._size += size
        while self._size > self._kept_size and len(self._kept) > 1:
            oldest, its_name, its_size = self._kept.popleft()
            oldest.encoded.pop(its_name, None)
            self._size -= its_size


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


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
