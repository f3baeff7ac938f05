"""Calling a function of the application, for a message or a call: middleware, dependencies, thread or event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from polywire.handlers.in_thread import FunctionInThread, ItemsInThread, RunInThread
from polywire.handlers.injection import Parameters
from polywire.handlers.rendezvous import Rendezvous
from polywire.handlers.watch import Watch

__all__ = ["Invocation", "Middleware", "RunInThread"]

Middleware = Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""``async def m(occasion, call_next): return await call_next()``.

The occasion is a `Delivery` (of a batch the first) or a `Call`. What is returned goes on outwards. Around an operation
that streams, ``call_next()`` returns None after the last item.
"""
_logger = logging.getLogger("polywire.handlers")


class Invocation:
    """A function, and how it is called: once per occasion, from within the hub's event loop."""

    def __init__(
        self, parameters: Parameters, name: str, middleware: Sequence[Middleware], in_thread: RunInThread
    ) -> None:
        function = parameters.function
        self.parameters = parameters
        self._name = name
        self._function = function
        self._middleware = tuple(middleware)
        self._in_thread = in_thread
        self._is_async = inspect.iscoroutinefunction(function)
        self._is_async_generator = inspect.isasyncgenfunction(function)
        self._watch = Watch(name)
        self._closing: set[asyncio.Task[None]] = set()

    def __call__(self, occasions: Sequence[Any], payload: Mapping[str, Any]) -> Awaitable[Any]:
        """The function's result. ``payload``: the arguments that are not injected."""
        if not self._middleware:
            return self._resolve(occasions, payload)
        return self._through_middleware(occasions[0], lambda: self._resolve(occasions, payload))

    def _resolve(self, occasions: Sequence[Any], payload: Mapping[str, Any]) -> Awaitable[Any]:
        parameters = self.parameters
        if not parameters.plain:
            return self._with_dependencies(occasions, payload)
        arguments = {**parameters.injected(occasions), **payload}
        return self._watch(self._function(**arguments)) if self._is_async else self._call_in_thread(arguments)

    async def _call_in_thread(self, arguments: dict[str, Any]) -> Any:
        result = await self._in_thread(self._function, **arguments)
        return await result if inspect.isawaitable(result) else result

    async def _with_dependencies(self, occasions: Sequence[Any], payload: Mapping[str, Any]) -> Any:
        async with AsyncExitStack() as stack:
            arguments = await self.parameters.resolve(occasions, stack, self._in_thread)
            arguments.update(payload)
            if self._is_async:
                return await self._watch(self._function(**arguments))
            running = FunctionInThread(self._function)
            try:
                result = await self._in_thread(running, **arguments)
                return await result if inspect.isawaitable(result) else result
            except asyncio.CancelledError:
                if running.abandon():
                    self._close_after(running.ended, stack)
                raise

    # Streams

    def stream(self, occasions: Sequence[Any], payload: Mapping[str, Any]) -> AsyncIterator[Any]:
        """What a generator function yields; to be closed. Its dependencies are closed after its last item."""
        if self._middleware:
            return self._stream_through_middleware(occasions, payload)
        if self.parameters.plain and self._is_async_generator:
            items: AsyncIterator[Any] = self._function(**self.parameters.injected(occasions), **payload)
            return items
        return self._stream(occasions, payload)

    async def _stream(self, occasions: Sequence[Any], payload: Mapping[str, Any]) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            arguments = await self.parameters.resolve(occasions, stack, self._in_thread)
            arguments.update(payload)
            made = self._function(**arguments)
            if self._is_async_generator:
                async with aclosing(made):
                    async for item in made:
                        yield item
                return
            items = ItemsInThread(made, self._in_thread)
            try:
                async for item in items:
                    yield item
            finally:
                if not await items.close():
                    self._close_after(items.ended, stack)

    async def _stream_through_middleware(
        self, occasions: Sequence[Any], payload: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """Middleware stands around the whole stream, so that it runs in a task of its own, which hands over items."""

        async def run(give: Callable[[Any], Awaitable[None]]) -> None:
            async def call() -> None:
                items: Any = self._stream(occasions, payload)
                async with aclosing(items):
                    async for item in items:
                        await give(item)

            await self._through_middleware(occasions[0], call)

        items: Any = Rendezvous(run).items()
        async with aclosing(items):
            async for item in items:
                yield item

    # Both

    async def _through_middleware(self, occasion: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        async def step(index: int) -> Any:
            if index == len(self._middleware):
                return await call()
            return await self._middleware[index](occasion, lambda: step(index + 1))

        return await step(0)

    def _close_after(self, ended: asyncio.Event, stack: AsyncExitStack) -> None:
        """Who waited has left, but a thread still uses what the dependencies gave: they are closed after it."""
        left = stack.pop_all()

        async def close() -> None:
            await ended.wait()
            try:
                await left.aclose()
            except Exception:
                _logger.exception("closing a dependency of %s failed", self._name)

        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
