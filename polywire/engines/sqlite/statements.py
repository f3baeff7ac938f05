"""The statements of a commit: as few as can be, because with a busy loop every one waits for the interpreter lock.

Rows go in by multi-row statements whose sizes are powers of two, so that few are prepared; what is left over of the
last one is padding with NULL, which the statement skips. Up to `MOST` rows of one table are thus one statement.
"""

# ruff: noqa: S608 - table and column names are constants of these modules; values are always bound.

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import apsw

from polywire.core.engine import Commit
from polywire.engines.sqlite.rows import COLUMNS, Row, checksum, encode_record

__all__ = ["MOST", "NEXT_SEQ", "apply", "delete_tombstones", "drop_slice", "dropped", "insert_rows"]

MOST = 64
NEXT_SEQ = """SELECT max(ifnull((SELECT value FROM engine WHERE name = 'next_seq'), 1),
  ifnull((SELECT seq + count FROM log ORDER BY seq DESC LIMIT 1), 1))"""
_KEYS = {"retained": ("topic", "key"), "state": ("kind", "key")}
_COLUMNS = {
    "log": COLUMNS,
    "retained": ("topic", "key", "seq", "offset", "appended", "crc", "body"),
    "pending": ("subscription", "chunk", "through", "bits", "extras", "crc"),
    "delayed": ("id", "due", "topic", "crc", "body"),
    "state": ("kind", "key", "value", "crc"),
}


@functools.cache
def _insert(table: str, size: int) -> str:
    columns = _COLUMNS[table]
    # A seq that is there already is a fault, not a replacement.
    verb = "INSERT" if table == "log" else "REPLACE"
    rows = f"SELECT * FROM ({_values(len(columns), size)}) WHERE column1 IS NOT NULL"
    return f"{verb} INTO {table}({', '.join(columns)}) {rows}"


@functools.cache
def _delete(table: str, size: int) -> str:
    keys = _KEYS[table]
    return f"DELETE FROM {table} WHERE ({', '.join(keys)}) IN ({_values(len(keys), size)})"


def _values(columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * size)}"


def _padded(rows: Sequence[Sequence[Any]]) -> tuple[int, tuple[Any, ...]]:
    """Size of the statement and its bindings."""
    size = 1 << (len(rows) - 1).bit_length()
    flat = tuple(chain.from_iterable(rows))
    return size, flat + (None,) * ((size - len(rows)) * len(rows[0]))


def _pieces(rows: Sequence[Sequence[Any]]) -> Iterable[tuple[int, tuple[Any, ...]]]:
    return (_padded(rows[start : start + MOST]) for start in range(0, len(rows), MOST))


def insert_rows(cursor: apsw.Cursor, table: str, rows: Sequence[Sequence[Any]]) -> None:
    for size, bindings in _pieces(rows):
        cursor.execute(_insert(table, size), bindings)


def delete_rows(cursor: apsw.Cursor, table: str, keys: Sequence[Sequence[Any]]) -> None:
    for size, bindings in _pieces(keys):
        cursor.execute(_delete(table, size), bindings)


def apply(cursor: apsw.Cursor, commit: Commit, rows: Sequence[Row]) -> None:
    """Everything of a commit, in the order of its fields, inside the caller's transaction."""
    insert_rows(cursor, "log", rows)
    _apply_retained(cursor, commit)
    insert_rows(cursor, "pending", [(*chunk, checksum(chunk)) for chunk in commit.pending])
    _apply_state(cursor, commit)
    insert_rows(cursor, "delayed", [_delayed_row(*delayed) for delayed in commit.delayed])
    if commit.undelayed:
        _each(cursor, "DELETE FROM delayed WHERE id", commit.undelayed)
    if commit.deleted_rows or commit.dropped_topics:
        _keep_next_seq(cursor)
    if commit.deleted_rows:
        _each(cursor, "DELETE FROM log WHERE seq", commit.deleted_rows)
    if commit.dropped_topics:
        _note_dropped(cursor, commit.dropped_topics)
    if commit.dropped_subscriptions:
        _each(cursor, "DELETE FROM pending WHERE subscription", commit.dropped_subscriptions)


# ── dropped topics ──

_DROPPED = "dropped "
_SLICES = {
    "SELECT seq, size FROM log INDEXED BY log_topic WHERE topic = ? ORDER BY base LIMIT ?":
        "DELETE FROM log WHERE topic = :topic AND seq IN (SELECT value FROM json_each(:keys))",
    "SELECT key, length(body) FROM retained WHERE topic = ? ORDER BY key LIMIT ?":
        "DELETE FROM retained WHERE topic = :topic AND key <= :last",
    "SELECT id, length(body) FROM delayed WHERE topic = ? LIMIT ?":
        "DELETE FROM delayed WHERE topic = :topic AND id IN (SELECT value FROM json_each(:keys))",
}  # fmt: skip
"""What is left of a topic in a table, and how some of it goes."""


def _note_dropped(cursor: apsw.Cursor, topics: Sequence[int]) -> None:
    """A topic may be of any size, so its rows go later, a slice at a time; here only its id is kept."""
    for topic in topics:
        cursor.execute("REPLACE INTO engine VALUES (?, ?)", (f"{_DROPPED}{topic}", topic))


def dropped(cursor: apsw.Cursor) -> list[int]:
    """Ids of dropped topics of which something may be left."""
    found: list[Any] = cursor.execute("SELECT value FROM engine WHERE name GLOB ?", (f"{_DROPPED}*",)).fetchall()
    return [topic for (topic,) in found]


def drop_slice(cursor: apsw.Cursor, topic: int, *, rows: int, size: int) -> int | None:
    """Remove some of a dropped topic: up to so many rows or about so many bytes. Returns how many bytes, or None: it
    is all gone."""
    for select, delete in _SLICES.items():
        found: list[Any] = cursor.execute(select, (topic, rows)).fetchall()
        keys, removed = _fitting(found, size)
        if keys:
            texts = json.dumps(keys) if not isinstance(keys[0], bytes) else None
            cursor.execute(delete, {"topic": topic, "keys": texts, "last": keys[-1]})
            return removed
    cursor.execute("DELETE FROM engine WHERE name = ?", (f"{_DROPPED}{topic}",))
    return None


def _fitting(found: Sequence[tuple[Any, int]], size: int) -> tuple[list[Any], int]:
    """The first keys that make up ``size`` bytes, and how many bytes."""
    keys, total = [], 0
    for key, bytes_ in found:
        keys.append(key)
        total += bytes_
        if total >= size:
            break
    return keys, total


def _each(cursor: apsw.Cursor, delete: str, values: Sequence[int] | Sequence[str]) -> None:
    cursor.execute(f"{delete} IN (SELECT value FROM json_each(?))", (json.dumps(values),))


def _apply_retained(cursor: apsw.Cursor, commit: Commit) -> None:
    kept, removed = [], []
    for (topic, key), entry in commit.retained.items():
        if entry.record is None:
            removed.append((topic, key))
        else:
            head, body = (topic, key, entry.seq, entry.offset, entry.appended), encode_record(entry.record)
            kept.append((*head, checksum(head, body), body))
    insert_rows(cursor, "retained", kept)
    delete_rows(cursor, "retained", removed)


def _apply_state(cursor: apsw.Cursor, commit: Commit) -> None:
    # The last change of a key counts.
    changes = {(kind, key): value for kind, key, value in commit.state}
    put = [(*key, value, checksum(key, value)) for key, value in changes.items() if value is not None]
    insert_rows(cursor, "state", put)
    delete_rows(cursor, "state", [key for key, value in changes.items() if value is None])


def _delayed_row(id: str, due: int, topic: int, record: Any) -> tuple[Any, ...]:
    body = encode_record(record)
    return id, due, topic, checksum((id, due, topic), body), body


def _keep_next_seq(cursor: apsw.Cursor) -> None:
    """Sequence numbers do not start again when the newest messages are removed."""
    cursor.execute(f"REPLACE INTO engine VALUES ('next_seq', ({NEXT_SEQ}))")


# One look at each chunk: a drained backlog has thousands of them, and commits wait for this.
_TOMBSTONES = """
DELETE FROM pending WHERE bits = x'' AND extras = x'' {which} AND (subscription, chunk) NOT IN (
  SELECT subscription, chunk FROM (
    SELECT subscription, chunk, max(through) FROM pending WHERE true {which} GROUP BY subscription))
"""


def delete_tombstones(cursor: apsw.Cursor, subscriptions: Sequence[int] | None = None) -> None:
    """Empty chunks that add nothing. Of a subscription counts the greatest ``through`` of all its chunks, so the chunk
    that has it stays, empty or not."""
    if subscriptions is None:
        cursor.execute(_TOMBSTONES.format(which=""))
    else:
        which = "AND subscription IN (SELECT value FROM json_each(:ids))"
        cursor.execute(_TOMBSTONES.format(which=which), {"ids": json.dumps(subscriptions)})
