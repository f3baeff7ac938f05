"""A session between a client and a hub that both lose their connection, and a hub that crashes, at any moment.

The client and the hub here are models: each keeps to its half of the protocol and writes down what it saw. Packet ids
are few, so that they are used again soon. Whatever happens:

- no packet id means two messages at once, and no side is sent more than it takes;
- nothing is settled twice;
- in the end every message has arrived: of QoS 1 at least once, of QoS 2 exactly once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from polywire.wires.mqtt.codec import Decoder, encode
from polywire.wires.mqtt.in_flight import SessionState
from polywire.wires.mqtt.packets import (
    Acks,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from polywire.wires.mqtt.session import Completed, Eof, Event, Publishes, Release, Rules, Session, Settled

RULES = Rules(maximum_packet_size=1_000, receive_maximum=5, topic_alias_maximum=0, in_flight=8)
CLIENT_IDS = 7


class Transaction(NamedTuple):
    """``write``: what is in the log then; ``told``: what the hub does next."""

    write: Callable[[], None]
    told: Callable[[], None]


class Hub:
    """What is durable, what is in memory, and the transactions between them, which commit in their order."""

    def __init__(self) -> None:
        self.log: Counter[bytes] = Counter()
        self.unsettled: dict[int, int] = {}
        """QoS by token."""
        self.stored_received = self.stored_sent = b""
        self.tokens = 0
        self.start()

    def start(self) -> None:
        self.transactions: deque[Transaction] = deque()
        self.state = SessionState()
        self.state.unpack_received(self.stored_received)
        self.state.unpack_sent(self.stored_sent)
        self.session: Session | None = None
        self.begun = False
        self.settling: set[int] = set()

    def transact(self, told: Callable[[], None], write: Callable[[], None] = lambda: None) -> None:
        """Everything that is stored of the session goes along, as it is now."""
        received, sent = self.state.pack_received(), self.state.pack_sent()

        def writes() -> None:
            self.stored_received, self.stored_sent = received, sent
            write()

        self.transactions.append(Transaction(writes, told))

    def commit(self) -> None:
        transaction = self.transactions.popleft()
        transaction.write()
        transaction.told()

    # The connection

    def accept(self) -> Session:
        self.session = session = Session(RULES)
        self.begun = False
        return session

    def lost(self) -> None:
        if self.session is not None:
            self.session.receive_eof()
            self.handle(self.session)
            self.session = None

    def handle(self, session: Session) -> None:
        for event in session.events():
            self.on(session, event)

    def on(self, session: Session, event: Event) -> None:
        if isinstance(event, Connect):
            session.accept(self.state, Connack(session_present=True))
            self.transact(lambda: self.begin(session))
        elif isinstance(event, Publishes):
            self.on_publishes(session, event.publishes)
        elif isinstance(event, Release):
            self.transact(lambda: session.complete(event.id, event.reason))
        elif isinstance(event, Settled):
            self.on_settled(session, event)
        elif isinstance(event, Completed):
            self.transact(lambda: None)
        else:
            assert isinstance(event, Eof), event

    def on_publishes(self, session: Session, publishes: list[Publish]) -> None:
        self.state.mark_stored([publish.id for publish in publishes if publish.qos == 2])

        def write() -> None:
            self.log.update(publish.payload for publish in publishes)

        self.transact(lambda: session.acknowledge(publishes), write)

    def on_settled(self, session: Session, event: Settled) -> None:
        tokens = [entry.token for entry in event.entries]
        assert self.settling.isdisjoint(tokens), "settled twice"
        self.settling.update(tokens)

        def write() -> None:
            for token in tokens:
                del self.unsettled[token]

        self.transact(lambda: session.release([entry.id for entry in event.entries if entry.released]), write)

    def begin(self, session: Session) -> None:
        """CONNACK is stored, and everything before it: what was in flight goes on."""
        if session is self.session:
            session.release([entry.id for entry in self.state.sent.values() if entry.released])
            self.begun = True
            self.send_again()

    # To the client

    def send_again(self) -> None:
        if self.session is not None and self.begun:
            for packet_id in list(self.state.again)[: self.session.room]:
                entry = self.state.sent[packet_id]
                self.session.send_again([packet_id])
                self.write(self.session, packet_id, entry.token, entry.qos, dup=True)

    def write(self, session: Session, packet_id: int, token: int, qos: int, *, dup: bool) -> None:
        session.send(encode(Publish(b"t", b"%d" % token, qos, packet_id, dup=dup), session.level))

    def publish(self, count: int, qos: int) -> None:
        for _ in range(count):
            self.tokens += 1
            self.unsettled[self.tokens] = qos

    def pump(self) -> None:
        """Send what is not in flight yet, as far as the client takes it."""
        session = self.session
        if session is None or not self.begun or self.state.again:
            return
        in_flight = {entry.token for entry in self.state.sent.values()} | self.settling
        for qos in (1, 2):
            waiting = [token for token, of in self.unsettled.items() if of == qos and token not in in_flight]
            self.send(session, waiting[: session.room], qos)

    def send(self, session: Session, tokens: list[int], qos: int) -> None:
        ids = list(session.take_ids(tokens, qos))

        def write() -> None:
            for packet_id, token in zip(ids, tokens, strict=True):
                self.write(session, packet_id, token, qos, dup=False)

        if qos == 2 and ids:
            self.transact(write)
        else:
            write()


class Device:
    """The client."""

    def __init__(self) -> None:
        self.published = 0
        self.sent: dict[int, tuple[Publish, bool]] = {}
        """By id, in order: what is not over, and whether its PUBREC came."""
        self.promised: dict[bytes, int] = {}
        """QoS by payload."""
        self.recorded: set[int] = set()
        self.got: dict[int, Counter[bytes]] = {1: Counter(), 2: Counter()}
        self.disconnected()

    def disconnected(self) -> None:
        self.answers: deque[Packet] = deque()
        self.open: set[int] = set()
        self.connected = False
        self.quota = 0

    def connecting(self, level: int, receive_maximum: int) -> bytes:
        self.level, self.receive_maximum = level, receive_maximum
        self.decoder = Decoder(maximum_packet_size=1_000, level=level)
        properties = {Property.RECEIVE_MAXIMUM: receive_maximum, Property.SESSION_EXPIRY_INTERVAL: 60}
        return encode(Connect(level, "c", clean_start=False, properties=properties if level == 5 else {}), level)

    def publish(self, qos: int) -> bytes:
        """Nothing, if it may not."""
        free = [number for number in range(1, CLIENT_IDS + 1) if number not in self.sent]
        if not self.connected or not self.quota or not free:
            return b""
        self.published += 1
        self.quota -= 1
        publish = Publish(b"t", b"%d" % self.published, qos, free[0])
        self.promised[publish.payload] = qos
        self.sent[publish.id] = publish, False
        return encode(publish, self.level)

    def answer(self) -> bytes:
        packet = self.answers.popleft()
        if isinstance(packet, (Puback, Pubcomp)):
            self.open.discard(packet.id)
        return encode(packet, self.level)

    def receive(self, data: bytes) -> bytes:
        """What it says to that at once."""
        packets = self.decoder.receive(data)
        assert self.decoder.error is None
        return b"".join(self.hear(packet) for packet in packets)

    def hear(self, packet: Packet) -> bytes:
        if isinstance(packet, Connack):
            assert packet.session_present
            return self.resume()
        if isinstance(packet, Publish):
            self.hear_publish(packet)
        elif isinstance(packet, Pubrel):
            self.recorded.discard(packet.id)
            self.answers.append(Pubcomp(packet.id))
        elif isinstance(packet, Acks):
            for packet_id in packet.ids:
                self.over(packet_id, 1, recorded=False)
        elif isinstance(packet, Pubrec):
            publish, _ = self.sent[packet.id]
            self.sent[packet.id] = publish, True
            return encode(Pubrel(packet.id), self.level)
        elif isinstance(packet, Pubcomp):
            self.over(packet.id, 2, recorded=True)
        else:
            assert isinstance(packet, Disconnect), packet
        return b""

    def over(self, packet_id: int, qos: int, *, recorded: bool) -> None:
        publish, was_recorded = self.sent.pop(packet_id)
        assert (publish.qos, was_recorded) == (qos, recorded)
        self.quota = min(self.quota + 1, RULES.receive_maximum)

    def resume(self) -> bytes:
        """[MQTT-4.4.0-1]"""
        self.connected, self.quota = True, RULES.receive_maximum
        out: list[Packet] = []
        for publish, recorded in self.sent.values():
            if recorded:
                out.append(Pubrel(publish.id))
            else:
                self.quota -= 1
                out.append(Publish(publish.topic, publish.payload, publish.qos, publish.id, dup=True))
        return b"".join(encode(packet, self.level) for packet in out)

    def hear_publish(self, publish: Publish) -> None:
        assert publish.id not in self.open, "sent twice on one connection"
        self.open.add(publish.id)
        assert len(self.open) <= min(self.receive_maximum, RULES.in_flight), "more than the client takes"
        if publish.qos == 1:
            self.got[1][publish.payload] += 1
            self.answers.append(Puback(publish.id))
            return
        if publish.id not in self.recorded:
            self.got[2][publish.payload] += 1
        else:
            assert publish.dup, "the id is in use"
        self.recorded.add(publish.id)
        self.answers.append(Pubrec(publish.id))


class Connections(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub, self.device = Hub(), Device()
        self.up, self.down = b"", b""
        self.session: Session | None = None

    # The line between them

    @precondition(lambda self: self.session is None)
    @rule(level=st.sampled_from([4, 5]), receive_maximum=st.integers(1, 6))
    def connect(self, level: int, receive_maximum: int) -> None:
        self.session = self.hub.accept()
        self.up = self.device.connecting(level, receive_maximum if level == 5 else RULES.in_flight)

    @precondition(lambda self: self.up)
    @rule(size=st.integers(1, 40))
    def carry_up(self, size: int) -> None:
        data, self.up = self.up[:size], self.up[size:]
        assert self.session is not None
        self.session.receive_data(data)
        self.hub.handle(self.session)

    @precondition(lambda self: self.session is not None)
    @rule(size=st.integers(1, 40))
    def carry_down(self, size: int) -> None:
        assert self.session is not None
        self.down += b"".join(self.session.data_to_send())
        data, self.down = self.down[:size], self.down[size:]
        self.up += self.device.receive(data)
        self.hub.handle(self.session)

    @precondition(lambda self: self.session is not None)
    @rule()
    def cut(self) -> None:
        self.up, self.down, self.session = b"", b"", None
        self.hub.lost()
        self.device.disconnected()

    @rule()
    def crash(self) -> None:
        self.up, self.down, self.session = b"", b"", None
        self.device.disconnected()
        self.hub.start()

    # What the two do

    @precondition(lambda self: self.device.connected)
    @rule(qos=st.sampled_from([1, 2]))
    def client_publishes(self, qos: int) -> None:
        self.up += self.device.publish(qos)

    @precondition(lambda self: self.device.answers)
    @rule()
    def client_answers(self) -> None:
        self.up += self.device.answer()

    @precondition(lambda self: self.hub.transactions)
    @rule()
    def hub_commits(self) -> None:
        self.hub.commit()

    @rule(count=st.integers(1, 6), qos=st.sampled_from([1, 2]))
    def hub_publishes(self, count: int, qos: int) -> None:
        self.hub.publish(count, qos)
        self.hub.pump()

    @precondition(lambda self: self.session is not None)
    @rule()
    def hub_goes_on(self) -> None:
        self.hub.send_again()
        self.hub.pump()

    # What is true at all times

    @invariant()
    def bounds_hold(self) -> None:
        state = self.hub.state
        assert len(state.sent) <= RULES.in_flight
        assert set(state.again) <= set(state.sent)
        assert set(state.received) <= set(range(1, CLIENT_IDS + 1))
        assert self.session is None or not self.session.closed

    def teardown(self) -> None:
        """In the end everything arrives."""
        self.cut()
        self.connect(5, 4)
        for _ in range(1_000):
            self.settle_down()
            if not (self.hub.unsettled or self.hub.state.sent or self.device.sent or self.hub.state.received):
                break
        else:
            pytest.fail("the two never come to rest")
        promised = self.device.promised
        assert self.hub.log.keys() == promised.keys()
        assert all(count == 1 for payload, count in self.hub.log.items() if promised[payload] == 2)
        assert self.device.got[1].keys() | self.device.got[2].keys() == {
            b"%d" % n for n in range(1, self.hub.tokens + 1)
        }
        assert set(self.device.got[2].values()) <= {1}

    def settle_down(self) -> None:
        self.hub_goes_on()
        self.carry_down(1_000)
        while self.device.answers:
            self.client_answers()
        self.carry_up(1_000)
        while self.hub.transactions:
            self.hub.commit()


def test_nothing_is_lost_and_nothing_comes_twice() -> None:
    rounds = settings(max_examples=60, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(Connections, settings=rounds)
