"""The HTTP listener: uvicorn's protocol on a socket of ours, in the hub's event loop.

uvicorn's `Server` is not used: it takes the process's signals, ends the process when a port is taken and polls. What it
does besides (the Date header, the sets of connections and tasks) is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from polywire.core.access import Access
from polywire.core.errors import Unavailable
from polywire.server.asgi import AsgiApp
from polywire.server.connections import Connections
from polywire.server.guard import Guard
from polywire.server.http_protocol import HttpProtocol
from polywire.server.mounted_websocket import MountedWebSocketProtocol, websocket_config
from polywire.server.router import Router
from polywire.server.settings import HttpSettings, TlsSettings
from polywire.server.websocket_protocol import WebSocketProtocol

__all__ = ["HttpListener", "HttpState", "PortTaken"]

log = logging.getLogger("polywire.http")


_OTHER_FILES = 1_024
"""Open files of the process besides connections: log, outgoing connections, the libraries' own."""


class PortTaken(Unavailable):
    """The address cannot be listened on; ``wire``, ``host`` and ``port`` say which."""

    def __init__(self, wire: str, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"{wire} cannot listen on {host}:{port}: {reason}",
            hint=f"choose another with --{wire} PORT, or a free one with --free-ports, "
            f"or none with --no-{wire} or --only",
            extra={"wire": wire, "host": host, "port": port},
        )
        self.wire, self.host, self.port = wire, host, port


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
    """Life: construct → mount on ``router`` → `start` → serve → `drain` → `close`."""

    def __init__(self, settings: HttpSettings, access: Access, router: Router | None = None) -> None:
        self.settings = settings
        self.router = router or Router()
        self.connections = Connections(access, settings.max_connections_per_principal)
        self.guard = Guard(settings, access, self.router, self.router.has_own_credentials)
        self._access = access
        self.port = settings.port
        self.state = HttpState(settings, self.router, self.guard)
        self._servers: list[asyncio.Server] = []
        self._date_timer: asyncio.TimerHandle | None = None

    @property
    def app(self) -> Guard:
        """The ASGI application (HTTP only): guard and router."""
        return self.guard

    @property
    def url(self) -> str:
        """A dialable URL without a path: an unspecified address is shown as loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        scheme = "https" if self.settings.tls else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Sets ``port``. Raises `PortTaken` where the address is taken, unknown or not allowed."""
        loop = asyncio.get_running_loop()
        config = self._config()
        state = self.state
        if self.router.has_websocket_applications:
            app = AsgiApp(self.settings, self._access, self.router, self.connections, only_local=False)
            state.mounted = websocket_config(app, self.settings.websocket)

        def connection() -> HttpProtocol:
            return HttpProtocol(config, state, {}, loop)

        allow_descriptors(self.settings.max_connections)
        sockets = self._bind()
        context = _tls(self.settings.tls)
        for bound in sockets:
            self._servers.append(
                await loop.create_server(connection, sock=bound, ssl=context, backlog=self.settings.backlog)
            )
        self._show_date(loop)

    def end_mounted(self) -> None:
        """Tell WebSockets of mounted applications to go (1012): their applications are about to end."""
        for connection in list(self.state.connections):
            if isinstance(connection, MountedWebSocketProtocol):
                connection.shutdown()

    async def drain(self, seconds: float) -> None:
        """Accept no more, close idle connections, tell WebSockets to go (1001), let requests finish."""
        for server in self._servers:
            server.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        await self._emptied(seconds)

    async def close(self) -> None:
        """Cut what is left."""
        for server in self._servers:
            server.close()
        for task in list(self.state.tasks):
            task.cancel()
        for connection in list(self.state.connections):
            connection.transport.abort()
        await self._emptied(1.0)
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=1.0)
        if self._date_timer is not None:
            self._date_timer.cancel()
        self._servers.clear()

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

    def _bind(self) -> list[socket.socket]:
        """Every address the host name stands for, all on one port."""
        host, port = self.settings.host, self.settings.port
        sockets: list[socket.socket] = []
        try:
            for family, kind, proto, _, address in socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                bound = socket.socket(family, kind, proto)
                sockets.append(bound)
                _share_address(bound, family)
                bound.bind((address[0], sockets[0].getsockname()[1] if len(sockets) > 1 else port, *address[2:]))
        except OSError as error:
            for bound in sockets:
                bound.close()
            reason = "the port is taken" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
            raise PortTaken("http", host, port, reason) from error
        self.port = sockets[0].getsockname()[1]
        return sockets

    def _show_date(self, loop: asyncio.AbstractEventLoop) -> None:
        self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._date_timer = loop.call_later(1.0, self._show_date, loop)


def allow_descriptors(connections: int) -> None:
    """Raise the process's soft limit on open files, as far as the hard one, so that the connections fit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _share_address(bound: socket.socket, family: int) -> None:
    # A port in TIME_WAIT may be taken again at once. On Windows the option means something else: stealing it.
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _tls(settings: TlsSettings | None) -> ssl.SSLContext | None:
    if settings is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate, settings.key, settings.password)
    return context
