"""Items handed from a task to whoever asks for them, one at a time: none is made before it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

__all__ = ["Rendezvous"]

_END = object()
Run = Callable[[Callable[[Any], Awaitable[None]]], Coroutine[Any, Any, None]]


class Rendezvous:
    """``run(give)`` runs in a task of its own, from the first item that is asked for; ``await give(item)`` returns when
    the next one is."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._asked: asyncio.Future[None] | None = None
        self._given: asyncio.Future[Any] | None = None

    async def items(self) -> AsyncIterator[Any]:
        """To be closed; then the task is cancelled, and has ended. Raises what ``run`` raises."""
        loop = asyncio.get_running_loop()
        given = self._given = loop.create_future()
        task = loop.create_task(self._run(self._give))
        task.add_done_callback(self._ended)
        try:
            while (item := await given) is not _END:
                yield item
                given = self._given = loop.create_future()
                if self._asked is not None and not self._asked.done():
                    self._asked.set_result(None)
                elif task.done():
                    break
            await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _give(self, item: Any) -> None:
        self._asked = asyncio.get_running_loop().create_future()
        if self._given is not None and not self._given.done():
            self._given.set_result(item)
        await self._asked

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # it is raised where the items are asked for, if they still are
        if self._given is not None and not self._given.done():
            self._given.set_result(_END)
