"""Time comes from here, so that a test can move it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock", "Timer"]


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """All times are whole milliseconds since the Unix epoch."""

    def now(self) -> int: ...

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        """Run ``callback`` on the event loop at ``when``, or soon if that has passed."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0, when - self.now()) / 1000, callback)


class _ManualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Real time plus what a test has added with `advance`; timers run when their moment is passed."""

    def __init__(self) -> None:
        self._ahead = 0
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        # Real time goes on too: the timer is also armed with the loop.
        asyncio.get_running_loop().call_later(max(0, when - self.now()) / 1000, self._run_due)
        return timer

    def advance(self, milliseconds: int) -> None:
        """Move the clock forward and run every timer that is now due."""
        self._ahead += milliseconds
        self._run_due()

    def _run_due(self) -> None:
        while self._timers and self._timers[0][0] <= self.now():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()
