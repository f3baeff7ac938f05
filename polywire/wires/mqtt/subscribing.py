"""SUBSCRIBE and UNSUBSCRIBE (MQTT 5 §3.8, §3.10), and the feeds that bring a client what it subscribed to.

| subscription | QoS 0 | QoS 1 and 2 |
|---|---|---|
| of a session that ends with its connection | live | live: what the client does not take stays in the log |
| of a session that outlives it | live | a queue of the hub, kind ``session``; what was published at QoS 0 comes live |
| shared | a queue of the hub, kind ``share`` | the same |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from polywire.core.errors import LimitExceeded, PolywireError
from polywire.core.routing import Source
from polywire.wires.mqtt.binding import SUBSCRIBE_REASONS, reason_of, said
from polywire.wires.mqtt.client_session import ClientSession, Granted
from polywire.wires.mqtt.in_flight import Sent
from polywire.wires.mqtt.live_feed import LiveFeed
from polywire.wires.mqtt.names import read_filter
from polywire.wires.mqtt.packets import Property, Subscribe, SubscriptionOptions, Unsubscribe
from polywire.wires.mqtt.queue_feed import QueueFeed
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.replies import require_reply_filter
from polywire.wires.mqtt.retained_feed import Retained, RetainedFeed

if TYPE_CHECKING:
    from polywire.core.log import Told
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Subscriptions"]


class Subscriptions:
    """Of one connection. Life: construct → `begin` (CONNACK is on its way) → serve → `leave`."""

    def __init__(self, wire: Mqtt, connection: Connection, session: ClientSession) -> None:
        self._wire = wire
        self._core = wire.core
        self._connection = connection
        self._session = session
        self.live = LiveFeed(wire, connection, session)
        self._queues = QueueFeed(wire, connection, session)
        self._retained = RetainedFeed(wire, connection, session)
        self.unanswered = 0
        """SUBSCRIBE and UNSUBSCRIBE that wait for their answer."""

    def begin(self) -> None:
        """Go on with what the session was subscribed to before, as far as its client still has the right to."""
        self._each(self._listen)
        try:
            self._queues.begin()
        except PolywireError:
            self._wire.sessions.end(self._session)
            return
        self._each(self._queues.join_share)
        self._retained.begin()
        self._core.live.resume(self.live)

    def _each(self, go_on: Callable[[Granted], None]) -> None:
        for text, granted in list(self._session.granted.items()):
            try:
                go_on(granted)
            except PolywireError:
                self._remove(text)

    def leave(self) -> None:
        self._retained.stop()
        self._core.live.leave(self.live)
        self._wire.sys.leave(self.live)
        self._queues.leave()

    def writable(self) -> None:
        """The client has read what was sent, or acknowledged some of it."""
        self._retained.send_again()
        self._queues.pump()
        self.live.pump()
        self._core.live.resume(self.live)
        self._retained.go_on()

    def settled(self, entries: list[Sent]) -> None:
        self._queues.settled(entries)
        self.writable()

    def completed(self) -> None:
        self._queues.completed()
        self.writable()

    # SUBSCRIBE

    def subscribe(self, packet: Subscribe) -> None:
        identifier = packet.properties.get(Property.SUBSCRIPTION_IDENTIFIER, [0])[0]
        new: list[tuple[Granted, Retained | None]] = []
        reasons: list[int] = []
        why: str | None = None
        most = self._wire.settings.max_subscriptions
        for text, options in packet.filters[:most]:
            known = text in self._session.granted
            try:
                granted = self._subscribe(text, options, identifier)
            except MqttError as error:
                if error.reason in (Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR):
                    self._connection.end(error.reason, error.detail)
                    return
                reasons.append(error.reason)
                why = why or error.detail
            except PolywireError as error:
                reasons.append(reason_of(error, SUBSCRIBE_REASONS))
                why = why or said(error)
            else:
                reasons.append(options.qos)
                if self._wants_retained(granted, known):
                    new.append((granted, self._retained.scan(granted)))

        if len(packet.filters) > most:  # each costs the hub some work, also one that is there
            reasons += [Reason.QUOTA_EXCEEDED] * (len(packet.filters) - most)
            why = why or f"a session has at most {most} subscriptions"

        def told(error: PolywireError | None) -> None:
            self._answer(packet.id, reasons, why, new, error)

        self._ask(told)

    def _ask(self, answer: Told) -> None:
        """Once what was changed is stored."""
        self.unanswered += 1

        def told(error: PolywireError | None) -> None:
            self.unanswered -= 1
            answer(error)

        self._wire.sessions.changed(self._session, told)

    @staticmethod
    def _wants_retained(granted: Granted, known: bool) -> bool:
        """Retain Handling (MQTT 5 §3.8.3.1); a shared subscription gets none (§4.8.2)."""
        handling = granted.options.retain_handling
        return granted.filter.share is None and (handling == 0 or (handling == 1 and not known))

    def _answer(
        self,
        id: int,
        reasons: list[int],
        why: str | None,
        new: list[tuple[Granted, Retained | None]],
        error: PolywireError | None,
    ) -> None:
        connection = self._connection
        if connection.ended:
            return
        if error is not None:
            connection.end(Reason.UNSPECIFIED_ERROR, said(error))
            return
        connection.protocol.suback(id, reasons, why)
        connection.answered()
        for granted, retained in new:
            self._retained.send(granted, retained)

    def _subscribe(self, text: str, options: SubscriptionOptions, identifier: int) -> Granted:
        """Raises `MqttError`, and what the core raises."""
        wanted = read_filter(text)
        granted_now = self._session.granted
        if wanted.share is not None and options.no_local:
            raise MqttError(Reason.PROTOCOL_ERROR, "a shared subscription cannot be No Local [MQTT-3.8.3-4]")
        if text not in granted_now and len(granted_now) >= self._wire.settings.max_subscriptions:
            raise LimitExceeded(f"a session has at most {self._wire.settings.max_subscriptions} subscriptions")
        granted = Granted(wanted, options, identifier, lasting=self._session.persistent)
        before = granted_now.get(text)
        if before is not None and not granted.queued:
            granted.queued_before = self._core.log.routed if before.queued else before.queued_before
        self._listen(granted)  # may be refused; then everything is as before
        granted_now[text] = granted
        try:
            self._queue(granted, before)
        except PolywireError:
            self._take_back(text, before)
            raise
        self._queues.changed()
        return granted

    def _take_back(self, text: str, before: Granted | None) -> None:
        """It was refused in the end: as before."""
        self._remove(text)
        if before is not None:
            self._listen(before)
            self._session.granted[text] = before
            self._queue(before, None)

    def _listen(self, granted: Granted) -> None:
        """For what comes live."""
        wanted = granted.filter
        if wanted.sys:
            self._wire.sys.subscribe(self._session.principal, wanted, self.live, granted)
        elif wanted.operation is not None:
            require_reply_filter(self._session.client_id, wanted)
        elif wanted.share is None:
            self._core.live.allowed(self._session.principal, wanted.live_pattern)  # who may not read, makes no topics
            if wanted.topic is not None:
                self._core.catalog.ensure(wanted.topic)
            lossless = granted.options.qos > 0 and not granted.queued
            self._core.live.add(self._session.principal, wanted.live_pattern, self.live, granted, lossless=lossless)

    def _queue(self, granted: Granted, before: Granted | None) -> None:
        """For what waits while the client is away, or is shared."""
        session, subscriptions = self._session, self._core.subscriptions
        if granted.filter.share is not None:
            self._wire.sessions.joined_share(session, granted, _ignore)
            self._queues.join_share(granted)
        elif granted.queued:
            if not session.has_queue:
                subscriptions.make(session.principal, session.queue_settings(self._wire.settings.max_queued), _ignore)
                session.has_queue = True
                self._queues.join_own()
            for source in granted.filter.sources:
                held = Source(source.topic, source.key, keyless=source.keyless, skip_volatile=True)
                subscriptions.add_source(session.principal, session.client_id, held, _ignore, kind="session")
        elif before is not None and before.queued:
            self._end_sources([before])

    # UNSUBSCRIBE

    def unsubscribe(self, packet: Unsubscribe) -> None:
        gone = [self._take_out(text) for text in packet.filters]
        self._end_sources([one for one in gone if one is not None])
        reasons = [Reason.NO_SUBSCRIPTION_EXISTED if one is None else Reason.SUCCESS for one in gone]

        def told(error: PolywireError | None) -> None:
            connection = self._connection
            if connection.ended:
                return
            if error is not None:
                connection.end(Reason.UNSPECIFIED_ERROR, said(error))
                return
            connection.protocol.unsuback(packet.id, reasons)
            connection.answered()

        self._ask(told)

    def _remove(self, text: str) -> None:
        granted = self._take_out(text)
        if granted is not None:
            self._end_sources([granted])

    def _take_out(self, text: str) -> Granted | None:
        """Its sources, if a queue holds it, are still to be ended: all at once, where there are many."""
        granted = self._session.granted.pop(text, None)
        if granted is None:
            return None
        self._queues.changed()
        gone = granted.filter
        if gone.share is not None:
            self._queues.leave_share(granted)
            self._wire.sessions.left_share(self._session, granted)
        elif gone.sys:
            self._wire.sys.unsubscribe(self.live, granted)
        elif gone.operation is None:
            self._core.live.remove(gone.live_pattern, self.live)
        return granted

    def lose(self, granted: Granted) -> None:
        """The right to read this was taken away."""
        if self._session.granted.get(granted.filter.text) is granted:
            self._remove(granted.filter.text)
            self._wire.sessions.changed(self._session)

    def _end_sources(self, gone: Sequence[Granted]) -> None:
        """Nothing more is queued for them; what was queued before is still delivered (MQTT 5 §3.10.4)."""
        session = self._session
        ended = [source for one in gone if _is_own(one) for source in one.filter.sources]
        needed = {_place(source) for one in session.granted.values() if _is_own(one) for source in one.filter.sources}
        for source in ended:
            if _place(source) not in needed:
                held = Source(source.topic, source.key, keyless=source.keyless, skip_volatile=True)
                system = self._core.access.system  # the right to read it may be what is gone
                self._core.subscriptions.end_source(system, session.client_id, held, _ignore, kind="session")


def _is_own(granted: Granted) -> bool:
    """Whether the session's own queue holds what it takes in."""
    return granted.queued and granted.filter.share is None


def _place(source: Source) -> tuple[str, str | None, bool]:
    return source.topic, source.key, source.keyless


def _ignore(error: PolywireError | None) -> None:
    pass
