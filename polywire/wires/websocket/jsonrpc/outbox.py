"""What goes to one peer: answers in their order, notifications between them, one write for each turn of the loop.

While the peer does not read, nothing is written: answers wait here, readers stand still and are resumed, the one that
has waited longest first, and streamed calls wait for `room`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from polywire.core.message import Batch
from polywire.server.frames import TEXT, encode, encode_deflated
from polywire.server.websocket import WebSocket
from polywire.wires.websocket.jsonrpc.readers import Reader
from polywire.wires.websocket.jsonrpc.session import Session

if TYPE_CHECKING:
    from polywire.wires.websocket.jsonrpc.server import JsonRpc

__all__ = ["Outbox"]


class Outbox:
    """The outlet of a connection's readers. ``forget`` is told the number of a subscription that has ended."""

    def __init__(self, wire: JsonRpc, socket: WebSocket, session: Session, forget: Callable[[int], None]) -> None:
        self.forget = forget
        self.notification_size = wire.settings.notification_size
        self._counters = wire.counters
        self._texts = wire.texts
        self._encodings = wire.encodings
        self._most = wire.websocket.out_buffer
        self._held_size = wire.settings.held_size
        self._deflate_from = wire.websocket.compress_from if socket.deflates and wire.websocket.compression else None
        self._socket = socket
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._size = 0
        self._flushing = False  # a flush is coming
        self._full = False  # the socket's buffer is
        self._closed = False
        self._starved: dict[Reader, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    # for whoever has something to send ----------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return not self._full and self._size < self._most

    @property
    def is_stuck(self) -> bool:
        """Whether so many answers wait for the peer that no more may be asked for."""
        return self._full and self._size > self._held_size

    def starve(self, reader: Reader) -> None:
        self._starved[reader] = None

    def drop(self, reader: Reader) -> None:
        """It waits no more."""
        self._starved.pop(reader, None)

    async def room(self) -> None:
        """Return once more may be sent."""
        while not self.has_room:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def notify(self, text: bytes, messages: int = 0) -> None:
        self._counters.delivered += messages
        self._put(self._frame(text))

    def notify_of(self, batch: Batch, indexes: Sequence[int], number: int) -> None:
        """The notification of a whole batch is the same for all subscriptions with that number, and made once."""
        self._counters.delivered += len(indexes)
        if len(indexes) < len(batch):
            self._put(self._frame(self._texts.some(batch, indexes, number)))
            return
        name = ("jsonrpc", number, self._deflate_from is None)
        frame: bytes | None = batch.encoded.get(name)
        if frame is None:
            frame = self._frame(self._texts.some(batch, indexes, number))
            self._encodings.keep(batch, name, frame, len(frame))
        self._put(frame)

    def flush_soon(self) -> None:
        """The session has answers."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    # writing ------------------------------------------------------------------------------------

    def _frame(self, text: bytes) -> bytes:
        if self._deflate_from is not None and len(text) >= self._deflate_from:
            return encode_deflated(TEXT, text)
        return encode(TEXT, text)

    def _put(self, frame: bytes) -> None:
        if self._closed:
            return
        self._take_answers()  # what was answered before goes before
        self._frames.append(frame)
        self._size += len(frame)
        self.flush_soon()

    def _take_answers(self) -> None:
        if not self._session.has_output:
            return
        for text in self._session.take():
            frame = self._frame(text)
            self._frames.append(frame)
            self._size += len(frame)

    def flush(self) -> None:
        self._flushing = False
        if self._closed:
            return
        self._take_answers()
        if self._full:
            if self.is_stuck:
                self._socket.hold()
            return
        if self._frames:
            data = b"".join(self._frames)
            self._frames.clear()
            self._size = 0
            self._full = not self._socket.send(data)
        self._feed()

    def _feed(self) -> None:
        while self._starved and self.has_room:
            reader = next(iter(self._starved))
            del self._starved[reader]
            reader.resume()
        if self._waiting and self.has_room:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def writable(self) -> None:
        """The peer has caught up."""
        self._full = False
        self.flush()

    def close(self) -> None:
        self._closed = True
        self._frames.clear()
        self._starved.clear()
        for waiter in self._waiting:
            waiter.cancel()
