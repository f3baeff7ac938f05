"""What an engine may find when it opens: another process, a folder it may not write, a foreign file, damage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from polywire.core.engine import Delayed, PendingChunk, Retained, StateChange
from polywire.core.errors import Conflict, Internal, PolywireError, Unavailable
from polywire.core.message import Record
from polywire.engines.sqlite import SqliteEngine, verify
from tests.engines.sqlite.store import SETTINGS, Log, payloads, running, write

ROOT = Path(__file__).resolve().parents[3]

HOLD = """
import sys
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
engine = SqliteEngine(sys.argv[1], settings=SqliteSettings(reserve_size=0))
engine.open()
print("open", flush=True)
sys.stdin.read()
"""

PUBLISH = """
import asyncio, sys
from polywire.core.engine import Commit
from polywire.core.message import Batch, Record
from polywire.engines.sqlite import SqliteEngine, SqliteSettings

async def main():
    settings = SqliteSettings(reserve_size=0, checkpoint_interval=0.005, wal_limit=65536)
    engine = SqliteEngine(sys.argv[1], settings=settings)
    engine.open()
    seq, stats = engine.next_seq(), engine.stats()
    offset = stats[1].next if stats else 0
    loop = asyncio.get_running_loop()
    engine.start(loop)
    while True:
        commit, written = Commit(), loop.create_future()
        commit.appends = [
            Batch(topic="", topic_id=1, epoch=1, seq=seq, offset=offset, appended=1, records=[Record(b"%d" % offset)])
        ]
        engine.submit(commit, lambda commit, error: written.set_result(error))
        assert await written is None
        print(offset, flush=True)
        seq, offset = seq + 1, offset + 1

asyncio.run(main())
"""


def python(script: str, folder: Path, **streams: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, text=True, **streams)


def opening(folder: Path) -> PolywireError:
    """The error of opening a store in a folder."""
    engine = SqliteEngine(str(folder), settings=SETTINGS)
    with pytest.raises(PolywireError) as raised:
        engine.open()
    engine.close()
    return raised.value


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with python(HOLD, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        error = opening(tmp_path)
        assert isinstance(error, Unavailable)
        assert f"{tmp_path} is in use by another process" in error.detail
        with pytest.raises(Unavailable, match="in use"):
            verify(str(tmp_path))
        holder.kill()
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)  # a killed process holds nothing
    engine.open()
    engine.close()


def test_a_second_engine_of_this_process_is_refused(tmp_path: Path) -> None:
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    assert "in use" in opening(tmp_path).detail
    engine.close()


async def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged = 0
    for _ in range(3):
        with python(PUBLISH, tmp_path, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout
            for line in publisher.stdout:
                acknowledged = int(line) + 1
                if acknowledged % 200 == 0:
                    publisher.send_signal(signal.SIGKILL)
                    break
            acknowledged = max([acknowledged, *(int(line) + 1 for line in publisher.stdout if line.endswith("\n"))])
    async with running(tmp_path) as engine:
        found = payloads(
            [
                batch
                for start in range(0, acknowledged + 5, 100)
                for batch in await engine.read(1, start, messages=100, size=1 << 20)
            ]
        )
    assert found == [b"%d" % index for index in range(len(found))]
    assert len(found) >= acknowledged
    assert verify(str(tmp_path))["ok"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_cannot_be_written() -> None:
    error = opening(Path("/proc/polywire"))  # also for root
    assert isinstance(error, Unavailable)
    assert "/proc/polywire" in error.detail


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = opening(tmp_path / "file")
    assert isinstance(error, Unavailable)
    assert str(tmp_path / "file") in error.detail


def test_a_read_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnlyDisk(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("read-only", "")

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
            if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
                flags[0] = (
                    flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
                )
            return apsw.VFSFile("", name, flags)

    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    engine.close()
    disk = ReadOnlyDisk()
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS, vfs="read-only")
    with pytest.raises(Unavailable, match=r"hub\.db is read-only"):
        engine.open()
    disk.unregister()


def test_a_newer_format(tmp_path: Path) -> None:
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    engine.close()
    with contextlib.closing(apsw.Connection(str(tmp_path / "hub.db"))) as connection:
        connection.pragma("user_version", 99)
    error = opening(tmp_path)
    assert isinstance(error, Conflict)
    assert "hub.db has format 99" in error.detail
    assert verify(str(tmp_path))["ok"] is False


def test_a_foreign_database(tmp_path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(tmp_path / "hub.db"))) as connection:
        connection.execute("CREATE TABLE theirs(a); INSERT INTO theirs VALUES (1)")
    error = opening(tmp_path)
    assert isinstance(error, Internal)
    assert "another program's database" in error.detail
    with contextlib.closing(apsw.Connection(str(tmp_path / "hub.db"))) as connection:
        assert connection.execute("SELECT a FROM theirs").get == 1
        assert connection.pragma("journal_mode") == "delete"


@pytest.mark.parametrize("content", [b"hello, world" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hub.db").write_bytes(content)
    error = opening(tmp_path)
    assert isinstance(error, Internal)
    assert str(tmp_path / "hub.db") in error.detail
    assert (tmp_path / "hub.db").read_bytes() == content
    assert verify(str(tmp_path))["ok"] is False


# ── damage ──


def flip(folder: Path, needle: bytes) -> None:
    """Change one bit of a stored payload."""
    content = (folder / "hub.db").read_bytes()
    at = content.index(needle)
    (folder / "hub.db").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


async def test_a_flipped_bit_is_named_and_never_served(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(4, b"good"), log.batch(5, b"other"))
        await write(engine, log.batch(4, b"precious"))
    flip(tmp_path, b"precious")
    async with running(tmp_path) as engine:
        assert payloads(await engine.read(4, 0, messages=1, size=100)) == [b"good"]
        with pytest.raises(Internal, match="damaged log: topic 4, offset 1, seq 3"):
            await engine.read(4, 1, messages=1, size=100)
        with pytest.raises(Internal, match="topic 4, offset 1"):
            await engine.read_seqs([3])
        assert len(await engine.rows(4)) == 2
        await write(engine, log.batch(4, b"goes on"))
    report = verify(str(tmp_path))
    assert report["ok"] is False
    assert report["error_count"] == 1
    assert "topic 4, offset 1, seq 3" in report["errors"][0]


async def test_a_row_whose_numbers_were_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(engine, Log().batch(4, b"good"))
    with contextlib.closing(apsw.Connection(str(tmp_path / "hub.db"))) as connection:
        connection.execute("UPDATE log SET base = 7")
    async with running(tmp_path) as engine:
        with pytest.raises(Internal, match="topic 4, offset 7"):
            await engine.read(4, 7, messages=1, size=100)


async def test_damage_beside_the_log(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(
            engine, retained={(1, b"k"): Retained(1, b"k", 1, 0, 0, Record(b"RETAINED"))},
            delayed=[Delayed("d", 1, 1, Record(b"DELAYED!"))], state=[StateChange("kind", "key", b"STATE-VALUE")],
            pending=[PendingChunk(1, 2, 3, b"PENDING-BITS", b"")],
        )  # fmt: skip
    for needle in (b"RETAINED", b"DELAYED!", b"STATE-VALUE", b"PENDING-BITS"):
        flip(tmp_path, needle)
    assert verify(str(tmp_path))["error_count"] == 4
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    with pytest.raises(Internal, match="state kind 'key'"):
        list(engine.load("kind"))
    with pytest.raises(Internal, match="pending chunk 2 of subscription 1"):
        list(engine.load_pending())
    engine.start(asyncio.get_running_loop())
    with pytest.raises(Internal, match="retained message of topic 1, key b'k'"):
        await engine.retained(1, b"k")
    with pytest.raises(Internal, match="delayed message 'd' of topic 1"):
        await engine.due(5, limit=1)
    engine.close()


async def test_a_broken_page_is_an_error_with_the_path(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for _ in range(50):
            await write(engine, log.batch(1, bytes(3000)))
    content = bytearray((tmp_path / "hub.db").read_bytes())
    content[4096 * 20 :] = b"\xa5" * (len(content) - 4096 * 20)
    (tmp_path / "hub.db").write_bytes(content)
    report = verify(str(tmp_path))
    assert report["ok"] is False
    assert report["errors"]
    with pytest.raises(Internal, match=r"damaged"):
        await read_everything(tmp_path)


async def read_everything(folder: Path) -> None:
    async with running(folder) as engine:
        for offset in range(50):
            await engine.read(1, offset, messages=1, size=1)
