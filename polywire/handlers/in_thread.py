"""What runs in a thread cannot be interrupted: who waits for it may leave, and it goes on by itself to its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

__all__ = ["FunctionInThread", "ItemsInThread", "RunInThread"]

RunInThread = Callable[..., Awaitable[Any]]
_END = object()


class _Abandonable:
    """``ended`` is set when no thread runs it any more."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._abandoned = False

    def abandon(self) -> bool:
        """Nobody waits for it any more; whether a thread has begun it. What has not begun never does."""
        self._abandoned = True
        return self._begun and not self.ended.is_set()

    def _begin(self) -> bool:
        """In the thread. Each side says its own first and then looks at the other's: one of them sees."""
        self._begun = True
        return not self._abandoned

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.ended.set)


class FunctionInThread(_Abandonable):
    """A function, to be called once, in a thread."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def __call__(self, **arguments: Any) -> Any:
        try:
            return self._function(**arguments) if self._begin() else None
        finally:
            self._end()


class ItemsInThread(_Abandonable):
    """A plain generator, advanced in threads: it may block between two items."""

    def __init__(self, items: Generator[Any, None, None], run: RunInThread) -> None:
        super().__init__()
        self._items = items
        self._run = run
        self._busy = threading.Lock()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (item := await self._run(self._next)) is not _END:
            yield item

    def _next(self) -> Any:
        with self._busy:
            item = next(self._items, _END) if self._begin() else _END
        if self._abandoned:
            self._close()
        return item

    async def close(self) -> bool:
        """False if the generator is at work: then it is closed when it has come to its next item."""
        self._abandoned = True
        if self._busy.locked():
            return False
        await asyncio.shield(self._run(self._close))
        return True

    def _close(self) -> None:
        """Twice does no harm."""
        with self._busy:
            self._items.close()
        self._end()
