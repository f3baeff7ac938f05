"""Which stored messages have expired, each told once per run, without a list of those told.

What was told is a place: every row with ``seq < known`` and ``(expires, seq) <= told``. Rows of a later ``seq`` that
were expired when they came ("late") are looked up by ``seq``, the others by ``expires``; both are answered from
indexes. A row has one ``expires`` for all its messages.
"""

from __future__ import annotations

import threading
from typing import Any

import apsw

from polywire.engines.sqlite.queries import next_seq

__all__ = ["Expiry"]

_LAST = 1 << 62
_LATE = """
SELECT seq, count, expires FROM log INDEXED BY log_expires_seq
WHERE expires IS NOT NULL AND seq >= ? AND seq < ? AND (expires, seq) <= (?, ?) ORDER BY seq LIMIT ?
"""
_DUE = """
SELECT seq, count, expires FROM log INDEXED BY log_expires
WHERE expires IS NOT NULL AND expires >= ? AND expires <= ? AND (expires, seq) > (?, ?) AND seq < ?
ORDER BY expires, seq LIMIT ?
"""
_NEXT = """
SELECT expires FROM log INDEXED BY log_expires
WHERE expires IS NOT NULL AND expires >= ? AND (expires, seq) > (?, ?) ORDER BY expires, seq LIMIT 1
"""


class Expiry:
    """Methods run on readers' threads, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = (-_LAST, _LAST)
        self._known = 0
        self._rest: list[int] = []
        """Of the row told last, what was over the limit."""
        self._rest_expires = 0

    def next(self, connection: apsw.Connection) -> int | None:
        with self._lock:
            if self._rest:
                return self._rest_expires
            late = self._late(connection, 1)
            if late:
                return late[0][2]
            time, seq = self._told
            found: int | None = connection.execute(_NEXT, (time, time, seq)).get
            return found

    def take(self, connection: apsw.Connection, now: int, limit: int) -> list[int]:
        with self._lock:
            seqs, self._rest = self._rest, []
            if len(seqs) < limit:
                for seq, count, expires in self._rows(connection, now, limit - len(seqs)):
                    seqs.extend(range(seq, seq + count))
                    self._rest_expires = expires
            self._rest = seqs[limit:]
            return seqs[:limit]

    def _rows(self, connection: apsw.Connection, now: int, limit: int) -> list[tuple[int, int, int]]:
        """Rows with about ``limit`` messages, which count as told from here on."""
        late = _enough(self._late(connection, limit), limit)
        if late:
            self._known = late[-1][0] + late[-1][1]
            return late
        time, seq = self._told
        found: list[Any] = connection.execute(_DUE, (time, now, time, seq, self._known, limit)).fetchall()
        rows = _enough(found, limit)
        if len(rows) == len(found) < limit:
            self._told = max(self._told, (now, _LAST))
        else:
            self._told = (rows[-1][2], rows[-1][0])
        return rows

    def _late(self, connection: apsw.Connection, limit: int) -> list[tuple[int, int, int]]:
        until = next_seq(connection)
        late: list[Any] = connection.execute(_LATE, (self._known, until, *self._told, limit)).fetchall()
        if not late:
            self._known = max(self._known, until)
        return late


def _enough(rows: list[tuple[int, int, int]], messages: int) -> list[tuple[int, int, int]]:
    """The first rows that hold so many messages together."""
    for index, row in enumerate(rows):
        messages -= row[1]
        if messages <= 0:
            return rows[: index + 1]
    return rows
