"""MQTT over WebSocket (MQTT 5 §6): a WebSocket that looks to the wire's protocol as a TCP connection does.

peer ──binary frames──▶ received ──bytes──▶ data_received
peer ◀──binary frames── write ◀──bytes── the protocol's transport

Frames carry bytes, not packets: a packet may span frames, and a frame may hold many packets [MQTT-6.0.0-2].
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from polywire.core.access import Principal
from polywire.core.errors import Invalid
from polywire.server.frames import BINARY, encode
from polywire.server.router import Router
from polywire.server.websocket import Frames, WebSocket, WebSocketRequest
from polywire.wires.mqtt.settings import MqttSettings

__all__ = ["PATH", "OverWebSocket", "StreamProtocol"]

PATH: Final = "/mqtt"
SUBPROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""[MQTT-6.0.0-3]; the second is that of clients from before there was a rule."""

_NORMAL: Final = 1000
_UNSUPPORTED_DATA: Final = 1003
_POLICY: Final = 1008


class StreamProtocol(Protocol):
    """What talks over a connection: asyncio's verbs."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class OverWebSocket:
    """``protocol`` makes what talks over a connection, for the principal that asked for the WebSocket."""

    def __init__(self, settings: MqttSettings, protocol: Callable[[Principal], StreamProtocol]) -> None:
        self._settings = settings
        self._protocol = protocol

    def mount(self, router: Router) -> None:
        router.mount_websocket_exact(PATH, self.open)

    def open(self, request: WebSocketRequest, socket: WebSocket) -> WebSocketStream:
        """Raises `Invalid` for a client that offers no subprotocol of MQTT."""
        chosen = next((name for name in request.subprotocols if name in SUBPROTOCOLS), None)
        if chosen is None:
            raise Invalid("this path speaks MQTT", hint="offer the subprotocol mqtt; topics as WebSockets are on /ws")
        socket.subprotocol = chosen  # [MQTT-6.0.0-4]
        # A frame may be as long as its sender likes; one that holds the largest packet is, and some may come together.
        socket.limit(self._settings.max_packet_size + self._settings.held_size)
        return WebSocketStream(socket, self._protocol(request.principal), request.client)


class WebSocketStream(asyncio.Transport):
    """One connection: the handler of its WebSocket, and the transport of its protocol."""

    def __init__(self, socket: WebSocket, protocol: StreamProtocol, client: str) -> None:
        host, _, port = client.rpartition(":")
        super().__init__({"peername": (host, int(port)) if port.isdigit() else None})
        self._socket = socket
        self._talker = protocol
        self._closing = False
        self._full = False
        self._paused = False

    # handler of the WebSocket -------------------------------------------------------------------

    def opened(self) -> None:
        self._talker.connection_made(self)

    def received(self, messages: Frames) -> None:
        """Only binary frames [MQTT-6.0.0-1]; what came before another still counts."""
        payloads = []
        for is_text, payload in messages:
            if is_text:
                break
            payloads.append(payload)
        if payloads:
            self._talker.data_received(payloads[0] if len(payloads) == 1 else b"".join(payloads))
        if len(payloads) < len(messages):
            self._end(_UNSUPPORTED_DATA, "MQTT comes in binary frames")

    def writable(self) -> None:
        if self._full:
            self._full = False
            self._talker.resume_writing()

    def closed(self) -> None:
        """Not at once: the protocol may be in the middle of closing."""
        self._closing = True
        asyncio.get_running_loop().call_soon(self._talker.connection_lost, None)

    # transport of the protocol ------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self._closing and not self._socket.send(encode(BINARY, data)) and not self._full:
            self._full = True
            self._talker.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._socket.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Those are of the listener's WebSockets: ``websocket.out_buffer``."""

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True
        self._socket.hold()

    def resume_reading(self) -> None:
        self._paused = False
        self._socket.release()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(_NORMAL)

    def abort(self) -> None:
        """As far as a WebSocket can be: a peer that does not answer is cut in ``websocket.close_timeout``."""
        self._end(_POLICY)

    def _end(self, code: int, reason: str = "") -> None:
        if not self._closing:
            self._closing = True
            self._socket.close(code, reason)
