"""What the engine reads: bounds, order, gaps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from polywire.core.engine import Delayed, Retained
from polywire.core.message import Flag, Record
from polywire.engines.sqlite import SqliteEngine
from tests.engines.sqlite.store import SETTINGS, Log, payloads, running, write

MIB = 1 << 20


async def test_reading_begins_at_the_offset_and_ends_at_the_bounds(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for start in range(0, 100, 10):
            await write(
                engine, log.batch(1, *[b"%02d" % index for index in range(start, start + 10)]), log.batch(2, b"-")
            )
        for offset in (0, 1, 9, 10, 55, 99):
            for messages in (1, 9, 10, 11, 35):
                found = payloads(await engine.read(1, offset, messages=messages, size=MIB))
                assert found == [b"%02d" % index for index in range(offset, min(100, offset + messages))]
        assert await engine.read(1, 100, messages=5, size=MIB) == []
        assert await engine.read(99, 0, messages=5, size=MIB) == []
        assert len(payloads(await engine.read(1, 3, messages=100, size=1))) == 1
        assert 10 <= len(payloads(await engine.read(1, 3, messages=100, size=25))) <= 14


async def test_reading_from_before_the_oldest_begins_at_it(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for index in range(5):
            await write(engine, log.batch(1, b"%d" % index))
        await write(engine, deleted_rows=[1, 2, 4])
        assert payloads(await engine.read(1, 0, messages=9, size=MIB)) == [b"2", b"4"]
        assert payloads(await engine.read(1, 3, messages=9, size=MIB)) == [b"4"]


async def test_one_read_is_bounded_whatever_is_asked(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, *[bytes(MIB) for _ in range(6)]))
        assert len(payloads(await engine.read(1, 0, messages=100, size=100 * MIB))) == 1


async def test_messages_by_sequence_number(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for start in range(0, 5000, 500):
            for index in range(start, start + 500, 5):
                await write(engine, log.batch(index % 3, *[b"%d" % (index + more) for more in range(5)]))
                if index > start + 50:
                    break
        last = log.seq - 1
        for seqs in (
            [1],
            [2, 3],
            [1, 2, 3, 4, 5, 6, 9, 11],
            list(range(1, last + 1)),
            [last],
            [last, last + 1],
            [last + 9],
            [],
        ):
            found = await engine.read_seqs(seqs)
            assert [batch.seq + index for batch in found for index in range(len(batch))] == [
                s for s in seqs if s <= last
            ]
        (batch,) = await engine.read_seqs([3, 4])
        assert payloads([batch]) == [b"2", b"3"]
        assert batch.offset == 2


async def test_sequence_numbers_that_are_gone_are_left_out(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for index in range(3000):
            log.batch(2, b"not stored")
            if index % 1000 == 999:
                await write(engine, log.batch(1, b"%d" % index))
        found = await engine.read_seqs(list(range(1, 4000)))
        assert [batch.seq for batch in found] == [1001, 2002, 3003]
        assert payloads(found) == [b"999", b"1999", b"2999"]


async def test_large_messages_by_sequence_number(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        sent = [bytes([index]) * MIB for index in range(5)]
        await write(engine, log.batch(1, *sent))
        assert payloads(await engine.read_seqs([1, 2, 3, 4, 5])) == sent


async def test_spans_and_times(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for index in range(10):
            await write(engine, log.batch(1, b"a", b"b", appended=1000 + index))
        assert [span.offset for span in await engine.rows(1, offset=5, limit=3)] == [4, 6, 8]
        assert [span.offset for span in await engine.rows(1, offset=20)] == []
        assert await engine.offset_at(1, 0) == 0
        assert await engine.offset_at(1, 1003) == 6
        assert await engine.offset_at(1, 2000) is None
        assert await engine.offset_at(2, 0) is None


async def test_scan_begins_inside_a_row(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        await write(engine, log.batch(1, b"1", b"2", b"3"))
        log.batch(1, *[b"lost"] * 3)
        await write(engine, log.batch(2, b"7", b"8"))
    engine = SqliteEngine(str(tmp_path), settings=SETTINGS)
    engine.open()
    for seq, expected in (
        (0, b"12378"),
        (2, b"2378"),
        (3, b"378"),
        (4, b"78"),
        (6, b"78"),
        (8, b"8"),
        (9, b""),
        (99, b""),
    ):
        found = list(engine.scan(seq))
        assert b"".join(payloads(found)) == expected
        assert not found or found[0].seq >= seq
    engine.close()


async def test_retained_keys_in_order_and_pages(tmp_path: Path) -> None:
    keys = [b"%03d" % index for index in range(50)]
    async with running(tmp_path) as engine:
        await write(engine, retained={(1, key): Retained(1, key, 5, 6, 7, Record(key)) for key in reversed(keys)})
        await write(engine, retained={(2, b"x"): Retained(2, b"x", 5, 6, 7, Record(b"x"))})
        found: list[Retained] = []
        while page := await engine.retained_keys(1, after=found[-1].key if found else None, limit=7):
            assert len(page) <= 7
            found += page
        assert [entry.key for entry in found] == keys
        assert [entry.record and entry.record.payload for entry in found] == keys


async def test_a_range_of_retained_keys(tmp_path: Path) -> None:
    keys = [b"%04d" % index for index in range(5_000)]
    async with running(tmp_path) as engine:
        for topic in (1, 2):
            await write(engine, retained={(topic, key): Retained(topic, key, 5, 6, 7, Record(key)) for key in keys})
        found, last = await engine.retained_range(1, b"0100", b"0150", wanted=None, limit=40, size=MIB)
        assert ([one.key for one in found], last) == (keys[100:140], b"0139")
        found, last = await engine.retained_range(1, b"0139\0", b"0150", wanted=None, limit=40, size=MIB)
        assert ([one.key for one in found], last) == (keys[140:150], None)
        found, last = await engine.retained_range(1, b"0100", b"0100\0", wanted=None, limit=1, size=MIB)
        assert ([one.record and one.record.payload for one in found], last) == ([b"0100"], None)
        found, last = await engine.retained_range(1, b"0100", None, wanted=None, limit=100, size=10)
        assert ([one.key for one in found], last) == (keys[100:103], b"0102")
        assert await engine.retained_range(3, b"", None, wanted=None, limit=100, size=10) == ([], None)

        # A look at so many keys at once, be any of them wanted or not.
        wanted, first, looks = list[bytes](), b"", 0
        while True:
            found, last = await engine.retained_range(
                1, first, None, wanted=lambda key: key.endswith(b"77"), limit=10, size=MIB
            )
            wanted += [one.key for one in found]
            looks += 1
            if last is None:
                break
            first = last + b"\0"
        assert wanted == [key for key in keys if key.endswith(b"77")]
        assert looks >= 5
        found, last = await engine.retained_range(1, b"", None, wanted=lambda _key: False, limit=10, size=MIB)
        assert found == []
        assert b"" < last < keys[-1]


async def test_pages_of_large_messages_are_shorter(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for index in range(4):
            key = b"%d" % index
            await write(
                engine, retained={(1, key): Retained(1, key, 5, 6, 7, Record(bytes(MIB)))},
                delayed=[Delayed(f"d{index}", index, 1, Record(bytes(MIB)))],
            )  # fmt: skip
        assert len(await engine.retained_keys(1, after=None, limit=100)) == 1
        found, last = await engine.retained_range(1, b"", None, wanted=None, limit=100, size=100 * MIB)
        assert ([one.key for one in found], last) == ([b"0"], b"0")
        assert len(await engine.due(100, limit=100)) == 1
        assert len(await engine.delayed(1, after=None, limit=100)) == 1


async def test_delayed_messages(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        assert await engine.next_due() is None
        waiting = [Delayed(f"d{index}", 100 + index // 2, index % 3, Record(b"%d" % index)) for index in range(10)]
        await write(engine, delayed=waiting[::-1])
        assert await engine.next_due() == 100
        assert await engine.count_delayed() == 10
        assert await engine.due(99, limit=10) == []
        assert await engine.due(101, limit=3) == waiting[:3]
        assert await engine.delayed(None, after=None, limit=4) == waiting[:4]
        assert await engine.delayed(None, after=(101, "d3"), limit=2) == waiting[4:6]
        assert await engine.delayed(1, after=(100, "d1"), limit=9) == [waiting[4], waiting[7]]
        assert await engine.find_delayed("d7") == waiting[7]
        assert await engine.find_delayed("none") is None


async def test_messages_that_ask_for_dedup(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path) as engine:
        for index in range(6):
            flags = Flag.DEDUP if index % 2 else 0
            await write(
                engine, log.batch(1, Record(b"%d" % index, flags=flags), appended=1000 + index), log.batch(2, b"-")
            )
        for since, expected in ((0, [b"1", b"3", b"5"]), (1003, [b"3", b"5"]), (1006, [])):
            assert payloads([batch async for batch in engine.dedup_since(since)]) == expected


async def test_dedup_is_read_in_pages(tmp_path: Path) -> None:
    log = Log()
    async with running(tmp_path, msgspec.structs.replace(SETTINGS, read_size=MIB)) as engine:
        for _ in range(12):
            await write(engine, log.batch(1, Record(bytes(MIB // 2), flags=Flag.DEDUP)))
        before = engine.metrics()["reads"]
        found = engine.dedup_since(0)
        first = await anext(found)
        assert first.seq == 1
        assert engine.metrics()["reads"] == before + 1  # what nobody asked for is not in memory
        assert [batch.seq async for batch in found] == list(range(2, 13))
        assert engine.metrics()["reads"] > before + 5


async def test_space_and_figures(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(engine, Log().batch(1, bytes(100_000)))
        space = await engine.space()
        assert space.used > 100_000
        assert space.free > 0
        figures = engine.metrics()
        assert figures["commits"] == figures["rows"] == 1
        assert figures["commit_seconds_max"] >= figures["commit_seconds_last"] > 0
        assert figures["reads"] == 1
        assert figures["wal_bytes"] > 100_000


@pytest.mark.parametrize("readers", [1, 2])
async def test_reads_beside_commits(tmp_path: Path, readers: int) -> None:
    log = Log()
    async with running(tmp_path) as engine:

        async def follow() -> int:
            offset = 0
            while offset < 300:
                for batch in await engine.read(1, offset, messages=20, size=MIB):
                    assert batch.offset == offset
                    assert payloads([batch]) == [b"%d" % index for index in range(offset, offset + len(batch))]
                    offset += len(batch)
            return offset

        followers = [asyncio.create_task(follow()) for _ in range(readers)]
        for index in range(0, 300, 2):
            await write(engine, log.batch(1, b"%d" % index, b"%d" % (index + 1)))
        assert await asyncio.gather(*followers) == [300] * readers


async def test_a_cancelled_read_harms_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await write(engine, Log().batch(1, b"x"))
        tasks = [asyncio.create_task(engine.read(1, 0, messages=1, size=1)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, list) for result in found[1::2])
        assert payloads(await engine.read(1, 0, messages=1, size=1)) == [b"x"]
