"""Tables: small things by key until their time, counted and not remembered."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

from polywire.core.errors import LimitExceeded, PolywireError, Unavailable
from polywire.core.table import Entry, Table
from tests.core.conftest import Make
from tests.core.harness import DISK_FULL, Rig


def table_of(rig: Rig, most: int = 1_000) -> Table:
    table = Table(rig.core, "_table", most)
    topic = rig.core.catalog.get("_table")
    for key in topic.retained_keys if topic is not None else ():
        table.restore(key)
    return table


async def test_found_once_it_is_committed_and_after_a_restart(rig: Rig) -> None:
    table = table_of(rig)
    assert await table.find(b"a") is None
    table.put(b"a", b"1")
    table.put(b"\x00\xff", b"2", expires=rig.clock.now() + 1_000)
    await rig.core.log.committed()
    assert await table.find(b"a") == Entry(b"1", None)
    assert table.count == 2
    await rig.crash_and_start()
    table = table_of(rig)
    assert table.count == 2
    found = await table.find(b"\x00\xff")
    assert found is not None
    assert found.value == b"2"
    rig.clock.advance(1_001)
    assert await table.find(b"\x00\xff") is None
    assert table.count == 1


async def test_what_expires_is_swept_and_what_was_put_anew_stays(rig: Rig) -> None:
    table = table_of(rig)
    now = rig.clock.now()
    for number in range(600):
        table.put(b"old %d" % number, b"x", expires=now + 1_000 + number)
    table.put(b"again", b"x", expires=now + 500)
    table.put(b"later", b"x", expires=now + 100_000)
    table.put(b"never", b"x")
    await table.sweep()
    assert table.count == 603
    rig.clock.advance(2_000)
    assert await table.find(b"again") is None
    table.put(b"again", b"y", expires=rig.clock.now() + 50_000)
    await table.sweep()
    assert table.count == 3
    left = {key for key in (b"again", b"later", b"never", b"old 0", b"old 599") if await table.find(key)}
    assert left == {b"again", b"later", b"never"}
    rig.clock.advance(60_000)
    await table.sweep()
    assert await table.find(b"again") is None
    assert (table.count, await table.find(b"never")) == (2, Entry(b"x", None))
    rig.clock.advance(100_000)
    await table.sweep()
    await rig.crash_and_start()
    assert table_of(rig).count == 1
    assert await rig.engine.retained_keys(rig.core.catalog.existing("_table").id, after=None, limit=10) != []


async def test_a_full_table_gives_way_to_the_new_where_something_expires(rig: Rig) -> None:
    table = table_of(rig, most=100)
    now = rig.clock.now()
    for number in range(1_000):
        await table.require_room()
        table.put(b"%d" % number, b"x", expires=now + 1_000_000 + number)
        await rig.core.log.committed()
        assert table.count <= 100
    assert await table.find(b"999") is not None
    assert await table.find(b"800") is None
    table.put(b"kept", b"x")

    async def fill() -> None:
        while True:
            await table.require_room()
            table.put(b"kept %d" % table.count, b"x")
            await rig.core.log.committed()

    with pytest.raises(LimitExceeded, match="100"):
        await fill()
    assert await table.find(b"kept") is not None
    assert await table.find(b"999") is None


async def test_a_commit_that_fails_leaves_nothing(rig: Rig) -> None:
    table = table_of(rig)
    table.put(b"first", b"x", expires=rig.clock.now() + 1_000)
    await rig.core.log.committed()
    heard: list[PolywireError | None] = []
    rig.engine.fault = DISK_FULL
    table.put(b"a", b"x", told=heard.append)
    with pytest.raises(Unavailable):
        await rig.core.log.committed()
    assert (table.count, len(heard)) == (1, 1)
    assert isinstance(heard[0], Unavailable)
    rig.clock.advance(2_000)
    with pytest.raises(Unavailable):
        await table.sweep()
    assert table.count == 1
    rig.engine.fault = None
    assert await table.find(b"a") is None
    await table.sweep()
    assert (table.count, await table.find(b"first")) == (0, None)


async def test_what_is_looked_for_while_it_expires_is_counted_once(rig: Rig) -> None:
    """Many ask for what has just expired, put it in anew, and a sweep goes by."""
    table = table_of(rig)
    for _ in range(20):
        for number in range(10):
            table.put(b"%d" % number, b"x", expires=rig.clock.now() + 1_000)
        await rig.core.log.committed()
        assert table.count == 10
        rig.clock.advance(1_001)
        looks = [table.find(b"%d" % (number % 10)) for number in range(30)]
        assert set(await asyncio.gather(*looks, table.sweep(), table.sweep())) == {None}
        await rig.core.log.committed()
        assert table.count == 0

        async def renew(number: int) -> None:
            for _ in range(5):
                await table.find(b"%d" % number)
            table.put(b"%d" % number, b"y", expires=rig.clock.now() + 100_000)

        await asyncio.gather(*[renew(number) for number in range(10)], table.sweep())
        await table.sweep()
        assert table.count == 10
        assert await table.find(b"3") is not None
        rig.clock.advance(100_001)
        await table.sweep()
        assert (table.count, table._leaving, table._reads) == (0, set(), {})


async def test_a_full_disk_takes_nothing_new(rig: Rig) -> None:
    table = table_of(rig)
    rig.core.log.full = "the hub holds its limit"
    with pytest.raises(Unavailable, match="holds its limit"):
        await table.require_room()


async def test_memory_does_not_grow_with_what_is_kept(make: Make) -> None:
    rig = await make()
    table = table_of(rig, most=1_000_000)

    async def fill(first: int) -> None:
        for number in range(first, first + 2_000):
            table.put(b"job %d" % number, b"x" * 500, expires=rig.clock.now() + 1_000_000)
            if number % 500 == 0:
                await rig.core.log.committed()
        await rig.core.log.committed()

    await fill(0)
    gc.collect()
    tracemalloc.start()
    try:
        await fill(2_000)  # some of the last commit is always held
        before = tracemalloc.get_traced_memory()[0]
        for first in range(4_000, 24_000, 2_000):
            await fill(first)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert table.count == 24_000
    assert grown < 100_000  # five bytes an entry
