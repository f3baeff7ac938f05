"""The write-ahead log stays bounded under load, whatever readers do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from polywire.engines.sqlite import SqliteSettings
from tests.engines.sqlite.store import Log, running, write

LIMIT = 1 << 20
SETTINGS = SqliteSettings(reserve_size=0, checkpoint_interval=0.01, wal_limit=LIMIT)


async def test_sustained_commits_beside_reads(tmp_path: Path) -> None:
    log = Log()
    written = largest = 0
    async with running(tmp_path, SETTINGS) as engine:

        async def read() -> None:
            while written < 30 * LIMIT:
                await engine.read(1, 0, messages=1000, size=LIMIT)
                await engine.rows(1)

        readers = [asyncio.create_task(read()) for _ in range(4)]
        while written < 30 * LIMIT:
            await write(engine, log.batch(1, bytes(20_000)), log.batch(2, bytes(20_000)))
            written += 40_000
            largest = max(largest, int(engine.metrics()["wal_bytes"]))
        await asyncio.gather(*readers)
        assert engine.metrics()["wal_resets"] > 2
    assert largest < 8 * LIMIT
    assert not (tmp_path / "hub.db-wal").exists()
