"""Operations that stream: generators on the loop and in threads, what they depend on, and who leaves them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from polywire import (
    Invalid,
    Unsupported,
)
from tests.application import until
from tests.handlers.dependencies import Database, Db, collect, declare_counts, make


@pytest.fixture(autouse=True)
def _no_database_yet() -> None:
    Database.opened = Database.closed = 0


COUNTS = ("count", "count_in_thread", "count_with", "count_in_thread_with")


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("name", COUNTS)
async def test_generators_stream(tmp_path: Path, name: str, middleware: bool) -> None:
    hub = make(tmp_path)
    declare_counts(hub)
    if middleware:
        hub.middleware(lambda _, call_next: call_next())
    async with hub:
        assert await collect(hub.stream(name, 5)) == [0, 1, 2, 3, 4]
        assert await collect(hub.stream(name, to=0)) == []
        items = hub.stream(name, 1_000_000)
        assert await anext(items) == 0
        if "with" in name:
            assert Database.opened - Database.closed == 1
        await items.aclose()  # type: ignore[attr-defined]
        await until(lambda: Database.opened == Database.closed)
        assert hub.core.calls.running == 0
        with pytest.raises(Unsupported):
            await hub.call(name, 1)
        with pytest.raises(Invalid):
            hub.stream(name, "many")


@pytest.mark.parametrize("middleware", [False, True])
async def test_no_item_is_made_before_it_is_asked_for(tmp_path: Path, middleware: bool) -> None:
    hub = make(tmp_path)
    made: list[int] = []

    @hub.operation
    async def count() -> AsyncIterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    if middleware:
        hub.middleware(lambda _, call_next: call_next())
    async with hub:
        items = hub.stream(count)
        for number in range(3):
            assert await anext(items) == number
            await asyncio.sleep(0.005)
            assert len(made) == number + 1
        await items.aclose()  # type: ignore[attr-defined]


async def test_who_leaves_a_generator_in_a_thread_does_not_wait_for_it(tmp_path: Path) -> None:
    hub = make(tmp_path)
    begun, go = threading.Event(), threading.Event()
    ended: list[str] = []

    @hub.operation
    def items(db: Db) -> Iterator[int]:
        try:
            yield 1
            begun.set()
            go.wait(10)
            yield 2
        finally:
            ended.append("open" if db.open else "closed")

    async with hub:
        stream = hub.stream(items)
        assert await anext(stream) == 1
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (ended, Database.closed) == ([], 0)
        go.set()
        await until(lambda: Database.closed == 1)
    assert ended == ["open"]
