"""Moves the write-ahead log into the database off the commit path, on a timer."""

from __future__ import annotations

import logging
import threading

import apsw

from polywire.engines.sqlite.database import Database
from polywire.engines.sqlite.readers import Readers
from polywire.engines.sqlite.writer import Writer

__all__ = ["Checkpoints"]

FRAME_HEAD = 24

_logger = logging.getLogger("polywire.sqlite")


class Checkpoints:
    """A thread that checkpoints passively: it never blocks the writer. Commits that arrive meanwhile keep the log from
    starting over, so past ``wal_limit`` the writer is asked to do the (now short) rest itself."""

    def __init__(self, database: Database, writer: Writer, readers: Readers) -> None:
        self.checkpoints = self.resets = 0
        self.wal_used = 0
        self._database = database
        self._writer = writer
        self._readers = readers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polywire-checkpoints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._writer.log_is_long.set()
        self._thread.join()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while not self._stopped_in_wait():
            try:
                connection = connection or self._database.reconnect()
                self._round(connection)
            except Exception as error:  # noqa: BLE001 - the next round finds the same frames
                # A full disk or a reader in the way is nothing special; whatever it is, the log must not grow for ever.
                _logger.debug("%s: a checkpoint failed: %s", self._database.path, error)
        if connection is not None:
            connection.close()

    def _stopped_in_wait(self) -> bool:
        self._writer.log_is_long.wait(self._database.settings.checkpoint_interval)
        self._writer.log_is_long.clear()
        return self._stop.is_set()

    def _round(self, connection: apsw.Connection) -> None:
        if self._writer.dropped:
            self._writer.call(self._writer.drop_rest)
        if self._writer.disk_full:
            self._writer.call(self._writer.look_for_space)
            if not self._writer.may_checkpoint():
                return
        frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.checkpoints += 1
        self.wal_used = max(frames, 0) * (connection.pragma("page_size") + FRAME_HEAD)
        if self.wal_used > self._database.settings.wal_limit:
            self.resets += 1
            self._ask_writer()

    def _ask_writer(self) -> None:
        finished = threading.Event()

        def reset() -> None:
            try:
                with self._readers.paused():
                    self._writer.reset_log()
            finally:
                finished.set()

        self._writer.call(reset)
        # The next round must not meet the writer's own checkpoint; a writer that stops answers no more.
        while not finished.wait(0.05) and not self._stop.is_set():
            pass
