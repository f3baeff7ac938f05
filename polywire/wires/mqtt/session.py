"""One connection as MQTT sees it, from the server's side: which packet is legal when, and what answers it. Pure.

| phase | what is legal | how it ends |
|---|---|---|
| CONNECT is awaited | CONNECT [MQTT-3.1.0-1] | ``Connect`` is handed over |
| CONNECT is being decided | anything: it waits, unread [MQTT-3.1.4-6] | `accept`, `refuse` |
| the client is served | `Session._LEGAL`; the rest is `_ILLEGAL` | DISCONNECT, `disconnect`, violation, end of bytes |

Bytes go in by `receive_data`; what they mean comes out of `events`; what the hub has to say goes in by `accept`,
`acknowledge` and the rest, and comes out of `data_to_send` as bytes. After each, take the events and write what is to
be sent. Once a session is ``closed`` nothing more is read: close the connection when everything is written.

What promises something is not the session's to say: PUBACK, PUBREC, PUBREL and PUBCOMP wait until the hub has stored
what they promise. Pings, repeats and violations the session answers by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, Final

from polywire.wires.mqtt.answers import ANY_SIZE, Acknowledgement, Answer, encode_answer, legal_reason, successes
from polywire.wires.mqtt.codec import Decoder, encode
from polywire.wires.mqtt.in_flight import MOST_IDS, Sent, SessionState, Stage
from polywire.wires.mqtt.incoming import ALIAS, Incoming
from polywire.wires.mqtt.packets import (
    Acks,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from polywire.wires.mqtt.reasons import MqttError, Reason, connack_code
from polywire.wires.mqtt.session_events import (
    Broken,
    Completed,
    Disconnected,
    Eof,
    Event,
    Publishes,
    Release,
    Rules,
    Settled,
)

__all__ = [
    "Broken", "Completed", "Disconnected", "Eof", "Event", "Publishes", "Release", "Rules", "Session", "Settled",
]  # fmt: skip

_AWAITED, _DECIDED, _SERVED = range(3)
"""Phases of a connection."""

_ILLEGAL: Final[dict[type, str]] = {
    Connect: "a second CONNECT [MQTT-3.1.0-2]",
    Auth: "AUTH without an Authentication Method in CONNECT [MQTT-4.12.0-7]",
    Connack: "CONNACK is the server's to send",
    Suback: "SUBACK is the server's to send",
    Unsuback: "UNSUBACK is the server's to send",
    Pingresp: "PINGRESP is the server's to send",
}
"""What no client may send after CONNECT."""

_PINGRESP: Final = encode(Pingresp(), 5)


class Session:
    """Life: construct → `receive_data` until ``Connect`` → `accept` or `refuse` → serve → `closed`."""

    __slots__ = (
        "_decoder", "_ends", "_eof", "_events", "_held", "_incoming", "_out", "_packets", "_phase", "_resumed",
        "_rules", "_window", "closed", "explains", "level", "peer_alias_maximum", "peer_maximum_packet_size", "state",
    )  # fmt: skip

    def __init__(self, rules: Rules) -> None:
        self.closed = False
        self.level = 0
        """Of CONNECT; 0 before it."""
        self.peer_maximum_packet_size = ANY_SIZE
        """The client takes no larger packet [MQTT-3.1.2-24]: a message that makes a larger one is not for it."""
        self.explains = True
        """Whether the client wants reason strings beside those of CONNACK and DISCONNECT."""
        self.state = SessionState()
        self._rules = rules
        self._decoder = Decoder(
            maximum_packet_size=rules.maximum_packet_size,
            maximum_request_size=min(rules.maximum_request_size, rules.maximum_packet_size),
        )
        self._phase = _AWAITED
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self._packets: list[Packet] = []  # behind CONNECT, in the same bytes
        self._held: list[bytes] = []  # what came until it was decided
        self._eof = False
        self._ends = False  # the client's session, with its connection
        self._resumed = False  # it was there before
        self._incoming = Incoming(self.state, 0, None)
        self._window = 0
        self.peer_alias_maximum = 0
        """Topic aliases that may be used towards the client [MQTT-3.1.2-26]."""

    # Bytes and events

    def receive_data(self, data: bytes) -> None:
        """Next: take `events`, then write `data_to_send`."""
        if self.closed:
            return
        if self._phase == _DECIDED:
            self._held.append(data)
            return
        packets = self._decoder.receive(data)
        if self._phase == _AWAITED and packets:
            self._packets = packets[1:]
            self._connect(packets[0])
        else:
            self._read(packets)
        self._mind_errors()

    def receive_eof(self) -> None:
        """No more bytes will come. What came before still counts: it is among `events`, before ``Eof``."""
        if self.undecided:
            self._eof = True
        elif not self.closed:
            self.closed = True
            self._events.append(Eof())

    def events(self) -> Iterator[Event]:
        """What happened, in order; including what happens while they are looked at: `accept` lets in what came behind
        CONNECT. Each is told once."""
        while self._events:
            events, self._events = self._events, []
            yield from events

    def data_to_send(self) -> list[bytes]:
        """What is to be written now, in order."""
        if self._incoming.owed:
            self._answer_repeats()
        out, self._out = self._out, []
        return out

    @property
    def undecided(self) -> bool:
        """CONNECT waits for `accept` or `refuse`. What is received meanwhile is kept, so do not read much more."""
        return self._phase == _DECIDED and not self.closed

    def _read(self, packets: Iterable[Packet]) -> None:
        try:
            for kind, run in groupby(packets, type):
                self._handler(kind)(self, list(run))
                if self.closed:
                    return
        except MqttError as error:
            self._break(error)

    @classmethod
    def _handler(cls, kind: type) -> Callable[[Session, list[Any]], None]:
        handler = cls._LEGAL.get(kind)
        if handler is None:
            raise MqttError(Reason.PROTOCOL_ERROR, _ILLEGAL[kind])
        return handler

    def _mind_errors(self) -> None:
        if self._decoder.error is not None and not self.undecided:
            self._break(self._decoder.error)

    def _break(self, error: MqttError) -> None:
        if not self.closed:
            self._events.append(Broken(error.with_traceback(None)))  # whose frames hold the whole connection
            self._end(error.reason, error.detail)

    # CONNECT

    def _connect(self, connect: Packet) -> None:
        if not isinstance(connect, Connect):
            raise TypeError("the decoder let another packet pass before CONNECT")
        told = connect.properties
        self.level = connect.level
        self._phase = _DECIDED
        self.peer_maximum_packet_size = told.get(Property.MAXIMUM_PACKET_SIZE, ANY_SIZE)
        self.explains = bool(told.get(Property.REQUEST_PROBLEM_INFORMATION, 1))
        self._window = min(told.get(Property.RECEIVE_MAXIMUM, MOST_IDS), self._rules.in_flight)
        self.peer_alias_maximum = min(told.get(Property.TOPIC_ALIAS_MAXIMUM, 0), self._rules.topic_alias_maximum)
        self._ends = not told.get(Property.SESSION_EXPIRY_INTERVAL, 0)
        if Property.AUTHENTICATION_METHOD in told:
            method = told[Property.AUTHENTICATION_METHOD]
            self._break(MqttError(Reason.BAD_AUTHENTICATION_METHOD, f"no such authentication method: {method[:80]!r}"))
        else:
            self._events.append(connect)

    def accept(self, state: SessionState, connack: Connack) -> None:
        """Send ``connack``, and let in what the client sent behind CONNECT: next as after `receive_data`.

        At level 5 the session adds what its `Rules` ask of the client. ``state`` passes to this connection, so the one
        that had it must be closed. What that one handed over may still be on its way to the log: tell that connection
        what becomes of it, as if it were open.
        """
        if self.closed:
            return
        if self._phase != _DECIDED:
            raise RuntimeError("there is no CONNECT to accept")
        if self.level == 5:
            connack = Connack(connack.reason, connack.session_present, {**connack.properties, **self._asked()})
        if not self._put(connack):
            return
        self._phase = _SERVED
        self._resumed = connack.session_present
        self._serve(state)
        packets, self._packets = self._packets, []
        held, self._held = self._held, []
        self._read(packets)
        self._mind_errors()
        for data in held:
            self.receive_data(data)
        if self._eof:
            self.receive_eof()

    def _serve(self, state: SessionState) -> None:
        state.reconnected()
        self.state = state
        rules = self._rules
        receive_maximum = rules.receive_maximum if self.level == 5 else None
        self._incoming = Incoming(state, rules.topic_alias_maximum, receive_maximum)

    def _asked(self) -> Properties:
        """What is not said has its default: 65,535 and none (§3.2.2.3.3, §3.2.2.3.8)."""
        rules = self._rules
        asked: Properties = {Property.MAXIMUM_PACKET_SIZE: rules.maximum_packet_size}
        if rules.receive_maximum < MOST_IDS:
            asked[Property.RECEIVE_MAXIMUM] = rules.receive_maximum
        if rules.topic_alias_maximum:
            asked[Property.TOPIC_ALIAS_MAXIMUM] = rules.topic_alias_maximum
        return asked

    def refuse(self, reason: int, text: str | None = None) -> None:
        """CONNACK with a reason of 0x80 or more, or at levels 3 and 4 its return code if it has one; then the end."""
        self._end(reason, text)

    def disconnect(self, reason: int, text: str | None = None) -> None:
        """The end, at level 5 with DISCONNECT; before CONNACK it is `refuse` [MQTT-3.14.0-1]."""
        self._end(reason, text)

    def _end(self, reason: int, text: str | None) -> None:
        if self.closed:
            return
        last = self._last(reason)
        if last is not None and (data := self._encoded(last, text)) is not None:
            self._out.append(data)
        self.closed = True
        self._packets, self._held = [], []

    def _last(self, reason: int) -> Answer | None:
        """What is said last, if anything can be."""
        level = self.level or self._decoder.level  # of a CONNECT that is itself wrong
        if self._phase == _SERVED:
            return Disconnect(legal_reason(Disconnect, reason)) if level == 5 else None
        if level == 5:
            return Connack(legal_reason(Connack, reason))
        return Connack(reason) if level and connack_code(reason) is not None else None

    # From the client

    def _publishes(self, run: list[Publish]) -> None:
        handed: list[Publish] = []
        incoming = self._incoming
        try:
            for publish in run:
                if not publish.topic or (publish.properties and ALIAS in publish.properties):
                    incoming.resolve(publish)
                if publish.qos and not incoming.admit(publish):
                    if incoming.is_answered(publish.id):
                        self._put_each(Pubrec, (publish.id,))
                    continue
                handed.append(publish)
        finally:
            if handed:
                self._events.append(Publishes(handed))

    def _pubrels(self, run: list[Pubrel]) -> None:
        for pubrel in run:
            # A client that has resumed repeats what may have been over: to be told otherwise it takes for a failure.
            known = self._incoming.release(pubrel.id) or self._resumed
            reason = Reason.SUCCESS if known else Reason.PACKET_IDENTIFIER_NOT_FOUND
            self._events.append(Release(pubrel.id, reason))

    @property
    def unacknowledged(self) -> int:
        """PUBLISH and PUBREL that wait for `acknowledge` and `complete`. Stop reading above what can be held: at levels
        3 and 4, and of PUBREL at any, there is no bound that the client knows."""
        return self._incoming.unacknowledged

    def acknowledge(self, publishes: Sequence[Publish], reason: int = Reason.SUCCESS, text: str | None = None) -> None:
        """PUBACK or PUBREC for each that has a QoS: once, in any order. Also when the session is closed, for its
        `SessionState` has to know what is stored.

        With a reason of 0x80 or more they are refused at level 5, and their ids forgotten. At levels 3 and 4 there is
        no refusal, so they are acknowledged [MQTT-3.3.5-2 of 3.1.1]; the other way is `abandon`.
        """
        if self.level < 5:
            reason = Reason.SUCCESS
        ids = [publish.id for publish in publishes if publish.qos == 1]
        if ids:
            self._incoming.acknowledged(ids)
            self._put_each(Puback, ids, reason, text)
        if len(ids) < len(publishes):
            self._record([publish.id for publish in publishes if publish.qos == 2], reason, text)

    def _record(self, ids: list[int], reason: int, text: str | None) -> None:
        if reason >= 0x80:
            self._incoming.forget(ids)
        else:
            self._incoming.recorded(ids)
        self._put_each(Pubrec, ids, reason, text)

    def abandon(self, publishes: Iterable[Publish]) -> None:
        """They are not stored, and no answer says so: the connection is closed, or about to be. Their ids are
        forgotten, so that they count when the client sends them again."""
        self._incoming.acknowledged([publish.id for publish in publishes if publish.qos == 1])
        self._incoming.forget([publish.id for publish in publishes if publish.qos == 2])

    def complete(self, id: int, reason: int = Reason.SUCCESS) -> None:
        """PUBCOMP, with the reason of its ``Release``."""
        self._incoming.complete(id)
        self._put_each(Pubcomp, (id,), reason)

    def _answer_repeats(self) -> None:
        try:
            self._put_each(Pubrec, self._incoming.due())
        except MqttError as error:
            self._break(error)

    # To the client

    def send(self, data: bytes) -> None:
        """Encoded packets, behind what was to be said before."""
        if not self.closed:
            self._out.append(data)

    @property
    def room(self) -> int:
        """How many PUBLISH of QoS 1 and 2 may be sent now, new or again [MQTT-3.3.4-9]."""
        return 0 if self.closed else max(0, self._window - self.state.outstanding)

    def take_ids(self, tokens: Sequence[Any], qos: int) -> Sequence[int]:
        """Ids for messages that are sent now, in this order. Raises ValueError for more than there is `room`."""
        self._require_room(len(tokens))
        return self.state.take_ids(tokens, qos)

    def send_again(self, ids: Sequence[int]) -> None:
        """These of `SessionState.again` are sent now, with DUP, oldest first [MQTT-3.3.1-1]. Raises ValueError for more
        than there is `room`."""
        self._require_room(len(ids))
        for packet_id in ids:
            self.state.again.pop(packet_id, None)

    def _require_room(self, count: int) -> None:
        if count > self.room:
            raise ValueError(f"{count} messages, and the client takes {self.room}")

    def give_up(self, ids: Iterable[int]) -> None:
        """Their messages are gone, so that they cannot be sent again. `release` them: at QoS 2 that is what is left."""
        self.state.give_up(ids)

    def release(self, ids: Iterable[int]) -> None:
        """PUBREL for those that are ``released``: once their PUBREC is stored, and on a new connection again
        [MQTT-4.3.3-4, MQTT-4.4.0-1]."""
        if not self.closed:
            self._put_each(Pubrel, [packet_id for packet_id in ids if self.state.release(packet_id)])

    def _acks(self, run: list[Acks]) -> None:
        for acks in run:
            if entries := self.state.puback(acks.ids):
                self._events.append(Settled(entries))

    def _pubacks(self, run: list[Puback]) -> None:
        settled: list[Sent] = []
        try:
            for puback in run:
                for entry in self.state.puback((puback.id,)):
                    entry.reason = puback.reason
                    settled.append(entry)
        finally:
            if settled:
                self._events.append(Settled(settled))

    def _pubrecs(self, run: list[Pubrec]) -> None:
        settled: list[Sent] = []
        try:
            for pubrec in run:
                entry = self.state.pubrec(pubrec.id, pubrec.reason)
                if entry is not None:
                    settled.append(entry)
                elif pubrec.reason < 0x80:
                    self._pubrec_again(pubrec.id)
        finally:
            if settled:
                self._events.append(Settled(settled))

    def _pubrec_again(self, id: int) -> None:
        """Every PUBREC gets its PUBREL [MQTT-4.3.3-4], if that may be sent yet; for unknown ids, too, that it ends."""
        entry = self.state.sent.get(id)
        if entry is None:
            self._put_each(Pubrel, (id,), Reason.PACKET_IDENTIFIER_NOT_FOUND)
        elif entry.stage == Stage.RELEASED:
            self._put_each(Pubrel, (id,))

    def _pubcomps(self, run: list[Pubcomp]) -> None:
        ids: list[int] = []
        try:
            for pubcomp in run:
                if self.state.pubcomp(pubcomp.id):
                    ids.append(pubcomp.id)  # noqa: PERF401 - those before a violation are told
        finally:
            if ids:
                self._events.append(Completed(ids))

    # SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT

    def _requests(self, run: list[Subscribe] | list[Unsubscribe]) -> None:
        self._events += run

    def suback(self, id: int, reasons: Sequence[int], text: str | None = None) -> None:
        """A reason for each filter, in their order [MQTT-3.9.3-1]."""
        self._put(Suback(id, [legal_reason(Suback, reason) for reason in reasons]), text)

    def unsuback(self, id: int, reasons: Sequence[int], text: str | None = None) -> None:
        """As `suback`; at levels 3 and 4 it says nothing but that it came."""
        self._put(Unsuback(id, [legal_reason(Unsuback, reason) for reason in reasons]), text)

    def _pings(self, run: list[Pingreq]) -> None:
        self._out.append(_PINGRESP * len(run))

    def _disconnect(self, run: list[Disconnect]) -> None:
        """Only reason 0 takes back the will [MQTT-3.14.4-3]; levels 3 and 4 say no other."""
        disconnect = run[0]
        expiry = disconnect.properties.get(Property.SESSION_EXPIRY_INTERVAL)
        if expiry and self._ends:  # §3.14.2.2.2
            raise MqttError(Reason.PROTOCOL_ERROR, "a session that ends with its connection cannot be made to last")
        self.closed = True
        self._events.append(Disconnected(disconnect.reason, disconnect.reason != Reason.SUCCESS, expiry))

    _LEGAL: ClassVar[dict[type, Callable[[Session, list[Any]], None]]] = {
        Publish: _publishes,
        Acks: _acks,
        Puback: _pubacks,
        Pubrec: _pubrecs,
        Pubrel: _pubrels,
        Pubcomp: _pubcomps,
        Subscribe: _requests,
        Unsubscribe: _requests,
        Pingreq: _pings,
        Disconnect: _disconnect,
    }
    """What a client may send once its CONNECT is accepted: who takes a run of it."""

    # Answers as bytes

    def _put_each(
        self,
        packet: type[Acknowledgement],
        ids: Sequence[int],
        reason: int = Reason.SUCCESS,
        text: str | None = None,
    ) -> None:
        if reason != Reason.SUCCESS:
            for packet_id in ids:
                self._put(packet(packet_id, legal_reason(packet, reason)), text)
        elif ids and not self.closed:
            self._out.append(successes(packet, ids))

    def _put(self, answer: Answer, text: str | None = None) -> bool:
        """Whether it could be said. What is too large for the client ends the connection: it would wait for ever."""
        if self.closed:
            return False
        data = self._encoded(answer, text)
        if data is None:
            what = type(answer).__name__.upper()
            most = self.peer_maximum_packet_size
            self._break(MqttError(Reason.PACKET_TOO_LARGE, f"{what} has more than the {most} bytes that you take"))
            return False
        self._out.append(data)
        return True

    def _encoded(self, answer: Answer, text: str | None) -> bytes | None:
        level = self.level or self._decoder.level or 0  # the latter for a CONNECT that is itself wrong
        return encode_answer(answer, level, self.peer_maximum_packet_size, text, explains=self.explains)
