"""Which messages have expired: each is told once a run, from indexes, whatever order they came in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from polywire.core.message import Record
from tests.engines.sqlite.store import Log, running, write


def record(expires: int | None) -> Record:
    return Record(b"x", expires=expires)


async def test_each_is_told_once(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        assert await engine.next_expiry() is None
        await write(engine, log.batch(1, record(30), record(None), record(10), record(20)), log.batch(2, record(10)))
        assert await engine.next_expiry() == 10
        assert await engine.expired(9, limit=100) == []
        assert await engine.expired(20, limit=100) == [3, 5, 4]
        assert await engine.next_expiry() == 30
        assert await engine.expired(20, limit=100) == []
        assert await engine.expired(99, limit=100) == [1]
        assert await engine.next_expiry() is None


async def test_what_comes_expired_is_told_too(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, record(50)))
        assert await engine.expired(100, limit=100) == [1]
        await write(engine, log.batch(1, record(20), record(100), record(101)))
        assert await engine.next_expiry() == 20
        assert await engine.expired(100, limit=100) == [2, 3]
        assert await engine.next_expiry() == 101


async def test_a_new_run_tells_again(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(engine, Log().batch(1, record(50)))
        assert await engine.expired(100, limit=100) == [1]
    async with running(tmp_path) as engine:
        assert await engine.expired(100, limit=100) == [1]


async def test_deleted_messages_are_not_told(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, record(50)), log.batch(2, record(50)))
        await write(engine, deleted_rows=[1])
        assert await engine.expired(100, limit=100) == [2]


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_and_any_limit(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = Log()
    now = 0
    expected: dict[int, int] = {}
    told: list[int] = []
    async with running(tmp_path) as engine:
        for _ in range(150):
            if chance.random() < 0.6:
                times = [chance.choice((None, now - 5, now + 5, now + chance.randrange(60))) for _ in range(3)]
                times = chance.choice((times, times[:1] * 5))
                batch = log.batch(chance.randrange(3), *map(record, times))
                expected.update({batch.seq + i: time for i, time in enumerate(times) if time is not None})
                await write(engine, batch)
            else:
                limit = chance.randrange(1, 6)
                found = await engine.expired(now, limit=limit)
                assert len(found) <= limit
                assert all(expected[seq] <= now for seq in found)
                told += found
                left = {time for seq, time in expected.items() if seq not in set(told)}
                assert await engine.next_expiry() == min(left, default=None) or not left or min(left) <= now
                now += chance.randrange(10)
        while found := await engine.expired(10_000, limit=3):
            told += found
        assert sorted(told) == sorted(expected)
