"""JSON-RPC 2.0 on WebSockets: one connection publishes, reads and calls.

peer ──frames──▶ received ──▶ session ──requests──▶ methods ──▶ core
peer ◀──frames── outbox ◀── session's answers, readers' notifications

Frames are worked through in turns of the loop. Reading stops (`hold`) while this turn's share is done, while publishes
wait for the log, or while answers wait for a peer that does not read; the last two have a bound, and until it is
reached acknowledgements and cancels that stand behind are still done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Raw

from polywire.contract.contract import Contract
from polywire.core.access import Principal
from polywire.core.core import Core
from polywire.core.errors import Internal, LimitExceeded, PolywireError, Unauthenticated
from polywire.core.message import Origin
from polywire.server.connections import Connections
from polywire.server.encodings import Encodings
from polywire.server.query import parse_query
from polywire.server.router import Router
from polywire.server.settings import WebSocketSettings
from polywire.server.websocket import Frames, WebSocket, WebSocketRequest
from polywire.wires.websocket.jsonrpc.binding import Cancelled, MessageTexts, error_body
from polywire.wires.websocket.jsonrpc.calls import call_by_name
from polywire.wires.websocket.jsonrpc.codec import NOTHING, Request
from polywire.wires.websocket.jsonrpc.methods import METHODS, publish_now
from polywire.wires.websocket.jsonrpc.outbox import Outbox
from polywire.wires.websocket.jsonrpc.readers import Queue, Stream
from polywire.wires.websocket.jsonrpc.session import Handles, Session
from polywire.wires.websocket.settings import JsonRpcSettings

__all__ = ["SUBPROTOCOLS", "JsonRpc", "JsonRpcConnection"]

SUBPROTOCOLS = ("jsonrpc", "json-rpc-2.0")
"""Names a client may offer. None is registered, so none is needed."""

WIRE = "websocket"
_TURN = 0.001  # seconds of requests in one turn of the loop
_KEPT_BACK = 200  # bytes that a request takes beside its parameters while it waits
_logger = logging.getLogger("polywire.jsonrpc")


class JsonRpc:
    """The wire. Life: construct → `mount` → serve; it ends with the listener's connections."""

    def __init__(
        self,
        core: Core,
        contract: Contract,
        *,
        settings: JsonRpcSettings | None = None,
        websocket: WebSocketSettings | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.core = core
        self.contract = contract
        self.settings = settings or JsonRpcSettings()
        self.websocket = websocket or WebSocketSettings()
        self.counters = core.counters.wire(WIRE)
        self.encodings = Encodings(self.websocket.encoded_size)
        self.texts = MessageTexts(self.encodings)
        self._connections = connections

    def mount(self, router: Router) -> None:
        """On ``/ws`` itself."""
        router.mount_websocket_exact("/ws", self)

    def __call__(self, request: WebSocketRequest, socket: WebSocket) -> JsonRpcConnection:
        """Take a handshake. Raises what is wrong with its query or its principal, as `PolywireError`."""
        parse_query(request.query)
        self.core.require_running(request.principal)
        _require_some_right(request.principal)
        socket.subprotocol = next((name for name in request.subprotocols if name in SUBPROTOCOLS), None)
        socket.limit(self.settings.message_size)
        release = self._connections.open(request.principal) if self._connections else _nothing
        return JsonRpcConnection(self, request, socket, release)


def _require_some_right(principal: Principal) -> None:
    """Each request is asked about when it comes; who may do nothing at all need not connect."""
    if principal.powerless:
        raise Unauthenticated(
            "this needs an API key", hint="send Authorization: Bearer KEY, or X-API-Key; browsers ?api_key=KEY"
        )


class JsonRpcConnection:
    """One connection: handler of its WebSocket. What methods work on is public."""

    methods = METHODS

    def __init__(
        self, wire: JsonRpc, request: WebSocketRequest, socket: WebSocket, release: Callable[[], None]
    ) -> None:
        settings = wire.settings
        self.core = wire.core
        self.contract = wire.contract
        self.settings = settings
        self.counters = wire.counters
        self.principal = request.principal
        self.origin = Origin(request.principal.name, WIRE, request.client)
        self.readers: Handles[Stream | Queue] = Handles(settings.subscriptions)
        self._socket = socket
        self._release = release
        self._forget = request.principal.on_revoked(self._revoked)
        self._loop = asyncio.get_running_loop()
        self._session = Session(batch=settings.batch, in_flight=settings.in_flight, error_body=error_body)
        self.out = Outbox(wire, socket, self._session, self.forget)
        self._closed = False
        self._frames: deque[bytes] = deque()
        self._requests: deque[Request] = deque()
        self._working = False  # a further turn is coming
        self._late: deque[tuple[Request, Raw]] = deque()  # publishes that wait for the log, their parameters
        self._late_size = 0
        self._tasks: dict[asyncio.Task[bytes | None], Request] = {}
        self._nameless = 0  # of the tasks, those of notifications

    # handler of the WebSocket -------------------------------------------------------------------

    def opened(self) -> None:
        self.counters.connections += 1

    def received(self, messages: Frames) -> None:
        """Binary frames are taken as text: some clients send the bytes that their JSON library makes."""
        self._frames.extend([payload for _, payload in messages])
        if not self._working:
            self._work()

    def writable(self) -> None:
        self.out.writable()
        if not self._working:
            self._work()

    def closed(self) -> None:
        """Deliveries go back, which is no attempt; running calls are cancelled."""
        self._closed = True
        self.counters.connections -= 1
        self._forget()
        self._release()
        for reader in self.readers:
            reader.close()
        for task in list(self._tasks):
            task.cancel()
        self.out.close()
        for waiting in (self._frames, self._requests, self._late):
            waiting.clear()

    def _revoked(self) -> None:
        """Subscriptions and consumers hear of it themselves, and every request is asked about when it comes."""
        if self.principal.powerless:
            self._socket.close(1008, "the API key was revoked, or is needed now")

    # requests -----------------------------------------------------------------------------------

    def _work(self) -> None:
        """A turn's share of what was received."""
        self._working = False
        end = time.perf_counter() + _TURN
        while not (self._closed or self._stuck or time.perf_counter() > end):
            if self._requests:
                self._do(self._requests.popleft())
            elif self._frames:
                self._requests.extend(self._session.receive(self._frames.popleft()))
                self._count_errors()
                if self._session.has_output:
                    self.out.flush_soon()
            else:
                break
        self._read_on()

    @property
    def _stuck(self) -> bool:
        return self._late_size > self.settings.held_size or self.out.is_stuck

    def _read_on(self) -> None:
        if self._closed:
            return
        if not (self._requests or self._frames or self._stuck):
            self._socket.release()
            return
        self._socket.hold()
        if not self._stuck and not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _do(self, request: Request, method: Callable[[JsonRpcConnection, Request], None] | None = None) -> None:
        try:
            (method or self.methods.get(request.method, call_by_name))(self, request)
        except PolywireError as error:
            self.fail(request, error)
        except Exception:
            _logger.exception("method %.80s failed", request.method)
            self.fail(request, Internal("the request failed", hint="the hub's log says why"))
        request.params = NOTHING  # a part of the frame, which would be kept as long as the request is open

    # answers, from methods ----------------------------------------------------------------------

    def answer(self, request: Request, result: bytes) -> None:
        """``result`` is JSON. Once for each request; on a closed connection nothing happens."""
        if not self._closed:
            self._session.answer(request, result)
            self.out.flush_soon()

    def fail(self, request: Request, error: PolywireError) -> None:
        if not self._closed:
            self._session.fail(request, error)
            self._count_errors()
            self.out.flush_soon()

    def _count_errors(self) -> None:
        self.counters.errors += self._session.errors
        self._session.errors = 0

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    # publishes that wait for the log ------------------------------------------------------------

    @property
    def must_hold_back(self) -> bool:
        return bool(self._late) or self.core.congested

    def hold_back(self, request: Request) -> None:
        """Publishes keep their order; everything else goes on."""
        if not self._late:
            self.core.on_relief(self._relieved)
        self._late.append((request, request.params.copy()))
        self._late_size += len(request.params) + _KEPT_BACK

    def _relieved(self) -> None:
        end = time.perf_counter() + _TURN
        while self._late and not self.core.congested and not self._closed:
            if time.perf_counter() > end:
                self._loop.call_soon(self._relieved)
                return
            request, params = self._late.popleft()
            request.params = params
            self._late_size -= len(params) + _KEPT_BACK
            self._do(request, publish_now)
        if self._late and not self._closed:
            self.core.on_relief(self._relieved)
        elif not self._working:
            self._work()

    # calls, and what else takes its time --------------------------------------------------------

    def run(self, request: Request, work: Coroutine[Any, Any, bytes | None]) -> None:
        """Answer with what comes of ``work``; None: it has answered itself."""
        if request.id is None:
            if self._nameless >= self.settings.in_flight:
                work.close()
                raise LimitExceeded(f"a connection runs at most {self.settings.in_flight} notifications at a time")
            self._nameless += 1
        task = self._loop.create_task(work)
        self._tasks[task] = request
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[bytes | None]) -> None:
        request = self._tasks.pop(task)
        self._nameless -= request.id is None
        if task.cancelled():
            self.fail(request, Cancelled("the call was cancelled"))
            return
        error = task.exception()
        if isinstance(error, PolywireError):
            self.fail(request, error)
        elif error is not None:
            _logger.error("method %.80s failed", request.method, exc_info=error)
            self.fail(request, Internal("the request failed", hint="the hub's log says why"))
        elif (result := task.result()) is not None:
            self.answer(request, result)

    def cancel(self, key: Any) -> bool:
        """Whether a call with this id was running; it is answered with an error."""
        request = self._session.find(key)
        task = next((task for task, its in self._tasks.items() if its is request), None)
        return task is not None and task.cancel()

    # readers ------------------------------------------------------------------------------------

    @property
    def credit_left(self) -> int:
        """What further consumers may be given."""
        return self.settings.unsettled - sum(
            reader.consumer.credit for reader in self.readers if isinstance(reader, Queue) and reader.consumer
        )

    def forget(self, number: int) -> None:
        """The subscription has ended."""
        reader = self.readers.remove(number)
        if reader is not None:
            self.out.drop(reader)


def _nothing() -> None:
    pass
