"""Threads for plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time

import pytest

from polywire.handlers.threads import Threads


async def test_as_many_as_needed_and_no_more() -> None:
    threads = Threads(3, "mine")
    together = threading.Barrier(3, timeout=10)
    names: set[str] = set()

    def meet() -> int:
        names.add(threading.current_thread().name)
        return together.wait()

    assert await threads.run(lambda: threading.current_thread().name) == "mine-1"
    assert sorted(await asyncio.gather(*[threads.run(meet) for _ in range(6)])) == [0, 0, 1, 1, 2, 2]
    assert names == {"mine-1", "mine-2", "mine-3"}
    threads.stop()
    deadline = time.monotonic() + 10
    while any(thread.name in names for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_arguments_context_and_errors() -> None:
    threads = Threads(1, "mine")
    where = contextvars.ContextVar("where", default="")
    where.set("here")
    assert await threads.run(lambda number, other: (number, other, where.get()), number=1, other=2) == (1, 2, "here")
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await threads.run(lambda: next(iter(())))
    with pytest.raises(RuntimeError, match="raised SystemExit"):
        await threads.run(lambda: sys.exit(3))
    assert await threads.run(lambda: "still there") == "still there"
    threads.stop()


async def test_what_was_not_begun_is_cancelled_with_its_caller() -> None:
    threads = Threads(1, "mine")
    go = threading.Event()
    called: list[int] = []
    first = asyncio.create_task(threads.run(go.wait))
    second = asyncio.create_task(threads.run(lambda: called.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    go.set()
    assert await first
    assert await threads.run(lambda: "next") == "next"
    assert called == []
    threads.stop()


def test_a_thread_that_blocks_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from polywire.handlers.threads import Threads
async def main():
    begun = threading.Event()
    def block():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(Threads(1, "mine").run(block))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0


async def test_what_is_left_while_every_thread_is_stuck_does_not_pile_up() -> None:
    threads = Threads(1, "mine")
    stuck, go = threading.Event(), threading.Event()

    def block() -> None:
        stuck.set()
        go.wait(10)

    blocking = asyncio.ensure_future(threads.run(block))
    assert await asyncio.to_thread(stuck.wait, 10)
    for _ in range(100):
        tasks = [asyncio.ensure_future(threads.run(lambda: None)) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert threads._jobs.qsize() <= 1_001
    last = asyncio.ensure_future(threads.run(lambda: "last"))
    go.set()
    assert await last == "last"
    await blocking
    threads.stop()


async def test_arguments_may_have_any_name() -> None:
    threads = Threads(1, "mine")
    assert await threads.run(lambda function, self: (function, self), function=1, self=2) == (1, 2)
    threads.stop()
