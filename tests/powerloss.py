"""A disk whose power can be cut: an apsw VFS that knows what has been synced and what has not.

Every file that SQLite opens through it is real, so the process under test notices nothing; beside it stands what a disk
would hold without power: what was there at the last sync, and the writes since then, which a disk may have kept or not,
sector by sector. `PowerLossVFS.image` writes such a state into a folder.

    vfs = PowerLossVFS("unplugged")
    engine = SqliteEngine(folder, vfs=vfs.name)
    vfs.on_operation = lambda kind, file: ...   # before each write, sync, truncate, delete, on the thread that does it
    vfs.image(other_folder, random.Random(1))   # from any thread, at any moment
    vfs.unregister()

The shared-memory file of the write-ahead log lives outside (it never survives). Bytes that were synced are not harmed
by a later write beside them in the same sector (SQLite's "powersafe overwrite"). A deletion survives at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

SECTOR = 512


class _Write(NamedTuple):
    offset: int
    data: bytes


class _Truncate(NamedTuple):
    size: int


class _Shadow:
    """What a disk holds of one file: ``synced`` for sure (None: not even its name), and what may have arrived since."""

    def __init__(self, synced: bytes | None) -> None:
        self.synced = None if synced is None else bytearray(synced)
        self.unsynced: list[_Write | _Truncate] = []

    def sync(self) -> None:
        content = self.synced if self.synced is not None else bytearray()
        for change in self.unsynced:
            _apply(content, change)
        self.synced = content
        self.unsynced.clear()

    def survivors(self, chance: random.Random) -> bytes | None:
        """One of the states that a power loss may leave behind."""
        keep = chance.choice((0.0, 0.2, 0.5, 0.9, 1.0))
        if self.synced is None and not self.unsynced:
            return None
        content = bytearray(self.synced or b"")
        for change in self.unsynced:
            for part in _sectors(change):
                if chance.random() < keep:
                    _apply(content, part)
        return bytes(content)


def _sectors(change: _Write | _Truncate) -> list[_Write | _Truncate]:
    """A write as the pieces that a disk writes each as a whole."""
    if isinstance(change, _Truncate):
        return [change]
    parts: list[_Write | _Truncate] = []
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        parts.append(_Write(start, change.data[start - change.offset : stop - change.offset]))
        start = stop
    return parts


def _apply(content: bytearray, change: _Write | _Truncate) -> None:
    if isinstance(change, _Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
        return
    end = change.offset + len(change.data)
    content.extend(bytes(max(0, end - len(content))))
    content[change.offset : end] = change.data


class PowerLossVFS(apsw.VFS):
    """Inherits the default VFS. ``operations`` counts what would change the disk."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.operations = 0
        self.on_operation: Callable[[str, str], None] | None = None
        self._files: dict[str, _Shadow] = {}
        self._lock = threading.RLock()
        super().__init__(name, "")

    def image(self, folder: str | Path, chance: random.Random) -> None:
        """Write what would be left if the power went now into ``folder`` (made if it is not there)."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with self._lock:
            left = {name: shadow.survivors(chance) for name, shadow in self._files.items()}
        for name, content in left.items():
            if content is not None:
                Path(folder, Path(name).name).write_bytes(content)

    # ── what SQLite calls ──

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:  # a temporary file: nobody misses it
            return apsw.VFSFile("", name, flags)
        with self._lock:
            if path not in self._files:
                real = Path(path)
                # What was there before this VFS counts as safe.
                self._files[path] = _Shadow(real.read_bytes() if real.exists() else None)
            return _File(self, path, self._files[path], name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self._lock:
            self.happens("delete", filename)
            super().xDelete(filename, syncdir)
            self._files.pop(filename, None)

    def happens(self, kind: str, file: str) -> None:
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation(kind, file)


class _File(apsw.VFSFile):
    def __init__(self, vfs: PowerLossVFS, path: str, shadow: _Shadow, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        self._path = path
        self._shadow = shadow
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with self._vfs._lock:
            self._vfs.happens("write", self._path)
            super().xWrite(data, offset)
            self._shadow.unsynced.append(_Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._vfs._lock:
            self._vfs.happens("truncate", self._path)
            super().xTruncate(newsize)
            self._shadow.unsynced.append(_Truncate(newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        # The real disk is spared: only what the shadow knows counts here.
        with self._vfs._lock:
            self._vfs.happens("sync", self._path)
            self._shadow.sync()
