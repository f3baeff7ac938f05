"""Checks a store that no hub has open: every page, every row, every checksum."""

# ruff: noqa: S608 - table and column names are constants of these modules; values are always bound.

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from polywire.core.errors import PolywireError, Unavailable
from polywire.engines.sqlite import queries, rows
from polywire.engines.sqlite.database import Database
from polywire.engines.sqlite.settings import SqliteSettings
from polywire.engines.sqlite.space import FolderLock
from polywire.engines.sqlite.writer import wal_bytes

__all__ = ["verify"]

MOST_ERRORS = 100
"""Errors listed by name; the rest is counted."""

_COUNTED = ("messages", "rows", "size", "retained", "delayed", "pending_chunks", "pending", "state")
_TABLES = {"retained": "retained", "delayed": "delayed", "pending_chunks": "pending", "state": "state"}


class _Report:
    def __init__(self, path: str) -> None:
        self.path = path
        self.errors: list[str] = []
        self.found = 0
        self.topics: dict[int, dict[str, int]] = {}
        self.counts = dict.fromkeys(_COUNTED, 0)

    def error(self, text: str) -> None:
        self.found += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(text)

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.found,
            "path": self.path,
            "errors": self.errors,
            "error_count": self.found,
            **self.counts,
            "topics": {str(topic): figures for topic, figures in sorted(self.topics.items())},
        }


def verify(folder: str) -> dict[str, Any]:
    """Figures and errors of the store in ``folder``, fit for JSON: ``ok``, ``errors`` (texts), counts, and by topic id
    ``messages``, ``rows``, ``size``, ``oldest`` and ``next`` offset. Changes nothing.

    Raises `Unavailable` if there is no store or a hub has it open. Damage is reported, not raised.
    """
    database = Database(folder, SqliteSettings())
    if not Path(database.path).is_file():
        raise Unavailable(f"there is no log in {folder}: {database.path} is missing")
    lock = FolderLock(folder, create=False)
    try:
        report = _Report(database.path)
        _check(database, report)
        return report.as_dict()
    finally:
        lock.release()


def _check(database: Database, report: _Report) -> None:
    try:
        # What a crash left in the write-ahead log stays there; where none is, closing takes the empty one away again.
        left = wal_bytes(database.path) > 0
        with contextlib.closing(database.connect(apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(left))
            with database.named_errors():
                database.check_format(connection)
                for (text,) in connection.execute("PRAGMA integrity_check"):
                    if text != "ok":
                        report.error(text)
                _check_log(connection, report)
                _check_rest(connection, report)
    except PolywireError as error:
        report.error(error.detail)
    except apsw.Error as error:
        report.error(f"{database.path}: {error}")


def _check_log(connection: apsw.Connection, report: _Report) -> None:
    columns = ", ".join(rows.COLUMNS)
    last_seq = 0
    for row in connection.execute(f"SELECT {columns} FROM log ORDER BY seq"):
        _check_row(row, last_seq, report)
        last_seq = row[0] + row[3]


def _check_row(row: tuple[Any, ...], last_seq: int, report: _Report) -> None:
    seq, topic, base, count, size = row[:5]
    where = f"topic {topic}, offset {base}, seq {seq}"
    figures = report.topics.setdefault(topic, {"messages": 0, "rows": 0, "size": 0, "oldest": base, "next": base})
    if seq < last_seq:
        report.error(f"{where}: overlaps the row before it in seq")
    if base < figures["next"]:
        report.error(f"{where}: overlaps the row before it in offset")
    try:
        stored = sum(len(batch) for batch in rows.decode(row))
        if stored != count:
            report.error(f"{where}: holds {stored} messages instead of {count}")
    except PolywireError as error:
        report.error(error.detail)
    except msgspec.DecodeError as error:
        report.error(f"{where}: cannot be decoded: {error}")
    for into in (figures, report.counts):
        into["messages"] += count
        into["rows"] += 1
        into["size"] += size
    figures["next"] = base + count


def _check_rest(connection: apsw.Connection, report: _Report) -> None:
    for name, table in _TABLES.items():
        report.counts[name] = int(connection.execute(f"SELECT count(*) FROM {table}").get)
    for chunk in _checked(queries.load_pending(connection), report):
        report.counts["pending"] += int.from_bytes(chunk.bits, "little").bit_count()
    kinds = connection.execute("SELECT DISTINCT kind FROM state").fetchall()
    rest: list[Iterator[Any]] = [queries.load_state(connection, str(kind)) for (kind,) in kinds]
    for found in (*rest, queries.every_retained(connection), queries.every_delayed(connection)):
        for _ in _checked(found, report):
            pass


def _checked(found: Iterator[Any], report: _Report) -> Iterator[Any]:
    """What is read, up to the first damage, which goes into the report."""
    try:
        yield from found
    except PolywireError as error:
        report.error(error.detail)
    except msgspec.DecodeError as error:
        report.error(f"cannot be decoded: {error}")
