"""What a client gets from queues of the hub: its session's own, and those it shares.

A delivery that is settled here is settled in the log: PUBACK and PUBREC acknowledge it. At QoS 2 the packet id is
stored with the message's number before the PUBLISH leaves, and the PUBREC before the PUBREL, so that after a restart no
id means another message (MQTT 5 §4.1, §4.3.3).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polywire.core.delivery import Consumer, Delivery
from polywire.core.errors import PolywireError
from polywire.core.kept import alive
from polywire.core.message import Message, Origin
from polywire.wires.mqtt.client_session import ClientSession, Granted
from polywire.wires.mqtt.codec import PACKET_IDS
from polywire.wires.mqtt.encoding import Form, PublishPacket
from polywire.wires.mqtt.in_flight import Sent
from polywire.wires.mqtt.names import mqtt_name
from polywire.wires.mqtt.records import qos_of

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["QueueFeed", "other_tokens"]

other_tokens = itertools.count(-1, -1)
"""Tokens of deliveries that are in no queue of the session: after a restart nobody knows them."""


_LATER = (1 << 63) - 1
_UNREPRESENTABLE = "unrepresentable: MQTT, or this client, cannot be told it"


class QueueFeed:
    """The consumer of a session's queues. Tokens are sequence numbers of its own queue, negative for others."""

    def __init__(self, wire: Mqtt, connection: Connection, session: ClientSession) -> None:
        self._wire = wire
        self._core = wire.core
        self._connection = connection
        self._session = session
        self._protocol = connection.protocol
        self._waiting: deque[tuple[Delivery, Granted | None]] = deque()
        self._sent: dict[int, Delivery] = {}  # by token
        self._again: dict[int, int] = {}  # ids of before, by token
        self._held_before: deque[Sent] = deque()  # of shares, from before
        self._own: Consumer | None = None
        self._shares: dict[str, _Share] = {}
        self._origin = Origin(session.principal.name, "mqtt", session.client_id)
        self._forms: dict[tuple[str, bytes | None, bool], Form | None] = {}
        self._begun = False
        self._early: set[int] = set()  # ids whose PUBREC came before `begin`: their PUBREL waits until that is stored
        self._replaced_before = 0

    # Life

    def begin(self) -> None:
        """Take up what was in flight: in its order, with its ids (MQTT 5 §4.4). Raises `Denied`, `Unauthenticated`."""
        self._begun = True
        self.changed()
        self._resume()
        if self._session.has_queue:
            self.join_own()
        self.pump()

    def _resume(self) -> None:
        state, queue = self._session.state, self._core.subscriptions.find(self._session.client_id, "session")
        lost: list[int] = []
        for entry in [state.sent[number] for number in state.again]:
            if entry.token >= 0 and queue is not None and entry.token in queue.pending:
                self._again[entry.token] = entry.id
            elif entry.token in self._session.held:
                self._held_before.append(entry)
            elif entry.token not in self._session.replayed:
                lost.append(entry.id)  # it expired, was purged or went to another client
        self._protocol.give_up(lost)
        released = [entry.id for entry in state.sent.values() if entry.released and entry.id not in self._early]
        self._protocol.release(released)
        self._connection.flush_soon()

    def changed(self) -> None:
        """The session's subscriptions: messages are told by those there are now."""
        self._forms.clear()
        self._replaced_before = max((one.queued_before for one in self._session.granted.values()), default=0)

    def join_own(self) -> None:
        if self._own is None and self._begun:
            self._own = self._core.subscriptions.consume(
                self._session.principal,
                self._session.client_id,
                self,
                credit=self._wire.settings.in_flight,
                size_credit=self._wire.settings.out_buffer,
                kind="session",
            )

    def join_share(self, granted: Granted) -> None:
        name = granted.filter.share
        if name is None or not self._begun:
            return
        self.leave_share(granted)
        share = _Share(self, granted)
        share.consumer = self._core.subscriptions.consume(
            self._session.principal,
            name,
            share,
            credit=self._wire.settings.in_flight,
            size_credit=self._wire.settings.out_buffer,
            kind="share",
        )
        self._shares[name] = share

    def leave_share(self, granted: Granted) -> None:
        share = self._shares.pop(granted.filter.share or "", None)
        if share is not None:
            self._part(share)

    def lose_share(self, granted: Granted) -> None:
        """Its queue is gone."""
        if self._core.phase == "running":
            self._shares.pop(granted.filter.share or "", None)
            self._session.granted.pop(granted.filter.text, None)
            self._wire.sessions.changed(self._session)
            asyncio.get_running_loop().call_soon(self._leave_lost, granted)

    def _leave_lost(self, granted: Granted) -> None:
        """Not while it is being deleted."""
        if granted.filter.text not in self._session.granted:
            self._wire.sessions.left_share(self._session, granted)

    def leave(self) -> None:
        """What is not settled goes back to its queue: at once to other members of a share, to this client when it is
        back."""
        if self._own is not None:
            self._own.close()
        for share in self._shares.values():
            self._part(share)
        self._waiting.clear()
        self._own = None
        self._shares.clear()

    def _part(self, share: _Share) -> None:
        """What the client was sent of it at QoS 2 stays its own."""
        consumer = share.consumer
        if consumer is None:
            return
        exactly_once = {entry.token for entry in self._session.state.sent.values() if entry.qos == 2}
        for token, delivery in self._sent.items():
            if delivery.consumer is consumer:
                if token in exactly_once:
                    self._session.held[token] = delivery, share.granted
                else:
                    delivery.release()
        for delivery, _ in self._waiting:
            if delivery.consumer is consumer:
                delivery.release()
        consumer.subscription.retire(consumer)
        consumer.closed = True

    # Sink of the session's own queue

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.take(deliveries, None)

    def ended(self, error: PolywireError) -> None:  # noqa: ARG002 - a sink is told
        """The queue was deleted, or the hub stops, which tells clients by itself."""
        if self._core.phase == "running" and not self._connection.ended:
            self._session.has_queue = False
            self._wire.sessions.end(self._session)

    def take(self, deliveries: Sequence[Delivery], granted: Granted | None) -> None:
        self._waiting.extend((delivery, granted) for delivery in deliveries)
        self.pump()

    # Sending

    def pump(self) -> None:
        """Send what waits, as far as the client takes it."""
        connection, protocol = self._connection, self._protocol
        exactly_once: list[bytes] = []
        while self._held_before and protocol.room and not connection.full:
            self._send_held(self._held_before.popleft())
        while self._waiting and not connection.full:
            delivery, granted = self._waiting[0]
            if delivery.consumer.closed:  # it left the share, and the delivery goes to another
                self._waiting.popleft()
                continue
            if protocol.room <= 0:
                break
            self._waiting.popleft()
            if granted is None and delivery.seq in self._again:
                self._send_again(delivery)
            else:
                self._send(delivery, granted, exactly_once)
        if exactly_once and self._session.persistent:
            self._wire.sessions.store_sent(self._session, lambda error: self._stored(exactly_once, error))
        else:
            self._stored(exactly_once, None)

    def _stored(self, packets: Sequence[bytes], error: PolywireError | None) -> None:
        if self._connection.ended:
            return
        if error is not None:
            self._connection.abort()
            return
        for packet in packets:
            self._connection.write(packet)

    def _send(self, delivery: Delivery, granted: Granted | None, exactly_once: list[bytes]) -> None:
        message = delivery.message
        form = self._form(message, granted)
        if form is None or not alive(message.record, self._core.clock.now()):
            delivery.ack()  # unsubscribed since, or held by a pattern that means more than the filter; or expired here
            return
        qos = min(form.qos, qos_of(message.record))
        packet = self._packet(message, form, qos)
        if packet is None:
            delivery.reject(_UNREPRESENTABLE)
            return
        if qos == 0:
            self._connection.write(packet.whole())
            delivery.ack()
            return
        token = delivery.seq if granted is None else next(other_tokens)
        data = packet.whole(PACKET_IDS[self._protocol.take_ids([token], qos)[0]])
        self._sent[token] = delivery
        if qos == 2:
            exactly_once.append(data)
        else:
            self._connection.write(data)

    def _send_again(self, delivery: Delivery) -> None:
        """As it was sent, whatever the client is subscribed to by now: what was begun is completed [MQTT-3.10.4-3]."""
        state, number = self._session.state, self._again.pop(delivery.seq)
        if number not in state.again:
            return  # the client has answered it: that is the next thing to be looked at
        entry = state.sent[number]
        form = self._form(delivery.message, None) or self._wire.form((), self._connection.level)
        packet = self._packet(delivery.message, form, entry.qos, dup=True)
        if packet is None:
            delivery.reject(_UNREPRESENTABLE)
            self._protocol.give_up([entry.id])
            self._protocol.release([entry.id])
            return
        self._protocol.send_again([entry.id])
        self._sent[delivery.seq] = delivery
        self._connection.write(packet.whole(PACKET_IDS[entry.id]))

    def _send_held(self, entry: Sent) -> None:
        if entry.id not in self._session.state.again:  # answered meanwhile
            return
        delivery, granted = self._session.held[entry.token]
        packet = self._packet(delivery.message, self._wire.form((granted,), self._connection.level), 2, dup=True)
        if packet is None:
            self._settle(entry.token)
            self._protocol.give_up([entry.id])
            self._protocol.release([entry.id])
            return
        self._protocol.send_again([entry.id])
        self._connection.write(packet.whole(PACKET_IDS[entry.id]))

    def _packet(self, message: Message, form: Form, qos: int, *, dup: bool = False) -> PublishPacket | None:
        """None if the client cannot be told it."""
        packet = self._wire.encoder.message(message, form, qos, dup=dup)
        if packet is None or packet.size > self._protocol.peer_maximum_packet_size:
            self._wire.skipped += 1
            return None
        self._wire.counters.delivered += 1
        return packet

    def _form(self, message: Message, granted: Granted | None) -> Form | None:
        """How the client is told a message, by all its subscriptions that queue it; None: by none."""
        if granted is not None:
            return self._form_of_share(message, granted)
        place = message.topic, message.record.key, message.record.origin == self._origin
        if place not in self._forms:
            if len(self._forms) >= 1_024:
                self._forms.clear()
            self._forms[place] = self._find_form(*place)
        form = self._forms[place]
        if form is None and message.seq < self._replaced_before:
            return self._find_form(*place, message.seq)
        return form

    def _form_of_share(self, message: Message, granted: Granted) -> Form | None:
        name = mqtt_name(message.topic, message.record.key)
        if name is not None and not granted.filter.matches(name):
            return None
        return self._wire.form((granted,), self._connection.level)

    def _find_form(self, topic: str, key: bytes | None, is_own: bool, seq: int = _LATER) -> Form | None:
        """``is_own``: the client published it itself [MQTT-3.8.3-3]. ``seq`` where it may have been queued for what is
        no longer."""
        name = mqtt_name(topic, key)
        if name is None:
            return Form(self._connection.level, 0)
        granted = (one for one in self._session.granted.values() if one.filter.share is None)
        found = [one for one in granted if one.filter.matches(name)]
        if not any(one.queued or seq < one.queued_before for one in found):
            return None
        wanted = tuple(one for one in found if not (is_own and one.options.no_local))
        return self._wire.form(wanted, self._connection.level) if wanted else None

    # Settling

    def settled(self, entries: Sequence[Sent]) -> None:
        """PUBACK or PUBREC."""
        if self._sent or self._again or self._session.held or self._session.replayed or not self._begun:
            for entry in entries:
                if entry.token is not None:
                    self._settle(entry.token)
        released = [entry.id for entry in entries if entry.stage]
        if not released:
            return
        if not self._begun:
            self._early.update(released)
        if self._session.persistent:
            self._wire.sessions.store_sent(self._session, lambda error: self._release(released, error))
        else:
            self._release(released, None)

    def _settle(self, token: int) -> None:
        delivery = self._sent.pop(token, None)
        held = self._session.held.pop(token, None)
        if delivery is not None:
            delivery.ack()
        elif held is not None:
            held[0].ack()
        elif token >= 0:
            self._settle_unsent(token)
        else:
            self._session.end_replay(token)

    def _settle_unsent(self, token: int) -> None:
        """The client answers what an earlier connection sent, before this one has sent it again."""
        self._again.pop(token, None)
        self._waiting = deque(one for one in self._waiting if one[1] is not None or one[0].seq != token)
        queue = self._core.subscriptions.find(self._session.client_id, "session")
        if queue is not None:
            queue.discard(token)

    def _release(self, ids: Sequence[int], error: PolywireError | None) -> None:
        if self._connection.ended:
            return
        if error is not None:
            self._connection.abort()
            return
        self._protocol.release(ids)
        self._connection.flush_soon()

    def completed(self) -> None:
        if self._session.persistent:
            self._wire.sessions.store_sent(self._session)


class _Share:
    """The consumer of one shared subscription."""

    def __init__(self, feed: QueueFeed, granted: Granted) -> None:
        self.consumer: Consumer | None = None
        self.granted = granted
        self._feed = feed

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self._feed.take(deliveries, self.granted)

    def ended(self, error: PolywireError) -> None:  # noqa: ARG002 - a sink is told
        """An administrator deleted it, and the client may subscribe again; or the hub stops."""
        self._feed.lose_share(self.granted)
