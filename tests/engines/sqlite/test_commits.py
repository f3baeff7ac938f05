"""A commit is written whole or not at all, every kind of its contents, and told on the loop."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from polywire.core.engine import Delayed, PendingChunk, Retained, StateChange
from polywire.core.errors import Internal, Unavailable
from polywire.core.message import Flag, Origin, Record
from polywire.engines.sqlite import SqliteEngine, queries, statements
from polywire.engines.sqlite.database import SCHEMA
from polywire.engines.sqlite.rows import checksum
from tests.engines.sqlite.store import SETTINGS, Log, commit_of, payloads, running, submit, until, write

FULL = Record(
    payload=b"\x00\xff payload", key=b"\x00key", id="id-1", content_type="application/json",
    headers=[("a", "text"), ("a", b"\x00bytes"), ("i", 1 << 60), ("f", 1.5), ("b", True), ("n", None)],
    time=1, expires=1 << 40, priority=9, reply_to="reply", correlation_id=b"\x01", flags=Flag.DEDUP | Flag.RETAINED,
    origin=Origin("alice", "mqtt", "client-1"), native=b"\x02native",
)  # fmt: skip


def opened(folder: Path) -> SqliteEngine:
    engine = SqliteEngine(str(folder), settings=SETTINGS)
    engine.open()
    return engine


async def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        log = Log()
        await write(engine, log.batch(7, b"before"), log.batch(7, FULL, appended=1234))
        (batch,) = await engine.read(7, 1, messages=10, size=1 << 20)
        assert batch.records == [FULL]
        assert (batch.topic, batch.topic_id, batch.seq, batch.offset, batch.appended) == ("", 7, 2, 1, 1234)
        assert batch.size == FULL.size()


async def test_done_is_called_on_the_loop_with_the_commit(tmp_path: Path) -> None:
    told: asyncio.Future[tuple[Any, Any, Any]] = asyncio.get_running_loop().create_future()
    async with running(tmp_path) as engine:
        commit = commit_of(Log().batch(1, b"x"))
        engine.submit(commit, lambda *args: told.set_result((*args, threading.get_ident())))
        assert await told == (commit, None, threading.get_ident())


async def test_neighbours_share_a_row(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        appends = [log.batch(1, b"a"), log.batch(1, b"b", b"c", appended=1001), log.batch(2, b"d"), log.batch(1, b"e")]
        await write(engine, *appends)
        assert [(s.seq, s.offset, s.messages, s.size, s.appended) for s in await engine.rows(1)] == [
            (1, 0, 3, 3, 1001), (5, 3, 1, 1, 1000),
        ]  # fmt: skip
        found = await engine.read(1, 0, messages=10, size=100)
        assert [(b.seq, b.offset, b.appended, payloads([b])) for b in found] == [
            (1, 0, 1000, [b"a"]), (2, 1, 1001, [b"b", b"c"]), (5, 3, 1000, [b"e"]),
        ]  # fmt: skip


async def test_a_gap_in_offsets_starts_a_row(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        first = log.batch(1, b"a")
        log.batch(1, b"lost with a failed commit")
        await write(engine, first, log.batch(1, b"b"))
        assert [(s.seq, s.offset) for s in await engine.rows(1)] == [(1, 0), (3, 2)]
        assert payloads(await engine.read(1, 1, messages=10, size=100)) == [b"b"]


@pytest.mark.parametrize(("messages", "size"), [(1, 10), (1000, 10), (5000, 10), (10, 100_000), (2, 1_000_000)])
async def test_batches_of_any_size(tmp_path: Path, messages: int, size: int) -> None:
    sent = [index.to_bytes(4, "big") + bytes(size) for index in range(messages)]
    async with running(tmp_path) as engine:
        await write(engine, Log().batch(1, *sent))
        for span in await engine.rows(1):
            assert span.messages <= 1024
            assert span.size <= 256 << 10 or span.messages == 1
        assert await everything(engine, 1) == sent


async def everything(engine: SqliteEngine, topic: int) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    while batches := await engine.read(topic, offset, messages=1000, size=1 << 20):
        assert batches[0].offset == offset
        found += payloads(batches)
        offset = batches[-1].offset + len(batches[-1])
    return found


async def test_many_topics_in_one_commit(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, *[log.batch(index % 300, b"%d" % index) for index in range(900)])
        for topic in (0, 150, 299):
            assert await everything(engine, topic) == [b"%d" % index for index in range(topic, 900, 300)]


async def test_all_kinds_survive_a_restart(tmp_path: Path) -> None:
    log = Log()
    pending = [
        PendingChunk(1, 0, 5, b"\x01\x80", b"extras"),
        PendingChunk(1, 2, 9, b"", b""),
        PendingChunk(2, 0, 9, b"\x01", b""),
    ]
    async with running(tmp_path) as engine:
        await write(
            engine, log.batch(3, b"x"), pending=pending,
            state=[StateChange("a", "2", b"two"), StateChange("a", "1", b"\x00"), StateChange("b", "1", b"")],
            retained={(3, b"k"): Retained(3, b"k", 1, 0, 1000, FULL)}, delayed=[Delayed("d", 99, 3, FULL)],
        )  # fmt: skip
    engine = opened(tmp_path)
    assert list(engine.load("a")) == [("1", b"\x00"), ("2", b"two")]
    assert list(engine.load("b")) == [("1", b"")]
    assert list(engine.load("none")) == []
    assert list(engine.load_pending()) == pending
    assert list(engine.load_retained_keys()) == [(3, b"k")]
    assert engine.stats() == {3: (0, 1, 1, 1)}
    assert [batch.records for batch in engine.scan(0)] == [[Record(b"x")]]
    assert engine.next_seq() == 2
    engine.start(asyncio.get_running_loop())
    assert await engine.retained(3, b"k") == Retained(3, b"k", 1, 0, 1000, FULL)
    assert await engine.find_delayed("d") == Delayed("d", 99, 3, FULL)
    engine.close()


async def test_later_commits_replace_and_delete(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(
            engine, pending=[PendingChunk(1, 0, 5, b"\x01", b""), PendingChunk(2, 0, 5, b"\x01", b"")],
            state=[StateChange("a", "1", b"old"), StateChange("a", "2", b"x"), StateChange("a", "2", b"last")],
            retained={(1, b"k"): Retained(1, b"k", 1, 0, 0, FULL), (1, b"j"): Retained(1, b"j", 1, 0, 0, FULL)},
            delayed=[Delayed("d", 99, 3, FULL), Delayed("e", 98, 3, FULL)],
        )  # fmt: skip
        await write(
            engine, pending=[PendingChunk(1, 0, 8, b"\x03", b"")], dropped_subscriptions=[2],
            state=[StateChange("a", "1", b"new"), StateChange("a", "2", None)],
            retained={(1, b"k"): Retained(1, b"k", 2, 1, 0, Record(b"new")), (1, b"j"): Retained(1, b"j", 2, 1, 0, None)},  # noqa: E501
            delayed=[Delayed("d", 50, 3, FULL)], undelayed=["e", "unknown"],
        )  # fmt: skip
        assert await engine.retained(1, b"k") == Retained(1, b"k", 2, 1, 0, Record(b"new"))
        assert await engine.retained(1, b"j") is None
        assert await engine.delayed(None, after=None, limit=9) == [Delayed("d", 50, 3, FULL)]
    engine = opened(tmp_path)
    assert list(engine.load("a")) == [("1", b"new")]
    assert list(engine.load_pending()) == [PendingChunk(1, 0, 8, b"\x03", b"")]
    engine.close()


async def test_a_dropped_topic_is_gone_and_others_stay(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for topic in (1, 2):
            await write(
                engine, log.batch(topic, b"x"), retained={(topic, b"k"): Retained(topic, b"k", 1, 0, 0, FULL)},
                delayed=[Delayed(f"d{topic}", 1, topic, FULL)],
            )  # fmt: skip
        await write(engine, dropped_topics=[1])
        await until(lambda: left_of(engine, 1), 0)
        assert [delayed.id for delayed in await engine.due(5, limit=5)] == ["d2"]
        assert await left_of(engine, 2) == 3


async def left_of(engine: SqliteEngine, topic: int) -> int:
    """Rows of all kinds."""
    found: list[Sequence[object]] = [
        await engine.rows(topic),
        await engine.retained_keys(topic, after=None, limit=1_000_000),
        await engine.delayed(topic, after=None, limit=1_000_000),
    ]
    return sum(map(len, found))


async def large_topic(engine: SqliteEngine, log: Log, topic: int, rows: int) -> None:
    for start in range(0, rows, 500):
        numbers = range(start, min(rows, start + 500))
        appends = []
        for number in numbers:
            appends += [log.batch(topic, b"%d" % number), log.batch(topic + 1, b"-")]  # so that each is a row
        await write(
            engine, *appends,
            retained={(topic, b"%d" % n): Retained(topic, b"%d" % n, n + 1, n, 0, Record(b"r")) for n in numbers},
            delayed=[Delayed(f"d{n}", 1, topic, Record(b"d")) for n in numbers],
        )  # fmt: skip


async def test_a_large_topic_is_dropped_between_commits(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await large_topic(engine, log, 1, 800)
        engine.submit(commit_of(dropped_topics=[1]), lambda *_: None)
        left: list[int] = []
        while not left or left[-1]:
            await write(engine, log.batch(5, b"x"))
            left.append(len(await engine.rows(1)))
        # Had it gone in one transaction, there would be nothing between all and none.
        assert any(0 < rows < 800 for rows in left)
        assert left == sorted(left, reverse=True)
        await until(lambda: left_of(engine, 1), 0)
        assert len(await engine.rows(2)) == 800


async def test_what_was_left_of_a_dropped_topic_is_gone_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop_slice(*args: Any, **kwargs: Any) -> int | None:
        raise apsw.FullError("no room")

    monkeypatch.setattr(statements, "drop_slice", drop_slice)
    log = Log()
    async with running(tmp_path) as engine:
        await large_topic(engine, log, 1, 3000)
        await write(engine, dropped_topics=[1])
        assert await left_of(engine, 1) > 3000
    engine = opened(tmp_path)
    assert list(engine.load_retained_keys()) == []
    assert set(engine.stats()) == {2}
    assert engine.next_seq() == log.seq
    engine.start(asyncio.get_running_loop())
    assert await left_of(engine, 1) == 0
    # The id may be used again.
    await write(engine, log.batch(1, b"new"))
    engine.close()
    engine = opened(tmp_path)
    assert engine.stats()[1].messages == 1
    engine.close()


async def test_a_full_disk_does_not_end_dropping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    settings = msgspec.structs.replace(SETTINGS, checkpoint_interval=0.01)
    failing = [3]

    def drop_slice(*args: Any, **kwargs: Any) -> int | None:
        if failing[0]:
            failing[0] -= 1
            raise apsw.FullError("no room")
        return original(*args, **kwargs)

    original = statements.drop_slice
    monkeypatch.setattr(statements, "drop_slice", drop_slice)
    async with running(tmp_path, settings) as engine:
        await large_topic(engine, log, 1, 10)
        await write(engine, dropped_topics=[1])
        await until(lambda: left_of(engine, 1), 0)
    assert failing == [0]


async def test_sequence_numbers_never_start_again(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, b"a"))
        await write(engine, log.batch(1, b"b", b"c"))
        await write(engine, deleted_rows=[2])
        await write(engine, deleted_rows=[1])
        assert await engine.rows(1) == []
    engine = opened(tmp_path)
    assert engine.next_seq() == 4
    assert engine.stats() == {}
    engine.close()


async def test_a_failed_commit_leaves_nothing(tmp_path: Path) -> None:
    log = Log()
    first = log.batch(1, b"a")
    async with running(tmp_path) as engine:
        await write(engine, first)
        for fields in ({}, {"state": [StateChange("a", "b", b"c")]}):
            with pytest.raises(Internal, match=r"hub\.db"):
                await write(engine, log.batch(1, b"new"), first, **fields)  # the second seq is there already
        assert len(await engine.rows(1)) == 1
        assert engine.metrics()["commits_failed"] == 2
        await write(engine, log.batch(1, b"goes on"))
        assert payloads(await engine.read(1, 0, messages=9, size=99)) == [b"a", b"goes on"]
    engine = opened(tmp_path)
    assert list(engine.load("a")) == []
    engine.close()


async def test_a_record_that_cannot_be_encoded_fails_its_commit_only(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        with pytest.raises(Internal):
            await write(engine, Log().batch(1, Record(b"x", headers=[("big", 1 << 70)])))
        await write(engine, Log().batch(1, b"y"))


async def test_an_empty_commit_is_told_too(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(engine)


async def test_close_finishes_what_was_submitted(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        waiting = asyncio.create_task(  # noqa: RUF006 - awaited below
            submit(engine, commit_of(*[log.batch(1, bytes(1000)) for _ in range(500)]))
        )
        await asyncio.sleep(0)
    await waiting
    engine = opened(tmp_path)
    assert engine.stats()[1].messages == 500
    engine.close()


async def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        pass
    with pytest.raises(Unavailable):
        await write(engine, Log().batch(1, b"x"))
    with pytest.raises(Unavailable):
        await engine.read(1, 0, messages=1, size=1)
    engine.close()


def test_removing_empty_chunks_lowers_no_subscription(tmp_path: Path) -> None:
    """What recovery makes of the chunks, their bits and the greatest ``through``, is the same without them."""
    chance = random.Random(1)
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    removed = 0
    for _ in range(300):
        connection.execute("DELETE FROM pending")
        chunks = [
            PendingChunk(subscription, chunk, chance.randrange(6), chance.choice((b"", b"", b"\x01")), b"")
            for subscription in range(3)
            for chunk in chance.sample(range(8), chance.randrange(8))
        ]
        statements.insert_rows(connection.cursor(), "pending", [(*chunk, checksum(chunk)) for chunk in chunks])
        statements.delete_tombstones(connection.cursor(), chance.choice((None, [0, 1, 2])))
        left = list(queries.load_pending(connection))
        assert recovered(left) == recovered(chunks)
        removed += len(chunks) - len(left)
    assert removed > 300


def recovered(chunks: list[PendingChunk]) -> tuple[dict[int, int], set[tuple[int, int]]]:
    through: dict[int, int] = {}
    for chunk in chunks:
        through[chunk.subscription] = max(through.get(chunk.subscription, 0), chunk.through)
    return through, {(chunk.subscription, chunk.chunk) for chunk in chunks if chunk.bits}


async def test_empty_chunks_that_nobody_needs_go(tmp_path: Path) -> None:
    chunks = [
        PendingChunk(1, 1, 30, b"", b""),  # has the greatest through
        PendingChunk(1, 2, 10, b"\x01", b""),
        PendingChunk(1, 0, 10, b"", b""),
        PendingChunk(1, 3, 20, b"", b""),
    ]
    async with running(tmp_path) as engine:
        await write(engine, pending=chunks)
        for _ in range(600):
            await write(engine, pending=[PendingChunk(2, 0, 1, b"", b"")])
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    assert list(engine.load_pending()) == [*chunks[:2], PendingChunk(2, 0, 1, b"", b"")]
    engine.close()
