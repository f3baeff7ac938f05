"""Retained messages for new subscriptions (MQTT 5 §3.3.1.3), read page by page as fast as the client takes them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from polywire.core.errors import PolywireError
from polywire.core.message import Flag, Message, Origin, Record
from polywire.core.retained import RetainedScan
from polywire.wires.mqtt.client_session import ClientSession, Granted
from polywire.wires.mqtt.codec import PACKET_IDS
from polywire.wires.mqtt.in_flight import Sent
from polywire.wires.mqtt.queue_feed import other_tokens
from polywire.wires.mqtt.records import qos_of

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Retained", "RetainedFeed"]

_logger = logging.getLogger("polywire.mqtt")


class Retained(NamedTuple):
    """What is retained for a subscription; what comes live has a seq of ``live_from`` or more."""

    granted: Granted
    scan: RetainedScan
    live_from: int


class RetainedFeed:
    """One task for a connection, while there is something to send; subscriptions are served one after the other."""

    def __init__(self, wire: Mqtt, connection: Connection, session: ClientSession) -> None:
        self._wire = wire
        self._core = wire.core
        self._connection = connection
        self._session = session
        self._protocol = connection.protocol
        self._queue: deque[Retained] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._again: deque[int] = deque()
        self._origin = Origin(session.principal.name, "mqtt", session.client_id)

    def scan(self, granted: Granted) -> Retained | None:
        """In the turn in which the subscription is made: what comes otherwise from then on is not in it.

        Live, that begins with what is not committed yet; in a queue, with what is appended next.
        """
        if granted.filter.direct:
            return None
        live_from = self._core.log.uncommitted_from
        since = None if granted.queued else live_from
        scan = self._core.retained(self._session.principal, granted.filter.live_pattern, since=since)
        return Retained(granted, scan, live_from)

    def send(self, granted: Granted, retained: Retained | None) -> None:
        """All that the subscription means, behind SUBACK."""
        if granted.filter.sys:
            self._send_figures(granted)
        elif retained is not None:
            self._queue.append(retained)
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def go_on(self) -> None:
        """The client takes more."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _send_figures(self, granted: Granted) -> None:
        if self._connection.subscriptions is None:
            return
        for name, value in self._wire.sys.retained(granted.filter):
            self._connection.subscriptions.live.tell(name, Record(value), (granted,), retain=True)

    async def _run(self) -> None:
        try:
            while self._queue:
                try:
                    await self._send_all(self._queue.popleft())
                except PolywireError as error:
                    if self._core.ready:
                        _logger.warning("retained messages for client %r: %s", self._session.client_id, error)
        finally:
            self._task = None

    async def _send_all(self, retained: Retained) -> None:
        granted = retained.granted
        if not self._is_wanted(granted):
            return
        async for page in retained.scan:
            for message in page:
                qos = min(granted.options.qos, qos_of(message.record))
                await self._until_room(qos)
                if not self._is_wanted(granted):
                    return
                if page.stands(message) and not _comes_live(message, retained) and not self._is_local(message, granted):
                    self._send(message, granted, qos)
            if not self._is_wanted(granted):
                return

    def _is_wanted(self, granted: Granted) -> bool:
        """Still: or else it was unsubscribed, or subscribed anew."""
        return self._session.granted.get(granted.filter.text) is granted

    def _is_local(self, message: Message, granted: Granted) -> bool:
        """[MQTT-3.8.3-3]"""
        return granted.options.no_local and message.record.origin == self._origin

    def _has_room(self, qos: int) -> bool:
        """What is in flight is kept with the session, so that its size counts, too."""
        if self._connection.full or qos == 0:
            return not self._connection.full
        return self._protocol.room > 0 and self._session.replayed_size < self._wire.settings.out_buffer

    async def _until_room(self, qos: int) -> None:
        while not self._has_room(qos):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _send(self, message: Message, granted: Granted, qos: int) -> None:
        form = self._wire.form((granted,), self._connection.level)
        packet = self._wire.encoder.message(message, form, qos, retain=True)
        if packet is None or packet.size > self._protocol.peer_maximum_packet_size:
            self._wire.skipped += 1
            return
        self._wire.counters.delivered += 1
        if qos == 0:
            self._connection.write(packet.whole())
            return
        token: int | None = None
        if self._session.persistent:
            token = next(other_tokens)
            self._session.replay(token, message, granted)
        data = packet.whole(PACKET_IDS[self._protocol.take_ids([token], qos)[0]])
        if qos == 2 and self._session.persistent:
            self._wire.sessions.store_sent(self._session, lambda error: self._stored(data, error))
        else:
            self._connection.write(data)

    def _stored(self, data: bytes, error: PolywireError | None) -> None:
        if self._connection.ended:
            return
        if error is not None:
            self._connection.abort()
        else:
            self._connection.write(data)

    # Again

    def begin(self) -> None:
        """Send again what an earlier connection of the client did not acknowledge (MQTT 5 §4.4)."""
        state = self._session.state
        self._again.extend(number for number in state.again if state.sent[number].token in self._session.replayed)
        self.send_again()

    def send_again(self) -> None:
        """As far as the client takes it."""
        state = self._session.state
        while self._again and not self._connection.full and self._protocol.room:
            number = self._again.popleft()
            if number in state.again:  # the client has not answered it meanwhile
                self._send_once_more(state.sent[number])

    def _send_once_more(self, entry: Sent) -> None:
        message, granted = self._session.replayed[entry.token]
        form = self._wire.form((granted,), self._connection.level)
        packet = self._wire.encoder.message(message, form, entry.qos, retain=True, dup=True)
        if packet is None or packet.size > self._protocol.peer_maximum_packet_size:
            self._session.end_replay(entry.token)
            self._protocol.give_up([entry.id])
            self._protocol.release([entry.id])
            return
        self._protocol.send_again([entry.id])
        self._connection.write(packet.whole(PACKET_IDS[entry.id]))


def _comes_live(message: Message, retained: Retained) -> bool:
    """Also to a session with a queue: what was published at QoS 0 does not wait in it."""
    return bool(message.record.flags & Flag.VOLATILE) and message.seq >= retained.live_from
