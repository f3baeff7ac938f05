"""What is refused, and how it is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    connect,
    packet,
    properties_of,
    publish,
    string,
    subscribe,
)

# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_login(start_broker: Callable[..., Broker], level: int) -> None:
    broker = start_broker(login=True)
    client = broker.connected(level=level, login=broker.user)
    client.subscribe("a", qos=1)
    client.publish("a", b"x")
    assert client.next().payload == b"x"
    name, password = broker.user
    if not broker.differs("names of users"):
        assert broker.raw(level).connect("somebody", login=("nobody", password)).body[:2] == b"\0\0"
        name = "nobody"
    for login in (None, (name, "wrong"), (password, "wrong"), (name, "")):
        refused = broker.raw(level)
        answer = refused.connect("somebody", login=login)
        assert answer.body[0] == 0
        if level == 5:
            assert answer.body[1] in (0x86, 0x87)
        else:
            assert answer.body[1] in (4, 5)
        assert refused.rest() == []


@pytest.mark.parametrize("level", [4, 5])
def test_a_narrow_login(start_broker: Callable[..., Broker], level: int) -> None:
    broker = start_broker(login=True)
    watcher = broker.connected(login=broker.user)
    watcher.subscribe("#", qos=1)
    client = broker.connected(level=level, login=broker.narrow)
    assert client.publish("allowed/a", b"yes") == 0
    reason = client.publish("secret/a", b"no")
    assert reason == (0x87 if level == 5 else 0)
    reasons = client.subscribe("allowed/#", "secret/#", qos=1)
    if broker.differs("rights to subscribe"):
        assert reasons == [1, 1]
    else:
        assert reasons == [1, 0x87 if level == 5 else 0x80]
    watcher.publish("secret/b", b"no")
    watcher.publish("allowed/b", b"yes")
    assert client.payloads("allowed") == [b"yes"]
    assert watcher.payloads("fence") == [b"yes", b"no", b"yes"]


def test_a_will_needs_the_right_to_publish(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    watcher = broker.connected(login=broker.user)
    watcher.subscribe("secret/#", qos=1)
    dying = broker.paho(login=broker.narrow).will("secret/will", b"no", 1)
    if broker.differs("rights of a will"):
        assert dying.connect().reason == 0
        dying.cut()
    else:
        assert dying.connect().reason == 0x87
    assert watcher.payloads("fence") == []


def test_retained_messages_need_the_right_to_subscribe(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    broker.connected(login=broker.user).publish("secret/a", b"no", retain=True)
    client = broker.connected(login=broker.narrow)
    client.subscribe("#", qos=1)
    assert client.payloads("allowed") == []


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/#/b", "a#", "a/b+", "+a/b", "#a", ""])
@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_filter_that_is_none(broker: Broker, level: int, name: str) -> None:
    # [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1]: no filter at all, so a protocol error
    client = broker.raw(level)
    client.connect()
    client.send(subscribe(1, (name, 1), level=level))
    ends = client.rest()
    if level == 5:
        assert [(end.kind, end.body[0]) for end in ends] in ([(DISCONNECT, 0x81)], [(DISCONNECT, 0x82)])
    else:
        assert ends == []


@pytest.mark.parametrize("name", ["a/+", "#", "+", "a/#", "a+b", ""])
@pytest.mark.parametrize("level", [3, 4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publishing_to_what_is_no_name(broker: Broker, topic: str, level: int, name: str, qos: int) -> None:
    # [MQTT-3.3.2-2]
    other = broker.connected()
    client = broker.raw(level)
    client.connect(topic)
    client.send(publish(name, b"x", qos, 1, level=level))
    ends = client.rest()
    if level == 5:
        assert ends == [] or (ends[0].kind == DISCONNECT and ends[0].body[0] in (0x81, 0x82, 0x90))
        assert ends != [] or broker.differs("a reason for every end")
    else:
        assert ends == []
    assert other.publish(topic, b"x") in (0, 0x10)


def test_publishing_to_sys_changes_nothing(broker: Broker) -> None:
    client = broker.raw()
    client.connect()
    client.send(publish("$SYS/broker/version", b"mine", 0, retain=True))
    watcher = broker.connected()
    watcher.subscribe("$SYS/broker/version")
    assert watcher.next().payload != b"mine"


def test_a_refusal_comes_with_a_reason_for_people(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    client = broker.raw(5)
    client.connect(login=broker.narrow)
    client.send(publish("secret/a", b"x", 1, 1, level=5))
    answer = client.expect(PUBACK)
    assert answer.body[2] == 0x87
    told = properties_of(answer.body, 3)[0] if len(answer.body) > 3 else {}
    assert (0x1F in told) != broker.differs("reason strings")


def test_no_reason_string_to_a_client_that_wants_none(start_broker: Callable[..., Broker]) -> None:
    # [MQTT-3.1.2-29]: Request Problem Information 0
    broker = start_broker(login=True)
    client = broker.raw(5)
    client.connect(login=broker.narrow, properties=b"\x17\0")
    client.send(publish("secret/a", b"x", 1, 1, level=5))
    answer = client.expect(PUBACK)
    assert len(answer.body) == 3 or 0x1F not in properties_of(answer.body, 3)[0]


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 2, 6, 127])
def test_an_unknown_protocol_level(broker: Broker, level: int) -> None:
    # [MQTT-3.1.2-2]
    client = broker.raw()
    client.send(packet(0x10, string(b"MQTT") + bytes([level, 2, 0, 60]) + string("x")))
    ends = client.rest()
    assert [end.body[1] for end in ends] in ([1], [0x84], [])
    assert ends != [] or broker.differs("a reason for every end")


@pytest.mark.parametrize("name", [b"MQTTX", b"mqtt", b"", b"HTTP"])
def test_an_unknown_protocol(broker: Broker, name: bytes) -> None:
    # [MQTT-3.1.2-1]
    client = broker.raw()
    client.send(packet(0x10, string(name) + bytes([4, 2, 0, 60]) + string("x")))
    assert [end.body[1] for end in client.rest()] in ([], [1], [0x84])


def test_an_authentication_method_is_not_known(broker: Broker) -> None:
    # [MQTT-4.12.0-1]
    client = broker.raw(5)
    client.send(connect("x", 5, properties=b"\x15" + string("SCRAM-SHA-1") + b"\x16" + string(b"data")))
    answer = client.expect(CONNACK)
    assert answer.body[1] == 0x8C
