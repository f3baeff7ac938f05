"""The one thread that writes: commits, and between them what must not run beside one (checkpoints that reset the
write-ahead log, pieces of a backup, the rest of dropped topics).

Nothing that goes wrong ends the thread: a commit is always answered, everything else is logged and left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import apsw

from polywire.core.engine import Commit, Done
from polywire.core.errors import PolywireError, Unavailable
from polywire.engines.sqlite import statements
from polywire.engines.sqlite.database import BUSY_TIMEOUT, Database, translate
from polywire.engines.sqlite.pace import exact_timers
from polywire.engines.sqlite.rows import pack
from polywire.engines.sqlite.space import Reserve, free_bytes

__all__ = ["Chore", "Writer", "wal_bytes"]

_logger = logging.getLogger("polywire.sqlite")

Chore = Generator[None, None, None]
"""Work on the writing connection in pieces of about a millisecond; closed when the writer stops."""

TOMBSTONES_EVERY = 256
DROPPED_ROWS, DROPPED_SIZE = 200, 2 << 20
"""What is removed of a dropped topic between two commits: so many rows of a table, or about so many bytes."""
_PAGES_OF_A_COMMIT = 4 * 4096


class Writer:
    """Owns the writing connection from `start` to `stop`. `submit`, `call`, `add_chore`: from any thread."""

    def __init__(self, database: Database, connection: apsw.Connection, reserve: Reserve) -> None:
        self.connection = connection
        self.disk_full = not reserve.held
        self.commits = self.rows = self.failed = 0
        self.seconds_sum = self.seconds_max = self.seconds_last = 0.0
        self._database = database
        self._cursor = connection.cursor()
        self._reserve = reserve
        self._looked = 0.0
        self.log_is_long = threading.Event()
        """Set when the write-ahead log has probably grown past its limit: it cannot wait for the timer."""
        self._grown = 0
        self._emptied: set[int] = set()
        self._tombstones = 0
        self._chores: list[Chore] = []
        self.dropped: list[int] = []
        """Topics of which something is left."""
        self._dropping = False
        self._stopped = False
        self._stopping = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="polywire-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread. Chores are cancelled."""
        with self._stopping:
            self._stopped = True
            self._queue.put(None)
        self._thread.join()

    def submit(self, loop: asyncio.AbstractEventLoop, commit: Commit, done: Done) -> None:
        self.call(self._write, loop, commit, done)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a short function on the writer's thread. Raises `Unavailable` after `stop`."""
        with self._stopping:  # or it might come to stand behind the end, where nobody answers it
            if self._stopped:
                raise Unavailable(f"{self._database.path} is closed")
            self._queue.put((function, arguments))

    def add_chore(self, chore: Chore) -> None:
        self.call(self._chores.append, chore)

    def _run(self) -> None:
        exact_timers()
        while (item := self._next()) is not None:
            self._guarded(*item)
        for chore in self._chores:
            self._guarded(chore.close)

    def _guarded(self, function: Callable[..., None], arguments: tuple[Any, ...] = ()) -> None:
        try:
            function(*arguments)
        except Exception:
            _logger.exception("%s: the writing thread goes on after a fault", self._database.path)

    def _next(self) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
        while self._chores:
            self._guarded(self._step_chore)
            with contextlib.suppress(queue.Empty):
                return self._queue.get_nowait()
        return self._queue.get()

    def _step_chore(self) -> None:
        chore = self._chores.pop(0)
        if next(chore, StopIteration) is None:
            self._chores.append(chore)

    # ── commits ──

    def _write(self, loop: asyncio.AbstractEventLoop, commit: Commit, done: Done) -> None:
        error: PolywireError | None = None
        began = time.perf_counter()
        try:
            self._commit(commit)
        except Exception as found:  # noqa: BLE001 - whatever it is, the core must hear of it
            self.failed += 1
            error = found if isinstance(found, PolywireError) else translate(found, self._database.path)
        took = time.perf_counter() - began
        self.commits += 1
        self.seconds_last = took
        self.seconds_sum += took
        self.seconds_max = max(self.seconds_max, took)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            loop.call_soon_threadsafe(done, commit, error)
        if error is None:
            self._clean_up(commit)

    def _clean_up(self, commit: Commit) -> None:
        if commit.dropped_topics:
            self.drop_rest(commit.dropped_topics)
        if commit.pending:
            self._sweep_tombstones(commit)

    def _commit(self, commit: Commit) -> None:
        if self.disk_full and not self._space_is_back() and commit.appends:
            raise self._full_error()
        try:
            self._transaction(commit)
        except (apsw.FullError, apsw.IOError) as error:
            self._recover_connection()
            if not self._is_full(error):
                raise
            self._give_up_reserve()
            if commit.appends:
                raise self._full_error() from error
            self._transaction_again(commit)

    def _transaction(self, commit: Commit) -> None:
        settings = self._database.settings
        rows = list(pack(commit.appends, messages=settings.row_messages, size=settings.row_size))
        if len(rows) <= statements.MOST and _only_appends(commit):
            if rows:
                statements.insert_rows(self._cursor, "log", rows)  # one statement is its own transaction
        else:
            self._cursor.execute("BEGIN IMMEDIATE")
            try:
                statements.apply(self._cursor, commit, rows)
                self._cursor.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self._cursor.execute("ROLLBACK")
                raise
        self.rows += len(rows)
        self._watch_log(sum(len(row[-1]) for row in rows))

    def _transaction_again(self, commit: Commit) -> None:
        try:
            self._transaction(commit)
        except (apsw.FullError, apsw.IOError) as error:
            self._recover_connection()
            raise self._full_error() from error

    def _recover_connection(self) -> None:
        """After an error of the disk: a connection without a transaction and without doubtful pages in its cache."""
        with contextlib.suppress(apsw.Error):
            if self.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
        with contextlib.suppress(apsw.Error, OSError):
            fresh = self._database.reconnect()
            self.connection.close(True)
            self.connection, self._cursor = fresh, fresh.cursor()

    def _sweep_tombstones(self, commit: Commit) -> None:
        """Now and then remove empty chunks that only carry a ``through`` which another chunk carries too."""
        emptied = [chunk.subscription for chunk in commit.pending if not chunk.bits]
        self._emptied.update(emptied)
        self._tombstones += len(emptied)
        if self._tombstones >= TOMBSTONES_EVERY:
            subscriptions, self._emptied, self._tombstones = sorted(self._emptied), set(), 0
            with contextlib.suppress(apsw.Error):
                statements.delete_tombstones(self._cursor, subscriptions)

    # ── dropped topics ──

    def drop_rest(self, topics: Sequence[int] = ()) -> None:
        """Go on removing what dropped topics left, these and those still known, in pieces between commits."""
        self.dropped.extend(topics)
        if self.dropped and not self._dropping:
            self._dropping = True
            self._chores.append(self._drop())

    def _drop(self) -> Chore:
        """After an error (a full disk) the rest waits for the next `drop_rest`, at the latest for the next start."""
        try:
            while self.dropped:
                size = statements.drop_slice(self._cursor, self.dropped[0], rows=DROPPED_ROWS, size=DROPPED_SIZE)
                if size is None:
                    self.dropped.pop(0)
                self._watch_log(size or 0)
                yield
        except (apsw.FullError, apsw.IOError) as error:
            _logger.warning("%s: the rest of a dropped topic stays for now: %s", self._database.path, error)
            self._recover_connection()
        finally:
            self._dropping = False

    # ── space ──

    def _is_full(self, error: apsw.Error) -> bool:
        # Some writes (the shared-memory file, growing a file) report a full disk as an input/output error.
        return isinstance(error, apsw.FullError) or free_bytes(self._database.folder) < 1 << 20

    def _give_up_reserve(self) -> None:
        self.disk_full = True
        self._looked = time.monotonic()
        self._reserve.release()
        if self.may_checkpoint():
            self.reset_log(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _space_is_back(self) -> bool:
        if time.monotonic() - self._looked < self._database.settings.space_interval:
            return False
        self._looked = time.monotonic()
        reusable = self.connection.pragma("freelist_count") * self.connection.pragma("page_size")
        if self._reserve.take_again(reusable):
            self.disk_full = False
        return not self.disk_full

    def look_for_space(self) -> None:
        """Called on a timer, so that publishing recovers without a publish."""
        if self.disk_full:
            with contextlib.suppress(apsw.Error, OSError):
                self._space_is_back()

    def _full_error(self) -> Unavailable:
        folder = self._database.folder
        return Unavailable(
            f"the disk is full: {free_bytes(folder)} bytes are free for {self._database.path}, "
            f"publishing needs {self._reserve.size}",
            hint="free space on this file system; publishing goes on by itself",
            retry_after=self._database.settings.space_interval,
        )

    # ── the write-ahead log ──

    def _watch_log(self, size: int) -> None:
        self._grown += size + _PAGES_OF_A_COMMIT
        if self._grown > self._database.settings.wal_limit:
            self._grown = 0
            self.log_is_long.set()

    def may_checkpoint(self) -> bool:
        """On a full disk a checkpoint could use up what the reserve left for acks and deletes, by growing the database
        as far as the write-ahead log is long, and then not even get to its end."""
        return not self.disk_full or free_bytes(self._database.folder) > 2 * wal_bytes(self._database.path)

    def reset_log(self, mode: int = apsw.SQLITE_CHECKPOINT_RESTART) -> None:
        """Write the rest of the write-ahead log into the database, so that the next commit starts it over. May find
        readers in its way and leave it for the next time."""
        self.connection.set_busy_timeout(50)  # commits wait for it
        try:
            with contextlib.suppress(apsw.Error):
                self.connection.wal_checkpoint(mode=mode)
        finally:
            self.connection.set_busy_timeout(BUSY_TIMEOUT)


def _only_appends(commit: Commit) -> bool:
    return not (
        commit.retained or commit.pending or commit.state or commit.delayed or commit.undelayed
        or commit.deleted_rows or commit.dropped_topics or commit.dropped_subscriptions
    )  # fmt: skip


def wal_bytes(path: str) -> int:
    try:
        return Path(f"{path}-wal").stat().st_size
    except OSError:
        return 0
