"""A full disk: what still works, what is refused and how, and that publishing comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from polywire.core.engine import PendingChunk, StateChange
from polywire.core.errors import Unavailable
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, verify
from tests.engines.sqlite.faults import SmallDisk
from tests.engines.sqlite.store import Log, commit_of, payloads, running, submit, write

MIB = 1 << 20
SETTINGS = SqliteSettings(reserve_size=MIB, space_interval=0.02, checkpoint_interval=0.02, wal_limit=MIB)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "data", 4 * MIB)
    disk.install(monkeypatch)
    yield disk
    disk.unregister()


async def fill(engine: SqliteEngine, log: Log) -> list[bytes]:
    """Publish until it is refused; returns what was acknowledged."""
    stored = []
    for index in range(1000):
        payload = index.to_bytes(4, "big") * 5000
        commit = commit_of(log.batch(1, payload))
        (refused,) = await asyncio.gather(submit(engine, commit), return_exceptions=True)
        if refused is not None:
            assert isinstance(refused, Unavailable)
            assert "hub.db" in refused.detail
            assert "bytes are free" in refused.detail
            assert refused.retry_after
            return stored
        stored.append(payload)
    raise AssertionError("the disk never got full")


async def has_space(engine: SqliteEngine) -> None:
    """Without a publish: the engine looks by itself."""
    async with asyncio.timeout(10):
        while engine.metrics()["disk_full"]:  # noqa: ASYNC110 - another thread finds it out
            await asyncio.sleep(0.01)


def leave(disk: SmallDisk, free: int) -> None:
    """Another program takes what is free beyond so much, also of what the engine had kept for itself."""
    (disk.folder / "reserve").unlink(missing_ok=True)
    disk.capacity -= max(0, disk.free() - free)


async def all_payloads(engine: SqliteEngine) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    while batches := await engine.read(1, offset, messages=100, size=MIB):
        found += payloads(batches)
        offset = batches[-1].offset + len(batches[-1])
    return found


async def test_publishing_is_refused_and_the_rest_goes_on(disk: SmallDisk) -> None:
    log = Log()
    async with running(disk.folder, SETTINGS, vfs=disk.name) as engine:
        assert (disk.folder / "reserve").stat().st_size == MIB
        stored = await fill(engine, log)
        assert len(stored) > 10
        assert engine.metrics()["disk_full"] == 1
        leave(disk, MIB // 2)
        assert not (disk.folder / "reserve").exists()
        for index in range(50):
            await write(engine, pending=[PendingChunk(1, index, 5, b"\x01", b"")], state=[StateChange("a", "b", b"c")])
        with pytest.raises(Unavailable):
            await write(engine, log.batch(1, b"x"))
        assert await all_payloads(engine) == stored
    assert verify(str(disk.folder))["ok"]


async def test_publishing_comes_back_when_space_does(disk: SmallDisk) -> None:
    log = Log()
    async with running(disk.folder, SETTINGS, vfs=disk.name) as engine:
        stored = await fill(engine, log)
        disk.capacity *= 4
        await has_space(engine)
        assert (disk.folder / "reserve").stat().st_size == MIB
        await write(engine, log.batch(1, b"again"))
        assert await all_payloads(engine) == [*stored, b"again"]


async def test_deleting_messages_makes_room(disk: SmallDisk) -> None:
    log = Log()
    disk.capacity = 16 * MIB
    settings = msgspec.structs.replace(SETTINGS, reserve_size=4 * MIB)
    async with running(disk.folder, settings, vfs=disk.name) as engine:
        await fill(engine, log)
        spans = await engine.rows(1)
        await write(engine, deleted_rows=[span.seq for span in spans[:-1]])
        await has_space(engine)
        await write(engine, log.batch(1, b"x" * 100_000))


async def test_a_store_opens_on_a_full_disk(disk: SmallDisk) -> None:
    log = Log()
    async with running(disk.folder, SETTINGS, vfs=disk.name) as engine:
        stored = await fill(engine, log)
    leave(disk, MIB // 2)
    async with running(disk.folder, SETTINGS, vfs=disk.name) as engine:
        assert engine.metrics()["disk_full"] == 1
        with pytest.raises(Unavailable):
            await write(engine, log.batch(1, b"x"))
        assert await all_payloads(engine) == stored
        await write(engine, state=[StateChange("a", "b", b"c")])


def test_no_space_for_a_new_store(disk: SmallDisk) -> None:
    disk.capacity = MIB // 2
    engine = SqliteEngine(str(disk.folder), settings=SETTINGS, vfs=disk.name)
    with pytest.raises(Unavailable, match=r"hub\.db needs \d+ bytes, \d+ are free"):
        engine.open()
    engine.close()


async def test_no_reserve(disk: SmallDisk) -> None:
    async with running(disk.folder, msgspec.structs.replace(SETTINGS, reserve_size=0), vfs=disk.name) as engine:
        assert not (disk.folder / "reserve").exists()
        await write(engine, Log().batch(1, b"x"))
