"""Messages: what a publisher says (`Record`), what one append holds (`Batch`), what a reader sees (`Message`)."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, Final

import msgspec

from polywire.core.position import Position

__all__ = ["Batch", "Flag", "Header", "Message", "Origin", "Receipt", "Record", "new_id"]

Header = tuple[str, Any]
"""A header's name and its typed value: str, bytes, int, float, bool or None. Names may repeat."""


class Flag:
    """Bits of `Record.flags`. Plain integers: an `enum.IntFlag` costs a microsecond at each look."""

    RETAINED: Final = 1  # keep as the latest of its key
    VOLATILE: Final = 2  # publisher asked for no durability; may be dropped on the way
    DEDUP: Final = 4  # id is an idempotency key, to be remembered after a restart


class Origin(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Who published, by which wire, as which client (a client id or peer address)."""

    principal: str = ""
    wire: str = ""
    client: str = ""


class Record(msgspec.Struct, array_like=True, gc=False):
    """What a publisher says, and what the log stores. All times are milliseconds since the Unix epoch."""

    payload: bytes = b""
    key: bytes | None = None
    id: str = ""
    content_type: str | None = None
    headers: list[Header] = []
    time: int | None = None
    expires: int | None = None
    priority: int = 0
    reply_to: str | None = None
    correlation_id: bytes | None = None
    flags: int = 0
    origin: Origin | None = None
    native: bytes | None = None

    def size(self) -> int:
        """Bytes that count towards limits: payload, key and headers."""
        size = len(self.payload) + (len(self.key) if self.key else 0)
        return size + self.headers_size() if self.headers else size

    def headers_size(self) -> int:
        return sum(len(name) + (len(value) if isinstance(value, (str, bytes)) else 8) for name, value in self.headers)


class Batch:
    """Records of one topic that were appended together, in order, without gaps.

    Record ``i`` has offset ``offset + i`` and hub-wide sequence number ``seq + i``. ``encoded`` is a cache in
    which a wire keeps what it made of the records (key: the wire's name and format), so that a message is
    encoded once per format and not once per reader.
    """

    __slots__ = ("appended", "encoded", "epoch", "offset", "records", "seq", "size", "topic", "topic_id")

    def __init__(
        self, *, topic: str, topic_id: int, epoch: int, seq: int, offset: int, appended: int, records: list[Record]
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.epoch = epoch
        self.seq = seq
        self.offset = offset
        self.appended = appended
        self.records = records
        self.size = 0
        self.encoded: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.records)

    def message(self, index: int) -> Message:
        return Message(
            self.topic,
            self.records[index],
            self.seq + index,
            Position(self.epoch, 0, self.offset + index),
            self.appended,
        )


class Message:
    """One message where it stands in the log."""

    __slots__ = ("appended", "position", "record", "seq", "topic")

    def __init__(self, topic: str, record: Record, seq: int, position: Position, appended: int) -> None:
        self.topic = topic
        self.record = record
        self.seq = seq
        self.position = position
        self.appended = appended

    def __repr__(self) -> str:
        return f"<Message {self.topic} {self.position} key={self.record.key!r} {len(self.record.payload)} B>"


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What a publisher gets for an acknowledged message. ``position`` is None for one that is delayed."""

    id: str
    topic: str
    key: bytes | None
    position: Position | None
    time: int
    duplicate: bool = False


_run = f"{time.time_ns() // 1_000_000:x}{os.urandom(4).hex()}"
_count = itertools.count(1)


def new_id() -> str:
    """A message id no other process makes: start time, random, count; about 0.2 µs."""
    return f"{_run}-{next(_count):x}"
