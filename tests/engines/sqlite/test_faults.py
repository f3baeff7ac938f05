"""Whatever goes wrong on a thread of the engine is answered or logged, and the thread goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polywire.core.engine import PendingChunk
from polywire.core.errors import Internal, Unavailable
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, statements
from polywire.engines.sqlite.writer import TOMBSTONES_EVERY, Writer
from tests.engines.sqlite.store import SETTINGS, Log, running, until, write


class Fault(Exception):
    """None that the engine knows."""


def fail(*args: Any, **kwargs: Any) -> Any:
    raise Fault("broken")


def writer_of(engine: SqliteEngine) -> Writer:
    return engine._running()


async def goes_on(engine: SqliteEngine, log: Log) -> None:
    async with asyncio.timeout(10):
        await write(engine, log.batch(1, b"goes on"))
        assert await engine.read(1, 0, messages=1, size=1)


@pytest.mark.parametrize("place", ["pack", "statements.insert_rows", "statements.apply"])
async def test_any_fault_in_a_commit_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, b"x"))
        with monkeypatch.context() as patch:
            patch.setattr(f"polywire.engines.sqlite.writer.{place}", fail)
            commit = write(engine, log.batch(1, b"y"), pending=[PendingChunk(1, 0, 1, b"\x01", b"")])
            with pytest.raises(Internal, match="Fault: broken"):
                await asyncio.wait_for(commit, 10)
        await goes_on(engine, log)


async def test_a_fault_in_cleaning_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statements, "delete_tombstones", fail)
    log = Log()
    async with running(tmp_path) as engine, asyncio.timeout(10):
        for _ in range(TOMBSTONES_EVERY + 1):
            await write(engine, pending=[PendingChunk(1, 0, 1, b"", b"")])
        await goes_on(engine, log)
    assert "goes on after a fault" in caplog.text
    assert "Fault: broken" in caplog.text


async def test_a_fault_in_what_runs_between_commits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def chore() -> Generator[None]:
        yield
        raise Fault("in a chore")

    log = Log()
    async with running(tmp_path) as engine:
        writer_of(engine).call(fail)
        writer_of(engine).add_chore(chore())
        await goes_on(engine, log)
    assert "Fault: broken" in caplog.text
    assert "Fault: in a chore" in caplog.text


async def test_a_fault_in_a_backup_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    async with running(tmp_path / "data") as engine:
        await write(engine, log.batch(1, b"x"))
        with monkeypatch.context() as patch:
            patch.setattr("polywire.engines.sqlite.backup.contextlib.closing", fail)
            with pytest.raises(Internal, match="Fault: broken"):
                await asyncio.wait_for(engine.backup(str(tmp_path / "backup")), 10)
        await goes_on(engine, log)


async def test_a_fault_in_a_read_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, b"x"))
        with monkeypatch.context() as patch:
            patch.setattr("polywire.engines.sqlite.queries.rows.decode", fail)
            with pytest.raises(Internal, match="Fault: broken"):
                await asyncio.wait_for(engine.read(1, 0, messages=1, size=1), 10)
        await goes_on(engine, log)


async def test_a_fault_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = SqliteSettings(reserve_size=0, checkpoint_interval=0.001, wal_limit=1)  # each round asks the writer
    log = Log()
    async with running(tmp_path, settings) as engine:
        checkpoints = engine._checkpoints
        assert checkpoints is not None

        async def rounds(more: int) -> None:
            async def told() -> bool:
                return checkpoints.checkpoints >= enough

            enough = checkpoints.checkpoints + more
            await until(told, True)

        with monkeypatch.context() as patch:
            patch.setattr(writer_of(engine), "reset_log", fail)
            await write(engine, log.batch(1, b"x"))
            await rounds(3)
            patch.setattr(checkpoints, "_round", fail)

            async def told() -> bool:
                return caplog.text.count("a checkpoint failed: broken") > 1

            await until(told, True)
        await rounds(3)
        await goes_on(engine, log)
    assert "goes on after a fault" in caplog.text


async def test_what_comes_after_the_end_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        writer = writer_of(engine)
    with pytest.raises(Unavailable, match="is closed"):
        writer.call(fail)
    with pytest.raises(Unavailable, match="is closed"):
        await engine._readers.run(fail)


async def test_a_commit_that_stands_behind_the_end_is_never_left_alone(tmp_path: Path) -> None:
    """Closing from another thread while commits and reads are submitted: each is done, or refused."""

    async def use() -> None:
        while True:
            await write(engine, log.batch(1, b"x"))
            await engine.read(1, 0, messages=1, size=1)

    for _ in range(20):
        log = Log()
        engine = SqliteEngine(str(tmp_path), settings=msgspec.structs.replace(SETTINGS, reserve_size=0))
        engine.open()
        log.seq = engine.next_seq()
        log.next[1] = engine.stats()[1].next if 1 in engine.stats() else 0
        engine.start(asyncio.get_running_loop())
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        with pytest.raises(Unavailable):
            await asyncio.wait_for(use(), 10)
        await closing
