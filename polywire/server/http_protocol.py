"""uvicorn's HTTP/1.1 protocol with the bounds it lacks: slow heads and bodies, head and body size, connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from polywire.core.errors import DeadlineExceeded, Invalid, LimitExceeded, PolywireError, TooLarge, Unavailable
from polywire.server.direct import LONGEST_BODY, DirectHead, Exchange, is_plain, length_at
from polywire.server.mounted_websocket import MountedWebSocketProtocol
from polywire.server.problems import problem, raw_response
from polywire.server.websocket_protocol import WebSocketProtocol
from polywire.server.whole_response import offer_whole_response

if TYPE_CHECKING:
    from polywire.server.listener import HttpState

__all__ = ["REFUSED_AT_ONCE", "HttpProtocol"]

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
REFUSED_AT_ONCE: Final = 256
"""So many connections over the limit are told why; more are cut."""
_WITHOUT_BODY: Final = (b"GET", b"DELETE")
"""Methods whose requests need not have a body to be plain."""
_LINGER: Final = 1.0
"""Seconds in which a refused peer may read why; what it sends meanwhile is dropped."""


class _RefusedError(Exception):
    """Raised inside the parser's callbacks to stop it; the answer is already chosen."""


class HttpProtocol(HttpToolsProtocol):
    """A request that comes whole, as nearly all do, costs no timer; a plain one may cost no task either (`direct`).

    Such a one is held back from uvicorn within one read only: if it is not whole then, or its handler declines, it is
    passed on with all that has come. No state of a half-read direct request outlives a call of `data_received`.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False  # uvicorn's own: it shows query strings, where browsers must put their keys
        self.state = cast("HttpState", server_state)
        self.settings = self.state.settings
        self.phase = _IDLE
        self.phase_timer: asyncio.TimerHandle | None = None
        self.head_size = 0
        self.body_size = 0
        self.beside_body = 0
        self.refusal: tuple[PolywireError, int | None] | None = None
        self.refused = False
        self.held: DirectHead | None = None
        self.held_body = b""
        self.exchange: Exchange | None = None
        self.last_head: DirectHead | None = None
        self.longest_direct = min(LONGEST_BODY, self.settings.max_body_size)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self.state.connections_refused += 1
            if len(self.connections) > self.settings.max_connections + REFUSED_AT_ONCE:
                transport.abort()
                return
            self.refuse(Unavailable(f"the hub has {self.settings.max_connections} connections, which is the limit"))
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.exchange is not None and not self.exchange.response_complete:
            self.exchange.lost()
        self._unset_keepalive_if_required()
        self.stop_timer()
        self.state.gone(self)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.refused:
            return
        phase_before, body_before = self.phase, self.body_size
        self.head_size = self.head_size + len(data) if phase_before == _HEAD else len(data)
        try:
            self.parser.feed_data(data)
            if self.held is not None:
                self.pass_on()
        except httptools.HttpParserUpgrade as upgrade:
            self.upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            error, status = self.refusal or (Invalid("this is not HTTP/1.1"), None)
            self.refuse(error, status)
            return
        if self.phase == _IDLE:
            return
        if self.phase == _BODY:
            # Chunk extensions and trailers (RFC 9112 §7.1), which nobody asked for, come without a length.
            is_body = phase_before != _BODY or self.body_size != body_before
            self.beside_body = 0 if is_body else self.beside_body + len(data)
        if self.phase == _HEAD and phase_before != _BODY and self.head_size > self.settings.max_head_size:
            self.refuse(*self.head_too_large())
        elif self.phase == _BODY and self.beside_body > self.settings.max_head_size:
            self.refuse(*self.trailers_too_large())
        elif self.phase_timer is None:
            seconds = (self.settings.head_timeout if self.phase == _HEAD else self.settings.body_timeout) / 1000
            self.phase_timer = self.loop.call_later(seconds, self.too_slow)

    # the parser's callbacks ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The scope, which uvicorn makes here, is made by `begin_cycle`."""
        self.phase = _HEAD
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._unset_keepalive_if_required()  # an answer at once, to a request in the same read, has set it

    def on_headers_complete(self) -> None:
        self.stop_timer()
        if self.head_size > self.settings.max_head_size:
            # The count includes what came before and after the head in the same reads: look closer.
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.settings.max_head_size:
                self.refusal = self.head_too_large()
                raise _RefusedError
        if len(self.pipeline) >= self.settings.max_pipelined:
            self.refusal = LimitExceeded("too many requests wait on this connection"), None
            raise _RefusedError
        self.phase = _BODY
        self.body_size = 0
        self.held = self.direct_head()
        if self.held is None:
            self.begin_cycle()

    def on_body(self, body: bytes) -> None:
        self.body_size += len(body)
        if self.body_size > self.settings.max_body_size:
            limit = self.settings.max_body_size
            self.refusal = TooLarge(f"a request body has at most {limit} bytes", hint="send less at once"), None
            raise _RefusedError
        if self.held is not None:
            self.held_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.stop_timer()
        self.phase = _IDLE
        self.head_size = 0
        if self.held is not None:
            if self.taken(self.held):
                return
            self.pass_on()
        super().on_message_complete()

    # requests without a task --------------------------------------------------------------------

    def direct_head(self) -> DirectHead | None:
        """The head just read, if this is a request to offer to a direct handler."""
        parser, state = self.parser, self.state
        method = parser.get_method()
        if not state.router.has_direct(method) or not self.is_quiet():
            return None
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive() or parser.should_upgrade():
            return None
        head = self.last_head
        if (
            head is None
            or not head.is_of(method, self.url, self.headers)
            or not state.guard.still_admits(head.principal, head.opened)
        ):
            self.last_head = head = self.new_head(method)
        if head is None or not head.wanted or not head.is_short(self.headers, self.longest_direct):
            return None
        return head

    def is_quiet(self) -> bool:
        """No earlier request is open, and the peer reads."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused  # type: ignore[redundant-expr]  # None before the first

    def new_head(self, method: bytes) -> DirectHead | None:
        guard = self.state.guard
        handler = self.state.router.direct(method, self.url)
        if handler is None or not is_plain(self.headers):
            return None
        at = length_at(self.headers)
        if at is None and method not in _WITHOUT_BODY:
            return None
        try:
            principal = guard.admit_plain(self.headers, self.server)
        except PolywireError:
            return None  # told by the guard itself, when it meets the request in its place before the router
        client = self.client[0] if self.client else ""
        return DirectHead(handler, method, self.url, self.headers, principal, client, length_at=at, opened=guard.open)

    def taken(self, head: DirectHead) -> bool:
        """Offer the request that is held, now whole."""
        before = self.cycle
        exchange = Exchange(self)
        self.cycle = cast("Any", exchange)
        if not exchange.offer(head, self.held_body):
            exchange.disconnected = True  # a handler that declines and answers all the same is not heard
            self.cycle = before
            return False
        self.held, self.held_body = None, b""
        self.exchange = exchange
        return True

    def pass_on(self) -> None:
        """Let uvicorn have what is held, as if it came just now."""
        body, self.held_body = self.held_body, b""
        self.held = None
        self.begin_cycle()
        if body:
            super().on_body(body)

    def begin_cycle(self) -> None:
        """The beginning and the head of a request at once, for uvicorn."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = []  # what is behind the body, the trailers, is no part of the head (RFC 9110 §6.5.1)
        if self.cycle is not None:
            offer_whole_response(self.scope, self.cycle)

    # refusals -----------------------------------------------------------------------------------

    def head_too_large(self) -> tuple[PolywireError, int]:
        return TooLarge(f"a request head has at most {self.settings.max_head_size} bytes"), 431

    def trailers_too_large(self) -> tuple[PolywireError, int]:
        return TooLarge(f"a body's chunk extensions and trailers have at most {self.settings.max_head_size} bytes"), 431

    def too_slow(self) -> None:
        self.phase_timer = None
        if self.phase == _HEAD:
            limit, part = self.settings.head_timeout, "head"
        elif self.flow.read_paused:  # it is us who do not read
            self.phase_timer = self.loop.call_later(self.settings.body_timeout / 1000, self.too_slow)
            return
        else:
            limit, part = self.settings.body_timeout, "body"
        self.refuse(DeadlineExceeded(f"the request {part} did not come within {limit / 1000:g} s"), 408)

    def refuse(self, error: PolywireError, status: int | None = None) -> None:
        """Answer ``error`` if no answer has begun, and close. The peer gets a moment to read it."""
        self.refused = True
        self.stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # type: ignore[redundant-expr]  # None before the first
            # An application waits for this body, or answers an earlier request: it sees a peer that has gone.
            answered = cycle.response_started or bool(self.pipeline) or self.phase == _HEAD
            self.pipeline.clear()
            cycle.disconnected = True
            cycle.message_event.set()
            if answered:
                self.transport.close()
                return
        self.transport.write(raw_response(*problem(error, status)))
        if self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
            self.phase_timer = self.loop.call_later(_LINGER, self.transport.close)
        else:
            self.transport.close()

    def stop_timer(self) -> None:
        if self.phase_timer is not None:
            self.phase_timer.cancel()
            self.phase_timer = None

    # WebSocket ----------------------------------------------------------------------------------

    def upgrade(self, early: bytes) -> None:
        """Hand the connection over. ``early`` is what a hasty peer sent behind the request head."""
        if not self._should_upgrade():
            self.refuse(Invalid("only upgrades to websocket are offered"))
            return
        self.stop_timer()
        self.connections.discard(self)
        socket = self.mounted_websocket() or WebSocketProtocol(
            self.config, self.server_state, self.app_state, self.loop
        )
        self.transport.set_protocol(socket)
        socket.begin(self.transport, self.scope, self.url, early)

    def mounted_websocket(self) -> MountedWebSocketProtocol | None:
        """If the path is a mounted application's."""
        state = self.state
        if state.mounted is None:
            return None
        path = unquote(self.url.partition(b"?")[0].decode("latin-1"))
        if state.router.websocket_application(path) is None:
            return None
        return MountedWebSocketProtocol(state.mounted, state, self.loop)
