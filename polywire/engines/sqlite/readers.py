"""The threads that read, each with its own read-only connection."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

from polywire.core.errors import Unavailable
from polywire.engines.sqlite.database import Database, translate
from polywire.engines.sqlite.pace import exact_timers

__all__ = ["Readers"]

LONGEST_PAUSE = 0.05
"""Seconds that a pause waits for the reads under way, all together."""

P = ParamSpec("P")
T = TypeVar("T")


class _Request:
    __slots__ = ("call", "future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[apsw.Connection], Any]) -> None:
        self.loop = loop
        self.call = call
        self.future: asyncio.Future[Any] = loop.create_future()

    def answer(self, result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._set, result, error)

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Readers:
    """`run` sends one call to whichever thread is free. Calls end their transactions before they return."""

    def __init__(self, database: Database, threads: int) -> None:
        self.reads = 0
        self.seconds_sum = self.seconds_max = 0.0
        self._database = database
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._busy = [threading.Lock() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(busy,), name=f"polywire-reader-{index}", daemon=True)
            for index, busy in enumerate(self._busy)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer what was asked, then end the threads."""
        with self._closing:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No read is under way inside, unless one takes very long, because commits wait for this. Without it, reads
        that
        overlap without end keep a checkpoint from ever starting the write-ahead log over."""
        deadline = time.monotonic() + LONGEST_PAUSE
        held = [busy for busy in self._busy if busy.acquire(timeout=max(0, deadline - time.monotonic()))]
        try:
            yield
        finally:
            for busy in held:
                busy.release()

    async def run(self, function: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        request = _Request(asyncio.get_running_loop(), lambda connection: function(connection, *args, **kwargs))
        with self._closing:  # or it might come to stand behind the end, where nobody answers it
            if self._closed:
                raise Unavailable(f"{self._database.path} is closed")
            self._queue.put(request)
        result: T = await request.future
        return result

    def _work(self, busy: threading.Lock) -> None:
        exact_timers()
        connection: apsw.Connection | None = None
        while (request := self._queue.get()) is not None:
            if request.future.cancelled():
                continue
            began = time.perf_counter()
            try:
                with busy:
                    connection = connection or self._database.reader()
                    result = request.call(connection)
            except Exception as error:  # noqa: BLE001 - the caller gets it, the thread goes on
                self._count(time.perf_counter() - began)
                request.answer(None, translate(error, self._database.path))
            else:
                self._count(time.perf_counter() - began)
                request.answer(result, None)
        if connection is not None:
            connection.close()

    def _count(self, took: float) -> None:
        # Not exact between threads, and need not be: these are figures for a graph.
        self.reads += 1
        self.seconds_sum += took
        self.seconds_max = max(self.seconds_max, took)
