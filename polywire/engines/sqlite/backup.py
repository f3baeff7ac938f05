"""Copies of the store: made while it runs, put back where it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import apsw

from polywire.core.errors import Conflict, Unavailable
from polywire.engines.sqlite.database import FILE, Database, sync_folder, translate
from polywire.engines.sqlite.rows import checksum
from polywire.engines.sqlite.settings import SqliteSettings
from polywire.engines.sqlite.space import FolderLock
from polywire.engines.sqlite.statements import insert_rows
from polywire.engines.sqlite.writer import Chore, Writer

__all__ = ["backup", "restore"]


async def backup(writer: Writer, folder: str, *, pages: int) -> dict[str, Any]:
    """A consistent copy in a new ``folder``: what was committed when this returns is in it, apart from the last moment.

    Raises `Conflict` if the folder has something in it, `Unavailable` if it cannot be written. Returns counts of
    messages, rows and bytes.
    """
    path = str(Path(folder, f"{FILE}.part"))
    loop = asyncio.get_running_loop()
    copied: asyncio.Future[None] = loop.create_future()
    await asyncio.to_thread(_new_folder, folder)
    writer.add_chore(_copy(writer, path, pages, loop, copied))
    await copied
    return await asyncio.to_thread(_finish, path, Path(folder, FILE))


def _new_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if any(Path(folder).iterdir()):
            raise Conflict(f"{folder} is not empty", hint="name a new folder")
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written: {error.strerror}") from error


def _copy(
    writer: Writer, path: str, pages: int, loop: asyncio.AbstractEventLoop, copied: asyncio.Future[None]
) -> Chore:
    """SQLite's backup on the connection that writes: pages that a commit changes meanwhile are copied again by SQLite
    itself, where a connection of its own would start over, or hold a snapshot and let the write-ahead log grow."""
    error: BaseException | None = Unavailable(f"the backup to {path} was interrupted: the hub stops")
    try:
        with contextlib.closing(apsw.Connection(path)) as target:
            target.pragma("journal_mode", "off")
            target.pragma("synchronous", "off")  # synced as a whole at the end
            with target.backup("main", writer.connection, "main") as copy:
                while not copy.done:
                    with contextlib.suppress(apsw.BusyError):
                        copy.step(pages)
                    yield
        error = None
    except Exception as found:  # noqa: BLE001 - whatever it is, the caller must hear of it
        error = translate(found, path)
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, copied, error)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _finish(path: str, final: Path) -> dict[str, Any]:
    """Make the copy durable under its final name, which an interrupted one never gets."""
    with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.pragma("journal_mode", "delete")  # one file, complete in itself
        rows, messages, size = connection.execute(
            "SELECT count(*), ifnull(sum(count), 0), ifnull(sum(size), 0) FROM log INDEXED BY log_topic"
        ).get
    _sync_file(path)
    Path(path).rename(final)
    sync_folder(str(final.parent))
    return {"path": str(final), "rows": rows, "messages": messages, "size": size, "file_size": final.stat().st_size}


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(backup_folder: str, data_folder: str) -> None:
    """Make a data folder from a backup, and note in it that it was restored (state ``meta`` / ``restored``: seconds
    since the Unix epoch in ASCII), from which the hub raises the epochs of its topics.

    Raises `Conflict` if ``data_folder`` has something in it, or ``backup_folder`` is no backup but a hub's data folder;
    `Unavailable` or `Internal` if the backup cannot be read.
    """
    source = Path(backup_folder, FILE)
    if not source.is_file():
        raise Unavailable(f"there is no backup in {backup_folder}: {source} is missing")
    _require_backup(source)
    _new_folder(data_folder)
    lock = FolderLock(data_folder)
    try:
        _restore(source, Database(data_folder, SqliteSettings()))
    except BaseException:
        for left in (f"{FILE}.part", "lock"):  # so that the next try finds the folder empty again
            Path(data_folder, left).unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _require_backup(source: Path) -> None:
    """A data folder's file alone is not all of it: the rest stands in its write-ahead log, or a hub is writing it."""
    wal = Path(f"{source}-wal")
    if Path(source.parent, "lock").exists() or (wal.exists() and wal.stat().st_size):
        raise Conflict(
            f"{source.parent} is the data folder of a hub, not a backup",
            hint="make a backup of it first, or start a hub on a copy of the whole folder",
        )


def _restore(source: Path, database: Database) -> None:
    # Under its own name only when it is whole: a copy that was interrupted is never taken for a log.
    part = f"{database.path}.part"
    with database.named_errors():
        shutil.copyfile(source, part)
        with contextlib.closing(apsw.Connection(part, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            database.check_format(connection)
            value = str(int(time.time())).encode()
            row = ("meta", "restored", value, checksum(("meta", "restored"), value))
            insert_rows(connection.cursor(), "state", [row])
        _sync_file(part)
        Path(part).rename(database.path)
        sync_folder(database.folder)
