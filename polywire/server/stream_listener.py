"""A listener for protocols that have a connection's bytes for themselves, on TCP or TLS: MQTT and others.

The wire brings the protocol that talks over a connection, and ends its connections itself; what all such wires share is
here: the address, TLS, and that there is an end to how many come in.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple, cast

from polywire.server.settings import TlsSettings
from polywire.server.sockets import bind, dialable_url
from polywire.server.tls import TlsServer, server_context

__all__ = ["Endpoint", "StreamListener"]


class Endpoint(NamedTuple):
    """Where a listener listens. ``name`` is that of flags and the ready line, and the scheme of its URL."""

    name: str
    host: str
    port: int
    backlog: int
    tls: TlsSettings | None = None
    handshake_timeout: float = 10.0
    """Seconds, for TLS."""


class StreamListener:
    """Life: construct → `bind` → `start` → serve → `close`.

    ``protocol`` makes what talks over a connection. ``room`` is asked how many more connections there may be; one that
    there is no room for is accepted, closed at once, and counted in `refused`.
    """

    def __init__(
        self, endpoint: Endpoint, protocol: Callable[[], asyncio.BaseProtocol], room: Callable[[], int]
    ) -> None:
        self.endpoint = endpoint
        self.port = endpoint.port
        self._protocol = protocol
        self._room = room
        self._no_room = 0
        self._context: ssl.SSLContext | None = None
        self._tls: TlsServer | None = None
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    @property
    def url(self) -> str:
        return dialable_url(self.endpoint.name, self.endpoint.host, self.port)

    @property
    def refused(self) -> int:
        """Connections there was no room for."""
        return self._no_room + (self._tls.refused if self._tls is not None else 0)

    @property
    def handshakes(self) -> int:
        """TLS handshakes that are under way."""
        return self._tls.handshakes if self._tls is not None else 0

    def bind(self) -> None:
        """Take the address and read the certificate; nothing is accepted yet. Sets ``port``.

        Raises `PortTaken` where the address is taken, unknown or not allowed, `Invalid` for a certificate.
        """
        endpoint = self.endpoint
        if endpoint.tls is not None:
            self._context = server_context(endpoint.tls)
        self._sockets = bind(endpoint.name, endpoint.host, endpoint.port)
        self.port = self._sockets[0].getsockname()[1]

    async def start(self) -> None:
        """Listen. Raises what `bind` raises, unless that was done."""
        if not self._sockets:
            self.bind()
        endpoint, loop = self.endpoint, asyncio.get_running_loop()
        if self._context is not None:
            self._tls = TlsServer(self._context, self._accepted, room=self._room, seconds=endpoint.handshake_timeout)
        while self._sockets:
            bound = self._sockets.pop()
            if self._tls is not None:
                self._tls.listen(bound, endpoint.backlog)
            else:
                self._servers.append(await loop.create_server(self._accepted, sock=bound, backlog=endpoint.backlog))

    async def close(self) -> None:
        """Accept no more. What is open is the wire's to end."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        while self._sockets:  # bound and no more
            self._sockets.pop().close()
        if self._tls is not None:
            await self._tls.close()

    def _accepted(self) -> asyncio.Protocol:
        return _Accepted(self._welcome)

    def _welcome(self, transport: asyncio.Transport) -> None:
        if self._room() <= 0:
            self._no_room += 1
            transport.abort()
            return
        protocol = self._protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Accepted(asyncio.Protocol):
    """Until it is known whether there is room: asyncio accepts many connections before the first is made."""

    def __init__(self, welcome: Callable[[asyncio.Transport], None]) -> None:
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._welcome(cast("asyncio.Transport", transport))
