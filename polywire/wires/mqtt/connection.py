"""One connection: bytes in, bytes out, and time. What the bytes mean is `session.Session`'s business.

peer ──bytes──▶ receive_data ──events──▶ Publisher, Subscriptions, Sessions ──▶ core
peer ◀──bytes── data_to_send ◀─────────── feeds ◀─────────────────────────────── core

What is written in one turn of the loop leaves in one write. While publishing waits for the log, what a client publishes
and asks is held back, in order; its acknowledgements and pings are still read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from polywire.core.access import Principal
from polywire.core.errors import PolywireError, Unauthenticated
from polywire.wires.mqtt.binding import CONNECT_REASONS, PUBLISH_REASONS, Publisher, reason_of, said
from polywire.wires.mqtt.encoding import ANYONE, Peer
from polywire.wires.mqtt.opening import Opening
from polywire.wires.mqtt.pace import MOST, Pace
from polywire.wires.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.session import Broken, Completed, Disconnected, Event, Publishes, Release, Session, Settled
from polywire.wires.mqtt.subscribing import Subscriptions

if TYPE_CHECKING:
    from polywire.wires.mqtt.client_session import ClientSession
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Connection"]

_logger = logging.getLogger("polywire.mqtt")
_LAST_WORDS: Final = 5_000
"""ms in which a client that is told to go may read that."""
_buffer = bytearray(MOST)
_view = memoryview(_buffer)
"""Read into by every connection, for what is read is taken out in the same call."""


class Connection(asyncio.BufferedProtocol):
    """On a TCP or TLS transport; or on a WebSocket, which looks like one and calls `data_received`.

    ``principal``: who asked for the WebSocket, for a CONNECT without credentials.
    """

    def __init__(self, wire: Mqtt, principal: Principal | None = None) -> None:
        self.wire = wire
        self.protocol = Session(wire.rules)
        self.client_session: ClientSession | None = None
        self.publisher: Publisher | None = None
        self.subscriptions: Subscriptions | None = None
        self.level = 0
        self.client_id = ""
        self.peer = ANYONE
        self.heard = wire.core.clock.now()
        self.keep_alive = 0  # ms after which a silent client is gone; 0: never
        self.ended = False
        self._principal = principal
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushing = False
        self._lost = False  # the transport is no more
        self._gated = False  # CONNACK waits for a commit, and everything behind it
        self._paused_writing = False
        self._paused_reading = False
        self._resting = False  # until the next turn of the loop
        self._pace = Pace()
        self._held: deque[Event] = deque()
        self._held_size = 0
        self._waits_for_relief = False
        self._forget: Callable[[], None] = _nothing
        self._slow: asyncio.TimerHandle | None = None
        self._awaits_room: asyncio.Future[None] | None = None

    # The transport's side

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=self.wire.settings.out_buffer)
        self.wire.arrived(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return _view[: self._pace.window]

    def buffer_updated(self, nbytes: int) -> None:
        begun = perf_counter()
        self.data_received(bytes(_view[:nbytes]))
        if self._pace.is_over(nbytes, perf_counter() - begun):
            self._rest()

    def _rest(self) -> None:
        if not (self._resting or self._paused_reading or self._transport.is_closing()):
            self._resting = True
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._resting = False
        if not self._paused_reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        if self.level:  # the time for CONNECT is that for all of it
            self.heard = self.wire.core.clock.now()
        self.protocol.receive_data(data)
        self._handle(len(data))

    def eof_received(self) -> bool:
        """The client has closed its side; what it sent before still counts."""
        if not self.ended:
            self.protocol.receive_eof()
            self._handle(0)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._slow is not None:
            self._slow.cancel()
        if exc is not None and not self.ended:
            self._read_rest()
        self._lost = True
        self.keep_alive = 0
        if not self._held:  # else when the log has room: they were read, and are still to be published
            self._depart()

    def _read_rest(self) -> None:
        """What a client sends and closes without reading what it is told: then a write fails, and the transport ends
        though not all was read that had come. Under TLS that is lost."""
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        with contextlib.suppress(OSError), self._transport.get_extra_info("socket").dup() as rest:
            rest.setblocking(False)
            while not self.ended and (data := rest.recv(MOST)):
                self.data_received(data)

    def _depart(self) -> None:
        self._leave(will=True)
        self.ended = True
        self.wire.gone(self)

    def pause_writing(self) -> None:
        self._paused_writing = True
        self._wait_for_reader()

    def resume_writing(self) -> None:
        self._paused_writing = False
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        self._mind_reading()
        self._tell_of_room()
        if self.subscriptions is not None:
            self.subscriptions.writable()

    def _wait_for_reader(self) -> None:
        unread = int(self._transport.get_write_buffer_size())
        self._slow = self._loop.call_later(self.wire.settings.slow_timeout / 1_000, self._look_at_reader, unread)

    def _look_at_reader(self, unread: int) -> None:
        """It may be slow, but it has to read something."""
        if self._transport.get_write_buffer_size() < unread:
            self._wait_for_reader()
        else:
            self.wire.slow_closed += 1
            self.abort()

    def mind_silence(self, now: int) -> None:
        """Close what did not say CONNECT in time, or has been silent for longer than it said it would be."""
        silent = now - self.heard
        if self.ended:
            if silent > _LAST_WORDS:  # it does not read what it is told last
                self._transport.abort()
        elif not self.level:
            if silent > self.wire.settings.connect_timeout:
                self.wire.silent_closed += 1
                self.abort()
        elif self.keep_alive and silent > self.keep_alive and not self._paused_reading:  # else it is we who do not hear
            self.wire.silent_closed += 1
            self.end(Reason.KEEP_ALIVE_TIMEOUT, "the keep-alive time has passed")

    # Events

    def _handle(self, size: int) -> None:
        for event in self._events():
            if self.ended:
                self._abandon(event)
            elif self._held or (self.wire.core.congested and isinstance(event, Publishes)):
                if isinstance(event, (Settled, Completed, Broken)):
                    self._dispatch(event)
                else:
                    self._hold(event, size)
                    size = 0
            else:
                self._dispatch(event)
        if not self.ended:
            self.flush_soon()
            self._mind_reading()

    def _abandon(self, event: Event) -> None:
        """It was never looked at: the client sends it again."""
        if isinstance(event, Publishes):
            self.protocol.abandon(event.publishes)

    def _events(self) -> Iterator[Event]:
        """Until there are none: what stands behind CONNECT is read when that is accepted."""
        while batch := list(self.protocol.events()):
            yield from batch

    def _hold(self, event: Event, size: int) -> None:
        self._held.append(event)
        self._held_size += size
        if not self._waits_for_relief:
            self._waits_for_relief = True
            self.wire.core.on_relief(self._release)

    def _release(self) -> None:
        """The log has caught up."""
        self._waits_for_relief = False
        while self._held and not self.ended:
            self._dispatch(self._held.popleft())
            if self._held and self.wire.core.congested:
                self._waits_for_relief = True
                self.wire.core.on_relief(self._release)
                return
        self._held_size = 0
        if self._lost:
            self._depart()
            return
        self.flush_soon()
        self._mind_reading()

    def _mind_reading(self) -> None:
        """Read no more than can be worked off: neither publishes, nor questions of one who does not read answers."""
        if self.ended:
            return
        settings = self.wire.settings
        too_much = (
            self._gated
            or self._held_size > settings.held_size
            or self._unanswered > settings.receive_maximum
            or (self._paused_writing and self.waiting > 2 * settings.out_buffer)
        )
        if too_much != self._paused_reading and self._transport is not None and not self._transport.is_closing():
            self._paused_reading = too_much
            self.heard = self.wire.core.clock.now()
            if not self._resting:
                self._transport.pause_reading() if too_much else self._transport.resume_reading()

    @property
    def _unanswered(self) -> int:
        asked = self.subscriptions.unanswered if self.subscriptions is not None else 0
        return self.protocol.unacknowledged + asked

    def answered(self) -> None:
        """What was said to the session is to be written."""
        self.flush_soon()
        if self._paused_reading:
            self._mind_reading()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Publishes):
            self._publish(event.publishes)
        elif isinstance(event, Settled):
            self._subscribed.settled(event.entries)
        elif isinstance(event, Completed):
            self._subscribed.completed()
        elif isinstance(event, Release):
            self._complete(event)
        elif isinstance(event, Subscribe):
            self._subscribed.subscribe(event)
        elif isinstance(event, Unsubscribe):
            self._subscribed.unsubscribe(event)
        elif isinstance(event, Connect):
            self._connect(event)
        elif isinstance(event, Disconnected):
            self._disconnected(event)
        elif isinstance(event, Broken):
            self._broken(event)
        else:
            self._gone()

    @property
    def _subscribed(self) -> Subscriptions:
        if self.subscriptions is None:
            raise RuntimeError("the session let a packet pass before CONNECT")
        return self.subscriptions

    # CONNECT

    def _connect(self, connect: Connect) -> None:
        self.level = connect.level
        self.heard = self.wire.core.clock.now()
        try:
            opening = Opening(self.wire, connect, self._principal)
            self._forget = self.wire.connections.open(opening.account)
        except PolywireError as error:
            self._refuse_connect(connect, error)
        except MqttError as error:
            self._refuse(error.reason, error.detail)
        else:
            self._open(opening)

    def _refuse_connect(self, connect: Connect, error: PolywireError) -> None:
        reason = reason_of(error, CONNECT_REASONS)
        if isinstance(error, Unauthenticated) and connect.password is None and connect.username is None:
            reason = Reason.NOT_AUTHORIZED
        self._refuse(reason, said(error))

    def _refuse(self, reason: int, text: str) -> None:
        self.wire.counters.errors += 1
        self.protocol.refuse(reason, text)
        self.close(lingers=True)

    def _open(self, opening: Opening) -> None:
        try:
            session, present = opening.session()
        except PolywireError as error:
            self._refuse_connect(opening.connect, error)
            return
        session.connection = self
        self.client_session = session
        self.client_id = session.client_id
        self.keep_alive = opening.keep_alive
        self.protocol.accept(session.state, opening.connack(session, present))
        self.peer = Peer(self.protocol.peer_maximum_packet_size, self.protocol.peer_alias_maximum)
        self.publisher = Publisher(self.wire, self, session.principal, session.client_id)
        self.subscriptions = Subscriptions(self.wire, self, session)
        self._gated = True
        self._watch(session.principal)
        self.wire.sessions.opened(session, self._opened)

    def _opened(self, error: PolywireError | None) -> None:
        if self.ended:
            return
        if error is not None:
            if self.client_session is not None:
                self.client_session.will = None  # it was not accepted
            self.abort()
            return
        self._gated = False
        self.flush_soon()
        self._mind_reading()
        if self.subscriptions is not None:
            self.subscriptions.begin()

    def _watch(self, principal: Principal) -> None:
        closed = self._forget

        def revoked() -> None:
            if principal.powerless:
                self.end(Reason.NOT_AUTHORIZED, "the API key was revoked")

        forget = principal.on_revoked(revoked)

        def both() -> None:
            closed()
            forget()

        self._forget = both

    # Publishing

    def _publish(self, publishes: Sequence[Publish]) -> None:
        self.wire.counters.received += len(publishes)
        if self.publisher is None or self.client_session is None:
            raise RuntimeError("the session let a PUBLISH pass before CONNECT")
        session = self.client_session
        exactly_once = self.publisher.publish(publishes)
        if exactly_once and session.persistent:
            # In the transaction of what was just published: both are there after a crash, or neither.
            session.state.mark_stored(exactly_once)
            self.wire.sessions.store_received(session, tied=True)

    def stored(self, publishes: Sequence[Publish], error: PolywireError | None) -> None:
        """What became of publishes that want an acknowledgement. The session's state hears of it in any case."""
        if error is not None:
            self._not_stored(publishes, error)
        else:
            self.protocol.acknowledge(publishes)
        self._answered()
        if self._paused_reading and not self.ended:
            self._mind_reading()

    def _answered(self) -> None:
        """To be written; by whatever connection the client has now, which may have repeated its question."""
        connection = self if self.client_session is not None else self.wire.sessions.connection_of(self.client_id)
        if connection is not None:
            connection.flush_soon()

    def _not_stored(self, publishes: Sequence[Publish], error: PolywireError) -> None:
        """The commit failed that carried them."""
        session = self.wire.sessions.of(self.client_id, self.protocol.state)  # also when this connection is gone
        if self.level >= 5:
            self.protocol.acknowledge(publishes, reason_of(error, PUBLISH_REASONS), said(error))
        else:
            self.protocol.abandon(publishes)
        if session is not None and session.persistent:
            # A later transaction may hold their ids already: it must not say that they were received.
            self.wire.sessions.store_received(session)
        if self.level < 5:
            self.end(Reason.UNSPECIFIED_ERROR, said(error))

    def acknowledge(self, publishes: Sequence[Publish], reason: int = Reason.SUCCESS, text: str | None = None) -> None:
        self.protocol.acknowledge(publishes, reason, text)
        self._answered()

    def _complete(self, event: Release) -> None:
        """PUBREL: the id may be used again; PUBCOMP says so once that is stored."""
        session = self.client_session
        if session is None:
            raise RuntimeError("the session let a PUBREL pass before CONNECT")
        if session.persistent:
            self.wire.sessions.store_received(session, lambda error: self._completed(event, error))
        else:
            self._completed(event, None)

    def _completed(self, event: Release, error: PolywireError | None) -> None:
        if error is not None:
            self.end(Reason.UNSPECIFIED_ERROR, said(error))
            return
        self.protocol.complete(event.id, event.reason)
        if not self.ended:
            self.answered()

    # Writing

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""
        return self._out_size + int(self._transport.get_write_buffer_size())

    @property
    def full(self) -> bool:
        """Whether the client has to read before it gets more messages; or has been told that none come."""
        return (
            self._paused_writing
            or self._gated
            or self._lost
            or self.protocol.closed
            or self._out_size > self.wire.settings.out_buffer
        )

    def write(self, data: bytes) -> None:
        """In this turn's write, behind what the session has to say until now."""
        out = self._out
        out += self.protocol.data_to_send()
        out.append(data)
        self._out_size += len(data)
        if not self._flushing:
            self.flush_soon()

    def flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Write; then go on with what waited for that, or did not fit."""
        was_full = self._out_size > self.wire.settings.out_buffer
        self._flush()
        if self.ended:
            return
        if self.protocol.closed:
            for event in self._events():  # an answer that ended it: too large for the client, say
                self._dispatch(event)
        elif was_full and self.subscriptions is not None and not self.full:
            self.subscriptions.writable()  # the transport took it all, and so will not say so

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is None or self._gated:
            return
        out = self._out
        out += self.protocol.data_to_send()
        if out:
            self._out = []
            self._out_size = 0
            if not self._transport.is_closing():
                self._transport.write(b"".join(out))
        self._tell_of_room()

    async def room(self) -> None:
        """Until the client may have read something, or is gone: then look again whether it is `full`."""
        if self._awaits_room is None:
            self._awaits_room = self._loop.create_future()
        await asyncio.shield(self._awaits_room)

    def _tell_of_room(self) -> None:
        waiter, self._awaits_room = self._awaits_room, None
        if waiter is not None:
            waiter.set_result(None)

    # Ending

    def _disconnected(self, event: Disconnected) -> None:
        self._leave(will=event.keeps_will, expiry=event.session_expiry)
        self.close()

    def _broken(self, event: Broken) -> None:
        self.wire.counters.errors += 1
        _logger.info("a client broke the protocol: %s", event.error.detail)
        self._leave(will=True)
        self.close(lingers=True)

    def _gone(self) -> None:
        self._leave(will=True)
        self.close()

    def end(self, reason: int, text: str, *, lingers: bool = True) -> None:
        """Close from our side, saying why where the level can."""
        if self.ended:
            return
        self.protocol.disconnect(reason, text)
        self._leave(will=True)
        self.close(lingers=lingers)

    def _leave(self, *, will: bool, expiry: int | None = None) -> None:
        """Part with the client's session."""
        session, self.client_session = self.client_session, None
        for event in self._held:
            self._abandon(event)
        self._held.clear()
        if self.subscriptions is not None:
            self.subscriptions.leave()
        self._forget()
        self._forget = _nothing
        self.wire.calls.leave(self)
        if session is not None and session.connection is self:
            self.wire.sessions.leave(session, will=will, expiry=expiry)
        self._tell_of_room()

    def lose_session(self) -> None:
        """The session ended while it was connected."""
        self.client_session = None
        self.end(Reason.ADMINISTRATIVE_ACTION, "the session was ended")

    def close(self, *, lingers: bool = False) -> None:
        """After what is to be written. ``lingers``: once the client has closed, too, or does not in `_LAST_WORDS`. To
        close while it still sends would be a reset, which takes away from it what it is told last."""
        if self.ended:
            return
        self._gated = False
        self._flush()
        self.ended = True
        self.heard = self.wire.core.clock.now()
        if not lingers or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset it; the transport was not told yet
            self._transport.abort()
            return
        if self._paused_reading:
            self._paused_reading = False
            if not self._resting:
                self._transport.resume_reading()

    def abort(self) -> None:
        self._leave(will=True)
        self.ended = True
        self._transport.abort()


def _nothing() -> None:
    pass
