"""Settings of the embedded engine. Sizes are bytes, times are seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["SqliteSettings"]

KIB, MIB = 1 << 10, 1 << 20


class SqliteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL"
    """Anything but FULL lets a power loss take acknowledged messages; it exists to show that the test notices."""
    page_cache: int = 16 * MIB
    """Page cache of the writing connection; a reader has a quarter of it."""
    reserve_size: int = 64 * MIB
    """Size of the file that is given up first when the disk is full; 0 for none."""
    readers: int = 2
    switch_interval: float = 20e-6
    """How long a busy loop may keep Python's interpreter lock from the writer; for the whole process. 0: as it is."""
    read_size: int = MIB
    """What one read transaction takes of bodies, at least one row; longer answers need several."""
    checkpoint_interval: float = 1.0
    wal_limit: int = 32 * MIB
    """Past this the writer pauses for a moment so that the write-ahead log starts over."""
    row_messages: int = 1024
    row_size: int = 256 * KIB
    """A row of the log ends at so many messages or bytes, whichever comes first; one message is never cut."""
    space_interval: float = 1.0
    """How often a full disk is looked at again."""
    backup_pages: int = 64
    """Pages a backup copies between two commits."""
