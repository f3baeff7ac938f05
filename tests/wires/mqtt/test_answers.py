"""What the hub answers fits the client: its size, its wish for words, and the reasons that a packet has."""

from __future__ import annotations

import pytest

from polywire.wires.mqtt.in_flight import SessionState
from polywire.wires.mqtt.packets import (
    Connack,
    Disconnect,
    Property,
    Puback,
    Publish,
    Suback,
    Unsuback,
)
from polywire.wires.mqtt.reasons import Reason
from polywire.wires.mqtt.session import Rules
from tests.wires.mqtt.session_client import Client, broken, reasons

WORD = "x" * 2_000


def test_the_reason_string_is_cut_to_what_the_client_takes() -> None:
    """[MQTT-3.1.2-24], [MQTT-3.14.2-3], [MQTT-3.4.2-2]"""
    for size in range(16, 60):
        client = Client(rules=Rules(100, 65_535, 0, 5))
        client.connect(properties={Property.MAXIMUM_PACKET_SIZE: size})
        client.send(Publish(b"a", b"", 1, 1))
        client.session.acknowledge([Publish(b"a", b"", 1, 1)], Reason.QUOTA_EXCEEDED, "é" * 100)
        raw = client.raw()
        assert raw[:5] == bytes((0x40, len(raw) - 2, 0, 1, Reason.QUOTA_EXCEEDED))
        assert size - 10 <= len(raw) <= size
        client.session.disconnect(Reason.QUOTA_EXCEEDED, WORD)
        assert len(client.raw()) <= size


def test_the_reason_string_has_a_bound() -> None:
    client = Client()
    client.connect()
    client.session.disconnect(Reason.UNSPECIFIED_ERROR, WORD)
    (disconnect,) = client.heard()
    assert isinstance(disconnect, Disconnect)
    assert disconnect.properties[Property.REASON_STRING] == WORD[:512]


def test_the_reason_string_is_a_string_of_mqtt() -> None:
    """[MQTT-1.5.4-1], [MQTT-1.5.4-2]"""
    client = Client()
    client.connect()
    client.session.disconnect(Reason.UNSPECIFIED_ERROR, "a\0b\ud800c")
    assert client.heard()[0].properties[Property.REASON_STRING] == "a\N{REPLACEMENT CHARACTER}b?c"


def test_a_client_that_wants_no_reason_strings() -> None:
    """[MQTT-3.1.2-29]"""
    client = Client()
    client.connect(properties={Property.REQUEST_PROBLEM_INFORMATION: 0})
    publish = Publish(b"a", b"", 1, 1)
    client.send(publish)
    client.session.acknowledge([publish], Reason.NOT_AUTHORIZED, "no")
    client.session.suback(2, [Reason.NOT_AUTHORIZED], "no")
    client.session.unsuback(3, [Reason.NOT_AUTHORIZED], "no")
    client.session.disconnect(Reason.NOT_AUTHORIZED, "no")
    no = Reason.NOT_AUTHORIZED
    assert client.heard() == [
        Puback(1, no), Suback(2, [no]), Unsuback(3, [no]), Disconnect(no, {Property.REASON_STRING: "no"})
    ]  # fmt: skip


def test_an_answer_that_the_client_cannot_take() -> None:
    """It would wait for it for ever [MQTT-3.1.2-24]."""
    client = Client()
    client.connect(properties={Property.MAXIMUM_PACKET_SIZE: 30})
    client.session.suback(1, [0] * 100)
    assert client.session.closed
    assert broken(list(client.session.events())) == Reason.PACKET_TOO_LARGE
    assert reasons(client.heard()) == [(Disconnect, Reason.PACKET_TOO_LARGE)]


@pytest.mark.parametrize(("size", "answer"), [(10, b"\x20\x03\x00\x95\x00"), (4, b"")])
def test_a_client_that_cannot_take_connack(size: int, answer: bytes) -> None:
    client = Client()
    client.ask(properties={Property.MAXIMUM_PACKET_SIZE: size})
    client.session.accept(SessionState(), Connack())
    assert client.raw() == answer
    assert broken(list(client.session.events())) == Reason.PACKET_TOO_LARGE


def test_reasons_that_a_packet_does_not_have() -> None:
    """[MQTT-3.14.2-1], [MQTT-3.4.2-1]: clients refuse to read them."""
    for said, heard in [
        (Reason.SERVER_UNAVAILABLE, Reason.SERVER_BUSY),
        (Reason.BAD_USER_NAME_OR_PASSWORD, Reason.NOT_AUTHORIZED),
        (Reason.CLIENT_IDENTIFIER_NOT_VALID, Reason.UNSPECIFIED_ERROR),
    ]:
        client = Client()
        client.connect()
        client.send(Publish(b"a", b"", 1, 1))
        client.session.acknowledge([Publish(b"a", b"", 1, 1)], said)
        client.session.disconnect(said)
        assert client.heard() == [Puback(1, Reason.UNSPECIFIED_ERROR), Disconnect(heard)]
