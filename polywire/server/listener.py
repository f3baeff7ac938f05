"""The HTTP listener: uvicorn's protocol on a socket of ours, in the hub's event loop.

uvicorn's `Server` is not used: it takes the process's signals, ends the process when a port is taken and polls. What it
does besides (the Date header, the sets of connections and tasks) is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from polywire.core.access import Access
from polywire.server.asgi import AsgiApp
from polywire.server.connections import Connections
from polywire.server.guard import Guard
from polywire.server.http_protocol import REFUSED_AT_ONCE, HttpProtocol
from polywire.server.mounted_websocket import MountedWebSocketProtocol, websocket_config
from polywire.server.router import Router
from polywire.server.settings import HttpSettings
from polywire.server.sockets import allow_descriptors, bind, dialable_url
from polywire.server.tls import TlsServer, server_context
from polywire.server.websocket_protocol import WebSocketProtocol

__all__ = ["HttpListener", "HttpState"]

log = logging.getLogger("polywire.http")


class HttpState(ServerState):
    """What all connections of a listener share."""

    def __init__(self, settings: HttpSettings, router: Router, guard: Guard) -> None:
        super().__init__()
        self.settings = settings
        self.router = router
        self.guard = guard
        self.connections_refused = 0
        self.slow_closed = 0
        self.mounted: Config | None = None
        """For WebSockets of mounted applications, if there are any."""
        self.empty = asyncio.Event()
        self.empty.set()

    def gone(self, connection: Any) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()


class HttpListener:
    """Life: construct → mount on ``router`` → `bind` → `start` → serve → `drain` → `close`."""

    def __init__(self, settings: HttpSettings, access: Access, router: Router | None = None) -> None:
        self.settings = settings
        self.router = router or Router()
        self.connections = Connections(access, settings.max_connections_per_principal)
        self.guard = Guard(settings, access, self.router, self.router.has_own_credentials)
        self._access = access
        self.port = settings.port
        self.state = HttpState(settings, self.router, self.guard)
        self._tls: TlsServer | None = None
        self._context: ssl.SSLContext | None = None
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._date_timer: asyncio.TimerHandle | None = None

    @property
    def app(self) -> Guard:
        """The ASGI application (HTTP only): guard and router."""
        return self.guard

    @property
    def url(self) -> str:
        return dialable_url("https" if self.settings.tls else "http", self.settings.host, self.port)

    def bind(self) -> None:
        """Take the address and read the certificate; nothing is accepted yet. Sets ``port``.

        Raises `PortTaken` where the address is taken, unknown or not allowed, `Invalid` for a certificate.
        """
        if self.settings.tls is not None:
            self._context = server_context(self.settings.tls)
        self._sockets = bind("http", self.settings.host, self.settings.port)
        self.port = self._sockets[0].getsockname()[1]

    async def start(self) -> None:
        """Listen. Raises what `bind` raises, unless that was done."""
        if not self._sockets:
            self.bind()
        loop = asyncio.get_running_loop()
        if self.router.has_websocket_applications:
            app = AsgiApp(self.settings, self._access, self.router, self.connections, only_local=False)
            self.state.mounted = websocket_config(app, self.settings.websocket)
        allow_descriptors(self.settings.max_connections)
        connection = self._connection(loop)
        self._tls = self._tls_server(connection)
        while self._sockets:
            bound = self._sockets.pop()
            if self._tls is not None:
                self._tls.listen(bound, self.settings.backlog)
            else:
                self._servers.append(await loop.create_server(connection, sock=bound, backlog=self.settings.backlog))
        self._show_date(loop)

    def _connection(self, loop: asyncio.AbstractEventLoop) -> Callable[[], HttpProtocol]:
        config, state = self._config(), self.state

        def connection() -> HttpProtocol:
            return HttpProtocol(config, state, {}, loop)

        return connection

    def _tls_server(self, connection: Callable[[], HttpProtocol]) -> TlsServer | None:
        if self._context is None:
            return None
        most, connections = self.settings.max_connections + REFUSED_AT_ONCE, self.state.connections
        seconds = self.settings.head_timeout / 1000
        return TlsServer(self._context, connection, room=lambda: most - len(connections), seconds=seconds)

    def end_mounted(self) -> None:
        """Tell WebSockets of mounted applications to go (1012): their applications are about to end."""
        for connection in list(self.state.connections):
            if isinstance(connection, MountedWebSocketProtocol):
                connection.shutdown()

    async def drain(self, seconds: float) -> None:
        """Accept no more, close idle connections, tell WebSockets to go (1001), let requests finish."""
        await self._accept_no_more()
        for connection in list(self.state.connections):
            connection.shutdown()
        await self._emptied(seconds)

    async def close(self) -> None:
        """Cut what is left."""
        await self._accept_no_more()
        for task in list(self.state.tasks):
            task.cancel()
        for connection in list(self.state.connections):
            connection.transport.abort()
        await self._emptied(1.0)
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=1.0)
        if self._date_timer is not None:
            self._date_timer.cancel()

    async def _accept_no_more(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        while self._sockets:  # bound and no more
            self._sockets.pop().close()
        if self._tls is not None:
            await self._tls.close()

    async def _emptied(self, seconds: float) -> None:
        if self.state.connections:
            self.state.empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.state.empty.wait(), seconds)

    def _config(self) -> Config:
        config = Config(
            self.guard,
            loop="none",
            http=HttpProtocol,
            ws=WebSocketProtocol,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.timeout_keep_alive = self.settings.idle_timeout / 1000  # type: ignore[assignment]  # seconds, also parts of them
        config.load()
        return config

    def _show_date(self, loop: asyncio.AbstractEventLoop) -> None:
        self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._date_timer = loop.call_later(1.0, self._show_date, loop)
