"""What MQTT 5 says beside the payload arrives as it was said."""

from __future__ import annotations

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import publish, user_property


def test_user_properties_keep_order_and_repeats(broker: Broker, topic: str) -> None:
    pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("", ""), ("größe", "10 µm"), ("A", "4")]
    client = broker.connected()
    client.subscribe(topic, qos=1)
    client.publish(topic, b"x", UserProperty=pairs)
    assert client.next().properties.UserProperty == pairs


def test_the_others(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(topic, qos=1)
    client.publish(
        topic, b"{}", ContentType="application/json; charset=utf-8", PayloadFormatIndicator=1,
        ResponseTopic="replies/a b/ü", CorrelationData=bytes(range(256)),
    )  # fmt: skip
    found = client.next().properties
    assert found.ContentType == "application/json; charset=utf-8"
    assert found.PayloadFormatIndicator == 1
    assert found.ResponseTopic == "replies/a b/ü"
    assert found.CorrelationData == bytes(range(256))


def test_no_properties_come_of_none(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(topic, qos=1)
    client.publish(topic, b"x")
    assert client.next().properties.json() == {}


@pytest.mark.parametrize("level", [3, 4])
def test_an_old_subscriber_gets_the_payload_alone(broker: Broker, topic: str, level: int) -> None:
    old, new = broker.connected(level=level), broker.connected()
    old.subscribe(topic, qos=1)
    new.publish(topic, b"x", UserProperty=[("a", "1")], ContentType="text/plain")
    assert old.next().payload == b"x"


def test_an_empty_and_a_zero_value_are_said_too(broker: Broker, topic: str) -> None:
    subscriber = broker.raw(5)
    subscriber.connect()
    subscriber.subscribe((topic, 0))
    subscriber.publish(topic, b"x", properties=b"\x03\0\0" + b"\x09\0\0" + user_property("", ""))
    found = subscriber.receive().properties
    assert found == {0x03: [b"\0\0"], 0x09: [b"\0\0"], 0x26: [b"\0\0\0\0"]}


def test_a_request_and_its_response(broker: Broker, topic: str) -> None:
    # MQTT 5 §4.10, as its non-normative example
    requester, responder = broker.connected(), broker.connected()
    responder.subscribe(f"{topic}/requests", qos=1)
    requester.subscribe(f"{topic}/responses/1", qos=1)
    requester.publish(f"{topic}/requests", b"2+3", ResponseTopic=f"{topic}/responses/1", CorrelationData=b"\x01\x02")
    request = responder.next()
    responder.publish(request.properties.ResponseTopic, b"5", CorrelationData=request.properties.CorrelationData)
    response = requester.next()
    assert (response.payload, response.properties.CorrelationData) == (b"5", b"\x01\x02")


def test_message_expiry_counts_down(broker: Broker, topic: str) -> None:
    # [MQTT-3.3.2-6]
    expiring = {"SessionExpiryInterval": 1000}
    client = broker.connected(topic, connecting=expiring)
    client.subscribe(f"{topic}/+", qos=1)
    client.disconnect()
    publisher = broker.connected()
    publisher.publish(f"{topic}/short", b"x", MessageExpiryInterval=1)
    publisher.publish(f"{topic}/long", b"x", MessageExpiryInterval=100)
    publisher.publish(f"{topic}/endless", b"x")
    broker.pass_time(2.1)
    client = broker.connected(topic, clean=False, connecting=expiring)
    found = client.until_fence(topic, publisher)
    assert [message.topic for message in found] == [f"{topic}/long", f"{topic}/endless"]
    assert 90 <= found[0].properties.MessageExpiryInterval <= 98
    assert not hasattr(found[1].properties, "MessageExpiryInterval")


def test_message_expiry_of_a_message_that_arrives_at_once(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(topic, qos=1)
    client.publish(topic, b"x", MessageExpiryInterval=100)
    assert 98 <= client.next().properties.MessageExpiryInterval <= 100


WRONG = {
    "format twice": b"\x01\x01\x01\x01",
    "type twice": b"\x03\0\x01a\x03\0\x01b",
    "format 2": b"\x01\x02",
    "subscription id": b"\x0b\x01",
    "alias 0": b"\x23\0\0",
    "session expiry": b"\x11\0\0\0\1",
    "unknown": b"\x7f\0",
    "response topic with a wildcard": b"\x08\0\x03a/+",  # [MQTT-3.3.2-14]
}
TOLERATED = {"format 2", "subscription id", "response topic with a wildcard"}


@pytest.mark.parametrize("wrong", WRONG)
def test_properties_that_must_not_be(broker: Broker, topic: str, wrong: str) -> None:
    client = broker.raw(5)
    client.connect()
    client.send(publish(topic, b"x", 1, 1, level=5, properties=WRONG[wrong]))
    if wrong in TOLERATED and broker.differs("lenient checks"):
        assert client.alive()
        return
    [last] = client.rest() or [None]
    # mosquitto says why it ends the connection, in most cases.
    assert last is None or (last.kind == 14 and last.body[0] in (0x81, 0x82, 0x90, 0x94))
    assert last is not None or broker.differs("a reason for every end")
