"""Ending things that may not want to end, within a time that is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Deadline", "being_cancelled", "ended_within", "task_ended"]

_logger = logging.getLogger("polywire")
_LAST_WORDS = 0.5  # seconds for what is cancelled


class Deadline:
    """So many seconds from now, for several things one after the other."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds

    def left(self, share: float = 1.0) -> float:
        """Seconds: a share of what is left."""
        return max(0.0, self._end - self._loop.time()) * share


async def ended_within(
    seconds: float, coroutine: Coroutine[Any, Any, object], name: str
) -> asyncio.Task[object] | None:
    """Await ``coroutine``; past its time cancel it, and past that leave it behind: it is returned then.

    Raises what the coroutine raises in its time.
    """
    task: asyncio.Task[object] = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        task.result()
        return None
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=min(_LAST_WORDS, seconds))
    _logger.warning("%s did not end within %.1f s%s", name, seconds, "" if done else ", nor when it was cancelled")
    return None if done else task


async def task_ended(task: asyncio.Task[None]) -> None:
    """Until it has ended; cancelled with who waits for it."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()


def being_cancelled() -> bool:
    """Whether a `CancelledError` is meant for the task that runs, and not of something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
