"""The lifespan of a mounted ASGI application: started before it is asked anything, ended when the hub stops.

ASGI's lifespan protocol (specification "Lifespan Protocol", 2.0). It runs in a task of its own: what an application
enters at its start it leaves in the same task.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from polywire.server.router import App

__all__ = ["Lifespan"]

log = logging.getLogger("polywire.mounted")


class Lifespan:
    """Life: construct → `start` → `stop`."""

    def __init__(self, app: App, name: str) -> None:
        self.state: dict[str, Any] = {}
        """What the application put there at its start: each request gets a copy, as ``scope["state"]``."""
        self._app = app
        self._name = name
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[str | None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `RuntimeError` if the application says that it cannot start. One without a lifespan has started."""
        loop = asyncio.get_running_loop()
        self._started, self._ended = loop.create_future(), loop.create_future()
        self._task = asyncio.ensure_future(self._run())
        self._events.put_nowait({"type": "lifespan.startup"})
        try:
            failure = await self._started
        except BaseException:
            self._task.cancel()
            raise
        if failure is not None:
            self._task.cancel()
            log.error("%s did not start: %s", self._name, failure)
            lines = failure.strip().splitlines() or ["it gave no reason"]
            raise RuntimeError(f"{self._name} did not start: {lines[-1]}")

    async def stop(self) -> None:
        """Let the application end. What it fails with is logged."""
        if self._task is None or self._ended is None or self._task.done():
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        try:
            await asyncio.wait((self._ended, self._task), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except Exception as error:
            if self._started is not None and not self._started.done():
                # As servers have it: an application that knows nothing of lifespans raises on their scope.
                log.debug("%s has no lifespan: %r", self._name, error)
            elif self._ended is not None and not self._ended.done() and self._started_well():
                log.exception("the lifespan of %s failed", self._name)
        finally:
            _settle(self._started, None)
            _settle(self._ended, None)

    def _started_well(self) -> bool:
        return self._started is not None and not self._started.cancelled() and self._started.result() is None

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            _settle(self._started, None)
        elif kind == "lifespan.startup.failed":
            _settle(self._started, str(message.get("message", "")))
        elif kind == "lifespan.shutdown.failed":
            log.error("%s did not end well: %s", self._name, message.get("message", ""))
            _settle(self._ended, None)
        elif kind == "lifespan.shutdown.complete":
            _settle(self._ended, None)


def _settle(future: asyncio.Future[Any] | None, result: str | None) -> None:
    if future is not None and not future.done():
        future.set_result(result)
