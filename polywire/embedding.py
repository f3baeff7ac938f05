"""A hub in somebody else's ASGI server: ``app.mount("/hub", hub.asgi())`` in FastAPI, Starlette and others.

Who starts the hub:

- ``FastAPI(lifespan=hub.lifespan)``, or ``async with hub.lifespan(app):`` in a lifespan of one's own: the hub runs from
  the server's start to its end. So its handlers run before anybody asks, and what is under way is finished.
- ``hub.asgi()`` as the server's own application: by the lifespan that the server runs.
- Else the first request does, as a mounted application is told of no lifespan; nobody stops it then but the end of the
  process, as a crash would.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from polywire.core.core import Core
from polywire.core.errors import PolywireError, Unavailable
from polywire.engines.sqlite import SqliteEngine
from polywire.server.asgi import AsgiApp
from polywire.server.connections import Connections
from polywire.server.refusals import refuse
from polywire.server.router import Receive, Router, Send
from polywire.server.settings import HttpSettings
from polywire.serving import ServeSettings, assemble, code_settings, configure, http_settings, serve_settings
from polywire.settings import Layers, Settings, load

if TYPE_CHECKING:
    from polywire.hub import Hub

__all__ = ["EmbeddedHub"]

log = logging.getLogger("polywire.asgi")

_TRY_AGAIN = 1.0
"""Seconds after a start that failed in which it is not tried again."""


class EmbeddedHub:
    """ASGI 3: what `Hub.asgi` returns. One for each hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = False
        self._http: dict[str, Any] = {}
        self._settings: Settings | None = None
        self._configured = False
        self._serving: _Serving | None = None
        self._opening: asyncio.Task[_Serving] | None = None
        self._failed = -math.inf  # when a start did, in the loop's time
        self._others_start = False

    def set(self, *, open: bool, **http: Any) -> EmbeddedHub:
        """Raises `ValueError` if it has other settings already, `TypeError` for one that is unknown."""
        HttpSettings().replace(**http)
        if (open or http) and (open, http) != (self._open, self._http):
            if self._open or self._http or self._settings is not None:
                raise ValueError("hub.asgi() was called with other settings before: a hub has one application")
            self._open, self._http = open, http
        return self

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise ValueError(f"neither HTTP nor a WebSocket: {scope['type']!r}")
        try:
            serving = await self._served()
        except PolywireError as error:
            await refuse(scope, receive, send, error)
            return
        await serving.app(scope, receive, send)

    # Life: by a lifespan

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start the hub as ``hub.run`` does, but without listeners; stop it at the end. Raises as `Hub.start`."""
        self._others_start = True
        await self._start()
        try:
            await self._serve()
            yield
        finally:
            await self._hub.stop()

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol, as the server's own application."""
        await receive()  # lifespan.startup
        what = "start"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
                what = "stop"
        except Exception as error:
            log.exception("the hub could not %s", what)
            failed = "lifespan.startup.failed" if what == "start" else "lifespan.shutdown.failed"
            await send({"type": failed, "message": f"the hub could not {what}: {error}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        """The settings come from where those of ``hub.run`` do; once, so that a test may change the folder."""
        hub, settings = self._hub, self._loaded()
        if not self._configured:
            configure(hub, settings)
            self._configured = True
        await hub.start(engine=SqliteEngine(hub.settings.data, settings=settings.sqlite))

    def _loaded(self) -> Settings:
        if self._settings is None:
            self._settings = load(Layers({}, os.environ, None), code_settings(self._hub, **self._http))
        return self._settings

    # Life: by the first request, or by whoever started the hub

    async def _served(self) -> _Serving:
        """What answers; all that ask before it does wait for one start. Raises `Unavailable`."""
        loop, serving = asyncio.get_running_loop(), self._serving
        if serving is not None and serving.core is self._running():
            if serving.loop is loop:
                return serving
            raise Unavailable("the hub runs in another event loop", hint="start it in this one: lifespan=hub.lifespan")
        if self._opening is None or self._opening.done():
            if loop.time() < self._failed + _TRY_AGAIN:
                raise _could_not_start()
            self._opening = loop.create_task(self._begin())
            self._opening.add_done_callback(_seen)
        # A client that leaves meanwhile does not take the start away from the others.
        return await asyncio.shield(self._opening)

    async def _begin(self) -> _Serving:
        ours = self._running() is None
        if ours and self._others_start:
            raise Unavailable(f"hub {self._hub.name!r} is not running", retry_after=_TRY_AGAIN)
        self._others_start = not ours
        try:
            if ours:
                await self._start()
            return await self._serve()
        except Exception as error:
            log.exception("the hub could not start")
            self._failed = asyncio.get_running_loop().time()
            if ours:
                await self._hub.stop()
            raise _could_not_start() from error

    def _running(self) -> Core | None:
        try:
            return self._hub.core
        except Unavailable:
            return None

    async def _serve(self) -> _Serving:
        serving = _Serving(self._hub, serve_settings(self._loaded()), only_local=not self._open)
        await serving.start()
        self._serving = serving
        return serving


class _Serving:
    """One run of the hub: `app` answers. Life: construct → `start` → serve; it ends with the hub."""

    def __init__(self, hub: Hub, settings: ServeSettings, *, only_local: bool) -> None:
        http = http_settings(hub, settings)
        router = Router()
        connections = Connections(hub.core.access, http.max_connections_per_principal)
        self._hub = hub
        self._applications = assemble(hub, settings, http, router, connections)
        self.core = hub.core
        self.loop = asyncio.get_running_loop()
        self.app = AsgiApp(http, hub.core.access, router, connections, only_local=only_local)

    async def start(self) -> None:
        """Raises `RuntimeError` if a mounted application cannot start."""
        self._hub.on_stop(self._stop)
        await self._applications.start()

    async def _stop(self) -> None:
        self.app.shutdown()
        await self._applications.stop()


def _could_not_start() -> Unavailable:
    return Unavailable("the hub could not start", hint="its log says why", retry_after=_TRY_AGAIN)


def _seen(opening: asyncio.Task[_Serving]) -> None:
    """What it failed with is logged; those who waited for it may all have left."""
    if not opening.cancelled():
        opening.exception()
