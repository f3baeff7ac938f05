"""WebSockets of the hub's listener for mounted ASGI applications: uvicorn's protocol, with the listener's bounds."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.server import ServerProtocol

from polywire.server.handshake import DEFLATE, request_head
from polywire.server.settings import WebSocketSettings

if TYPE_CHECKING:
    from polywire.server.listener import HttpState

__all__ = ["MountedWebSocketProtocol", "websocket_config"]

_logger = logging.getLogger("polywire.mounted")
_logger.setLevel(logging.WARNING)  # below it each URL is told with its query, where browsers must put their keys


def websocket_config(app: Any, settings: WebSocketSettings) -> Config:
    """``app`` is what admits a handshake and finds the application for it."""
    config = Config(
        app,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        ws_max_size=settings.max_message_size,
        ws_ping_interval=settings.ping_interval / 1000,
        ws_ping_timeout=settings.ping_timeout / 1000,
        ws_per_message_deflate=settings.compression,
    )
    config.load()
    return config


class MountedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from its handshake on."""

    def __init__(self, config: Config, state: HttpState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self.logger = _logger
        self.conn = ServerProtocol(
            extensions=[DEFLATE] if config.ws_per_message_deflate else [], max_size=config.ws_max_size, logger=_logger
        )
        self._state = state
        self._patience = state.settings.websocket.close_timeout / 1000
        self._late_pong = b""

    def begin(self, transport: asyncio.Transport, scope: Any, url: bytes, early: bytes) -> None:
        """Take over ``transport`` after the request head in ``scope`` and ``url``; ``early`` came behind the head."""
        self.connection_made(transport)
        self.data_received(request_head(scope, url) + early)

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:  # the peer does not read: of the pongs it would get, only the last is kept (RFC 6455 §5.5.3)
            self._late_pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self._late_pong = self._late_pong, b""
        if pong:
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        if event.data or event.fin:  # of an empty one nothing would be kept but its place, however many there are
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        # A peer that reads nothing would keep what is written to it, and so the connection, for ever.
        self.loop.call_later(self._patience, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._state.gone(self)
