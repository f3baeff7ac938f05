"""Sessions that outlive connections: MQTT 3.1.1 §3.1.2.4, MQTT 5 §3.1.2.11.2, §4.1 and §4.4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import PUBACK, PUBCOMP, PUBREC, PUBREL, acknowledge

LEVELS = pytest.mark.parametrize("level", [3, 4, 5], ids=["3.1", "3.1.1", "5"])
FOREVER = 0xFFFFFFFF


def lasting(broker: Broker, client_id: str, level: int = 5, expiry: int = FOREVER, **options: Any) -> PahoClient:
    """A client, not connected yet, whose session stays when it goes."""
    connecting = {"SessionExpiryInterval": expiry} if level == 5 else {}
    return broker.paho(client_id, level=level, clean=False, connecting=connecting, **options)


@LEVELS
def test_what_an_offline_session_is_sent(broker: Broker, topic: str, level: int) -> None:
    publisher = broker.connected(level=level)
    away = lasting(broker, topic, level)
    assert away.connect().session_present is False
    away.subscribe(f"{topic}/#", qos=2)
    away.disconnect()
    for number in range(20):
        publisher.publish(f"{topic}/a", b"%d" % number, number % 2 + 1)
    publisher.publish(f"{topic}/a", b"QoS 0", 0)
    publisher.publish("other", b"no")
    back = lasting(broker, topic, level)
    connack = back.connect()
    # MQTT 3.1 knows no Session Present; brokers may say it all the same.
    assert connack.session_present is True or level == 3
    found = [back.next() for _ in range(20)]
    # paho shows a QoS 2 message once it is released, those of QoS 1 at once.
    for qos in (1, 2):
        numbers = range(qos - 1, 20, 2)
        assert [message.payload for message in found if message.qos == qos] == [b"%d" % number for number in numbers]
    assert back.payloads(topic, publisher) == []


def test_an_online_session_of_the_lasting_kind_gets_qos_0_too(broker: Broker, topic: str) -> None:
    client = lasting(broker, topic)
    client.connect()
    client.subscribe(f"{topic}/a", qos=1)
    client.publish(f"{topic}/a", b"x", 0)
    message = client.next()
    assert (message.payload, message.qos) == (b"x", 0)


@LEVELS
def test_a_clean_session_forgets(broker: Broker, topic: str, level: int) -> None:
    first = lasting(broker, topic, level)
    first.connect()
    first.subscribe(topic, qos=1)
    first.disconnect()
    second = broker.paho(topic, level=level)
    assert second.connect().session_present is False
    second.publish(topic, b"x")
    assert second.payloads(f"{topic}/fence") == []
    second.disconnect()
    third = lasting(broker, topic, level)
    assert third.connect().session_present is False


def test_session_expiry_0_ends_with_the_connection(broker: Broker, topic: str) -> None:
    for end in (PahoClient.disconnect, PahoClient.cut):
        client = lasting(broker, topic, expiry=0)
        assert client.connect().session_present is False
        client.subscribe(topic, qos=1)
        end(client)


def test_sessions_expire_when_it_was_agreed(broker: Broker, topic: str) -> None:
    for name, expiry in (("short", 1), ("long", 100), ("longer", 1), ("shorter", 100)):
        client = lasting(broker, f"{topic}-{name}", expiry=expiry)
        client.connect()
        client.subscribe(topic, qos=1)
        if name == "longer":
            client.disconnect(SessionExpiryInterval=100)
        elif name == "shorter":
            client.disconnect(SessionExpiryInterval=1)
        else:
            client.cut()
    broker.pass_time(2.5)
    for name, present in (("short", False), ("long", True), ("longer", True), ("shorter", False)):
        assert lasting(broker, f"{topic}-{name}").connect().session_present is present


def test_a_disconnect_with_expiry_0_ends_the_session_at_once(broker: Broker, topic: str) -> None:
    client = lasting(broker, topic)
    client.connect()
    client.disconnect(SessionExpiryInterval=0)
    assert lasting(broker, topic).connect().session_present is False


def test_disconnect_may_not_make_a_session_last_that_would_not(broker: Broker, topic: str) -> None:
    # MQTT 5 §3.14.2.2.2: a protocol error
    client = broker.connected(topic, clean=False)
    client.disconnect(SessionExpiryInterval=100)
    assert lasting(broker, topic).connect().session_present is False


@LEVELS
def test_sessions_survive_a_restart(start_broker: Callable[..., Broker], level: int) -> None:
    broker = start_broker()
    away = lasting(broker, "away", level)
    away.connect()
    away.subscribe("news/#", qos=2)
    away.disconnect()
    publisher = broker.connected(level=level)
    for number in range(10):
        publisher.publish("news/a", b"%d" % number, 2)
    broker.restart()
    back = lasting(broker, "away", level)
    assert back.connect().session_present is True or level == 3
    assert [back.next().payload for _ in range(10)] == [b"%d" % number for number in range(10)]
    back.publish("news/b", b"later")
    assert back.next().payload == b"later"


@pytest.mark.parametrize("level", [4, 5])
def test_in_flight_messages_are_sent_again_in_their_order(broker: Broker, topic: str, level: int) -> None:
    # [MQTT-4.4.0-1], [MQTT-4.6.0-1]
    expiry = b"\x11\xff\xff\xff\xff" if level == 5 else b""
    client = broker.raw(level)
    client.connect(topic, clean=False, properties=expiry)
    client.subscribe((topic, 2))
    publisher = broker.connected(level=level)
    for number in range(6):
        publisher.publish(topic, b"%d" % number, number % 2 + 1)
    first = [client.receive() for _ in range(6)]
    # Of the third only PUBREC was seen by the broker, the others are as they were; the first is settled.
    client.send(acknowledge(PUBACK, first[0].id), acknowledge(PUBREC, first[1].id))
    assert client.expect(PUBREL).id == first[1].id
    client.reset()
    again = broker.raw(level)
    assert again.connect(topic, clean=False, properties=expiry).body[0] == 1
    seen = [again.packet() for _ in range(5)]
    published = [packet for packet in seen if packet is not None and packet.kind == 3]
    released = [packet for packet in seen if packet is not None and packet.kind == PUBREL]
    assert [packet.id for packet in released] == [first[1].id]
    assert len(published) == 4
    assert all(packet.flags & 8 for packet in published), "DUP is set on what is sent again"
    assert [packet.body[-1:] for packet in published] == [b"2", b"3", b"4", b"5"]
    again.send(acknowledge(PUBCOMP, first[1].id))
    assert again.alive()


@pytest.mark.parametrize("level", [4, 5])
def test_a_client_id_is_taken_over(broker: Broker, topic: str, level: int) -> None:
    old = broker.connected(topic, level=level)
    new = broker.connected(topic, level=level)
    told = old.disconnected()
    if level == 5 and not broker.differs("a reason for every end"):
        assert told == (True, 0x8E)
    new.subscribe(topic, qos=1)
    new.publish(topic, b"x")
    assert new.next().payload == b"x"


def test_a_take_over_continues_a_lasting_session(broker: Broker, topic: str) -> None:
    old = lasting(broker, topic)
    old.connect()
    old.subscribe(f"{topic}/a", qos=1)
    new = lasting(broker, topic)
    assert new.connect().session_present is True
    assert old.disconnected() == (True, 0x8E) or broker.differs("a reason for every end")
    new.publish(f"{topic}/a", b"x")
    assert new.next().payload == b"x"


def test_a_subscription_is_replaced_not_doubled(broker: Broker, topic: str) -> None:
    # [MQTT-3.8.4-3]
    client = broker.connected()
    assert client.subscribe(f"{topic}/a", qos=0) == [0]
    assert client.subscribe(f"{topic}/a", qos=2) == [2]
    client.publish(f"{topic}/a", b"x", 2)
    [message] = client.until_fence(topic)
    assert message.qos == 2


def test_the_offline_queue_is_bounded(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_queued=20, receive_maximum=10)
    away = lasting(broker, "away")
    away.connect()
    away.subscribe("news/a", qos=1)
    away.disconnect()
    publisher = broker.connected()
    for number in range(60):
        publisher.publish("news/a", b"%d" % number)
    back = lasting(broker, "away")
    back.connect()
    found = back.payloads("news", publisher)
    # The newest are dropped; up to the window more may be waiting.
    assert 20 <= len(found) <= 30
    assert found == [b"%d" % number for number in range(len(found))]


def test_unsubscribing_ends_what_is_queued_later(broker: Broker, topic: str) -> None:
    client = lasting(broker, topic)
    client.connect()
    client.subscribe(f"{topic}/a", f"{topic}/b", qos=1)
    client.unsubscribe(f"{topic}/a")
    client.disconnect()
    publisher = broker.connected()
    publisher.publish(f"{topic}/a", b"a")
    publisher.publish(f"{topic}/b", b"b")
    back = lasting(broker, topic)
    back.connect()
    assert back.payloads(topic) == [b"b"]
