"""What runs in threads and is left by who waited for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from polywire.handlers.in_thread import FunctionInThread, ItemsInThread
from polywire.handlers.threads import Threads
from tests.application import until


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(2, "test")
    yield made
    made.stop()


async def test_a_function_that_is_left_goes_on_and_says_when_it_has_ended(threads: Threads) -> None:
    begun, go = threading.Event(), threading.Event()

    def work(number: int) -> int:
        begun.set()
        go.wait(10)
        return number

    running = FunctionInThread(work)
    task = asyncio.ensure_future(threads.run(running, number=1))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running.abandon()
    assert not running.ended.is_set()
    go.set()
    await asyncio.wait_for(running.ended.wait(), 10)
    assert not running.abandon()


async def test_a_function_that_is_left_before_it_begins_never_does() -> None:
    ran: list[int] = []
    running = FunctionInThread(lambda: ran.append(1))
    assert not running.abandon()
    assert running() is None
    assert ran == []
    await running.ended.wait()


class Numbers:
    def __init__(self) -> None:
        self.at_two = threading.Event()
        self.go = threading.Event()
        self.closed = 0

    def items(self) -> Iterator[int]:
        try:
            yield 1
            self.at_two.set()
            self.go.wait(10)
            yield 2
        finally:
            self.closed += 1


async def test_items_come_from_threads_and_are_closed(threads: Threads) -> None:
    numbers = Numbers()
    numbers.go.set()
    items: Any = ItemsInThread(numbers.items(), threads.run)  # type: ignore[arg-type]
    assert [item async for item in items] == [1, 2]
    assert numbers.closed == 1
    assert await items.close()

    numbers = Numbers()
    items = ItemsInThread(numbers.items(), threads.run)  # type: ignore[arg-type]
    reading = aiter(items)
    assert await anext(reading) == 1
    assert await items.close()
    assert numbers.closed == 1
    await items.ended.wait()


async def test_a_generator_at_work_is_closed_by_its_thread(threads: Threads) -> None:
    numbers = Numbers()
    items = ItemsInThread(numbers.items(), threads.run)  # type: ignore[arg-type]
    reading: Any = aiter(items)
    assert await anext(reading) == 1
    task = asyncio.ensure_future(anext(reading))
    await until(numbers.at_two.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await items.close()
    assert numbers.closed == 0
    numbers.go.set()
    await asyncio.wait_for(items.ended.wait(), 10)
    assert numbers.closed == 1
