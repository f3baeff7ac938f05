"""A file system with little room, as a VFS and as what the engine asks the operating system for."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

import apsw


class SmallDisk(apsw.VFS):
    """Inherits the default VFS; ``capacity`` bytes for all files in ``folder`` together, which may be changed."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder = folder
        self.capacity = capacity
        self.name = f"small-{uuid.uuid4().hex}"
        super().__init__(self.name, "")

    def free(self) -> int:
        files = list(self.folder.iterdir()) if self.folder.is_dir() else []
        return max(0, self.capacity - sum(file.stat().st_size for file in files))

    def allocate(self, descriptor: int, offset: int, size: int) -> None:
        """Stands in for os.posix_fallocate."""
        if size > self.free():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, offset + size)

    def install(self, monkeypatch: Any) -> None:
        for module in ("space", "writer", "engine"):
            monkeypatch.setattr(f"polywire.engines.sqlite.{module}.free_bytes", lambda _: self.free())
        monkeypatch.setattr("os.posix_fallocate", self.allocate)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: SmallDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if offset + len(data) - self.xFileSize() > self._disk.free():
            raise apsw.FullError("no room")
        super().xWrite(data, offset)
