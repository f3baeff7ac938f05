"""Wills, MQTT 5 §3.1.2.5."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import connect, packet, publish, string, will

LEVELS = pytest.mark.parametrize("level", [3, 4, 5], ids=["3.1", "3.1.1", "5"])


@LEVELS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_cut_connection_leaves_its_will(broker: Broker, topic: str, level: int, qos: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=2)
    broker_client = broker.paho(topic, level=level).will(f"{topic}/will", b"gone", qos)
    broker_client.connect()
    broker_client.cut()
    message = watcher.next()
    assert (message.payload, message.qos, message.retain) == (b"gone", qos, False)


@LEVELS
def test_a_disconnect_takes_the_will_away(broker: Broker, topic: str, level: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = broker.paho(topic, level=level).will(f"{topic}/will", b"gone", 1)
    client.connect()
    client.disconnect()
    assert watcher.payloads(topic) == []


def test_a_disconnect_with_reason_4_leaves_it(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = broker.paho(topic).will(f"{topic}/will", b"gone", 1)
    client.connect()
    client.disconnect(0x04)
    assert watcher.next().payload == b"gone"


@LEVELS
def test_a_retained_will(broker: Broker, topic: str, level: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = broker.paho(topic, level=level).will(f"{topic}/will", b"gone", 1, retain=True)
    client.connect()
    client.cut()
    watcher.next()
    late = broker.connected()
    late.subscribe(f"{topic}/will", qos=1)
    message = late.next()
    assert (message.payload, message.retain) == (b"gone", True)


def test_a_will_has_its_properties(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(topic, qos=1)
    client = broker.paho().will(
        topic, b"{}", 1, ContentType="application/json", UserProperty=[("b", "1"), ("a", "2")], CorrelationData=b"\1",
        ResponseTopic="answers", PayloadFormatIndicator=1, MessageExpiryInterval=100,
    )  # fmt: skip
    client.connect()
    client.cut()
    found = watcher.next().properties
    assert (found.ContentType, found.UserProperty) == ("application/json", [("b", "1"), ("a", "2")])
    assert (found.CorrelationData, found.ResponseTopic, found.PayloadFormatIndicator) == (b"\1", "answers", 1)
    assert 95 <= found.MessageExpiryInterval <= 100


def delayed(broker: Broker, topic: str, seconds: int, expiry: int = 1000, clean: bool = True) -> PahoClient:
    connecting = {"SessionExpiryInterval": expiry}
    client = broker.paho(topic, clean=clean, connecting=connecting)
    return client.will(f"{topic}/will", b"gone", 1, WillDelayInterval=seconds)


def test_a_will_waits_for_its_delay(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = delayed(broker, topic, 1)
    client.connect()
    client.cut()
    assert watcher.payloads(topic) == []
    broker.hurry(1)
    assert watcher.next().payload == b"gone"


def test_a_client_that_returns_in_time_has_not_died(broker: Broker, topic: str) -> None:
    # [MQTT-3.1.3-9]
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = delayed(broker, topic, 1)
    client.connect()
    client.cut()
    again = broker.paho(topic, clean=False, connecting={"SessionExpiryInterval": 1000})
    again.connect()
    broker.pass_time(2.1)
    assert watcher.payloads(topic) == []


def test_the_end_of_the_session_ends_the_delay(broker: Broker, topic: str) -> None:
    # §3.1.3.2.2: the delay, or the end of the session, whichever is first
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = delayed(broker, topic, 1000, expiry=1)
    client.connect()
    client.cut()
    broker.hurry(2)
    assert watcher.next().payload == b"gone"


def test_a_clean_start_publishes_the_will_of_the_old_session(broker: Broker, topic: str) -> None:
    # §3.1.4: the old session ends, and with it the delay
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = delayed(broker, topic, 1000)
    client.connect()
    client.cut()
    broker.connected(topic)
    expected = [] if broker.differs("the will of a session that a Clean Start ends") else [b"gone"]
    assert watcher.payloads(topic) == expected


def test_taking_over_publishes_the_will(broker: Broker, topic: str) -> None:
    # [MQTT-3.1.4-3] and §3.1.2.5: the server closed the connection without a DISCONNECT of the client
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    broker.paho(topic).will(f"{topic}/will", b"gone", 1).connect()
    broker.connected(topic)
    assert watcher.next().payload == b"gone"


def test_a_client_that_breaks_the_protocol_leaves_its_will(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    client = broker.raw()
    client.connect(topic, last_will=will(f"{topic}/will", b"broken"))
    client.send(packet(0x36, string(topic) + b"\0\1x"))  # QoS 3
    client.rest()
    assert watcher.next().payload == b"broken"


def test_a_will_on_a_wildcard_is_refused(broker: Broker, topic: str) -> None:
    client = broker.raw()
    client.send(connect(topic, last_will=will(f"{topic}/+", b"x")))
    assert all(packet.body[1] != 0 for packet in client.rest() if packet.kind == 2)


def test_delayed_wills_survive_a_restart(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    client = delayed(broker, "dying", 2)
    client.connect()
    client.cut()
    broker.restart()
    watcher = broker.connected()
    watcher.subscribe("dying/will", qos=1)
    if broker.differs("wills and restarts"):
        assert watcher.payloads("dying") == []
    else:
        broker.hurry(2)
        assert watcher.next().payload == b"gone"


def test_the_will_comes_after_what_the_client_published(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(topic, qos=1)
    client = broker.raw()
    client.connect(topic, last_will=will(topic, b"will"), will_flags=0x0C)
    client.send(publish(topic, b"1", 1, 1), publish(topic, b"2", 1, 2))
    client.close()
    assert [watcher.next().payload for _ in range(3)] == [b"1", b"2", b"will"]
