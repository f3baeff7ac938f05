"""What a client gets as it is published: QoS 0; and QoS 1 and 2 of a session that ends with its connection.

A client that does not keep up loses nothing at QoS 1 and 2: some messages wait here, behind them the core goes on for
it from the log. At QoS 0 it gets what the hub's memory still has. What waits for acknowledgements holds up nothing at
QoS 0 [MQTT-3.3.4-10].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from polywire.core.errors import PolywireError
from polywire.core.message import Batch, Message, Origin, Record
from polywire.core.patterns import Pattern
from polywire.core.position import Position
from polywire.wires.mqtt.binding import CONNECT_REASONS, reason_of, said
from polywire.wires.mqtt.client_session import ClientSession, Granted
from polywire.wires.mqtt.encoding import Form
from polywire.wires.mqtt.records import levels_of

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["LiveFeed"]

_TAKINGS = 1_024
_NOWHERE = Position(0, 0, 0)


class _Waiting(NamedTuple):
    """Records of a batch that are sent when the client has acknowledged others."""

    batch: Batch
    indexes: Sequence[int]
    form: Form
    qos: int


class _Taking(NamedTuple):
    """How the client is told what some of its subscriptions take in together.

    ``queued``: only what was published at QoS 0, for the rest is in its queue. ``own``: how it is told what it
    published itself; None: not at all [MQTT-3.8.3-3].
    """

    form: Form
    own: Form | None
    queued: bool

    @property
    def plain(self) -> bool:
        return not self.queued and self.own is self.form


class LiveFeed:
    """A reader of `polywire.core.live`; its values are the session's subscriptions."""

    def __init__(self, wire: Mqtt, connection: Connection, session: ClientSession) -> None:
        self._wire = wire
        self._counters = wire.counters
        self._encoder = wire.encoder
        self._connection = connection
        self._protocol = connection.protocol
        self._session = session
        self._origin = Origin(session.principal.name, "mqtt", session.client_id)
        self._takings: dict[tuple[Granted, ...], _Taking] = {}
        self._waiting: deque[_Waiting] = deque()
        self._waiting_messages = 0
        self._waiting_size = 0

    def _learn(self, values: tuple[Granted, ...]) -> _Taking:
        if len(self._takings) >= _TAKINGS:
            self._takings.clear()
        level = self._connection.level
        form = self._wire.form(values, level)
        others = tuple(one for one in values if not one.options.no_local)
        own = form if len(others) == len(values) else self._wire.form(others, level) if others else None
        taking = self._takings[values] = _Taking(form, own, any(one.queued for one in values))
        return taking

    # LiveReader

    def deliver(self, batch: Batch, first: int, end: int, values: tuple[Granted, ...]) -> int:
        if self._connection.full:
            return 0
        taking = self._takings.get(values) or self._learn(values)
        if taking.plain and taking.form.qos == 0:
            self._write(batch, first, end, taking.form)
            return end - first
        for form, qos, indexes in self._pieces(batch, first, end, taking):
            if qos == 0:
                self._write_some(batch, indexes, form)
            elif not self._send_or_keep(batch, indexes, form, qos):
                return indexes[0] - first
        return end - first

    def _send_or_keep(self, batch: Batch, indexes: Sequence[int], form: Form, qos: int) -> bool:
        """Send as many as the client takes unacknowledged; the others wait. False: nothing was done, too many wait."""
        room = 0 if self._waiting else self._protocol.room
        if room < len(indexes) and self._waiting and not self._may_wait(len(indexes), batch):
            return False
        if room:
            self._send(batch, indexes[:room], form, qos)
        if room < len(indexes):
            left = indexes[room:]
            self._waiting.append(_Waiting(batch, left, form, qos))
            self._waiting_messages += len(left)
            self._waiting_size += batch.size
        return True

    def _may_wait(self, messages: int, batch: Batch) -> bool:
        settings = self._wire.settings
        return (
            self._waiting_messages + messages <= settings.max_queued
            and self._waiting_size + batch.size <= settings.out_buffer
        )

    def pump(self) -> None:
        """The client has acknowledged some, or read."""
        while self._waiting and not self._connection.full and (room := self._protocol.room):
            one = self._waiting.popleft()
            self._send(one.batch, one.indexes[:room], one.form, one.qos)
            self._waiting_messages -= min(room, len(one.indexes))
            if room < len(one.indexes):
                self._waiting.appendleft(one._replace(indexes=one.indexes[room:]))
            else:
                self._waiting_size -= one.batch.size

    def _pieces(self, batch: Batch, first: int, end: int, taking: _Taking) -> Iterator[tuple[Form, int, Sequence[int]]]:
        """Runs of records that are sent alike: form, QoS, indexes."""
        levels, most = levels_of(batch), taking.form.qos
        if taking.plain:
            span = levels[first:end]
            if span.count(span[0]) == len(span):
                yield taking.form, min(span[0], most), range(first, end)
                return
            for level, run in groupby(range(first, end), lambda index: min(levels[index], most)):
                yield taking.form, level, list(run)
            return
        records, own = batch.records, self._origin

        def how(index: int) -> tuple[Form, int] | None:
            form = taking.own if records[index].origin == own else taking.form
            if form is None or (taking.queued and levels[index]):
                return None
            return form, min(levels[index], form.qos)

        for told, run in groupby(range(first, end), how):
            if told is not None:
                yield *told, list(run)

    def _write(self, batch: Batch, first: int, end: int, form: Form) -> None:
        encoded = self._encoder.qos0(batch, first, end, form, self._connection.peer)
        self._count(encoded.packets, end - first)
        self._connection.write(encoded.data)

    def _write_some(self, batch: Batch, indexes: Sequence[int], form: Form) -> None:
        if isinstance(indexes, range):
            self._write(batch, indexes.start, indexes.stop, form)
            return
        selected = self._encoder.select(batch, indexes, form, 0, self._connection.peer)
        self._count(len(selected), len(indexes))
        self._connection.write(selected.write())

    def _send(self, batch: Batch, indexes: Sequence[int], form: Form, qos: int) -> None:
        selected = self._encoder.select(batch, indexes, form, qos, self._connection.peer)
        count = len(selected)
        self._count(count, len(indexes))
        if count:
            self._connection.write(selected.write(self._protocol.take_ids([None] * count, qos)))

    def _count(self, sent: int, wanted: int) -> None:
        self._counters.delivered += sent
        self._wire.skipped += wanted - sent

    def missed(self, topic: str, count: int) -> None:  # noqa: ARG002 - which topic is for others
        self._wire.missed += count

    def removed(self, pattern: Pattern, value: Granted, error: PolywireError) -> None:  # noqa: ARG002 - the value says it
        """The right to read this was taken away. MQTT has no packet that could say so: the session goes on without."""
        if self._connection.subscriptions is not None:
            self._connection.subscriptions.lose(value)

    def ended(self, error: PolywireError) -> None:
        """A fault of ours; or the hub stops, which tells clients by itself."""
        if self._wire.core.phase == "running":
            self._connection.end(reason_of(error, CONNECT_REASONS), said(error))

    # What is in no topic

    def tell(self, name: bytes, record: Record, granted: tuple[Granted, ...], *, retain: bool = False) -> None:
        """At QoS 0. Dropped where the client does not read."""
        if self._connection.full:
            self._wire.missed += 1
            return
        message = Message("", record, 0, _NOWHERE, self._wire.core.clock.now())
        form = self._wire.form(granted, self._connection.level)
        packet = self._encoder.named(name, message, form, 0, retain=retain)
        if packet is not None and packet.size <= self._protocol.peer_maximum_packet_size:
            self._counters.delivered += 1
            self._connection.write(packet.whole())
