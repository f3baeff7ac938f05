"""The threads of the engine get the interpreter lock from a busy loop."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from polywire.engines.sqlite.pace import exact_timers, shorten_switch_interval
from tests.engines.sqlite.store import SETTINGS, Log, running, write

_PR_GET_TIMERSLACK = 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has timer slack")


def slack() -> int:
    """Of the calling thread, in nanoseconds."""
    return int(ctypes.CDLL(None).prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0))


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


def test_the_switch_interval_is_only_shortened() -> None:
    for wanted, expected in ((0, 0.005), (1, 0.005), (0.001, 0.001), (0.002, 0.001)):
        shorten_switch_interval(wanted)
        assert sys.getswitchinterval() == pytest.approx(expected)


@linux
def test_exact_timers_are_for_one_thread() -> None:
    found: list[int] = []

    def run() -> None:
        exact_timers()
        found.append(slack())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [1]
    assert slack() > 1


@linux
async def test_writer_and_readers_have_exact_timers(tmp_path: Path) -> None:
    found: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(_: apsw.Connection | None = None) -> None:
        loop.call_soon_threadsafe(found.put_nowait, slack())

    async with running(tmp_path) as engine:
        engine._running().call(tell)
        await engine._readers.run(tell)
        async with asyncio.timeout(10):
            assert [await found.get(), await found.get()] == [1, 1]


async def test_a_busy_loop_does_not_starve_commits(tmp_path: Path) -> None:
    """Turns of 50 µs without a pause: with Python's own switch interval a commit takes tenths of a second."""
    log = Log()
    loop = asyncio.get_running_loop()
    busy = True

    def spin() -> None:
        end = time.perf_counter() + 50e-6
        while time.perf_counter() < end:
            pass
        if busy:
            loop.call_soon(spin)

    async with running(tmp_path, msgspec.structs.replace(SETTINGS, readers=1)) as engine:
        assert sys.getswitchinterval() == pytest.approx(SETTINGS.switch_interval)
        loop.call_soon(spin)
        began, commits = time.monotonic(), 0
        while time.monotonic() < began + 1:
            await write(engine, log.batch(1, b"x"))
            commits += 1
        busy = False
    assert commits > 10
