"""What is published arrives: at every QoS, protocol level and transport, in order, from clients in a hurry too."""

from __future__ import annotations

import itertools

import paho.mqtt.client as mqtt
import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import connect, packet, publish

LEVELS = pytest.mark.parametrize("level", [3, 4, 5], ids=["3.1", "3.1.1", "5"])
ALL_QOS = pytest.mark.parametrize("qos", [0, 1, 2])


@LEVELS
@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_every_pair_of_qos_delivers_at_the_lower_one(broker: Broker, topic: str, level: int, transport: str) -> None:
    subscriber = broker.connected(level=level, transport=transport)
    publisher = broker.connected(level=level, transport=transport)
    for granted in (0, 1, 2):
        assert subscriber.subscribe(f"{topic}/{granted}/+", qos=granted) == [granted]
    for granted, given in itertools.product((0, 1, 2), repeat=2):
        publisher.publish(f"{topic}/{granted}/{given}", f"{granted} {given}", given)
        message = subscriber.next()
        assert (message.topic, message.payload) == (f"{topic}/{granted}/{given}", f"{granted} {given}".encode())
        assert (message.qos, message.retain, message.dup) == (min(granted, given), False, False)


@pytest.mark.parametrize(("sender", "receiver"), [(3, 5), (5, 3), (4, 5), (5, 4)])
def test_protocol_levels_meet(broker: Broker, topic: str, sender: int, receiver: int) -> None:
    subscriber, publisher = broker.connected(level=receiver), broker.connected(level=sender)
    subscriber.subscribe(topic, qos=2)
    publisher.publish(topic, b"hello", 2)
    assert subscriber.next().payload == b"hello"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0", b"\xff\xfe\x80", "grün".encode(), bytes(range(256)) * 800],
    ids=["empty", "zero", "not UTF-8", "UTF-8", "200 kB"],
)
@LEVELS
def test_a_payload_is_any_bytes(broker: Broker, topic: str, payload: bytes, level: int) -> None:
    client = broker.connected(level=level)
    client.subscribe(topic, qos=1)
    client.publish(topic, payload)
    assert client.next().payload == payload


@ALL_QOS
def test_messages_of_one_publisher_keep_their_order(broker: Broker, topic: str, qos: int) -> None:
    subscriber, publisher = broker.connected(), broker.connected()
    subscriber.subscribe(f"{topic}/#", qos=qos)
    sent = [b"%d" % number for number in range(300)]
    for payload in sent:
        publisher.client.publish(f"{topic}/a", payload, qos)
    assert [subscriber.next().payload for _ in sent] == sent


def test_every_subscriber_gets_it_and_nobody_after_unsubscribing(broker: Broker, topic: str) -> None:
    one, other = broker.connected(), broker.connected()
    one.subscribe(topic, qos=1)
    other.subscribe(topic, qos=1)
    one.publish(topic, b"both")
    assert [one.payloads(topic), other.payloads(topic)] == [[b"both"], [b"both"]]
    assert other.unsubscribe(topic) == [0]
    one.publish(topic, b"one")
    assert [one.payloads(topic), other.payloads(topic, one)] == [[b"one"], []]


def test_a_publish_without_subscribers_is_acknowledged(broker: Broker, topic: str) -> None:
    client = broker.connected()
    # [MQTT 5 §3.4.2.1]: a broker that knows may say so.
    assert client.publish(topic, b"x", 1) in (0, 0x10)
    assert client.publish(topic, b"x", 2) in (0, 0x10)


@ALL_QOS
def test_connect_publish_and_close_without_reading_an_answer(broker: Broker, topic: str, qos: int) -> None:
    subscriber = broker.raw(patience=20)
    subscriber.connect()
    subscriber.subscribe((topic, 0))
    disconnect = packet(0xE0)
    for number in range(300):
        client = broker.raw()
        client.send(connect(), publish(topic, b"%d" % number, qos, 1), disconnect)
        client.close()
    if qos == 2 and broker.differs("when QoS 2 is delivered"):
        assert subscriber.alive()
        return
    arrived = {subscriber.receive().payload for _ in range(300)}
    assert arrived == {b"%d" % number for number in range(300)}


def test_paho_without_a_loop_as_tutorials_write_it(broker: Broker, topic: str) -> None:
    subscriber = broker.raw(patience=20)
    subscriber.connect()
    subscriber.subscribe((topic, 0))
    for number in range(1000):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.connect(broker.host, broker.port)
        client.publish(topic, f"{number}")
        client.disconnect()
    arrived = {subscriber.receive().payload for _ in range(1000)}
    assert arrived == {b"%d" % number for number in range(1000)}
