"""What a client publishes: QoS, packet ids, Receive Maximum and topic aliases, on one connection and on the next."""

from __future__ import annotations

from typing import Any

import pytest

from polywire.wires.mqtt.codec import encode
from polywire.wires.mqtt.in_flight import Received, SessionState
from polywire.wires.mqtt.packets import (
    Disconnect,
    Property,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
)
from polywire.wires.mqtt.reasons import Reason
from polywire.wires.mqtt.session import Rules
from tests.wires.mqtt.session_client import Client, MakeClient, broken, handed, reasons, released, settled
from tests.wires.mqtt.session_client import make_client as make_client  # noqa: PLC0414 - its fixture

LEVELS = [3, 4, 5]


def alias(number: int) -> bytes:
    return b"\x23" + number.to_bytes(2, "big")


# --- PUBLISH from the client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_publishes_come_in_order_and_are_acknowledged_in_any(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.2-4], [MQTT-4.3.3-8]"""
    client = make(level)
    client.connect()
    sent = [Publish(b"t/%d" % number, b"", number % 3, number) for number in range(9)]
    publishes = handed(client.send(*sent))
    assert [publish.topic for publish in publishes] == [publish.topic for publish in sent]
    assert client.session.unacknowledged == 6
    assert client.raw() == b""
    client.session.acknowledge(publishes[5:])
    client.session.acknowledge(publishes[:5])
    assert client.session.unacknowledged == 0
    heard = client.heard()
    assert sorted((packet.id for packet in heard), key=int) == [1, 2, 4, 5, 7, 8]
    assert {packet.id for packet in heard if isinstance(packet, Pubrec)} == {2, 5, 8}


@pytest.mark.parametrize("level", LEVELS)
def test_a_run_of_publishes_is_one_event(level: int) -> None:
    client = Client(level)
    client.connect()
    data = b"".join(encode(Publish(b"a", b"%d" % number), level) for number in range(100))
    (event,) = client.send(data)
    assert [int(publish.payload) for publish in handed([event])] == list(range(100))


def test_puback_and_pubrec_as_bytes() -> None:
    for level in LEVELS:
        client = Client(level)
        client.connect()
        publishes = handed(
            client.send(Publish(b"a", b"", 1, 5), Publish(b"a", b"", 1, 0x1234), Publish(b"a", b"", 2, 7))
        )
        client.session.acknowledge(publishes)
        assert client.raw() == b"\x40\2\0\5\x40\2\x12\x34\x50\2\0\7"


@pytest.mark.parametrize("qos", [1, 2])
def test_a_refused_publish_at_level_5(make: MakeClient, qos: int) -> None:
    """[MQTT-3.4.2-1], [MQTT-4.3.3-9]: at QoS 2 the id is free again."""
    client = make()
    client.connect()
    for _ in range(3):
        publishes = handed(client.send(Publish(b"a", b"", qos, 1)))
        assert len(publishes) == 1
        client.session.acknowledge(publishes, Reason.QUOTA_EXCEEDED, "full")
        answer = (Puback, Pubrec)[qos - 1](1, Reason.QUOTA_EXCEEDED, {Property.REASON_STRING: "full"})
        assert client.heard() == [answer]
    assert client.session.state.received == {}
    assert client.session.unacknowledged == 0


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refused_publish_before_level_5_is_acknowledged(level: int, qos: int) -> None:
    """[MQTT-3.3.5-2] of 3.1.1"""
    client = Client(level)
    client.connect()
    client.session.acknowledge(handed(client.send(Publish(b"a", b"", qos, 1))), Reason.NOT_AUTHORIZED, "no")
    assert client.raw() == bytes((0x30 + 0x10 * qos, 2, 0, 1))
    assert list(client.session.state.received) == [1] * (qos - 1)


def test_no_matching_subscribers_is_a_success() -> None:
    client = Client()
    client.connect()
    publishes = handed(client.send(Publish(b"a", b"", 1, 1), Publish(b"a", b"", 2, 2)))
    client.session.acknowledge(publishes, Reason.NO_MATCHING_SUBSCRIBERS)
    assert client.heard() == [Puback(1, 0x10), Pubrec(2, 0x10)]
    assert released(client.send(Pubrel(2))) == [(2, 0)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_publish_without_a_topic(make: MakeClient, level: int) -> None:
    """[MQTT-4.7.3-1]"""
    client = make(level)
    client.connect()
    assert broken(client.send(Publish(b"a", b""), Publish(b"", b""))) == Reason.PROTOCOL_ERROR


# --- QoS 2 from the client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_qos_2_to_its_end(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.3-8] to [MQTT-4.3.3-12]"""
    client = make(level)
    client.connect()
    for _ in range(2):
        client.session.acknowledge(handed(client.send(Publish(b"a", b"", 2, 7))))
        assert client.heard() == [Pubrec(7)]
        assert released(client.send(Pubrel(7))) == [(7, 0)]
        assert client.session.state.received == {}
        assert client.session.unacknowledged == 1
        assert client.heard() == []
        client.session.complete(7)
        assert client.raw() == b"\x70\2\0\7"
        assert client.session.unacknowledged == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_repeat_before_the_answer_gets_one_of_its_own(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.3-10]"""
    client = make(level)
    client.connect()
    publishes = handed(client.send(Publish(b"a", b"", 2, 7), Publish(b"a", b"", 2, 7, dup=True)))
    assert len(publishes) == 1
    client.session.acknowledge(publishes)
    assert client.heard() == [Pubrec(7), Pubrec(7)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_repeat_after_the_answer_is_answered(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.3-10]"""
    client = make(level)
    client.connect()
    client.session.acknowledge(handed(client.send(Publish(b"a", b"", 2, 7))))
    assert client.send(Publish(b"a", b"", 2, 7, dup=True), Publish(b"b", b"", 2, 7)) == []
    assert client.heard() == [Pubrec(7)] * 3


@pytest.mark.parametrize("level", LEVELS)
def test_pubrel_of_an_unknown_id(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.3-11]; level 5 is told that there was no such message (§3.7.2.1)."""
    client = make(level)
    client.connect()
    ((packet_id, reason),) = released(client.send(Pubrel(5)))
    assert (packet_id, reason) == (5, Reason.PACKET_IDENTIFIER_NOT_FOUND)
    client.session.complete(packet_id, reason)
    assert client.raw() == (b"\x70\3\0\5\x92" if level == 5 else b"\x70\2\0\5")


@pytest.mark.parametrize("level", LEVELS)
def test_pubrel_before_pubrec(make: MakeClient, level: int) -> None:
    client = make(level)
    client.connect()
    assert broken(client.send(Publish(b"a", b"", 2, 7), Pubrel(7))) == Reason.PROTOCOL_ERROR


def test_qos_1_ids_are_not_remembered(make: MakeClient) -> None:
    """[MQTT-4.3.2-5]"""
    client = make()
    client.connect()
    for _ in range(2):
        publishes = handed(client.send(Publish(b"a", b"", 1, 7, dup=True)))
        assert len(publishes) == 1
        client.session.acknowledge(publishes)


def test_qos_1_beside_qos_2_with_the_same_id(make: MakeClient) -> None:
    """No client may do so [MQTT-2.2.1-3]; but nothing is lost if it does."""
    client = make()
    client.connect()
    client.session.acknowledge(handed(client.send(Publish(b"a", b"", 2, 7))))
    client.session.acknowledge(handed(client.send(Publish(b"b", b"", 1, 7))))
    assert client.heard() == [Pubrec(7), Puback(7)]
    assert released(client.send(Pubrel(7))) == [(7, 0)]


# --- across connections -----------------------------------------------------------------------------------------------


def resumed(state: SessionState, level: int = 5, **options: Any) -> Client:
    client = Client(level)
    client.connect(state, present=True, **options)
    return client


@pytest.mark.parametrize("level", LEVELS)
def test_a_repeat_on_the_next_connection(level: int) -> None:
    state = SessionState()
    first = resumed(state, level)
    first.session.acknowledge(handed(first.send(Publish(b"a", b"", 2, 7))))
    second = resumed(state, level)
    assert second.send(Publish(b"a", b"", 2, 7, dup=True)) == []
    assert second.heard() == [Pubrec(7)]
    assert released(second.send(Pubrel(7))) == [(7, 0)]


def test_a_repeat_waits_for_what_becomes_of_the_first_on_a_connection_that_is_gone() -> None:
    state = SessionState()
    first = resumed(state)
    publishes = handed(first.send(Publish(b"a", b"", 2, 7)))
    first.session.receive_eof()
    second = resumed(state)
    assert second.send(Publish(b"a", b"", 2, 7, dup=True)) == []
    assert second.heard() == []
    first.session.acknowledge(publishes)
    assert first.raw() == b""
    assert second.heard() == [Pubrec(7)]
    assert second.heard() == []


def test_a_repeat_of_what_could_not_be_stored_breaks_the_connection() -> None:
    """It was dropped, as its first was on the way: only a new connection makes the client send it again."""
    state = SessionState()
    first = resumed(state)
    publishes = handed(first.send(Publish(b"a", b"", 2, 7)))
    first.session.disconnect(Reason.SESSION_TAKEN_OVER)
    second = resumed(state)
    second.send(Publish(b"a", b"", 2, 7, dup=True))
    first.session.abandon(publishes)
    assert reasons(second.heard()) == [(Disconnect, Reason.UNSPECIFIED_ERROR)]
    assert broken(list(second.session.events())) == Reason.UNSPECIFIED_ERROR
    assert len(handed(resumed(state).send(Publish(b"a", b"", 2, 7, dup=True)))) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_what_was_abandoned_counts_when_it_comes_again(level: int) -> None:
    state = SessionState()
    first = resumed(state, level)
    publishes = handed(first.send(Publish(b"a", b"", 1, 6), Publish(b"a", b"", 2, 7)))
    first.session.abandon(publishes)
    assert first.session.unacknowledged == 0
    first.session.disconnect(Reason.UNSPECIFIED_ERROR)
    again = resumed(state, level).send(Publish(b"a", b"", 1, 6, dup=True), Publish(b"a", b"", 2, 7, dup=True))
    assert [publish.id for publish in handed(again)] == [6, 7]


def test_what_was_abandoned_is_not_brought_back() -> None:
    client = resumed(SessionState())
    publishes = handed(client.send(Publish(b"a", b"", 2, 7)))
    client.session.abandon(publishes)
    client.session.disconnect(Reason.UNSPECIFIED_ERROR)
    client.session.acknowledge(publishes)
    assert client.session.state.received == {}


def test_what_is_in_flight_is_sent_again() -> None:
    """[MQTT-4.4.0-1], in order, PUBREL where PUBREC has come"""
    state = SessionState()
    first = resumed(state)
    first.session.take_ids("ab", 2)
    first.session.take_ids("c", 1)
    first.send(Pubrec(1))
    second = resumed(state)
    assert list(state.again) == [2, 3]
    assert second.session.room == 19
    assert [(entry.token, entry.released) for entry in state.sent.values()] == [("b", False), ("c", False), ("a", True)]
    second.session.release([entry.id for entry in state.sent.values() if entry.released])
    second.session.send_again([2, 3])
    assert second.heard() == [Pubrel(1)]
    assert second.session.room == 17
    assert list(second.session.take_ids("d", 1)) == [4]


def test_what_is_sent_again_keeps_to_the_receive_maximum_of_the_new_connection() -> None:
    state = SessionState()
    resumed(state).session.take_ids(range(8), 1)
    second = resumed(state, properties={Property.RECEIVE_MAXIMUM: 3})
    assert second.session.room == 3
    with pytest.raises(ValueError, match="takes 3"):
        second.session.send_again([1, 2, 3, 4])
    second.session.send_again([1, 2, 3])
    assert second.session.room == 0
    assert [entry.token for entry in settled(second.send(Puback(2)))] == [1]
    assert second.session.room == 1
    second.session.give_up([5, 6, 7, 8])
    second.session.release([5, 6, 7, 8])
    assert second.session.room == 1
    assert second.heard() == []
    second.session.send_again([4])
    assert second.session.room == 0


def test_aliases_end_with_their_connection() -> None:
    """[MQTT-3.3.2-7]"""
    state = SessionState()
    first = resumed(state, properties={Property.TOPIC_ALIAS_MAXIMUM: 5})
    first.send(Publish(b"a", b"", properties=alias(1)))
    second = resumed(state, properties={Property.TOPIC_ALIAS_MAXIMUM: 5})
    assert broken(second.send(Publish(b"", b"", properties=alias(1)))) == Reason.PROTOCOL_ERROR


# --- Receive Maximum, from the client ---------------------------------------------------------------------------------


def test_more_than_the_receive_maximum(make: MakeClient) -> None:
    """[MQTT-3.3.4-7]"""
    client = make()
    client.connect()
    publishes = [Publish(b"a", b"", 1 + number % 2, number + 1) for number in range(11)]
    events = client.send(*publishes, Publish(b"a", b""))
    assert len(handed(events)) == 10
    assert broken(events) == Reason.RECEIVE_MAXIMUM_EXCEEDED
    assert reasons(client.heard()) == [(Disconnect, Reason.RECEIVE_MAXIMUM_EXCEEDED)]


@pytest.mark.parametrize("level", [3, 4])
def test_levels_3_and_4_have_no_receive_maximum(level: int) -> None:
    client = Client(level)
    client.connect()
    assert len(handed(client.send(*[Publish(b"a", b"", 1, number + 1) for number in range(1_000)]))) == 1_000
    assert client.session.unacknowledged == 1_000
    assert not client.session.closed


def test_what_counts_against_the_receive_maximum(make: MakeClient) -> None:
    """§4.9: PUBLISH until PUBACK, PUBCOMP or a PUBREC that refuses; QoS 0 and repeats never."""
    client = make(rules=Rules(10_000, 2, 0, 5))
    client.connect()
    session = client.session
    one, two = handed(client.send(Publish(b"a", b"", 1, 1), Publish(b"a", b"", 2, 2)))
    client.send(*[Publish(b"a", b"")] * 5, *[Publish(b"a", b"", 2, 2, dup=True)] * 5)
    session.acknowledge([one])
    (three,) = handed(client.send(Publish(b"a", b"", 2, 3)))
    session.acknowledge([two])  # with PUBREC it is not over
    session.acknowledge([three], Reason.QUOTA_EXCEEDED)
    (four,) = handed(client.send(Publish(b"a", b"", 1, 4)))
    client.send(Pubrel(2))
    session.complete(2)
    assert len(handed(client.send(Publish(b"a", b"", 1, 5)))) == 1
    assert not session.closed
    session.acknowledge([four])
    assert len(handed(client.send(Publish(b"a", b"", 1, 6)))) == 1
    assert broken(client.send(Publish(b"a", b"", 1, 7))) == Reason.RECEIVE_MAXIMUM_EXCEEDED


def test_repeats_of_an_earlier_connection_do_not_count() -> None:
    state = SessionState()
    state.received = dict.fromkeys(range(1, 101), Received.ACKNOWLEDGED)
    client = resumed(state)
    assert client.send(*[Publish(b"a", b"", 2, number, dup=True) for number in state.received]) == []
    assert client.heard() == [Pubrec(number) for number in range(1, 101)]


# --- topic aliases ----------------------------------------------------------------------------------------------------


def test_a_topic_alias_stands_for_its_topic(make: MakeClient) -> None:
    """[MQTT-3.3.2-12], §3.3.4"""
    client = make()
    client.connect()
    events = client.send(
        Publish(b"one", b"", properties=alias(1)),
        Publish(b"five", b"", 1, 1, properties=b"\x01\x01" + alias(5)),
        Publish(b"", b"", properties=alias(1)),
        Publish(b"", b"", properties=alias(5)),
        Publish(b"other", b"", properties=alias(1)),
        Publish(b"", b"", 2, 2, properties=alias(1) + b"\x01\x01"),
        Publish(b"plain", b"", properties=b"\x03\0\1#"),  # a content type with the byte of an alias
    )
    topics = [b"one", b"five", b"one", b"five", b"other", b"other", b"plain"]
    assert [publish.topic for publish in handed(events)] == topics


@pytest.mark.parametrize("topic", [b"", b"a"], ids=["used", "made"])
@pytest.mark.parametrize("number", [0, 6, 65_535])
def test_a_topic_alias_that_there_is_not(make: MakeClient, number: int, topic: bytes) -> None:
    """[MQTT-3.3.2-8], [MQTT-3.3.2-9]"""
    for more in (b"", b"\x01\x01"):
        client = make()
        client.connect()
        assert broken(client.send(Publish(topic, b"", properties=alias(number) + more))) == Reason.TOPIC_ALIAS_INVALID
        assert reasons(client.heard()) == [(Disconnect, Reason.TOPIC_ALIAS_INVALID)]


def test_no_topic_aliases_at_all(make: MakeClient) -> None:
    client = make(rules=Rules(10_000, 10, 0, 10))
    client.connect()
    assert broken(client.send(Publish(b"a", b"", properties=alias(1)))) == Reason.TOPIC_ALIAS_INVALID


def test_a_topic_alias_of_nothing(make: MakeClient) -> None:
    """§3.3.4"""
    client = make()
    client.connect()
    assert broken(client.send(Publish(b"", b"", properties=alias(3)))) == Reason.PROTOCOL_ERROR


def test_an_alias_in_a_repeat_counts(make: MakeClient) -> None:
    client = make()
    client.connect()
    client.send(Publish(b"first", b"", 2, 1), Publish(b"second", b"", 2, 1, dup=True, properties=alias(1)))
    assert [publish.topic for publish in handed(client.send(Publish(b"", b"", properties=alias(1))))] == [b"second"]


def test_properties_that_hide_an_alias(make: MakeClient) -> None:
    client = make()
    client.connect()
    assert broken(client.send(Publish(b"a", b"", properties=alias(1) + alias(2)))) == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("offered", "made"), [({}, 0), ({Property.TOPIC_ALIAS_MAXIMUM: 3}, 3), ({Property.TOPIC_ALIAS_MAXIMUM: 100}, 5)]
)
def test_topic_aliases_to_the_client(offered: dict[int, Any], made: int) -> None:
    """[MQTT-3.1.2-26], [MQTT-3.1.2-27]: up to the client's maximum and the hub's own"""
    client = Client()
    client.connect(properties=offered)
    assert client.session.peer_alias_maximum == made
