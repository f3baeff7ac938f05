"""Options and identifiers of subscriptions, MQTT 5 §3.8."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import PUBACK, PUBLISH, properties_of


def identifiers(message: object) -> list[int]:
    found = getattr(message.properties, "SubscriptionIdentifier", [])  # type: ignore[attr-defined]
    return sorted(found if isinstance(found, list) else [found])


def test_a_subscription_identifier_comes_with_its_messages(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(f"{topic}/a", qos=1, identifier=1)
    client.subscribe(f"{topic}/b", qos=1, identifier=268_435_455)
    client.subscribe(f"{topic}/c", qos=1)
    for name in ("a", "b", "c"):
        client.publish(f"{topic}/{name}", b"x")
    assert [identifiers(client.next()) for _ in range(3)] == [[1], [268_435_455], []]


def test_replacing_a_subscription_replaces_its_identifier(broker: Broker, topic: str) -> None:
    client = broker.connected()
    for identifier, expected in ((5, [5]), (6, [6]), (None, [])):
        client.subscribe(f"{topic}/a", qos=1, identifier=identifier)
        client.publish(f"{topic}/a", b"x")
        assert identifiers(client.next()) == expected


def test_overlapping_subscriptions(broker: Broker, topic: str) -> None:
    # [MQTT-3.3.4-2] to [MQTT-3.3.4-5]: one copy with all identifiers, or a copy for each; at the highest QoS somewhere.
    client = broker.connected()
    client.subscribe(f"{topic}/+", qos=0, identifier=1)
    client.subscribe(f"{topic}/a", qos=2, identifier=2)
    client.subscribe(f"{topic}/b", qos=2, identifier=3)
    client.publish(f"{topic}/a", b"x", 2)
    found = client.until_fence(f"{topic}/fences")
    assert sorted(number for message in found for number in identifiers(message)) == [1, 2]
    assert max(message.qos for message in found) == 2
    assert len(found) == (2 if broker.differs("overlapping subscriptions") else 1)


@pytest.mark.parametrize("level", [3, 4])
def test_overlapping_subscriptions_of_old_clients(broker: Broker, topic: str, level: int) -> None:
    client = broker.connected(level=level)
    client.subscribe(f"{topic}/+", qos=1)
    client.subscribe(f"{topic}/a", qos=1)
    client.publish(f"{topic}/a", b"x", 1)
    assert client.payloads(f"{topic}/fences") == [b"x"]


def test_retained_messages_carry_the_identifier(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.publish(f"{topic}/a", b"x", retain=True)
    client.subscribe(f"{topic}/#", qos=1, identifier=7)
    assert identifiers(client.next()) == [7]


def test_no_local(broker: Broker, topic: str) -> None:
    # [MQTT-3.8.3-3]
    client, other = broker.connected(), broker.connected()
    client.subscribe(f"{topic}/a", qos=1, noLocal=True)
    client.publish(f"{topic}/a", b"mine")
    other.publish(f"{topic}/a", b"yours")
    assert client.payloads(topic) == [b"yours"]


def test_no_local_in_a_session_that_lasts(broker: Broker, topic: str) -> None:
    lasting: dict[str, Any] = {"clean": False, "connecting": {"SessionExpiryInterval": 100}}
    client, other = broker.connected(topic, **lasting), broker.connected()
    client.subscribe(f"{topic}/a", qos=1, noLocal=True)
    client.publish(f"{topic}/a", b"mine")
    other.publish(f"{topic}/a", b"yours")
    assert client.next().payload == b"yours"
    client.disconnect()
    other.publish(f"{topic}/a", b"yours again")
    assert broker.connected(topic, **lasting).next().payload == b"yours again"


def test_a_subscription_is_changed_in_a_session_that_lasts(broker: Broker, topic: str) -> None:
    # [MQTT-3.8.4-3]
    client = broker.connected(topic, clean=False, connecting={"SessionExpiryInterval": 100})
    for qos in (1, 2):
        client.subscribe(f"{topic}/a", qos=qos, identifier=qos)
        client.publish(f"{topic}/a", b"x", 2)
        message = client.next()
        assert (message.qos, identifiers(message)) == (qos, [qos])


def test_no_local_on_one_of_two_overlapping(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(f"{topic}/+", qos=1, noLocal=True, identifier=1)
    client.subscribe(f"{topic}/a", qos=1, identifier=2)
    client.publish(f"{topic}/a", b"mine")
    [message] = client.until_fence(f"{topic}/fences")
    assert identifiers(message) == [2]


def test_several_filters_in_one_packet(broker: Broker, topic: str) -> None:
    client = broker.raw(5)
    client.connect()
    answer = client.subscribe((f"{topic}/a", 0), (f"{topic}/b", 1), (f"{topic}/c", 2))
    assert list(answer.body[properties_of(answer.body, 2)[1] :]) == [0, 1, 2]


@pytest.mark.parametrize("level", [3, 4, 5])
def test_unsubscribing(broker: Broker, topic: str, level: int) -> None:
    client = broker.connected(level=level)
    client.subscribe(f"{topic}/a", f"{topic}/b", qos=1)
    reasons = client.unsubscribe(f"{topic}/a", f"{topic}/never", f"{topic}/+")
    assert reasons == ([0x00, 0x11, 0x11] if level == 5 else [])
    client.publish(f"{topic}/a", b"a")
    client.publish(f"{topic}/b", b"b")
    assert client.payloads(topic) == [b"b"]


def test_the_suback_comes_before_the_retained_messages(broker: Broker, topic: str) -> None:
    client = broker.raw()
    client.connect()
    client.publish(f"{topic}/a", b"x", 1, 1, retain=True).expect(PUBACK)
    client.subscribe((f"{topic}/a", 0))  # expects SUBACK to be the next packet
    assert client.expect(PUBLISH).flags & 1
