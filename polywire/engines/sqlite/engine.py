"""The embedded engine: topics in one SQLite database. Implements `polywire.core.engine.Engine`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from polywire.core.engine import (
    Capabilities,
    Commit,
    Delayed,
    Done,
    PendingChunk,
    Retained,
    RowSpan,
    Space,
    TopicStats,
)
from polywire.core.errors import Internal, Unavailable
from polywire.core.message import Batch
from polywire.engines.sqlite import backup, queries
from polywire.engines.sqlite.checkpoints import Checkpoints
from polywire.engines.sqlite.database import Database
from polywire.engines.sqlite.expiry import Expiry
from polywire.engines.sqlite.pace import shorten_switch_interval
from polywire.engines.sqlite.readers import Readers
from polywire.engines.sqlite.settings import SqliteSettings
from polywire.engines.sqlite.space import FolderLock, Reserve, free_bytes
from polywire.engines.sqlite.statements import delete_tombstones, drop_slice, dropped
from polywire.engines.sqlite.writer import Writer, wal_bytes

__all__ = ["SqliteEngine"]

T = TypeVar("T")
_SEQS = 1024  # sequence numbers looked up by one statement
_DROPPED_ROWS, _DROPPED_SIZE = 10_000, 16 << 20  # of a dropped topic, removed at a time while nobody waits for a commit


class SqliteEngine:
    """Topics in ``hub.db`` of a data folder. ``vfs``: a registered apsw VFS, for tests that break the disk."""

    capabilities = Capabilities(name="sqlite", fsync=True, transactions=True, exact_counts=True, partitions=False)

    def __init__(self, folder: str, *, settings: SqliteSettings | None = None, vfs: str | None = None) -> None:
        self.settings = settings or SqliteSettings()
        self._database = Database(folder, self.settings, vfs)
        self._lock: FolderLock | None = None
        self._connection: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._readers = Readers(self._database, self.settings.readers)
        self._checkpoints: Checkpoints | None = None
        self._expiry = Expiry()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def folder(self) -> str:
        return self._database.folder

    # ── 1. open ──

    def open(self) -> None:
        self._lock = FolderLock(self.folder)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            self._lock = None
            raise

    def _open(self) -> None:
        reserve = Reserve(self.folder, self.settings.reserve_size)
        existing = Path(self._database.path).exists()
        # A store that is there opens on a full disk too, without publishing: acks and deletes, which free space, work.
        if not reserve.take() and not existing:
            raise Unavailable(
                f"no space for a new log: {self._database.path} needs {reserve.size} bytes, "
                f"{free_bytes(self.folder)} are free",
                hint="free space on this file system",
            )
        self._connection = self._database.create_or_open()
        try:
            with self._database.named_errors():
                self._recover(self._connection, reserve)
        except BaseException:
            self._connection.close()
            self._connection = self._writer = None
            raise

    def _recover(self, connection: apsw.Connection, reserve: Reserve) -> None:
        self._writer = Writer(self._database, connection, reserve)
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            delete_tombstones(connection.cursor())
            self._drop_rest(connection)
        except apsw.FullError:
            self._writer.disk_full = True
            reserve.release()

    @staticmethod
    def _drop_rest(connection: apsw.Connection) -> None:
        """Before anything is loaded: the core may give the id of a topic that is gone to a new one."""
        cursor = connection.cursor()
        for topic in dropped(cursor):
            while drop_slice(cursor, topic, rows=_DROPPED_ROWS, size=_DROPPED_SIZE) is not None:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    # ── 2. load ──

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        return self._loading(queries.load_state(self._opened(), kind))

    def load_pending(self) -> Iterator[PendingChunk]:
        return self._loading(queries.load_pending(self._opened()))

    def load_retained_keys(self) -> Iterator[tuple[int, bytes]]:
        return self._loading(queries.load_retained_keys(self._opened()))

    def stats(self) -> dict[int, TopicStats]:
        with self._database.named_errors():
            return queries.stats(self._opened())

    def scan(self, seq: int) -> Iterator[Batch]:
        return self._loading(queries.scan(self._opened(), seq, self.settings.read_size))

    def next_seq(self) -> int:
        with self._database.named_errors():
            return queries.next_seq(self._opened())

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            raise Internal(f"{self._database.path} is not open")
        return self._connection

    def _loading(self, found: Iterator[T]) -> Iterator[T]:
        with self._database.named_errors():
            yield from found

    # ── 3. run ──

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        writer = self._running()
        self._loop = loop
        self._checkpoints = Checkpoints(self._database, writer, self._readers)
        shorten_switch_interval(self.settings.switch_interval)
        writer.start()
        self._readers.start()
        self._checkpoints.start()

    def _running(self) -> Writer:
        if self._writer is None:
            raise Unavailable(f"{self._database.path} is not open")
        return self._writer

    def submit(self, commit: Commit, done: Done) -> None:
        if self._loop is None:
            raise Unavailable(f"{self._database.path} is closed")
        self._running().submit(self._loop, commit, done)

    async def read(self, topic_id: int, offset: int, *, messages: int, size: int) -> list[Batch]:
        bodies = self.settings.read_size
        return await self._readers.run(
            queries.read, topic_id, offset, messages=messages, size=min(size, bodies), bodies=bodies
        )

    async def read_seqs(self, seqs: Sequence[int]) -> list[Batch]:
        batches: list[Batch] = []
        while seqs:
            found, looked_at = await self._readers.run(queries.read_seqs, seqs[:_SEQS], self.settings.read_size)
            batches += found
            seqs = seqs[looked_at:]
        return batches

    async def rows(self, topic_id: int, *, offset: int = 0, limit: int = 1000) -> list[RowSpan]:
        return await self._readers.run(queries.spans, topic_id, offset, limit)

    async def offset_at(self, topic_id: int, appended: int) -> int | None:
        return await self._readers.run(queries.offset_at, topic_id, appended)

    async def retained(self, topic_id: int, key: bytes) -> Retained | None:
        return await self._readers.run(queries.retained, topic_id, key)

    async def retained_keys(self, topic_id: int, *, after: bytes | None, limit: int) -> list[Retained]:
        """May return fewer than ``limit`` for their size; an empty list is the end."""
        return await self._readers.run(queries.retained_keys, topic_id, after, limit, self.settings.read_size)

    async def retained_range(
        self,
        topic_id: int,
        first: bytes,
        before: bytes | None,
        *,
        wanted: Callable[[bytes], object] | None,
        limit: int,
        size: int,
    ) -> tuple[list[Retained], bytes | None]:
        size = min(size, self.settings.read_size)
        return await self._readers.run(queries.retained_range, topic_id, (first, before), wanted, limit, size)

    async def next_due(self) -> int | None:
        return await self._readers.run(queries.next_due)

    async def due(self, now: int, *, limit: int) -> list[Delayed]:
        """May return fewer than ``limit`` for their size; an empty list is the end."""
        return await self._readers.run(queries.due, now, limit, self.settings.read_size)

    async def delayed(self, topic_id: int | None, *, after: tuple[int, str] | None, limit: int) -> list[Delayed]:
        """May return fewer than ``limit`` for their size; an empty list is the end."""
        return await self._readers.run(queries.waiting, topic_id, after, limit, self.settings.read_size)

    async def find_delayed(self, id: str) -> Delayed | None:
        return await self._readers.run(queries.find_delayed, id)

    async def count_delayed(self) -> int:
        return await self._readers.run(queries.count_delayed)

    async def next_expiry(self) -> int | None:
        return await self._readers.run(self._expiry.next)

    async def expired(self, now: int, *, limit: int) -> list[int]:
        return await self._readers.run(self._expiry.take, now, limit)

    async def dedup_since(self, appended: int) -> AsyncIterator[Batch]:
        after: tuple[int, int] | None = (appended, -1)
        while after is not None:
            found, after = await self._readers.run(queries.dedup_since, *after, self.settings.read_size)
            for batch in found:
                if batch.appended >= appended:
                    yield batch

    async def space(self) -> Space:
        return await self._readers.run(self._space)

    def _space(self, connection: apsw.Connection) -> Space:
        used = Path(self._database.path).stat().st_size + wal_bytes(self._database.path)
        return Space(used, free_bytes(self.folder), queries.held_bytes(connection))

    async def backup(self, folder: str) -> dict[str, Any]:
        """Copies in pieces on the writing connection, so that it neither stops commits nor starts over with each."""
        return await backup.backup(self._running(), folder, pages=self.settings.backup_pages)

    def metrics(self) -> dict[str, float]:
        writer, readers, checkpoints = self._running(), self._readers, self._checkpoints
        return {
            "commits": writer.commits,
            "commits_failed": writer.failed,
            "commit_seconds_sum": writer.seconds_sum,
            "commit_seconds_max": writer.seconds_max,
            "commit_seconds_last": writer.seconds_last,
            "rows": writer.rows,
            "wal_bytes": wal_bytes(self._database.path),
            "checkpoints": checkpoints.checkpoints if checkpoints else 0,
            "wal_resets": checkpoints.resets if checkpoints else 0,
            "disk_full": float(writer.disk_full),
            "reads": readers.reads,
            "read_seconds_sum": readers.seconds_sum,
            "read_seconds_max": readers.seconds_max,
        }

    # ── 4. close ──

    def close(self) -> None:
        """Safe to call again, and without `start`."""
        if self._checkpoints is not None:
            self._checkpoints.stop()
            self._readers.stop()
            self._running().stop()
            self._checkpoints = None
        self._loop = None
        if self._writer is not None:
            self._close_connection(self._writer)
            self._writer = self._connection = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _close_connection(self, writer: Writer) -> None:
        if not writer.disk_full:
            writer.reset_log(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(apsw.Error):  # what is in the write-ahead log is safe there
            writer.connection.close()
