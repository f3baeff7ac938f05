"""The power goes at a random moment of a busy engine; what it had acknowledged must be there, whole and in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec
import pytest

from polywire.core.engine import Commit, PendingChunk, Retained, StateChange
from polywire.core.errors import PolywireError
from polywire.core.message import Batch, Record
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, verify
from polywire.engines.sqlite.rows import pack
from tests.powerloss import PowerLossVFS

POINTS = 240
ROUNDS = 8
EXPECTED = {("write", "log"), ("write", "database"), ("truncate", "log")}
OPERATIONS = 4000
"""Of the disk in a round: that many writes, syncs, truncations and deletions."""
TOPICS = 4
SETTINGS = SqliteSettings(reserve_size=0, checkpoint_interval=0.005, wal_limit=1 << 17)
"""A small limit: the write-ahead log starts over many times, and some of the cuts fall into checkpoints."""


class Contents(NamedTuple):
    """What a store holds."""

    log: dict[int, tuple[int, int, bytes]]  # seq → topic, offset, payload
    retained: dict[tuple[int, bytes], bytes]
    pending: dict[tuple[int, int], int]

    def copy(self) -> Contents:
        return Contents(dict(self.log), dict(self.retained), dict(self.pending))


class Publisher:
    """Makes commits, and knows what the store must hold after each of them (``history``)."""

    def __init__(self, chance: random.Random) -> None:
        self.acknowledged = 0
        self.history = [Contents({}, {}, {})]
        self._chance = chance
        self._seq = 1
        self._next = [0] * TOPICS
        self._rows: list[tuple[int, int]] = []

    def commit(self) -> Commit:
        commit, after = Commit(), self.history[-1].copy()
        commit.state.append(StateChange("test", "commits", b"%d" % len(self.history)))
        if len(self._rows) > 40 and self._chance.random() < 0.5:
            self._delete(commit, after)
        for _ in range(self._chance.randint(0, 6)):
            commit.appends.append(self._batch(after))
        if self._chance.random() < 0.5:
            self._settle(commit, after)
        self._rows += [(row[0], row[3]) for row in pack(commit.appends, messages=1024, size=1 << 18)]
        self.history.append(after)
        return commit

    def _batch(self, after: Contents) -> Batch:
        topic = self._chance.randrange(TOPICS)
        payloads = [
            self._chance.randbytes(self._chance.choice((10, 100, 4000))) for _ in range(self._chance.randint(1, 3))
        ]
        batch = Batch(
            topic="", topic_id=topic, epoch=1, seq=self._seq, offset=self._next[topic], appended=self._seq,
            records=[Record(payload) for payload in payloads],
        )  # fmt: skip
        for payload in payloads:
            after.log[self._seq] = (topic, self._next[topic], payload)
            self._seq += 1
            self._next[topic] += 1
        return batch

    def _settle(self, commit: Commit, after: Contents) -> None:
        key = (self._chance.randrange(TOPICS), b"key%d" % self._chance.randrange(5))
        payload = self._chance.randbytes(50)
        commit.retained[key] = Retained(*key, self._seq, 0, 0, Record(payload))
        after.retained[key] = payload
        chunk = (self._chance.randrange(3), self._chance.randrange(5))
        commit.pending.append(PendingChunk(*chunk, len(self.history), b"\x01", b""))
        after.pending[chunk] = len(self.history)

    def _delete(self, commit: Commit, after: Contents) -> None:
        for _ in range(10):
            seq, count = self._rows.pop(0)
            commit.deleted_rows.append(seq)
            for gone in range(seq, seq + count):
                del after.log[gone]


async def contents(engine: SqliteEngine) -> tuple[int, Contents]:
    """How many commits an opened engine holds, and everything in it; closes it."""
    commits = int(dict(engine.load("test")).get("commits", b"0"))
    pending = {(chunk.subscription, chunk.chunk): chunk.through for chunk in engine.load_pending()}
    keys = list(engine.load_retained_keys())
    log = {
        batch.seq + index: (batch.topic_id, batch.offset + index, record.payload)
        for batch in engine.scan(0)
        for index, record in enumerate(batch.records)
    }
    engine.start(asyncio.get_running_loop())
    retained = {}
    for key in keys:
        entry = await engine.retained(*key)
        assert entry is not None
        assert entry.record is not None
        retained[key] = entry.record.payload
    engine.close()
    return commits, Contents(log, retained, pending)


async def run_until_cut(
    folder: Path,
    vfs: PowerLossVFS,
    settings: SqliteSettings,
    images: Path,
    *,
    chance: random.Random,
    points: int,
    expected: set[tuple[str, str]] = EXPECTED,
) -> tuple[Publisher, list[tuple[Path, int]]]:
    """Load an engine; at random operations of its disk take an image, with how many commits had been acknowledged."""
    publisher = Publisher(chance)
    taken: list[tuple[Path, int]] = []
    kinds: set[tuple[str, str]] = set()
    due = set(chance.sample(range(1, OPERATIONS + 1), points))
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_operation(kind: str, file: str) -> None:
        kinds.add((kind, "log" if file.endswith("-wal") else "database"))
        if vfs.operations in due:
            image = images / str(len(taken))
            image.mkdir(parents=True)
            taken.append((image, publisher.acknowledged))
            vfs.image(image, chance_of_images)
        if len(taken) == points:
            loop.call_soon_threadsafe(enough.set)

    chance_of_images = random.Random(chance.random())
    vfs.on_operation = on_operation
    engine = SqliteEngine(str(folder), settings=settings, vfs=vfs.name)
    engine.open()
    engine.start(loop)
    acknowledged = asyncio.Event()
    errors: list[BaseException] = []

    def done(commit: Commit, error: BaseException | None) -> None:
        if error is None:
            publisher.acknowledged += 1
        else:
            errors.append(error)
        acknowledged.set()

    async def read() -> None:
        while not enough.is_set():
            await engine.read(chance.randrange(TOPICS), 0, messages=50, size=1 << 16)

    reading = asyncio.create_task(read())
    while not enough.is_set():
        acknowledged.clear()
        engine.submit(publisher.commit(), done)
        await acknowledged.wait()
        assert not errors
    await reading
    vfs.on_operation = None
    engine.close()
    assert expected <= kinds
    return publisher, taken


async def losses(image: Path, acknowledged: int, publisher: Publisher) -> list[str]:
    """What is wrong with the store that a fresh engine finds in an image."""
    try:
        engine = SqliteEngine(str(image), settings=SETTINGS)
        engine.open()
        commits, found = await contents(engine)
    except PolywireError as error:
        return [f"cannot be read: {error}"]
    if commits < acknowledged:
        return [f"{acknowledged} commits were acknowledged, {commits} are there"]
    wrong = [
        f"{name} is not as after commit {commits}"
        for name, left, right in zip(Contents._fields, found, publisher.history[commits], strict=True)
        if left != right
    ]
    return wrong + verify(str(image))["errors"]


@pytest.fixture
def vfs() -> Iterator[PowerLossVFS]:
    vfs = PowerLossVFS(f"unplugged-{uuid.uuid4().hex}")
    yield vfs
    vfs.unregister()


async def cut_at_random(
    tmp_path: Path, vfs: PowerLossVFS, settings: SqliteSettings, *, seed: int, points: int
) -> dict[int, list[str]]:
    """By point, what was lost."""
    chance = random.Random(seed)
    publisher, taken = await run_until_cut(
        tmp_path / "data", vfs, settings, tmp_path / "images", chance=chance, points=points
    )
    assert len(taken) == points
    wrong = {point: await losses(*cut, publisher) for point, cut in enumerate(taken)}
    return {point: errors for point, errors in wrong.items() if errors}


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_nothing_acknowledged_is_lost(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    lost = await cut_at_random(tmp_path, vfs, SETTINGS, seed=seed, points=POINTS // ROUNDS)
    assert not lost, f"seed {seed}"


async def test_the_loss_shows_without_syncs(tmp_path: Path, vfs: PowerLossVFS) -> None:
    careless = msgspec.structs.replace(SETTINGS, synchronous="OFF")
    lost = await cut_at_random(tmp_path, vfs, careless, seed=1, points=POINTS // ROUNDS)
    assert any("were acknowledged" in error for errors in lost.values() for error in errors)
    assert len(lost) > 1


async def test_the_power_goes_again_during_recovery(tmp_path: Path, vfs: PowerLossVFS) -> None:
    first = PowerLossVFS(f"first-{uuid.uuid4().hex}")
    settings = msgspec.structs.replace(SETTINGS, checkpoint_interval=60)  # leaves all the work to the recovery
    publisher, taken = await run_until_cut(
        tmp_path / "data", first, settings, tmp_path / "images", chance=random.Random(2), points=3, expected=set()
    )
    first.unregister()
    # The one with the most to recover.
    folder, acknowledged = max(taken, key=lambda cut: sum(file.stat().st_size for file in cut[0].glob("*-wal")))
    again: list[Path] = []

    def on_operation(kind: str, file: str) -> None:
        again.append(tmp_path / "again" / str(len(again)))
        vfs.image(again[-1], chance)

    chance = random.Random(3)
    vfs.on_operation = on_operation
    engine = SqliteEngine(str(folder), settings=SETTINGS, vfs=vfs.name)
    engine.open()
    engine.close()
    assert len(again) > 2
    for image in again[:: max(1, len(again) // 20)]:
        assert not await losses(image, acknowledged, publisher)


def test_what_was_not_synced_may_be_gone(tmp_path: Path, vfs: PowerLossVFS) -> None:
    """The disk itself: of an unsynced file everything or nothing may be left, of a synced one everything is."""
    connection = apsw.Connection(str(tmp_path / "a.db"), vfs=vfs.name)
    connection.execute("CREATE TABLE t(a)")
    connection.pragma("synchronous", "off")
    connection.execute("INSERT INTO t VALUES (1)")
    found = set()
    for index in range(20):
        vfs.image(tmp_path / str(index), random.Random(index))
        with contextlib.closing(apsw.Connection(str(tmp_path / str(index) / "a.db"))) as image:
            found.add(image.execute("SELECT count(*) FROM t").get)
    connection.close()
    assert found == {0, 1}
