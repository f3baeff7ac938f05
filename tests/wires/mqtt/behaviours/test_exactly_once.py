"""QoS 2 method by method, MQTT 5 §4.3.3, with the repetitions that a lost connection brings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import PUBACK, PUBCOMP, PUBREC, PUBREL, RawClient, acknowledge, publish

LEVELS = pytest.mark.parametrize("level", [3, 4, 5])
LASTING = b"\x11\xff\xff\xff\xff"


def lasting(broker: Broker, client_id: str, level: int) -> RawClient:
    client = broker.raw(level)
    client.connect(client_id, clean=False, properties=LASTING if level == 5 else b"")
    return client


@LEVELS
def test_a_repeated_publish_is_one_message(broker: Broker, topic: str, level: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/a", qos=2)
    client = lasting(broker, topic, level)
    message = publish(f"{topic}/a", b"once", 2, 7, level=level)
    again = publish(f"{topic}/a", b"once", 2, 7, level=level, dup=True)
    for packet in (message, again):
        client.send(packet)
        assert client.expect(PUBREC).id == 7
    client.send(acknowledge(PUBREL, 7), acknowledge(PUBREL, 7))
    assert [client.expect(PUBCOMP).id, client.expect(PUBCOMP).id] == [7, 7]
    # [MQTT-4.3.3-12]: after PUBREL the id stands for a new message
    client.send(publish(f"{topic}/a", b"twice", 2, 7, level=level))
    client.expect(PUBREC)
    client.send(acknowledge(PUBREL, 7))
    client.expect(PUBCOMP)
    assert watcher.payloads(topic) == [b"once", b"twice"]


@LEVELS
def test_a_publish_repeated_on_a_new_connection_is_one_message(broker: Broker, topic: str, level: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/a", qos=2)
    first = lasting(broker, topic, level)
    first.send(publish(f"{topic}/a", b"once", 2, 7, level=level))
    first.expect(PUBREC)
    first.reset()
    second = lasting(broker, topic, level)
    second.send(publish(f"{topic}/a", b"once", 2, 7, level=level, dup=True))
    second.expect(PUBREC)
    second.reset()
    third = lasting(broker, topic, level)
    third.send(acknowledge(PUBREL, 7))
    assert third.expect(PUBCOMP).id == 7
    assert watcher.payloads(topic) == [b"once"]


@pytest.mark.parametrize("level", [4, 5])
def test_a_publish_repeated_after_a_restart_is_one_message(start_broker: Callable[..., Broker], level: int) -> None:
    broker = start_broker()
    watcher = broker.raw(level)
    watcher.connect("watcher", clean=False, properties=LASTING if level == 5 else b"")
    watcher.subscribe(("t", 2))
    client = lasting(broker, "client", level)
    client.send(publish("t", b"once", 2, 7, level=level))
    client.expect(PUBREC)
    broker.restart()
    client = lasting(broker, "client", level)
    client.send(publish("t", b"once", 2, 7, level=level, dup=True))
    client.expect(PUBREC)
    client.send(acknowledge(PUBREL, 7))
    client.expect(PUBCOMP)
    client.send(publish("t", b"fence", 1, 8, level=level))
    client.expect(PUBACK)
    watcher = lasting(broker, "watcher", level)
    found = [watcher.receive().payload, watcher.receive().payload]
    assert found == [b"once", b"fence"]


@LEVELS
def test_what_the_broker_sends_is_repeated_until_it_is_done(broker: Broker, topic: str, level: int) -> None:
    client = lasting(broker, topic, level)
    client.subscribe((topic, 2))
    broker.connected().publish(topic, b"once", 2)
    message = client.receive()
    assert (message.payload, message.dup) == (b"once", False)
    client.reset()
    client = lasting(broker, topic, level)
    repeated = client.receive()
    assert (repeated.payload, repeated.id, repeated.dup) == (b"once", message.id, True)
    client.send(acknowledge(PUBREC, message.id))
    assert client.expect(PUBREL).id == message.id
    client.reset()
    client = lasting(broker, topic, level)
    released = client.expect(PUBREL)
    assert (released.id, released.flags) == (message.id, 2)
    client.send(acknowledge(PUBCOMP, message.id))
    assert client.alive()
    client.reset()
    client = lasting(broker, topic, level)
    broker.connected().publish(topic, b"next", 2)
    assert client.receive().payload == b"next"


@LEVELS
def test_a_repeated_qos_1_publish_may_come_twice(broker: Broker, topic: str, level: int) -> None:
    client = lasting(broker, topic, level)
    client.send(publish(topic, b"x", 1, 3, level=level), publish(topic, b"x", 1, 3, level=level, dup=True))
    assert [client.expect(PUBACK).id, client.expect(PUBACK).id] == [3, 3]


def test_dup_of_the_publisher_is_not_passed_on(broker: Broker, topic: str) -> None:
    # [MQTT-3.3.1-3]
    client = broker.raw()
    client.connect()
    client.subscribe((topic, 0))
    client.send(publish(topic, b"x", 1, 3, dup=True))
    kinds = [client.packet(), client.packet()]
    [message] = [packet for packet in kinds if packet is not None and packet.kind == 3]
    assert not message.flags & 8


def test_a_release_of_an_unknown_id_is_completed(broker: Broker, topic: str) -> None:
    # MQTT 5 §3.7.2.1: 0x92; at 3.1.1 there is only yes
    client = broker.raw(5)
    client.connect(topic)
    client.send(acknowledge(PUBREL, 99))
    answer = client.expect(PUBCOMP)
    assert answer.id == 99
    assert answer.body[2:3] in ((b"", b"\x92") if broker.differs("an unknown id") else (b"\x92",))


@pytest.mark.parametrize("kind", [PUBACK, PUBREC, PUBCOMP])
@pytest.mark.parametrize("level", [4, 5])
def test_an_acknowledgement_of_an_unknown_id_does_no_harm(broker: Broker, topic: str, kind: int, level: int) -> None:
    client = broker.raw(level)
    client.connect(topic)
    client.send(acknowledge(kind, 99))
    assert client.alive()
