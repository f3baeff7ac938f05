"""Retained messages, MQTT 5 §3.3.1.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    RawClient,
    acknowledge,
    publish,
    subscribe,
)

LEVELS = pytest.mark.parametrize("level", [3, 4, 5], ids=["3.1", "3.1.1", "5"])


@LEVELS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_new_subscription_gets_the_last_one(broker: Broker, topic: str, level: int, qos: int) -> None:
    publisher = broker.connected(level=level)
    publisher.publish(f"{topic}/a", b"old", qos, retain=True)
    publisher.publish(f"{topic}/a", b"new", qos, retain=True)
    publisher.publish(f"{topic}/a", b"passing", qos)
    publisher.publish(f"{topic}/b", b"passing", qos)
    publisher.publish(f"{topic}/~", b"", 1)  # QoS 0 says nothing of when it is done
    subscriber = broker.connected(level=level)
    subscriber.subscribe(f"{topic}/#", qos=1)
    [message] = subscriber.until_fence(topic)
    assert (message.topic, message.payload, message.retain) == (f"{topic}/a", b"new", True)
    assert message.qos == min(qos, 1)


@LEVELS
def test_whoever_listens_already_gets_it_without_the_flag(broker: Broker, topic: str, level: int) -> None:
    client = broker.connected(level=level)
    client.subscribe(topic, qos=1)
    client.publish(topic, b"x", retain=True)
    assert client.next().retain is False


@LEVELS
def test_an_empty_one_clears_it(broker: Broker, topic: str, level: int) -> None:
    client = broker.connected(level=level)
    client.subscribe(f"{topic}/a", qos=1)
    client.publish(f"{topic}/a", b"x", retain=True)
    client.publish(f"{topic}/a", b"", retain=True)
    # [MQTT-3.3.1-6]: an empty one is a message too, for those who listen.
    assert client.payloads(topic) == [b"x", b""]
    late = broker.connected(level=level)
    late.subscribe(f"{topic}/#", qos=1)
    assert late.payloads(topic) == []


def test_wildcards_find_every_retained_one(broker: Broker, topic: str) -> None:
    client = broker.connected()
    names = {f"{topic}/{name}" for name in ("a/1", "a/2", "b/1", "/", "a.1/x", "ü/1")}
    for name in names:
        client.publish(name, name, retain=True)
    found = broker.connected()
    found.subscribe(f"{topic}/+/+", qos=1)
    assert {message.topic for message in found.until_fence(topic)} == names
    some = broker.connected()
    some.subscribe(f"{topic}/a/+", qos=1)
    assert {message.topic for message in some.until_fence(topic)} == {f"{topic}/a/1", f"{topic}/a/2"}


@LEVELS
def test_subscribing_again_sends_them_again(broker: Broker, topic: str, level: int) -> None:
    client = broker.connected(level=level)
    client.publish(f"{topic}/a", b"x", retain=True)
    for _ in range(2):
        client.subscribe(f"{topic}/a", qos=1)
        assert client.payloads(topic) == [b"x"]


@pytest.mark.parametrize(("handling", "first", "again"), [(0, [b"x"], [b"x"]), (1, [b"x"], []), (2, [], [])])
def test_retain_handling(broker: Broker, topic: str, handling: int, first: list[bytes], again: list[bytes]) -> None:
    client = broker.connected()
    client.publish(f"{topic}/a", b"x", retain=True)
    client.subscribe(f"{topic}/a", qos=1, retainHandling=handling)
    assert client.payloads(topic) == first
    client.subscribe(f"{topic}/a", qos=1, retainHandling=handling)
    assert client.payloads(topic) == again
    client.unsubscribe(f"{topic}/a")
    client.subscribe(f"{topic}/a", qos=1, retainHandling=handling)
    assert client.payloads(topic) == first


@pytest.mark.parametrize("as_published", [False, True])
def test_retain_as_published(broker: Broker, topic: str, as_published: bool) -> None:
    client = broker.connected()
    client.subscribe(f"{topic}/a", qos=1, retainAsPublished=as_published)
    client.publish(f"{topic}/a", b"kept", retain=True)
    client.publish(f"{topic}/a", b"passing")
    assert [client.next().retain, client.next().retain] == [as_published, False]
    # [MQTT-3.3.1-8]: what is sent because of the subscription always has it.
    late = broker.connected()
    late.subscribe(f"{topic}/a", qos=1, retainAsPublished=as_published)
    assert late.next().retain is True


def test_a_shared_subscription_gets_no_retained_ones(broker: Broker, topic: str) -> None:
    # MQTT 5 §4.8.2
    client = broker.connected()
    client.publish(f"{topic}/a", b"x", retain=True)
    client.subscribe(f"$share/group/{topic}/a", qos=1)
    assert client.payloads(topic) == ([b"x"] if broker.differs("retained messages and shares") else [])


def test_a_retained_one_has_its_properties(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.publish(
        topic, b"{}", retain=True, ContentType="application/json", PayloadFormatIndicator=1,
        ResponseTopic="answers/x", CorrelationData=b"\0\1", UserProperty=[("a", "1"), ("a", "2")],
    )  # fmt: skip
    client.subscribe(topic, qos=1)
    found = client.next().properties
    assert (found.ContentType, found.PayloadFormatIndicator) == ("application/json", 1)
    assert (found.ResponseTopic, found.CorrelationData) == ("answers/x", b"\0\1")
    assert found.UserProperty == [("a", "1"), ("a", "2")]


def test_a_retained_one_expires(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.publish(f"{topic}/short", b"x", retain=True, MessageExpiryInterval=1)
    client.publish(f"{topic}/long", b"x", retain=True, MessageExpiryInterval=100)
    broker.pass_time(2.1)
    client.subscribe(f"{topic}/+", qos=1)
    [message] = client.until_fence(topic)
    assert message.topic == f"{topic}/long"
    assert 90 <= message.properties.MessageExpiryInterval <= 98


def test_retained_ones_survive_a_restart(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    client = broker.connected()
    client.publish("kept/a", b"x", 1, retain=True, ContentType="text/plain")
    client.publish("kept/b", b"x", 1, retain=True)
    client.publish("kept/b", b"", 1, retain=True)
    broker.restart()
    client = broker.connected()
    client.subscribe("kept/#", qos=1)
    [message] = client.until_fence("kept")
    assert (message.topic, message.payload, message.retain) == ("kept/a", b"x", True)
    assert message.properties.ContentType == "text/plain"


def test_any_legal_name_is_retained(broker: Broker, topic: str) -> None:
    client = broker.connected()
    for name in (f"/{topic}/a", f"{topic}//b", f"{topic}/a b/ü", f"{topic} x", f"{topic}/*/c.d"):
        client.publish(name, b"x", retain=True)
        client.subscribe(name, qos=1)
        message = client.next()
        assert (message.topic, message.retain) == (name, True)
        client.unsubscribe(name)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("expiry", [0, 1000], ids=["session of the connection", "session that lasts"])
def test_one_that_is_published_while_somebody_subscribes_comes_once(
    broker: Broker, topic: str, qos: int, expiry: int
) -> None:
    """Kept or passing by, as it happens, but not both."""
    publisher, subscriber = broker.raw(5), broker.raw(5)
    publisher.connect(topic)
    subscriber.connect(f"{topic}-subscriber", properties=b"\x11" + expiry.to_bytes(4, "big"))
    names = [f"{topic}/{number}" for number in range(50)]
    publisher.publish(f"{topic}/fence", b"kept", 1, 100, retain=True).expect(PUBACK)
    for number, name in enumerate(names, 1):
        publisher.send(publish(name, b"x", qos, number, level=5, retain=True))
        subscriber.send(subscribe(number, (name, 1), level=5))
        if qos == 1:
            publisher.expect(PUBACK)
        elif qos == 2:
            publisher.expect(PUBREC)
            publisher.send(acknowledge(PUBREL, number)).expect(PUBCOMP)
    subscriber.send(subscribe(100, (f"{topic}/fence", 1), level=5))
    found = names_until(subscriber, b"kept")
    publisher.publish(f"{topic}/fence", b"passing", 1, 101)
    found += names_until(subscriber, b"passing")
    assert sorted(found) == sorted(names)


def names_until(client: RawClient, last: bytes) -> list[str]:
    """Of the messages before one with this payload; they are acknowledged."""
    found = []
    while True:
        packet = client.packet()
        assert packet is not None
        if packet.kind != PUBLISH:
            continue
        message = client.read(packet)
        if message.qos:
            client.send(acknowledge(PUBACK, message.id))
        if message.payload == last:
            return found
        found.append(message.topic)
