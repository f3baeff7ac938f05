"""The data folder: its lock, its free space, and the reserve that is given up when the disk is full."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from polywire.core.errors import Unavailable
from polywire.engines.sqlite.database import sync_folder

__all__ = ["FolderLock", "Reserve", "free_bytes"]


def free_bytes(folder: str) -> int:
    """Bytes that this process may still write on the folder's file system."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class FolderLock:
    """Held by the operating system for this process, so that a crash lets go of it. Raises `Unavailable`.

    Without ``create`` nothing is made: where no lock file is, no hub has the folder open, and nothing is locked.
    """

    def __init__(self, folder: str, *, create: bool = True) -> None:
        self._descriptor: int | None = None
        path = Path(folder, "lock")
        if not create and not path.exists():
            return
        try:
            if not Path(folder).is_dir():
                Path(folder).mkdir(parents=True)
                sync_folder(str(Path(folder).resolve().parent))
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unavailable(
                f"the data folder {folder} cannot be written: {error.strerror}",
                hint="check that it exists and its permissions",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise Unavailable(
                f"the data folder {folder} is in use by another process", hint="stop it or use another data folder"
            ) from error

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class Reserve:
    """A file of real blocks beside the log. While it is gone (`held` is false) nothing new may be appended."""

    def __init__(self, folder: str, size: int) -> None:
        self.path = Path(folder, "reserve")
        self.size = size
        self.held = size == 0
        self._folder = folder

    def take(self, size: int | None = None) -> bool:
        """Allocate it, if it is not there. False where the disk has no room for it."""
        size = size or self.size
        if self.held:
            return True
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, size)
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
            return False
        self.held = True
        return True

    def release(self) -> None:
        self.held = self.size == 0
        with contextlib.suppress(OSError):
            self.path.unlink()
            sync_folder(self._folder)

    def take_again(self, reusable: int) -> bool:
        """Allocate it again if there is room for it and some beside it (so that it does not come and go).

        ``reusable``: bytes inside the log's file that deleted messages left. The file does not give them back to the
        disk, so where there are plenty a reserve of at least half the size will do.
        """
        room = free_bytes(self._folder) - max(self.size // 8, 1 << 20)
        if room >= self.size:
            return self.take()
        return reusable >= self.size and room >= self.size // 2 and self.take(room)
