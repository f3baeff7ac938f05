"""What the engine reads. Every function takes a connection and runs on a reader's thread; none leaves a transaction
open.

Stored rows come with `polywire.engines.sqlite.rows.COLUMNS`; a transaction is one SELECT that ends, or is ended, after
about ``size`` bytes of bodies.
"""

# ruff: noqa: S608 - table and column names are constants of these modules; values are always bound.

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw

from polywire.core.engine import Delayed, PendingChunk, Retained, RowSpan, TopicStats
from polywire.core.errors import Internal
from polywire.core.message import Batch, Flag
from polywire.engines.sqlite import rows
from polywire.engines.sqlite.statements import NEXT_SEQ

__all__ = [
    "count_delayed", "dedup_since", "due", "every_delayed", "every_retained", "find_delayed", "load_pending",
    "load_retained_keys", "load_state", "next_due", "next_seq", "offset_at", "read", "read_seqs", "retained",
    "retained_keys", "retained_range", "scan", "spans", "stats", "waiting",
]  # fmt: skip

_ALL = ", ".join(rows.COLUMNS)
_READ = f"""
SELECT {_ALL} FROM log WHERE topic = :topic
  AND base >= ifnull((SELECT max(base) FROM log WHERE topic = :topic AND base <= :offset), :offset) ORDER BY base, seq
"""
_READ_SEQS = f"""
SELECT {_ALL} FROM log WHERE seq IN (
  SELECT (SELECT max(log.seq) FROM log WHERE log.seq <= wanted.value) FROM json_each(?) AS wanted) ORDER BY seq
"""
_SCAN = f"SELECT {_ALL} FROM log WHERE seq >= ifnull((SELECT max(seq) FROM log WHERE seq <= :seq), :seq) ORDER BY seq"
_SPANS = """
SELECT seq, base, count, size, appended FROM log WHERE topic = :topic
  AND base >= ifnull((SELECT max(base) FROM log WHERE topic = :topic AND base <= :offset), :offset)
ORDER BY base, seq LIMIT :limit
"""
_DEDUP = f"SELECT {_ALL} FROM log WHERE flags & 4 AND (appended, seq) > (:appended, :seq) ORDER BY appended, seq"
_DELAYED = "SELECT id, due, topic, crc, body FROM delayed"


def _take(found: apsw.Cursor, size: int, limit: int | None = None) -> list[tuple[Any, ...]]:
    """Rows (whose last column is a body) until the bodies have ``size`` bytes; at least one if there is one."""
    taken = []
    for row in found:
        taken.append(row)
        size -= len(row[-1] or b"")  # a damaged row may hold anything; its reader tells
        if size <= 0 or (limit is not None and len(taken) >= limit):
            break
    found.close()  # ends the transaction
    return taken


def read(connection: apsw.Connection, topic: int, offset: int, *, messages: int, size: int, bodies: int) -> list[Batch]:
    """From ``offset`` on up to so many ``messages`` and bytes of them, out of about ``bodies`` bytes of rows."""
    found = connection.execute(_READ, {"topic": topic, "offset": offset})
    batches: list[Batch] = []
    wanted, room = max(messages, 1), size
    for row in found:
        behind = [batch for batch in rows.decode(row) if batch.offset + len(batch) > offset]
        behind[:1] = [rows.cut(batch, offset - batch.offset, len(batch)) for batch in behind[:1]]
        batches += behind
        wanted -= sum(map(len, behind))
        room -= sum(batch.size for batch in behind)
        bodies -= len(row[-1])
        if behind and (wanted <= 0 or room <= 0 or bodies <= 0):
            break
    found.close()  # ends the transaction
    return _at_most(batches, max(messages, 1), size)


def _at_most(batches: list[Batch], messages: int, size: int) -> list[Batch]:
    """The first so many messages or bytes of these; at least one message."""
    kept: list[Batch] = []
    for batch in batches:
        if messages <= 0 or (kept and size <= 0):
            break
        kept.append(rows.cut(batch, 0, min(messages, _fitting(batch, size))))
        messages -= len(batch)
        size -= batch.size
    return kept


def _fitting(batch: Batch, size: int) -> int:
    """How many records reach ``size`` bytes, at least one."""
    if batch.size <= size:
        return len(batch)
    for index, record in enumerate(batch.records):
        size -= record.size()
        if size <= 0:
            return index + 1
    return len(batch)


def read_seqs(connection: apsw.Connection, seqs: Sequence[int], size: int) -> tuple[list[Batch], int]:
    """Batches, and how many of ``seqs`` were looked at: the rest needs another transaction."""
    taken = _take(connection.execute(_READ_SEQS, (json.dumps(seqs),)), size)
    if not taken:
        return [], len(seqs)
    batches: list[Batch] = []
    position = 0
    for row in taken:
        for batch in rows.decode(row):
            position = _pick(batch, seqs, position, batches)
    return batches, max(position, 1)


def _pick(batch: Batch, seqs: Sequence[int], position: int, into: list[Batch]) -> int:
    """Cut runs of consecutive ``seqs[position:]`` out of ``batch``; returns the position behind them."""
    end = batch.seq + len(batch)
    while position < len(seqs) and seqs[position] < batch.seq:
        position += 1  # removed meanwhile
    while position < len(seqs) and seqs[position] < end:
        first = last = seqs[position]
        position += 1
        while position < len(seqs) and seqs[position] == last + 1 < end:
            last += 1
            position += 1
        into.append(rows.cut(batch, first - batch.seq, last + 1 - batch.seq))
    return position


def scan(connection: apsw.Connection, seq: int, size: int) -> Iterator[Batch]:
    """Batches from ``seq`` on, in transactions of their own."""
    while taken := _take(connection.execute(_SCAN, {"seq": seq}), size):
        position = seq
        for row in taken:
            for batch in rows.decode(row):
                if batch.seq + len(batch) > seq:
                    position = batch.seq + len(batch)
                    yield rows.cut(batch, seq - batch.seq, len(batch))
        if position == seq:  # the one row found ends before ``seq``: look behind it
            following = connection.execute("SELECT min(seq) FROM log WHERE seq >= ?", (seq,)).get
            if following is None:
                return
            if following <= seq:
                raise Internal(f"damaged log: rows are out of order at seq {seq}")
            position = following
        seq = position


def spans(connection: apsw.Connection, topic: int, offset: int, limit: int) -> list[RowSpan]:
    found = connection.execute(_SPANS, {"topic": topic, "offset": offset, "limit": limit + 1}).fetchall()
    return [span for span in map(RowSpan._make, found) if span.offset + span.messages > offset][:limit]


def offset_at(connection: apsw.Connection, topic: int, appended: int) -> int | None:
    found: int | None = connection.execute(
        "SELECT base FROM log INDEXED BY log_topic WHERE topic = ? AND appended >= ? ORDER BY base LIMIT 1",
        (topic, appended),
    ).get
    return found


def stats(connection: apsw.Connection) -> dict[int, TopicStats]:
    found = connection.execute(
        "SELECT topic, min(base), max(base + count), sum(count), sum(size) FROM log INDEXED BY log_topic GROUP BY topic"
    )
    return {topic: TopicStats(*numbers) for topic, *numbers in found}


def next_seq(connection: apsw.Connection) -> int:
    return int(connection.execute(NEXT_SEQ).get)


# ── retained ──

_KEYS_AT_ONCE = 2_000
_KEYS_FROM = "SELECT key FROM retained WHERE topic = :topic AND key >= :first ORDER BY key LIMIT :limit"
_KEYS_BETWEEN = _KEYS_FROM.replace("ORDER", "AND key < :before ORDER")
_RETAINED = "SELECT topic, key, seq, offset, appended, crc, body FROM retained WHERE topic = ?"


def _retained(row: Sequence[Any]) -> Retained:
    *head, crc, body = row
    _check(head, crc, body, f"retained message of topic {head[0]}, key {head[1]!r}, offset {head[3]}")
    topic, key, seq, offset, appended = head
    return Retained(topic, key, seq, offset, appended, rows.decode_record(body))


def _check(head: Sequence[Any], crc: int, body: Any, what: str) -> None:
    if not isinstance(body, bytes) or rows.checksum(head, body) != crc:
        raise Internal(f"damaged log: {what}: the checksum is wrong")


def retained(connection: apsw.Connection, topic: int, key: bytes) -> Retained | None:
    row = connection.execute(f"{_RETAINED} AND key = ?", (topic, key)).fetchone()
    return None if row is None else _retained(row)


def retained_keys(
    connection: apsw.Connection, topic: int, after: bytes | None, limit: int, size: int
) -> list[Retained]:
    if after is None:
        found = connection.execute(f"{_RETAINED} ORDER BY key", (topic,))
    else:
        found = connection.execute(f"{_RETAINED} AND key > ? ORDER BY key", (topic, after))
    return [_retained(row) for row in _take(found, size, limit)]


def retained_range(
    connection: apsw.Connection,
    topic: int,
    span: tuple[bytes, bytes | None],
    wanted: Callable[[bytes], object] | None,
    limit: int,
    size: int,
) -> tuple[list[Retained], bytes | None]:
    """Those with keys in ``[first, before)`` that are wanted, and the key to go on behind.

    Keys are looked at first: the payloads of others are never read.
    """
    first, before = span
    look = _KEYS_AT_ONCE if wanted is not None else limit
    statement = _KEYS_FROM if before is None else _KEYS_BETWEEN
    asked = connection.execute(statement, {"topic": topic, "first": first, "before": before, "limit": look + 1})
    keys = [key for (key,) in asked]
    more = len(keys) > look
    found: list[Retained] = []
    last = first
    for key in keys[:look]:
        if len(found) >= limit or size <= 0:
            return found, last
        last = key
        one = retained(connection, topic, key) if wanted is None or wanted(key) else None
        if one is not None:  # it may have gone since its key was read
            found.append(one)
            size -= one.record.size() if one.record is not None else 0
    return found, last if more else None


def every_retained(connection: apsw.Connection) -> Iterator[Retained]:
    return map(_retained, connection.execute(_RETAINED.partition(" WHERE ")[0]))


def load_retained_keys(connection: apsw.Connection) -> Iterator[tuple[int, bytes]]:
    yield from connection.execute("SELECT topic, key FROM retained ORDER BY topic, key")


# ── delayed ──


def _delayed(row: Sequence[Any]) -> Delayed:
    *head, crc, body = row
    _check(head, crc, body, f"delayed message {head[0]!r} of topic {head[2]}")
    return Delayed(head[0], head[1], head[2], rows.decode_record(body))


def every_delayed(connection: apsw.Connection) -> Iterator[Delayed]:
    return map(_delayed, connection.execute(_DELAYED))


def next_due(connection: apsw.Connection) -> int | None:
    found: int | None = connection.execute("SELECT min(due) FROM delayed").get
    return found


def due(connection: apsw.Connection, now: int, limit: int, size: int) -> list[Delayed]:
    found = connection.execute(f"{_DELAYED} WHERE due <= ? ORDER BY due, id", (now,))
    return [_delayed(row) for row in _take(found, size, limit)]


def waiting(
    connection: apsw.Connection, topic: int | None, after: tuple[int, str] | None, limit: int, size: int
) -> list[Delayed]:
    wanted, bindings = ["(due, id) > (?, ?)"], list(after or (-(1 << 62), ""))
    if topic is not None:
        wanted.append("topic = ?")
        bindings.append(topic)
    found = connection.execute(f"{_DELAYED} WHERE {' AND '.join(wanted)} ORDER BY due, id", bindings)
    return [_delayed(row) for row in _take(found, size, limit)]


def find_delayed(connection: apsw.Connection, id: str) -> Delayed | None:
    row = connection.execute(f"{_DELAYED} WHERE id = ?", (id,)).fetchone()
    return None if row is None else _delayed(row)


def held_bytes(connection: apsw.Connection) -> int:
    pages, unused, size = (connection.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
    return (int(pages) - int(unused)) * int(size)


def count_delayed(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM delayed INDEXED BY delayed_due").get)


# ── what needs more than one look ──


def dedup_since(
    connection: apsw.Connection, appended: int, seq: int, size: int
) -> tuple[list[Batch], tuple[int, int] | None]:
    """Batches of rows after ``(appended, seq)``, and from where to go on (None: that was all)."""
    taken = _take(connection.execute(_DEDUP, {"appended": appended, "seq": seq}), size)
    batches = [batch for row in taken for batch in rows.decode(row) if _asks_dedup(batch)]
    return batches, (taken[-1][5], taken[-1][0]) if taken else None


def _asks_dedup(batch: Batch) -> bool:
    return any(record.flags & Flag.DEDUP for record in batch.records)


# ── at start ──


def load_state(connection: apsw.Connection, kind: str) -> Iterator[tuple[str, bytes]]:
    found = connection.execute("SELECT kind, key, crc, value FROM state WHERE kind = ? ORDER BY key", (kind,))
    for row_kind, key, crc, value in found:
        _check((row_kind, key), crc, value, f"state {kind} {key!r}")
        yield key, value


def load_pending(connection: apsw.Connection) -> Iterator[PendingChunk]:
    found = connection.execute(
        "SELECT subscription, chunk, through, bits, extras, crc FROM pending ORDER BY subscription, chunk"
    )
    for *values, crc in found:
        chunk = PendingChunk._make(values)
        _check(chunk, crc, b"", f"pending chunk {chunk.chunk} of subscription {chunk.subscription}")
        yield chunk
