"""Eclipse paho for Python in all the ways its documentation and tutorials show."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt import MQTTException, publish, subscribe

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import PATIENCE

VERSIONS = pytest.mark.parametrize(
    "version", [mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5], ids=["MQTTv31", "MQTTv311", "MQTTv5"]
)
TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "websockets"])


def port(broker: Broker, transport: str) -> int:
    return broker.port if transport == "tcp" else broker.websocket_port


@VERSIONS
@TRANSPORTS
def test_callbacks_of_version_2(broker: Broker, topic: str, version: Any, transport: Any) -> None:
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def on_connect(client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        assert reason_code == 0
        client.subscribe(f"{topic}/#", qos=2)

    def on_subscribe(client: mqtt.Client, userdata: Any, mid: int, reason_codes: Any, properties: Any) -> None:
        for qos in (0, 1, 2):
            client.publish(f"{topic}/{qos}", f"hello {qos}", qos=qos)

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        found.put((message.topic, message.payload.decode(), message.qos))

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=version, transport=transport)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect(broker.host, port(broker, transport), 60)
    client.loop_start()
    try:
        messages = sorted(found.get(timeout=PATIENCE) for _ in range(3))
    finally:
        client.disconnect()
        client.loop_stop()
    assert messages == [(f"{topic}/{qos}", f"hello {qos}", qos) for qos in (0, 1, 2)]


@VERSIONS
@pytest.mark.filterwarnings("ignore:Callback API version 1 is deprecated")
def test_callbacks_of_version_1(broker: Broker, topic: str, version: Any) -> None:
    found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, protocol=version)

    def on_connect(client: mqtt.Client, userdata: Any, flags: Any, rc: int, properties: Any = None) -> None:
        assert rc == 0
        client.subscribe(topic)

    def on_subscribe(client: mqtt.Client, userdata: Any, mid: int, granted: Any, properties: Any = None) -> None:
        client.publish(topic, "hello")

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        found.put(message.payload)
        client.disconnect()

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect(broker.host, broker.port)
    client.loop_forever()
    assert found.get_nowait() == b"hello"


def test_loop_forever_in_a_thread(broker: Broker, topic: str) -> None:
    ready, found = threading.Event(), queue.SimpleQueue[bytes]()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _userdata, message: found.put(message.payload)
    client.connect(broker.host, broker.port)
    thread = threading.Thread(target=client.loop_forever)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        info = client.publish(topic, "from outside", qos=1)
        info.wait_for_publish(PATIENCE)
        assert found.get(timeout=PATIENCE) == b"from outside"
    finally:
        client.disconnect()
        thread.join(PATIENCE)


def test_a_loop_called_by_hand(broker: Broker, topic: str) -> None:
    found: list[bytes] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe(topic)
    client.on_subscribe = lambda client, *_: client.publish(topic, "x")
    client.on_message = lambda _client, _userdata, message: found.append(message.payload)
    client.connect(broker.host, broker.port)
    while not found:
        assert client.loop(timeout=PATIENCE) == mqtt.MQTT_ERR_SUCCESS
    client.disconnect()
    assert found == [b"x"]


@pytest.mark.parametrize(
    ("version", "transport"),
    [(mqtt.MQTTv31, "tcp"), (mqtt.MQTTv311, "tcp"), (mqtt.MQTTv5, "tcp"), (mqtt.MQTTv311, "websockets")],
    ids=["MQTTv31", "MQTTv311", "MQTTv5", "MQTTv311 over WebSocket"],
)
def test_publish_single_and_subscribe_simple(broker: Broker, topic: str, version: Any, transport: Any) -> None:
    at: dict[str, Any] = {
        "hostname": broker.host, "port": port(broker, transport), "protocol": version, "transport": transport
    }  # fmt: skip
    for qos in (0, 1, 2):
        publish.single(f"{topic}/{qos}", f"payload {qos}", qos=qos, retain=True, **at)
        message = subscribe.simple(f"{topic}/{qos}", qos=2, **at)
        assert (message.payload, message.qos) == (f"payload {qos}".encode(), qos)
        # At QoS 0 nobody is told when it is kept: it may also come as one that was published just now.
        assert message.retain or qos == 0


def test_publish_multiple_and_subscribe_to_several(broker: Broker, topic: str) -> None:
    messages: list[Any] = [
        {"topic": f"{topic}/a", "payload": "dict", "qos": 1, "retain": True},
        (f"{topic}/b", "tuple", 2, True),
    ]
    publish.multiple(messages, hostname=broker.host, port=broker.port)
    found = subscribe.simple([f"{topic}/a", f"{topic}/b"], msg_count=2, hostname=broker.host, port=broker.port)
    assert sorted(message.payload for message in found) == [b"dict", b"tuple"]


def test_subscribe_callback(broker: Broker, topic: str) -> None:
    found = []

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        found.append(message.payload)
        client.disconnect()

    publish.single(topic, "kept", qos=1, retain=True, hostname=broker.host, port=broker.port)
    subscribe.callback(on_message, topic, hostname=broker.host, port=broker.port)
    assert found == [b"kept"]


def test_publish_single_with_a_login_and_a_will(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    name, password = broker.user
    at: dict[str, Any] = {"hostname": broker.host, "port": broker.port}
    login: Any = {"username": name, "password": password}
    publish.single("a", "x", qos=1, retain=True, auth=login, will={"topic": "will", "payload": "gone"}, **at)
    assert subscribe.simple("a", auth=login, **at).payload == b"x"
    with pytest.raises(MQTTException):
        publish.single("a", "x", qos=1, auth={"username": name, "password": "wrong"}, **at)


def test_a_callback_for_each_filter(broker: Broker, topic: str) -> None:
    found: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.message_callback_add(f"{topic}/a/#", lambda _c, _u, message: found.put(("a", message.payload)))
    client.message_callback_add(f"{topic}/+/b", lambda _c, _u, message: found.put(("b", message.payload)))
    client.on_message = lambda _c, _u, message: found.put(("rest", message.payload))
    client.on_connect = lambda client, *_: client.subscribe(f"{topic}/#", 1)
    client.on_subscribe = lambda client, *_: [client.publish(f"{topic}/{n}", n, 1) for n in ("a/x", "x/b", "x/y")]
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        assert {found.get(timeout=PATIENCE) for _ in range(3)} == {("a", b"a/x"), ("b", b"x/b"), ("rest", b"x/y")}
    finally:
        client.disconnect()
        client.loop_stop()


def test_what_was_published_before_the_connection_is_sent_with_it(broker: Broker, topic: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(topic, qos=1)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    info = client.publish(topic, "early", qos=1)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        assert watcher.next().payload == b"early"
    finally:
        client.disconnect()
        client.loop_stop()
    assert info.mid == 1


def test_acknowledging_by_hand(broker: Broker, topic: str) -> None:
    client = broker.connected(topic, clean=False, connecting={"SessionExpiryInterval": 100}, manual_ack=True)
    client.subscribe(topic, qos=1)
    broker.connected().publish(topic, b"x")
    client.next()
    client.cut()
    again = broker.connected(topic, clean=False, connecting={"SessionExpiryInterval": 100}, manual_ack=True)
    message = again.next()
    assert (message.payload, message.dup) == (b"x", True)
    again.client.ack(message.mid, message.qos)


def test_a_refused_login_is_told(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    assert broker.paho("c", level=4, login=("device", "wrong")).connect().reason in (0x86, 0x87)
    assert broker.paho("c", level=5, login=("device", "wrong")).connect().reason in (0x86, 0x87)
    assert broker.paho("c", level=5).connect().reason in (0x86, 0x87)


def test_what_is_too_large_ends_the_connection(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_packet_size=10_000)
    client = broker.connected()
    client.client.publish("t", b"x" * 20_000, 1)
    assert client.disconnected() == (True, 0x95)
    assert broker.connected().publish("t", b"x") in (0, 0x10)
