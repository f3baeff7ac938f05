"""The WebSocket protocol of the HTTP listener: asyncio outside, websockets' sans-I/O protocol inside.

Why our own: a frame that goes to a thousand peers is encoded once and the same bytes are written to every transport,
and what one read brings is handed on as one list. The rules:

- This class finds where frames end. Whole, unfragmented, uncompressed data frames, nearly all there are, it takes
  apart itself; any other frame goes, complete and alone, to `websockets.server.ServerProtocol`, which answers pings and
  closes, undoes extensions and fails the connection on what the RFC forbids. So that protocol is always between frames.
- A frame whose head announces more than the limit is failed by its head; its payload is never kept.
- ``_unread`` holds at most one incomplete frame, or while the handler holds, what was not handed over yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from polywire.core.errors import Internal, PolywireError
from polywire.server.frames import frame_size, is_utf8
from polywire.server.handshake import DEFLATE, accept, deflates, read_request, refusal
from polywire.server.websocket import WebSocketHandler

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel for this platform
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from polywire.server.listener import HttpState

__all__ = ["MAX_REASON", "WebSocketProtocol", "close_reason"]

log = logging.getLogger("polywire.websocket")

MAX_REASON: Final = 123
"""Bytes: a control frame carries 125, two of them are the code (RFC 6455 §5.5)."""

_BUDGET: Final = 256
"""Frames read in one turn of the loop; a frame that websockets reads costs as much as `_RARE_COST` others."""
_RARE_COST: Final = 16
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_NOT_TEXT: Final = "a text message is not valid UTF-8"
_NO_MASK: Final = b"\0\0\0\0"
_SILENT = logging.getLogger("polywire.websocket.frames")
_SILENT.setLevel(logging.CRITICAL)  # a peer's mistakes are told to the peer, not written to our log


def close_reason(text: str) -> str:
    """``text`` cut to what a close frame can carry."""
    return text.encode()[:MAX_REASON].decode("utf-8", "ignore")


class WebSocketProtocol(asyncio.Protocol):
    """One connection, from its handshake on. Life: `begin` → opened → received* → closed."""

    __slots__ = (
        "_alive_timer",
        "_before_open",
        "_close_first",
        "_close_timer",
        "_closing",
        "_conn",
        "_ended",
        "_fragments",
        "_fragments_text",
        "_handler",
        "_heard",
        "_held",
        "_late_pong",
        "_loop",
        "_max_frame",
        "_max_size",
        "_need",
        "_reading",
        "_seen",
        "_settings",
        "_slow_timer",
        "_state",
        "_stuck_at",
        "_turn",
        "_unread",
        "_waits",
        "deflates",
        "subprotocol",
        "transport",
    )

    def __init__(
        self,
        config: Config,  # noqa: ARG002  uvicorn's signature
        server_state: ServerState,
        app_state: dict[str, Any] | None = None,  # noqa: ARG002  uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._state = cast("HttpState", server_state)
        self._settings = self._state.settings.websocket
        self._loop = _loop or asyncio.get_running_loop()
        self._conn = ServerProtocol(extensions=[DEFLATE] if self._settings.compression else [], logger=_SILENT)
        self.limit(self._settings.max_message_size)
        self._handler: WebSocketHandler | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.deflates = False
        self.subprotocol: str | None = None
        self._unread = bytearray()
        self._need = 0  # bytes of `_unread` before it is worth looking again
        self._fragments: bytearray | None = None
        self._fragments_text = False
        self._held = False
        self._seen = 0  # while held: bytes of `_unread` already looked through for pings
        self._reading = True
        self._turn: asyncio.Handle | None = None
        self._waits = False  # the transport's buffer is full
        self._stuck_at = 0
        self._late_pong = b""
        self._before_open: list[bytes] | None = []
        self._close_first: tuple[int, str] | None = None
        self._closing = False  # a close was sent, or the handshake was refused
        self._ended = False  # nothing more is read
        self._heard = True
        self._alive_timer: asyncio.TimerHandle | None = None
        self._slow_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None

    # handshake ----------------------------------------------------------------------------------

    def begin(self, transport: asyncio.Transport, scope: Any, url: bytes, early: bytes) -> None:
        """Take over ``transport`` after the request head in ``scope`` and ``url``; ``early`` came behind the head."""
        self.transport = transport
        self._state.connections.add(cast("Any", self))
        response = accept(self._conn, scope, url)
        if isinstance(response, bytes):
            self._refuse(response)
            return
        self.deflates = deflates(self._conn)
        try:
            request = read_request(scope, url, self._state.guard)
            self._handler = self._state.router.websocket(request.path)(request, self)
        except PolywireError as error:
            self._refuse(refusal(error))
            return
        except Exception:
            log.exception("a WebSocket route failed on %r", url.partition(b"?")[0][:200])  # the query may hold a key
            self._refuse(refusal(Internal("the handshake failed")))
            return
        if self.subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = self.subprotocol
        self._conn.send_response(response)
        self._flush()
        transport.set_write_buffer_limits(high=self._settings.out_buffer)
        self._alive_timer = self._loop.call_later(self._settings.ping_interval / 1000, self._ping)
        self._opened()
        if early:
            self.data_received(early)

    def _opened(self) -> None:
        """Do what was asked for while the route was being opened; it could not stand before the response."""
        waiting, self._before_open = self._before_open or (), None
        for frames in waiting:
            self.transport.write(frames)
        if self._handler is not None:
            self._call(self._handler.opened)
        if self._close_first is not None:
            self.close(*self._close_first)
        elif waiting and not self._waits and self._handler is not None:
            self._call(self._handler.writable)

    def _refuse(self, response: bytes) -> None:
        self._closing = self._ended = True
        self._handler = None
        self.transport.write(response)
        self.transport.close()

    # reading ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        unread = self._unread
        if self._held or self._turn is not None:
            unread += data
            self._bound_unread()
            return
        if unread:
            unread += data
            if len(unread) < self._need:
                return
            data = bytes(unread)
            unread.clear()
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Take frames off ``data``, hand their messages over in one list, keep the rest."""
        messages: list[tuple[bool, bytes]] = []
        at, end, budget = 0, len(data), _BUDGET
        while end - at > 1 and budget > 0 and not self._ended:
            first, second = data[at], data[at + 1]
            if (first == 0x81 or first == 0x82) and 0x7F < second < 0xFF and self._fragments is None:  # noqa: PLR1714
                size, head = second & 0x7F, at + 6
                if size == 126:
                    if end < at + 8:
                        break
                    size, head = data[at + 2] << 8 | data[at + 3], at + 8
                stop = head + size
                if stop <= end and size <= self._max_size and not self._closing:
                    budget -= 1
                    payload, mask = data[head:stop], data[head - 4 : head]
                    if mask != _NO_MASK:
                        payload = apply_mask(payload, mask)
                    if first == 0x81 and not is_utf8(payload):
                        self._fail(1007, _NOT_TEXT, messages)
                        break
                    messages.append((first == 0x81, payload))
                    at = stop
                    continue
            taken = self._rare(data, at, messages)
            if not taken:
                break
            at += taken
            budget -= _RARE_COST
        self._keep(data, at, budget)
        if messages:
            self._hand_over(messages)

    def _rare(self, data: bytes, at: int, messages: list[tuple[bool, bytes]]) -> int:
        """Give one frame to websockets. Returns the bytes taken: 0 if it is not complete, or was failed by its head."""
        head, size = frame_size(data, at)
        if not head:
            return 0
        if size > self._max_frame:
            self._feed(data[at : at + head], messages)  # the head is enough to fail it
            return 0
        if data[at] & 0x08 and size > 125:
            self._fail(1002, "control frame too long", messages)
            return 0
        if len(data) - at < head + size:
            return 0
        self._feed(data[at : at + head + size], messages)
        return head + size

    def _feed(self, frame: bytes, messages: list[tuple[bool, bytes]]) -> None:
        conn = self._conn
        conn.receive_data(frame)
        for event in conn.events_received():
            if isinstance(event, Frame) and not self._closing:
                self._join(event, messages)
        if self._ended:
            return
        if conn.parser_exc is not None or conn.close_rcvd is not None:
            self._hand_over(messages)
            self._end(clean=conn.parser_exc is None)
        elif self._waits:
            # The peer does not read: of the pongs it would get, only the last is kept (RFC 6455 §5.5.3).
            self._late_pong = (conn.data_to_send() or [self._late_pong])[-1]
        else:
            self._flush()

    def _join(self, frame: Frame, messages: list[tuple[bool, bytes]]) -> None:
        """Collect a message of several frames, or one that was compressed."""
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self._fragments, self._fragments_text = bytearray(), frame.opcode is Opcode.TEXT
        if self._fragments is None or frame.opcode not in _DATA:
            return
        self._fragments += frame.data
        if len(self._fragments) > self._max_size:
            self._fail(1009, f"a message has at most {self._max_size} bytes", messages)
        elif frame.fin:
            payload, self._fragments = bytes(self._fragments), None
            if self._fragments_text and not is_utf8(payload):
                self._fail(1007, _NOT_TEXT, messages)
            else:
                messages.append((self._fragments_text, payload))

    def _fail(self, code: int, reason: str, messages: list[tuple[bool, bytes]]) -> None:
        """Hand over what came before the fault, tell it to the peer and read no more (RFC 6455 §7.1.7)."""
        self._hand_over(messages)
        if not self._ended:
            self._conn.fail(code, reason)
            self._end(clean=False)

    def _keep(self, data: bytes, at: int, budget: int) -> None:
        """Keep what is not read yet; complete frames beyond this turn's share are read in the next."""
        if at >= len(data) or self._ended:
            return
        self._unread += data[at:] if at else data
        self._need = sum(frame_size(data, at))
        if budget <= 0 or self._closing:
            self._later()

    def _hand_over(self, messages: list[tuple[bool, bytes]]) -> None:
        if messages and self._handler is not None:
            handed = messages.copy()
            messages.clear()
            self._call(self._handler.received, handed)

    def _later(self) -> None:
        if self._turn is None and not self._ended:
            self._turn = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if self._held or self._ended:
            return
        data = bytes(self._unread)
        self._unread.clear()
        self._seen = 0
        self._read(data)
        self._read_on()

    def _read_on(self) -> None:
        if not (self._reading or self._held or self._turn or self._ended):
            self._reading = True
            self.transport.resume_reading()

    # holding: the handler cannot take more ------------------------------------------------------

    def hold(self) -> None:
        """Hand over no more. Reading goes on up to ``held_size``, so that the peer's pings are still answered."""
        self._held = not self._closing

    def release(self) -> None:
        if self._held:
            self._held = False
            self._later()

    def _bound_unread(self) -> None:
        if self._held:
            self._answer_pings()
        if len(self._unread) > self._settings.held_size and self._reading:
            self._reading = False
            self.transport.pause_reading()

    def _answer_pings(self) -> None:
        """Answer what stands behind held messages: a peer that waits for a pong must not think that we are gone."""
        unread, at = self._unread, self._seen
        while True:
            head, size = frame_size(unread, at)
            if not head or len(unread) - at < head + size:
                break
            if unread[at] == 0x89 and size <= 125 and head == 6:
                self._feed(bytes(unread[at : at + head + size]), [])
                del unread[at : at + head + size]
            else:
                at += head + size
        self._seen = at

    def limit(self, size: int) -> None:
        self._max_size = size
        # What cannot be compressed grows a little when it is (RFC 1951: 5 bytes a block; zlib's have 16 KiB or less).
        self._max_frame = self._conn.max_message_size = size + size // 256 + 64

    # writing ------------------------------------------------------------------------------------

    def send(self, frames: bytes) -> bool:
        """Write encoded frames. False: the buffer is full, wait for the handler's ``writable``."""
        if self._before_open is not None:
            self._before_open.append(frames)
            return False
        if not self._closing:
            self.transport.write(frames)
        return not self._waits

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._waits = True
        self._stuck_at = self.transport.get_write_buffer_size()
        if self._slow_timer is None:
            self._slow_timer = self._loop.call_later(self._settings.slow_timeout / 1000, self._check_slow)

    def resume_writing(self) -> None:
        self._waits = False
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None
        if self._late_pong and not self._closing:
            self.transport.write(self._late_pong)
            self._late_pong = b""
        if self._handler is not None and not self._closing:
            self._call(self._handler.writable)

    def _check_slow(self) -> None:
        self._slow_timer = None
        size = self.transport.get_write_buffer_size()
        if size >= self._stuck_at:
            self._state.slow_closed += 1
            self.close(1013, f"too slow: nothing was read for {self._settings.slow_timeout / 1000:g} s")
        else:
            self.pause_writing()

    def _flush(self) -> None:
        for data in self._conn.data_to_send():
            if data:  # empty: websockets would half-close here, `_end` does
                self.transport.write(data)

    # keep-alive ---------------------------------------------------------------------------------

    def _ping(self) -> None:
        if not self._waits:
            self._heard = False
            self._conn.send_ping(b"")
            self._flush()
        self._alive_timer = self._loop.call_later(self._settings.ping_timeout / 1000, self._check_alive)

    def _check_alive(self) -> None:
        # While we do not read, or the peer's buffer is full, silence says nothing.
        if not self._heard and self._reading and not self._waits:
            self.close(1011, "keepalive ping timeout")
            return
        rest = max(0, self._settings.ping_interval - self._settings.ping_timeout)
        self._alive_timer = self._loop.call_later(rest / 1000, self._ping)

    # the end ------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake; the connection is cut if the peer does not answer in ``close_timeout``."""
        if self._closing or self._conn.close_rcvd is not None or self._conn.parser_exc is not None:
            return  # in the latter cases `_feed` ends it, once what came before is handed over
        if self._before_open is not None:
            self._close_first = code, reason
            return
        self._conn.send_close(code, close_reason(reason))
        self._flush()
        self._begin_closing()
        if self._held:
            self.release()
        self._read_on()

    def shutdown(self) -> None:
        """The listener drains."""
        self.close(1001, "the hub is shutting down")

    def _begin_closing(self) -> None:
        self._closing = True
        self._cancel_timers()
        self._close_timer = self._loop.call_later(self._settings.close_timeout / 1000, self.transport.abort)
        handler, self._handler = self._handler, None
        if handler is not None:
            self._call(handler.closed)

    def _end(self, *, clean: bool) -> None:
        """Nothing more is read. After a failure what the peer still sends is dropped, so that it sees our close."""
        self._ended = True
        self._unread = bytearray()
        self._fragments = None
        self._flush()
        if not self._closing:
            self._begin_closing()
        if not clean and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._read_rest()
        self._ended = True
        if not self._closing:
            self._begin_closing()
        self._cancel_timers()
        if self._turn is not None:
            self._turn.cancel()
        self._state.gone(self)

    def _read_rest(self) -> None:
        """What came before the connection ended counts, though it was not its turn yet: many send, and go."""
        self._held = False
        while self._unread and not self._ended and not self._closing:
            data = bytes(self._unread)
            self._unread.clear()
            self._read(data)
            if len(self._unread) == len(data):
                break  # a frame that will not be complete any more

    def _cancel_timers(self) -> None:
        for timer in (self._alive_timer, self._slow_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._alive_timer = self._slow_timer = self._close_timer = None

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            log.exception("a WebSocket handler failed")
            self.close(1011, "internal error")
