"""All sessions of the wire: opened, taken over, left, resumed, expired; across restarts of the hub.

A session that outlives its connection, and any that has a will, stands in the hub's state. Wills that wait and sessions
that expire are in one heap with one timer, so that neither costs a task.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from polywire.core.access import Action, Principal
from polywire.core.clock import Timer
from polywire.core.errors import Denied, Invalid, LimitExceeded, PolywireError
from polywire.core.message import Origin, Record
from polywire.wires.mqtt.binding import said
from polywire.wires.mqtt.client_session import FOREVER, ClientSession, StoredSession, share_settings
from polywire.wires.mqtt.in_flight import SessionState
from polywire.wires.mqtt.names import Name, read_name
from polywire.wires.mqtt.packets import Connect, Property, Will
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.records import record_of_will

if TYPE_CHECKING:
    from polywire.core.log import Told
    from polywire.wires.mqtt.client_session import Granted
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Sessions"]

SESSION, RECEIVED, SENT = "mqtt_session", "mqtt_received", "mqtt_sent"
"""Kinds of state, each by client id: the session, and its packet ids that came and that went."""

_logger = logging.getLogger("polywire.mqtt")
_SPARE = 64
_AT_ONCE = 256
"""Sessions that expire in one turn of the loop: after a long stop it may be all."""
_decode = msgspec.msgpack.Decoder(StoredSession).decode


class Sessions:
    def __init__(self, wire: Mqtt) -> None:
        self._wire = wire
        self._core = wire.core
        self._settings = wire.settings
        self._all: dict[str, ClientSession] = {}
        self._stored = 0
        self._shares: dict[str, dict[ClientSession, None]] = {}
        self._due: list[tuple[int, int, ClientSession]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    # Life

    def start(self) -> None:
        """Restore what was stored. What cannot be restored whole is dropped: its client is told Session Present 0."""
        states = self._core.states
        received, sent = states.take(RECEIVED), states.take(SENT)
        for client_id, value in states.take(SESSION).items():
            try:
                session = self._restored(client_id, value, received.pop(client_id, b""), sent.pop(client_id, b""))
            except (msgspec.MsgspecError, MqttError, ValueError) as error:
                _logger.warning("the session of client %r cannot be restored and is dropped: %s", client_id, error)
                self._forget(client_id)
                continue
            self._all[client_id] = session
            self._stored += 1
            self._resume_alone(session)
        for kind, left in ((RECEIVED, received), (SENT, sent)):
            for client_id in left:
                states.delete(kind, client_id)
        self._drop_orphans()

    def _restored(self, client_id: str, value: bytes, received: bytes, sent: bytes) -> ClientSession:
        stored = _decode(value)
        principal = self._core.access.named(stored.owner)
        if principal is None:
            raise ValueError(f"the API key {stored.owner!r} was revoked")
        session = ClientSession(client_id, principal.of_client(client_id), stored.level)
        session.restore(stored)
        session.state.unpack_received(received)
        session.state.unpack_sent(sent)
        session.sent_stored = sent
        session.has_queue = self._core.subscriptions.find(client_id, "session") is not None
        needs_queue = any(one.queued and one.filter.share is None for one in session.granted.values())
        if session.persistent and needs_queue and not session.has_queue:
            raise ValueError("its queue is gone")
        for one in session.granted.values():
            if one.filter.share is not None:
                self._shares.setdefault(one.filter.share, {})[session] = None
        return session

    def _resume_alone(self, session: ClientSession) -> None:
        """After a start nobody is connected: a session that had been is one whose connection was cut."""
        if session.left is None:
            self.leave(session, will=True)
        else:
            self._await(session)

    def _drop_orphans(self) -> None:
        """Queues of sessions that ended with the hub: nobody will take what they hold."""
        for subscription in list(self._core.subscriptions):
            kind, name = subscription.settings.kind, subscription.name
            gone = (kind == "session" and name not in self._all) or (kind == "share" and name not in self._shares)
            if gone:
                self._core.subscriptions.drop(self._core.access.system, name, _ignore, kind=kind)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # Opening

    def require(self, principal: Principal, client_id: str) -> None:
        """Whether this client id is the principal's to use. Raises `Denied`."""
        session = self._all.get(client_id)
        if session is None or session.owner == principal.name or self._is_nobodys(session):
            return
        if not self._core.access.allows(principal, Action.MANAGE, client_id):
            raise Denied(
                f"client id {client_id[:80]!r} belongs to {session.owner!r}", hint=f"grant it manage:{client_id[:80]}"
            )

    def connection_of(self, client_id: str) -> Connection | None:
        """That which the client has now."""
        session = self._all.get(client_id)
        return session.connection if session is not None else None

    def of(self, client_id: str, state: SessionState) -> ClientSession | None:
        """The client's session, if it is still that with this state."""
        session = self._all.get(client_id)
        return session if session is not None and session.state is state else None

    def take_over(self, client_id: str) -> None:
        """End the connection that the client has, if it has one [MQTT-3.1.4-3]."""
        session = self._all.get(client_id)
        if session is not None and session.connection is not None:
            session.connection.end(Reason.SESSION_TAKEN_OVER, "the client connected again")

    def open(self, connect: Connect, client_id: str, principal: Principal) -> tuple[ClientSession, bool]:
        """The client's session, its own from before or a new one, and whether it was there. Another connection of the
        client must be gone by now. Raises `LimitExceeded`."""
        session, replaces = self._all.get(client_id), False
        if session is not None and (connect.clean_start or self._is_nobodys(session) or self._is_broken(session)):
            self.end(session)
            session, replaces = None, True
        present = session is not None
        expiry = self._expiry(connect)
        if session is None:
            self._require_room(connect, expiry)
            session = self._all[client_id] = ClientSession(client_id, principal, connect.level)
            session.replaces = replaces
        session.principal, session.level, session.expiry = principal, connect.level, expiry
        session.owner = principal.name
        session.will, session.will_due, session.left = connect.will, None, None
        return session, present

    def _is_broken(self, session: ClientSession) -> bool:
        """An administrator deleted its queue while nobody was connected."""
        return session.has_queue and self._core.subscriptions.find(session.client_id, "session") is None

    def _is_nobodys(self, session: ClientSession) -> bool:
        """It was made before there were API keys, and without one nobody can come back to it."""
        anonymous = self._core.access.anonymous
        return session.owner == anonymous.name and anonymous.powerless

    def _require_room(self, connect: Connect, expiry: int) -> None:
        if (expiry or connect.will is not None) and self._stored >= self._settings.max_sessions:
            raise LimitExceeded(f"the hub keeps its limit of {self._settings.max_sessions} sessions")

    def _expiry(self, connect: Connect) -> int:
        """In seconds. At levels 3 and 4 a session that is not clean has no end of its own (3.1.1 §3.1.2.4)."""
        longest = self._settings.session_expiry // 1_000
        if connect.level >= 5:
            asked: int = connect.properties.get(Property.SESSION_EXPIRY_INTERVAL, 0)
        else:
            asked = 0 if connect.clean_start else FOREVER
        return min(asked, longest)

    def opened(self, session: ClientSession, told: Told) -> None:
        """``told`` hears when what must be stored of it is."""
        if session.persistent or session.will is not None:
            self._store(session, told)
        elif session.stored:
            self._unstore(session, told)
        elif session.replaces:
            self._core.log.change(told=told)  # a client that was told of no session may not find the old one later
        else:
            told(None)

    # Storing

    def changed(self, session: ClientSession, told: Told | None = None) -> None:
        """Its subscriptions changed."""
        if session.persistent:
            self._store(session, told)
        elif told is not None:
            told(None)

    def _store(self, session: ClientSession, told: Told | None = None) -> None:
        self._stored += not session.stored
        session.stored = True
        self._core.states.put(SESSION, session.client_id, lambda: msgspec.msgpack.encode(session.to_store()), told)

    def _unstore(self, session: ClientSession, told: Told | None = None) -> None:
        self._stored -= session.stored
        session.stored = False
        self._forget(session.client_id, told)

    def _forget(self, client_id: str, told: Told | None = None) -> None:
        for kind in (RECEIVED, SENT):
            self._core.states.delete(kind, client_id)
        self._core.states.delete(SESSION, client_id, told)

    def store_received(self, session: ClientSession, told: Told | None = None, *, tied: bool = False) -> None:
        """Its inbound ids of QoS 2. ``tied``: they are true only together with what is published in the same turn."""
        pack = session.state.pack_received
        self._core.states.put(RECEIVED, session.client_id, lambda: pack() or None, told, tied=tied)

    def store_sent(self, session: ClientSession, told: Told | None = None) -> None:
        """Its outbound ids, as they are now; ``told`` hears when they are stored, in the order of these calls."""
        packed = session.state.pack_sent()
        if packed != session.sent_stored:
            session.sent_stored = packed
            waiting: list[Told] = []
            session.sent_waiting = waiting
            self._core.states.put(SENT, session.client_id, packed or None, partial(_sent_is_stored, session, waiting))
        if told is not None:
            told(None) if session.sent_waiting is None else session.sent_waiting.append(told)

    # Leaving

    def leave(self, session: ClientSession, *, will: bool, expiry: int | None = None) -> None:
        """Its connection is gone. ``expiry`` (seconds) is what DISCONNECT says of it."""
        session.connection = None
        if expiry is not None:
            session.expiry = min(expiry, self._settings.session_expiry // 1_000)
        if not will:
            session.will = None
        if not session.persistent:
            self.end(session)
            return
        session.left = self._core.clock.now()
        self._arm_will(session)
        self._store(session)
        self._await(session)

    def _arm_will(self, session: ClientSession) -> None:
        """The will is due after its delay, or at the session's end if that comes first (MQTT 5 §3.1.2.5)."""
        if session.will is not None and session.left is not None:
            delay = session.will.properties.get(Property.WILL_DELAY_INTERVAL, 0)
            session.will_due = session.left + 1_000 * min(delay, session.expiry)
            if session.will_due <= self._core.clock.now():
                self._publish_will(session)

    def _await(self, session: ClientSession) -> None:
        """What happens to it next, if its client does not come back."""
        moments = [moment for moment in (session.will_due, self._expires(session)) if moment is not None]
        if moments:
            heapq.heappush(self._due, (min(moments), next(self._order), session))
            if len(self._due) > 2 * len(self._all) + _SPARE:  # those that came back and went again, many times
                self._due = list({id(entry[2]): entry for entry in sorted(self._due, reverse=True)}.values())
                heapq.heapify(self._due)
            self._arm()

    def _expires(self, session: ClientSession) -> int | None:
        return session.left + 1_000 * session.expiry if session.left is not None else None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._core.clock.call_at(self._due[0][0], self._on_time) if self._due else None

    def _on_time(self) -> None:
        self._timer = None
        now, left = self._core.clock.now(), _AT_ONCE
        while self._due and self._due[0][0] <= now and left:
            left -= 1
            _, _, session = heapq.heappop(self._due)
            if session.connection is not None or self._all.get(session.client_id) is not session:
                continue
            if session.will_due is not None and session.will_due <= now:
                self._publish_will(session)
                self._store(session)
            expires = self._expires(session)
            if expires is not None and expires <= now:
                self._core.event("session.expired", wire="mqtt", client=session.client_id)
                self.end(session)
            else:
                self._await(session)
        self._arm()

    def end(self, session: ClientSession) -> None:
        """The session is over: its subscriptions, what is queued for it and in flight go with it."""
        if self._all.get(session.client_id) is session:
            del self._all[session.client_id]
        if session.connection is not None:
            session.connection.lose_session()
            session.connection = None
        self._publish_will(session)
        for delivery, _ in session.held.values():
            delivery.ack()
        session.held.clear()
        had_queue, session.has_queue = session.has_queue and not self._is_broken(session), False
        if had_queue:
            self._core.subscriptions.drop(self._core.access.system, session.client_id, _ignore, kind="session")
        for one in list(session.granted.values()):
            self.left_share(session, one)
        session.granted.clear()
        if session.stored:
            self._unstore(session)

    # Wills

    def _publish_will(self, session: ClientSession) -> None:
        will, session.will, session.will_due = session.will, None, None
        if will is None:
            return
        name, origin = read_name(will.topic), Origin(session.owner, "mqtt", session.client_id)
        try:
            record = record_of_will(will, name.key, origin, self._core.clock.now())
            self._core.send(self._testator(session, name), name.topic, [record], _complaining(session.client_id))
        except (PolywireError, MqttError) as error:
            _logger.warning("the will of client %r is not published: %s", session.client_id, error)
            if isinstance(error, Invalid):  # of a typed topic: nobody is left who could be told
                record = Record(will.payload, name.key, origin=origin)
                self._core.subscriptions.dead_letter(name.topic, record, said(error))

    def _testator(self, session: ClientSession, name: Name) -> Principal:
        """Who publishes the will. When the hub stops, it has to do so itself: clients may no longer."""
        self._require_publisher(session.principal, name)
        return session.principal if self._core.ready else self._core.access.system

    def require_will(self, principal: Principal, will: Will) -> None:
        """Whether this will could be published now. Raises `MqttError`, `Denied`, `Unauthenticated`."""
        name = read_name(will.topic)
        if name.operation is not None:
            raise MqttError(Reason.TOPIC_NAME_INVALID, "a will cannot call an operation")
        self._require_publisher(principal, name)

    def _require_publisher(self, principal: Principal, name: Name) -> None:
        address = name.topic if name.key is None else f"{name.topic}.{name.key.decode()}"
        self._core.access.require(principal, Action.PUBLISH, address)

    # Shared subscriptions

    def joined_share(self, session: ClientSession, granted: Granted, told: Told) -> None:
        """Raises as `Subscriptions.make`."""
        share = granted.filter.share
        if share is None:
            raise ValueError("not a shared subscription")
        subscriptions = self._core.subscriptions
        if is_new := subscriptions.find(share, "share") is None:
            subscriptions.make(session.principal, share_settings(share, self._settings.max_queued), _ignore)
        try:
            for source in granted.filter.sources:
                subscriptions.add_source(session.principal, share, source, told, kind="share")
        except PolywireError:
            if is_new:  # nobody owns what he may not read
                subscriptions.drop(self._core.access.system, share, _ignore, kind="share")
            raise
        self._shares.setdefault(share, {})[session] = None

    def left_share(self, session: ClientSession, granted: Granted) -> None:
        """With its last member a shared subscription ends (MQTT 5 §4.8.2)."""
        share = granted.filter.share
        if share is None or session not in (members := self._shares.get(share, {})):
            return
        del members[session]
        if not members:
            del self._shares[share]
            if self._core.subscriptions.find(share, "share") is not None:
                self._core.subscriptions.drop(self._core.access.system, share, _ignore, kind="share")


def _sent_is_stored(session: ClientSession, waiting: list[Told], error: PolywireError | None) -> None:
    if session.sent_waiting is waiting:
        session.sent_waiting = None
        if error is not None:
            session.sent_stored = None
    for told in waiting:
        told(error)


def _ignore(error: PolywireError | None) -> None:
    pass


def _complaining(client_id: str) -> Callable[[PolywireError | None], None]:
    def told(error: PolywireError | None) -> None:
        if error is not None:
            _logger.warning("the will of client %r is lost: %s", client_id, error)

    return told
