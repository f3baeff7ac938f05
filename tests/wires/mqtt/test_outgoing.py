"""What the hub publishes to a client: packet ids, the client's Receive Maximum, and its answers."""

from __future__ import annotations

import pytest

from polywire.wires.mqtt.codec import encode
from polywire.wires.mqtt.in_flight import Stage
from polywire.wires.mqtt.packets import (
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from polywire.wires.mqtt.reasons import Reason
from tests.wires.mqtt.session_client import Client, MakeClient, broken, completed, reasons, settled
from tests.wires.mqtt.session_client import make_client as make_client  # noqa: PLC0414 - its fixture

LEVELS = [3, 4, 5]


@pytest.mark.parametrize(("said", "room"), [(None, 20), (7, 7), (65_535, 20)])
def test_room(said: int | None, room: int) -> None:
    """[MQTT-3.3.4-9], [MQTT-4.9.0-1]"""
    client = Client()
    client.connect(properties={} if said is None else {Property.RECEIVE_MAXIMUM: said})
    session = client.session
    assert session.room == room
    session.take_ids(range(room - 2), 1)
    session.take_ids("xy", 2)
    assert session.room == 0
    with pytest.raises(ValueError, match="takes 0"):
        session.take_ids("z", 1)
    client.send(Puback(1), Pubrec(room))
    assert session.room == 1  # PUBREC does not make room
    session.release([room])
    client.send(Pubcomp(room))
    assert session.room == 2


@pytest.mark.parametrize("level", LEVELS)
def test_there_is_no_room_once_it_is_closed(level: int) -> None:
    client = Client(level)
    assert client.session.room == 0
    client.connect()
    assert client.session.room == 20
    client.session.disconnect(0)
    assert client.session.room == 0


@pytest.mark.parametrize("level", LEVELS)
def test_pubacks_settle(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.2-3]"""
    client = make(level)
    client.connect()
    client.session.take_ids("abcdef", 1)
    events = client.send(Puback(2), Puback(1), Puback(1), Puback(40), Pingreq(), Puback(6))
    assert [(entry.token, entry.reason) for entry in settled(events)] == [("b", 0), ("a", 0), ("f", 0)]
    assert client.send(Puback(2), Puback(6)) == []
    assert client.raw() == b"\xd0\0"


def test_a_run_of_pubacks_is_one_event() -> None:
    client = Client()
    client.connect()
    client.session.take_ids("abcdef", 1)
    (event,) = client.send(*map(Puback, range(1, 7)))
    assert [entry.token for entry in settled([event])] == list("abcdef")


def test_a_puback_may_refuse(make: MakeClient) -> None:
    """[MQTT-4.4.0-2]: it is settled all the same."""
    client = make()
    client.connect()
    client.session.take_ids("abc", 1)
    events = client.send(Puback(1), Puback(2, Reason.QUOTA_EXCEEDED), Puback(3, Reason.NO_MATCHING_SUBSCRIBERS))
    assert [(entry.token, entry.reason) for entry in settled(events)] == [("a", 0), ("b", 0x97), ("c", 0x10)]
    assert client.session.room == 20


@pytest.mark.parametrize("level", LEVELS)
def test_pubrel_waits_for_the_hub(make: MakeClient, level: int) -> None:
    """[MQTT-4.3.3-4] to [MQTT-4.3.3-6]"""
    client = make(level)
    client.connect()
    session = client.session
    session.take_ids("ab", 2)
    (entry,) = settled(client.send(Pubrec(1)))
    assert (entry.id, entry.token, entry.qos, entry.reason, entry.released) == (1, "a", 2, 0, True)
    assert client.send(Pubrec(1)) == []  # PUBREL is on its way
    assert client.heard() == []
    session.release([1, 2, 99])
    assert client.heard() == [Pubrel(1)]
    assert client.send(Pubrec(1)) == []
    assert client.heard() == [Pubrel(1)]
    assert completed(client.send(Pubcomp(1))) == [1]
    assert client.send(Pubcomp(1)) == []
    assert list(session.state.sent) == [2]


def test_pubrec_may_refuse(make: MakeClient) -> None:
    client = make()
    client.connect()
    client.session.take_ids("ab", 2)
    events = client.send(Pubrec(1, Reason.QUOTA_EXCEEDED), Pubrec(2, Reason.NO_MATCHING_SUBSCRIBERS))
    assert [(entry.token, entry.reason, entry.released) for entry in settled(events)] == [
        ("a", Reason.QUOTA_EXCEEDED, False), ("b", Reason.NO_MATCHING_SUBSCRIBERS, True)
    ]  # fmt: skip
    client.session.release([1, 2])
    assert client.heard() == [Pubrel(2)]


@pytest.mark.parametrize("level", LEVELS)
def test_pubrec_and_pubcomp_of_unknown_ids(make: MakeClient, level: int) -> None:
    """§3.6.2.1: PUBREL says so at level 5. A refusal of nothing gets no answer, nor does PUBCOMP."""
    client = make(level)
    client.connect()
    refusal = [Pubrec(6, Reason.QUOTA_EXCEEDED)] if level == 5 else []
    assert client.send(Pubrec(5), *refusal, Pubcomp(7)) == []
    assert client.raw() == (b"\x62\3\0\5\x92" if level == 5 else b"\x62\2\0\5")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("qos", "packet"),
    [(1, Pubrec(1)), (1, Pubcomp(1)), (2, Puback(1)), (2, Pubcomp(1))],
    ids=["PUBREC of QoS 1", "PUBCOMP of QoS 1", "PUBACK of QoS 2", "PUBCOMP before PUBREC"],
)
def test_answers_of_the_wrong_kind(make: MakeClient, level: int, qos: int, packet: Packet) -> None:
    client = make(level)
    client.connect()
    client.session.take_ids("ab", qos)
    right = Puback(2) if qos == 1 else Pubrec(2)
    events = client.send(right, packet)
    assert [entry.token for entry in settled(events)] == ["b"]
    assert broken(events) == Reason.PROTOCOL_ERROR


def test_pubcomp_before_pubrel(make: MakeClient) -> None:
    client = make()
    client.connect()
    client.session.take_ids("a", 2)
    events = client.send(Pubrec(1), Pubcomp(1))
    assert [entry.token for entry in settled(events)] == ["a"]
    assert broken(events) == Reason.PROTOCOL_ERROR
    assert client.session.state.sent[1].stage == Stage.RECORDED
    client.session.release([1])  # the hub has stored it meanwhile
    assert reasons(client.heard()) == [(Disconnect, Reason.PROTOCOL_ERROR)]


def test_what_is_sent_stays_in_order() -> None:
    client = Client()
    client.connect()
    client.session.send(encode(Publish(b"a", b"1"), 5))
    client.send(Pingreq())
    client.session.send(encode(Publish(b"a", b"2"), 5))
    assert client.heard() == [Publish(b"a", b"1"), Pingresp(), Publish(b"a", b"2")]
