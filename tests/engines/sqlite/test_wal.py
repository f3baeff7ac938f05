"""The write-ahead log stays bounded under load, whatever readers do."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import apsw

from polywire.engines.sqlite import SqliteSettings
from polywire.engines.sqlite.database import Database
from polywire.engines.sqlite.readers import Readers
from tests.engines.sqlite.store import Log, running, until, write

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


async def test_a_long_log_does_not_wait_for_the_timer(tmp_path: Path) -> None:
    log = Log()
    settings = SqliteSettings(reserve_size=0, checkpoint_interval=3600, wal_limit=LIMIT)
    async with running(tmp_path, settings) as engine:

        async def checkpointed() -> bool:
            return engine.metrics()["checkpoints"] > 0

        await write(engine, log.batch(1, bytes(LIMIT // 2)))
        assert not await checkpointed()
        for _ in range(3):
            await write(engine, log.batch(1, bytes(LIMIT // 2)))
        await until(checkpointed, True)


async def test_nothing_is_read_in_a_pause(tmp_path: Path) -> None:
    async with running(tmp_path, SETTINGS):
        pass
    readers = Readers(Database(str(tmp_path), SETTINGS), 3)
    readers.start()
    paused = stopped = False
    reads = in_pause = 0

    def read(connection: apsw.Connection) -> None:
        nonlocal reads, in_pause
        before = paused
        connection.execute("SELECT count(*) FROM log").fetchall()
        in_pause += before or paused
        reads += 1

    async def reading() -> None:
        while not stopped:
            await readers.run(read)

    def pause() -> None:
        nonlocal paused
        with readers.paused():
            paused = True
            until_ = time.monotonic() + 0.002
            while time.monotonic() < until_:
                pass
            paused = False

    tasks = [asyncio.create_task(reading()) for _ in range(6)]
    for _ in range(20):
        before = reads
        await asyncio.to_thread(pause)

        async def goes_on(before: int = before) -> bool:
            return reads > before + 10

        await until(goes_on, True)
    stopped = True
    await asyncio.gather(*tasks)
    readers.stop()
    assert in_pause == 0


async def test_a_pause_does_not_wait_for_a_long_read(tmp_path: Path) -> None:
    async with running(tmp_path, SETTINGS):
        pass
    readers = Readers(Database(str(tmp_path), SETTINGS), 3)
    readers.start()
    began, end = threading.Barrier(4), threading.Event()

    def read(connection: apsw.Connection) -> bool:
        began.wait(10)
        return end.wait(10)

    reads = [asyncio.create_task(readers.run(read)) for _ in range(3)]

    def pause() -> float:
        began.wait(10)
        before = time.monotonic()
        with readers.paused():
            return time.monotonic() - before

    took = await asyncio.to_thread(pause)
    assert 0.04 < took < 5  # all three together, and far less than the reads take
    end.set()
    assert await asyncio.gather(*reads) == [True] * 3
    readers.stop()
