"""Batches to rows of the log and back. Pure: no database, no clock.

A row is a run of messages of one topic without gaps in ``seq`` and ``offset``, all with the same ``expires`` (so that
expiry is read from an index and no body is opened). Its body, format 0, is msgpack: a list of runs
``[appended, [record, ...]]``, one for every time of appending. The row's own ``appended`` is the latest of them:
retention may not take it earlier, and a reader who starts at a time misses nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from polywire.core.errors import Internal
from polywire.core.message import Batch, Record

__all__ = ["COLUMNS", "FORMAT", "Row", "checksum", "cut", "decode", "decode_record", "encode_record", "pack"]

COLUMNS = ("seq", "topic", "base", "count", "size", "appended", "flags", "expires", "format", "crc", "body")
FORMAT = 0

# zlib.crc32 gives up the interpreter lock for more than 5 KiB, and getting it back from a busy loop takes milliseconds.
_PIECE = 5 * 1024


class _Run(msgspec.Struct, array_like=True, gc=False):
    appended: int
    records: list[Record]


_encode = msgspec.msgpack.Encoder().encode
_decode_runs = msgspec.msgpack.Decoder(list[_Run]).decode
_decode_record: Callable[[bytes], Record | None] = msgspec.msgpack.Decoder(Record | None).decode

Row = tuple[int, int, int, int, int, int, int, "int | None", int, int, bytes]
"""One row of the log, in the order of `COLUMNS`."""


def checksum(values: Sequence[Any], body: bytes = b"") -> int:
    """CRC-32 over the columns beside the body, then the body."""
    crc = zlib.crc32(_encode(values))
    if len(body) <= _PIECE:
        return zlib.crc32(body, crc)
    view = memoryview(body)
    for start in range(0, len(body), _PIECE):
        crc = zlib.crc32(view[start : start + _PIECE], crc)
    return crc


def encode_record(record: Record | None) -> bytes:
    return _encode(record)


def decode_record(body: bytes) -> Record | None:
    return _decode_record(body)


class _Open:
    """A row that may still grow."""

    __slots__ = ("base", "count", "expires", "flags", "runs", "seq", "size", "topic")

    def __init__(self, batch: Batch, start: int, expires: int | None) -> None:
        self.seq = batch.seq + start
        self.topic = batch.topic_id
        self.base = batch.offset + start
        self.expires = expires
        self.count = self.size = self.flags = 0
        self.runs: list[_Run] = []

    def follows(self, batch: Batch, start: int, expires: int | None) -> bool:
        return (
            batch.topic_id == self.topic
            and batch.seq + start == self.seq + self.count
            and batch.offset + start == self.base + self.count
            and expires == self.expires
        )

    def add(self, appended: int, records: list[Record], size: int) -> None:
        self.count += len(records)
        self.size += size
        for record in records:
            self.flags |= record.flags
        if self.runs and self.runs[-1].appended == appended:
            self.runs[-1].records.extend(records)
        else:
            self.runs.append(_Run(appended, records[:]))

    def row(self) -> Row:
        body = _encode(self.runs)
        head = (
            self.seq, self.topic, self.base, self.count, self.size,
            max(run.appended for run in self.runs), self.flags, self.expires, FORMAT,
        )  # fmt: skip
        return (*head, checksum(head, body), body)


def pack(batches: Iterable[Batch], *, messages: int, size: int) -> Iterator[Row]:
    """The rows for the batches of one commit, in order; each up to about so many messages and bytes."""
    row: _Open | None = None
    for batch in batches:
        for start, records, bytes_, expires in _pieces(batch, messages, size):
            if row is not None and (
                row.count + len(records) > messages
                or row.size + bytes_ > size
                or not row.follows(batch, start, expires)
            ):
                yield row.row()
                row = None
            row = row or _Open(batch, start, expires)
            row.add(batch.appended, records, bytes_)
    if row is not None:
        yield row.row()


def _pieces(batch: Batch, messages: int, size: int) -> Iterator[tuple[int, list[Record], int, int | None]]:
    """``(index of the first, records, bytes, expires)`` of what fits in a row each; nearly always the whole batch."""
    records = batch.records
    if len(records) == 1:
        yield 0, records, batch.size or records[0].size(), records[0].expires
        return
    start = total = 0
    for index, record in enumerate(records):
        if index > start and (
            index - start >= messages or total + record.size() > size or record.expires != records[start].expires
        ):
            yield start, records[start:index], total, records[start].expires
            start, total = index, 0
        total += record.size()
    if records:
        yield start, records[start:], total, records[start].expires


def decode(row: Sequence[Any]) -> list[Batch]:
    """The batches of a row (`COLUMNS`), without name and epoch of the topic. Raises `Internal` for a damaged one."""
    *head, crc, body = row
    seq, topic, base, count = head[:4]
    if head[8] != FORMAT:
        raise Internal(f"damaged log: topic {topic}, offset {base}, seq {seq}: unknown format {head[8]}")
    if not isinstance(body, bytes) or checksum(head, body) != crc:
        raise Internal(
            f"damaged log: topic {topic}, offset {base}, seq {seq}: the checksum of {count} messages is wrong"
        )
    batches = []
    for run in _decode_runs(body):
        batches.append(_batch(topic, seq, base, run.appended, run.records))
        seq += len(run.records)
        base += len(run.records)
    return batches


def _batch(topic: int, seq: int, offset: int, appended: int, records: list[Record]) -> Batch:
    batch = Batch(topic="", topic_id=topic, epoch=0, seq=seq, offset=offset, appended=appended, records=records)
    batch.size = sum(record.size() for record in records)
    return batch


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Records ``[start, stop)`` of a batch as a batch; the batch itself where that is all of it."""
    start, stop = max(start, 0), min(stop, len(batch.records))
    if start == 0 and stop == len(batch.records):
        return batch
    return _batch(batch.topic_id, batch.seq + start, batch.offset + start, batch.appended, batch.records[start:stop])
