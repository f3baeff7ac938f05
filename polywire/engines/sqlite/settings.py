"""Settings of the embedded engine. Sizes are bytes, times are seconds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from polywire.core.units import count, seconds, size, text

__all__ = ["SqliteSettings"]

KIB, MIB = 1 << 10, 1 << 20


class SqliteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    synchronous: Annotated[
        Literal["FULL", "NORMAL", "OFF"],
        text("anything but FULL lets a power loss take acknowledged messages; for tests"),
    ] = "FULL"
    page_cache: Annotated[int, size("page cache of the writing connection; a reader has a quarter of it")] = 16 * MIB
    reserve_size: Annotated[int, size("of the file that is given up first when the disk is full; 0 for none")] = (
        64 * MIB
    )
    readers: Annotated[int, count("threads that read the log")] = 2
    switch_interval: Annotated[
        float,
        seconds(
            "how long a busy loop may keep Python's interpreter lock from the writer, in the whole process; 0: as it is"
        ),
    ] = 20e-6
    read_size: Annotated[int, size("of bodies that one read takes, at least one row; longer answers need several")] = (
        MIB
    )
    checkpoint_interval: Annotated[float, seconds("how often the write-ahead log is written back")] = 1.0
    wal_limit: Annotated[
        int, size("of the write-ahead log; past it the writer pauses for a moment so that it starts over")
    ] = 32 * MIB
    row_messages: Annotated[int, count("messages after which a row of the log ends")] = 1024
    row_size: Annotated[int, size("after which a row of the log ends; one message is never cut")] = 256 * KIB
    space_interval: Annotated[float, seconds("how often a full disk is looked at again")] = 1.0
    backup_pages: Annotated[int, count("pages a backup copies between two commits")] = 64
