"""Raw WebSockets on topics: each connection is a publisher and a follower of one topic.

peer ──frames──▶ received ──records──▶ core.post
peer ◀──bytes─── send ◀──batch── deliver ◀── follower
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polywire.core.access import Action
from polywire.core.core import Core
from polywire.core.errors import Denied, Invalid, PolywireError
from polywire.core.message import Batch, Origin, Record
from polywire.core.streams import Follower, Reset, Start, parse_start
from polywire.server.connections import Connections
from polywire.server.encodings import Encodings
from polywire.server.query import parse_query
from polywire.server.router import Router
from polywire.server.settings import WebSocketSettings
from polywire.server.websocket import Frames, WebSocket, WebSocketRequest
from polywire.wires.websocket import events
from polywire.wires.websocket.binding import (
    GOING_AWAY,
    TRY_AGAIN_LATER,
    Encoder,
    address_of,
    close_code,
    records_of,
)

__all__ = ["RawWebSockets"]

WIRE = "websocket"
QUERY = ("from", "key", "echo")


class RawWebSockets:
    """The wire, and the subprotocol ``cloudevents.json`` in its place where a client offers it.

    Life: construct → `mount` → serve; it ends with the listener's connections.
    """

    def __init__(
        self, core: Core, *, settings: WebSocketSettings | None = None, connections: Connections | None = None
    ) -> None:
        settings = settings or WebSocketSettings()
        self.core = core
        self.counters = core.counters.wire(WIRE)
        encodings = Encodings(settings.encoded_size)
        deflate_from = settings.compress_from if settings.compression else None
        self.encoder = Encoder(encodings, deflate_from=deflate_from)
        self.event_encoder = Encoder(
            encodings, deflate_from=deflate_from, name="cloudevents", frame_of=events.frame_of_event
        )
        self._connections = connections

    def mount(self, router: Router) -> None:
        """On ``/ws/TOPIC``, on ``/``, and on every path that nobody else claims."""
        router.mount_websocket_below("/ws", self)
        router.mount_websocket_exact("/", self)
        router.mount_websocket_fallback(self)

    def __call__(self, request: WebSocketRequest, socket: WebSocket) -> RawConnection:
        """Take a handshake. Raises what is wrong with its path, query or rights, as `PolywireError`."""
        release = self._connections.open(request.principal) if self._connections else _nothing
        try:
            return RawConnection(self, request, socket, release)
        except BaseException:
            release()
            raise


class RawConnection:
    """One connection: handler of its WebSocket, sink of its follower."""

    __slots__ = (
        "_address",
        "_core",
        "_counters",
        "_encoder",
        "_events",
        "_follower",
        "_forget",
        "_may_write",
        "_origin",
        "_principal",
        "_release",
        "_skips_own",
        "_socket",
    )

    def __init__(
        self, wire: RawWebSockets, request: WebSocketRequest, socket: WebSocket, release: Callable[[], None]
    ) -> None:
        query = parse_query(request.query, QUERY)
        self._core = core = wire.core
        self._counters = wire.counters
        self._events = events.SUBPROTOCOL in request.subprotocols
        if self._events:
            socket.subprotocol = events.SUBPROTOCOL
        self._encoder = wire.event_encoder if self._events else wire.encoder
        self._socket = socket
        self._address = address = address_of(request.path, query.text("key"))
        self._principal = principal = request.principal
        self._release = release
        self._origin = Origin(principal.name, WIRE, request.client)
        self._skips_own = query.text("echo") is not None and not query.flag("echo")
        self._follower: Follower | None = None
        self._forget = _nothing
        start = parse_start(query.text("from") or "latest")
        self._may_write = core.access.allows(principal, Action.PUBLISH, address.publishes_to)
        if core.access.allows(principal, Action.SUBSCRIBE, address.reads_from) or not self._may_write:
            self._follow(start)
        else:
            core.catalog.ensure(address.topic)
        self._forget = principal.on_revoked(self._revoked)

    def _follow(self, start: Start) -> None:
        address = self._address
        self._follower = self._core.follow(self._principal, address.topic, start, self, key=address.filter, create=True)

    # handler of the WebSocket -------------------------------------------------------------------

    def opened(self) -> None:
        self._counters.connections += 1

    def received(self, messages: Frames) -> None:
        self._counters.received += len(messages)
        wrong: PolywireError | None = None
        if self._events:
            records, wrong = self._read_events(messages)
        else:
            records = records_of(messages, self._address.key, self._origin)
        if records:
            self._post(records)
        if wrong is not None:
            self._refuse(wrong)

    def _read_events(self, messages: Frames) -> tuple[list[Record], PolywireError | None]:
        topic = self._core.catalog.get(self._address.topic)
        once = topic is not None and topic.settings.dedup
        return events.records_of_events(messages, self._address.key, self._origin, once=once)

    def _post(self, records: list[Record]) -> None:
        try:
            self._core.send(self._principal, self._address.topic, records, self._stored)
        except PolywireError as error:
            if len(records) > 1 and isinstance(error, Invalid):
                self._post_one_by_one(records)
            else:
                self._refuse(error)
            return
        self._mind_congestion()

    def _post_one_by_one(self, records: Sequence[Record]) -> None:
        """One of them is wrong. To a peer they are single messages: those before it count."""
        for record in records:
            try:
                self._core.send(self._principal, self._address.topic, [record], self._stored)
            except PolywireError as error:
                self._refuse(error)
                return

    def _mind_congestion(self) -> None:
        if self._core.congested:
            self._socket.hold()
            self._core.on_relief(self._socket.release)

    def _stored(self, error: PolywireError | None) -> None:
        if error is not None:
            self._refuse(error)

    def _refuse(self, error: PolywireError) -> None:
        """A raw WebSocket has no place for an error but its close."""
        self._counters.errors += 1
        self._socket.close(GOING_AWAY if self._core.phase == "draining" else close_code(error), error.detail)

    def writable(self) -> None:
        if self._follower is not None:
            self._follower.resume()

    def closed(self) -> None:
        self._counters.connections -= 1
        self._forget()
        self._release()
        if self._follower is not None:
            self._follower.close()

    # sink of the follower -----------------------------------------------------------------------

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        socket = self._socket
        if self._skips_own:
            indexes = self._of_others(batch, indexes)
        if indexes is None:
            self._counters.delivered += len(batch.records)
            return socket.send(self._encoder.whole(batch, socket.deflates))
        if not indexes:
            return True
        self._counters.delivered += len(indexes)
        return socket.send(self._encoder.some(batch, indexes, socket.deflates))

    def _of_others(self, batch: Batch, indexes: Sequence[int] | None) -> Sequence[int] | None:
        """Without what came over this connection."""
        own, records = self._origin, batch.records
        chosen = range(len(records)) if indexes is None else indexes
        others = [index for index in chosen if records[index].origin != own]
        return indexes if len(others) == len(chosen) else others

    def reset(self, reset: Reset) -> None:
        """What the peer missed cannot be had. It hears so by the close, and where it may go on."""
        reason = f"reset ({reset.reason}): messages were missed; go on with ?from={reset.resumed}"
        self._socket.close(TRY_AGAIN_LATER, reason)

    def ended(self, error: PolywireError) -> None:
        self._refuse(error)

    def _revoked(self) -> None:
        """The follower minds the right to read; this one is to write."""
        may_write = self._core.access.allows(self._principal, Action.PUBLISH, self._address.publishes_to)
        if self._may_write and not may_write:
            self._refuse(Denied("the right to publish here was taken away"))


def _nothing() -> None:
    pass
