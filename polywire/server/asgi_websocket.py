"""A WebSocket of somebody else's ASGI server, for the hub's own WebSocket routes.

server ──websocket.receive──▶ `serve` ──messages──▶ handler
server ◀──websocket.send── `_Writer` ◀──frames── handler

A route writes encoded frames, one for all its peers; here they are taken apart again, as ASGI carries messages. The
server compresses, answers pings, and tells a dead peer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from polywire.core.errors import Internal, PolywireError
from polywire.server.frames import BINARY, TEXT, frame_size
from polywire.server.paths import route_path
from polywire.server.refusals import refuse
from polywire.server.router import Receive, Send
from polywire.server.settings import WebSocketSettings
from polywire.server.websocket import WebSocketHandler, WebSocketRequest, WebSocketRoute
from polywire.server.websocket_protocol import close_reason

__all__ = ["AsgiWebSocket", "messages_of", "read_request"]

log = logging.getLogger("polywire.websocket")

_LOW_WATER: Final = 4
"""A writer that was told to wait goes on when this part of the buffer is left, as with asyncio's transports."""


def read_request(scope: Any) -> WebSocketRequest:
    """The handshake in an ASGI scope that the guard has let in."""
    client = scope.get("client")
    return WebSocketRequest(
        path=route_path(scope),
        query=scope.get("query_string", b""),
        headers=scope["headers"],
        subprotocols=list(scope.get("subprotocols") or ()),
        principal=scope["principal"],
        client="{}:{}".format(*client) if client else "",
    )


def messages_of(frames: bytes) -> Iterator[dict[str, Any]]:
    """ASGI's messages for whole, unmasked, uncompressed data frames (RFC 6455 §5.2), as `frames.encode` makes them."""
    at = 0
    while at < len(frames):
        head, size = frame_size(frames, at)
        payload = frames[at + head : at + head + size]
        opcode = frames[at] & 0x0F
        if opcode == TEXT:
            yield {"type": "websocket.send", "text": payload.decode()}
        elif opcode == BINARY:
            yield {"type": "websocket.send", "bytes": payload}
        at += head + size


class AsgiWebSocket:
    """One connection: the `WebSocket` of its handler. Life: construct → `serve`."""

    deflates = False

    def __init__(self, settings: WebSocketSettings, receive: Receive, send: Send) -> None:
        self.subprotocol: str | None = None
        self._settings = settings
        self._max_size = settings.max_message_size
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._handler: WebSocketHandler | None = None
        self._opened = False
        self._closing: tuple[int, str] | None = None
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._sent = 0  # messages: a peer that takes none is slow
        self._full = False
        self._wake = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._slow_timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._our_end: asyncio.Future[None] = self._loop.create_future()

    async def serve(self, route: WebSocketRoute, scope: Any) -> None:
        """From the handshake to the end."""
        try:
            self._handler = route(read_request(scope), self)
        except PolywireError as error:
            await refuse(scope, self._receive, self._send, error)
            return
        except Exception:
            log.exception("a WebSocket route failed on %r", scope["path"][:200])
            await refuse(scope, self._receive, self._send, Internal("the handshake failed"))
            return
        try:
            await self._converse()
        finally:
            self._forget_handler()
            self._cancel_slow_timer()

    async def _converse(self) -> None:
        if (await self._receive())["type"] != "websocket.connect":
            return
        await self._send({"type": "websocket.accept", "subprotocol": self.subprotocol})
        self._opened = True
        if self._handler is not None:
            self._call(self._handler.opened)
        if self._closing is not None and not self._our_end.done():  # it was closed while it was opened
            self._our_end.set_result(None)
        self._writer = asyncio.ensure_future(self._write())
        tasks = (asyncio.ensure_future(self._read()), self._writer)
        try:
            await asyncio.wait((*tasks, self._our_end), return_when=asyncio.FIRST_COMPLETED)
            if self._closing is not None:
                await self._say_goodbye(self._writer, *self._closing)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                # A server raises on a send to a peer that has gone; which exception is its own affair.
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.debug("a WebSocket ended: %r", error)

    async def _say_goodbye(self, writer: asyncio.Task[None], code: int, reason: str) -> None:
        """The rest of what is written, then the close, as far as the peer takes them in time."""
        try:
            async with asyncio.timeout(self._settings.close_timeout / 1000):
                await asyncio.wait((writer,))
                await self._send({"type": "websocket.close", "code": code, "reason": close_reason(reason)})
        except Exception as error:  # noqa: BLE001 - as above: the peer has gone, or does not read
            log.debug("a WebSocket could not be closed in its turn: %r", error)

    # reading ------------------------------------------------------------------------------------

    def limit(self, size: int) -> None:
        """Take messages of up to ``size`` bytes, as far as the server does."""
        self._max_size = size

    async def _read(self) -> None:
        """Until the peer leaves or we do."""
        while self._closing is None:
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return
            text: str | None = event.get("text")
            payload: bytes = (event.get("bytes") or b"") if text is None else text.encode()
            await self._released.wait()
            if self._closing is not None:
                return
            if len(payload) > self._max_size:
                self.close(1009, f"a message has at most {self._max_size} bytes")
                return
            if self._handler is not None:
                self._call(self._handler.received, [(text is not None, payload)])

    def hold(self) -> None:
        """The server's own buffer fills, and then its peer's."""
        if self._closing is None:
            self._released.clear()

    def release(self) -> None:
        self._released.set()

    # writing ------------------------------------------------------------------------------------

    def send(self, frames: bytes) -> bool:
        """Take encoded frames. False: wait for the handler's ``writable``."""
        if self._closing is None:
            self._waiting.append(frames)
            self._size += len(frames)
            self._wake.set()
            if self._size >= self._settings.out_buffer:
                self._full = True
                self._watch()
        if not self._opened:
            self._full = True  # so that it is told when it may go on
        return not self._full

    @property
    def unsent(self) -> int:
        return self._size

    async def _write(self) -> None:
        while True:
            while self._waiting:
                frames = self._waiting.popleft()
                for message in messages_of(frames):
                    await self._send(message)
                    self._sent += 1
                self._size -= len(frames)
                self._mind_writable()
            if self._closing is not None:
                return
            await self._wake.wait()
            self._wake.clear()

    def _mind_writable(self) -> None:
        if self._full and self._size <= self._settings.out_buffer // _LOW_WATER:
            self._full = False
            self._cancel_slow_timer()
            if self._handler is not None:
                self._call(self._handler.writable)

    def _watch(self) -> None:
        if self._slow_timer is None:
            seconds = self._settings.slow_timeout / 1000
            self._slow_timer = self._loop.call_later(seconds, self._check_slow, self._sent)

    def _check_slow(self, sent_before: int) -> None:
        self._slow_timer = None
        if not self._full or self._closing is not None:
            return
        if self._sent > sent_before:
            self._watch()
            return
        self._waiting.clear()
        self._size = 0
        self.close(1013, f"too slow: nothing was read for {self._settings.slow_timeout / 1000:g} s")
        if self._writer is not None:
            self._writer.cancel()

    def _cancel_slow_timer(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None

    # the end ------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Send what is written, then the close; the handler hears of its end at once."""
        if self._closing is not None:
            return
        self._closing = code, reason
        self._wake.set()
        self._released.set()
        if self._opened:
            self._our_end.set_result(None)
            self._forget_handler()

    def _forget_handler(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            self._call(handler.closed)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            log.exception("a WebSocket handler failed")
            self.close(1011, "internal error")
