"""The database file: its schema, its connections, and what SQLite's errors mean to the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from polywire.core.errors import Conflict, Internal, PolywireError, Unavailable
from polywire.engines.sqlite.settings import SqliteSettings

__all__ = ["BUSY_TIMEOUT", "FILE", "FORMAT_VERSION", "Database", "translate"]

FILE = "hub.db"
FORMAT_VERSION = 1
BUSY_TIMEOUT = 5000  # ms
APPLICATION_ID = 0x506F6C79  # "Poly"

SCHEMA = """
CREATE TABLE log(
  seq INTEGER PRIMARY KEY, topic INTEGER NOT NULL, base INTEGER NOT NULL, count INTEGER NOT NULL,
  size INTEGER NOT NULL, appended INTEGER NOT NULL, flags INTEGER NOT NULL, expires INTEGER,
  format INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX log_topic ON log(topic, base, seq, count, size, appended);
CREATE INDEX log_expires ON log(expires, seq, count) WHERE expires IS NOT NULL;
CREATE INDEX log_expires_seq ON log(seq, expires, count) WHERE expires IS NOT NULL;
CREATE INDEX log_dedup ON log(appended, seq) WHERE flags & 4;
CREATE TABLE retained(
  topic INTEGER, key BLOB, seq INTEGER, offset INTEGER, appended INTEGER, crc INTEGER, body BLOB,
  PRIMARY KEY(topic, key)
) WITHOUT ROWID;
CREATE TABLE pending(
  subscription INTEGER, chunk INTEGER, through INTEGER, bits BLOB, extras BLOB, crc INTEGER,
  PRIMARY KEY(subscription, chunk)
) WITHOUT ROWID;
CREATE TABLE delayed(
  id TEXT PRIMARY KEY, due INTEGER NOT NULL, topic INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX delayed_due ON delayed(due, id);
CREATE INDEX delayed_topic ON delayed(topic, due, id);
CREATE TABLE state(kind TEXT, key TEXT, value BLOB, crc INTEGER, PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE engine(name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""

_CANNOT_OPEN = (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError, OSError)
_MEANINGS: tuple[tuple[Any, type[PolywireError], str, str | None], ...] = (
    (apsw.FullError, Unavailable, "{path}: no space left", "free space on this file system"),
    (apsw.BusyError, Unavailable, "{path} is in use by another process", "stop it or use another data folder"),
    (apsw.NotADBError, Internal, "{path} is not a log: {error}", "name another data folder, or restore a backup"),
    (apsw.CorruptError, Internal, "{path} is damaged: {error}", "`polywire verify` tells more; restore a backup"),
    (_CANNOT_OPEN, Unavailable, "{path} cannot be written: {error}", "check the folder and its permissions"),
    (apsw.IOError, Internal, "{path} could not be read or written: {error}", None),
)


def translate(error: BaseException, path: str) -> PolywireError:
    """What an error of SQLite or the file system says in the hub's terms, naming the path."""
    if isinstance(error, PolywireError):
        return error
    for kinds, meaning, text, hint in _MEANINGS:
        if isinstance(error, kinds):
            return meaning(text.format(path=path, error=error), hint=hint)
    return Internal(f"{path}: {type(error).__name__}: {error}")


class Database:
    """The file ``hub.db`` in a folder, and how to connect to it."""

    def __init__(self, folder: str, settings: SqliteSettings, vfs: str | None = None) -> None:
        self.folder = str(Path(folder).absolute())
        self.path = str(Path(self.folder, FILE))
        self.settings = settings
        self._vfs = vfs

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turns whatever goes wrong inside into a documented error that names the path."""
        try:
            yield
        except (apsw.Error, OSError, ValueError, TypeError) as error:  # a damaged file may hold any value
            raise translate(error, self.path) from error

    def create_or_open(self) -> apsw.Connection:
        """The writing connection, the schema in place. Raises `Unavailable`, `Conflict`, `Internal`."""
        with self.named_errors():
            connection = self.connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def reconnect(self) -> apsw.Connection:
        """A further writing connection to a store that is known to be good."""
        connection = self.connect(apsw.SQLITE_OPEN_READWRITE)
        self._configure(connection)
        return connection

    def reader(self) -> apsw.Connection:
        connection = self.connect(apsw.SQLITE_OPEN_READONLY)
        connection.pragma("cache_size", -(self.settings.page_cache // 4096))
        return connection

    def connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(self.path, flags=flags, vfs=self._vfs)
        # For connections of this process only: the folder's lock keeps others out.
        connection.set_busy_timeout(BUSY_TIMEOUT)
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        if connection.readonly("main"):
            raise Unavailable(f"{self.path} is read-only", hint="check the permissions of the data folder")
        if connection.pragma("user_version") == 0:
            self._create(connection)
        else:
            self.check_format(connection)
        self._configure(connection)

    def check_format(self, connection: apsw.Connection) -> None:
        """Raises `Conflict` for a newer format, `Internal` for what is not a log at all."""
        version = connection.pragma("user_version")
        if connection.pragma("application_id") != APPLICATION_ID:
            raise Internal(f"{self.path} is not a Polywire log, but another program's database")
        if version > FORMAT_VERSION:
            raise Conflict(
                f"{self.path} has format {version}; this version reads up to {FORMAT_VERSION}",
                hint="use a newer Polywire",
            )

    def _create(self, connection: apsw.Connection) -> None:
        if connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise Internal(f"{self.path} is not a Polywire log, but another program's database")
        with connection:
            connection.execute(SCHEMA)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", FORMAT_VERSION)
        sync_folder(self.folder)

    def _configure(self, connection: apsw.Connection) -> None:
        settings = self.settings
        if connection.pragma("journal_mode", "wal") != "wal":
            raise Unavailable(f"{self.path}: this file system does not support a write-ahead log (shared memory)")
        connection.pragma("synchronous", settings.synchronous)
        connection.wal_autocheckpoint(0)
        connection.pragma("mmap_size", 0)
        connection.pragma("cache_size", -(settings.page_cache // 1024))
        connection.pragma("journal_size_limit", settings.wal_limit)
        connection.pragma("temp_store", "memory")


def sync_folder(folder: str) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
