"""Threads for plain functions: at most so many, started when needed.

Unlike those of `concurrent.futures` they do not keep the process from ending: a handler that blocks for an hour would
otherwise hold up a stop that promised to take `Limits.drain`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Threads"]

_LEFT = 1_000
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """Used from one event loop: `run`, and `stop` at the end."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = 0
        self._unfinished = 0
        self._left = 0  # callers that left; some of what they wanted still waits

    async def run(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """The result of ``function(**arguments)``, called in a thread, in a copy of the caller's context."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._jobs.put((loop, done, partial(copy_context().run, partial(function, **arguments))))
        self._unfinished += 1
        if self._started < min(self._unfinished, self._most):
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        try:
            return await done
        except asyncio.CancelledError:
            self._left += 1
            if self._left > _LEFT:
                self._forget_left()
            raise

    def _forget_left(self) -> None:
        """Where every thread is stuck, what callers wanted that have left must not pile up."""
        self._left = 0
        for _ in range(self._jobs.qsize()):
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None and job[1].cancelled():
                self._unfinished -= 1
            else:
                self._jobs.put(job)

    def stop(self) -> None:
        """Threads end after what they are doing; what they have not begun was cancelled with its caller."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, done, call = job
            outcome = (None, None) if done.cancelled() else _outcome(call)
            try:
                loop.call_soon_threadsafe(self._finish, done, *outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del job, call, outcome

    def _finish(self, done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._unfinished -= 1
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)


def _outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except StopIteration as error:  # means something else to whoever awaits it
        return None, RuntimeError(f"raised {error!r}")
    except Exception as error:  # noqa: BLE001 - handed on, whatever it is
        return None, error
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a thread ends no process
        return None, RuntimeError(f"raised {error!r}")
