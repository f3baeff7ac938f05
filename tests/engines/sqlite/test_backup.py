"""Backups are made beside commits, are consistent, and come back as another store."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from polywire.core.engine import StateChange
from polywire.core.errors import Conflict, Internal, Unavailable
from polywire.engines.sqlite import SqliteEngine, restore, verify
from tests.engines.sqlite.store import SETTINGS, Log, running, write


async def test_a_backup_beside_commits_is_consistent(tmp_path: Path) -> None:
    log = Log()
    small_steps = msgspec.structs.replace(SETTINGS, backup_pages=1)
    async with running(tmp_path / "data", small_steps) as engine:
        for index in range(200):
            await write(engine, log.batch(1, bytes(2000)), state=[StateChange("test", "count", b"%d" % index)])
        backing_up = asyncio.create_task(engine.backup(str(tmp_path / "backup")))
        during = 0
        while not backing_up.done():
            await write(engine, log.batch(1, bytes(2000)), state=[StateChange("test", "count", b"%d" % (200 + during))])
            during += 1
        counts = await backing_up
    assert during > 0
    assert counts["messages"] >= 200
    restore(str(tmp_path / "backup"), str(tmp_path / "restored"))
    report = verify(str(tmp_path / "restored"))
    assert report["ok"], report["errors"]
    assert report["messages"] == counts["messages"]
    json.dumps([counts, report])
    engine = SqliteEngine(str(tmp_path / "restored"), settings=SETTINGS)
    engine.open()
    # The state was written in the same commits as the messages.
    assert int(dict(engine.load("test"))["count"]) == engine.stats()[1].messages - 1
    assert int(dict(engine.load("meta"))["restored"]) > 1_700_000_000
    engine.close()
    assert list((tmp_path / "backup").iterdir()) == [tmp_path / "backup" / "hub.db"]


async def test_a_backup_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "file").touch()
    async with running(tmp_path / "data") as engine:
        with pytest.raises(Conflict, match="backup is not empty"):
            await engine.backup(str(tmp_path / "backup"))
        with pytest.raises(Unavailable, match="/proc/polywire"):
            await engine.backup("/proc/polywire")
        await write(engine, Log().batch(1, b"goes on"))


async def test_closing_interrupts_a_backup(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path / "data", msgspec.structs.replace(SETTINGS, backup_pages=1)) as engine:
        for _ in range(40):  # so much that it takes longer than to look for the first of it, also on a busy machine
            await write(engine, log.batch(1, bytes(1_000_000)))
        backing_up = asyncio.create_task(engine.backup(str(tmp_path / "backup")))
        part = tmp_path / "backup" / "hub.db.part"
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(part.exists):
                pass
    with pytest.raises(Unavailable, match="interrupted"):
        await backing_up
    with pytest.raises(Unavailable, match="no backup"):
        restore(str(tmp_path / "backup"), str(tmp_path / "restored"))


async def test_restoring_never_overwrites(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as engine:
        await engine.backup(str(tmp_path / "backup"))
    with pytest.raises(Conflict, match="data is not empty"):
        restore(str(tmp_path / "backup"), str(tmp_path / "data"))
    with pytest.raises(Unavailable, match="no backup"):
        restore(str(tmp_path / "nothing"), str(tmp_path / "new"))


async def test_a_data_folder_is_not_a_backup(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as engine:
        await write(engine, Log().batch(1, b"only in the write-ahead log"))
        with pytest.raises(Conflict, match="data is the data folder of a hub"):
            restore(str(tmp_path / "data"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


async def test_a_restore_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as engine:
        await write(engine, Log().batch(1, b"x"))
        await engine.backup(str(tmp_path / "backup"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "hub.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Internal, match="is not a log"):
        restore(str(tmp_path / "broken"), str(tmp_path / "new"))
    restore(str(tmp_path / "backup"), str(tmp_path / "new"))
    assert verify(str(tmp_path / "new"))["messages"] == 1


async def test_verify_refuses_a_store_in_use_and_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as engine:
        await write(engine, Log().batch(1, b"x"))
        with pytest.raises(Unavailable, match="in use by another process"):
            verify(str(tmp_path / "data"))
        await engine.backup(str(tmp_path / "backup"))
        shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    for name, files in (("data", {"hub.db", "lock", "reserve"}), ("backup", {"hub.db"}), ("crashed", None)):
        before = contents(tmp_path / name)
        assert files is None or set(before) == files
        assert verify(str(tmp_path / name))["messages"] == 1
        assert contents(tmp_path / name) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


def test_verify_of_no_store(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no log in"):
        verify(str(tmp_path))
