"""What other people's clients write is read as they meant it, and what we write a real broker and they understand.

On one end of each connection is the codec, answering by rote, and nothing else of Polywire.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from polywire.wires.mqtt.codec import Decoder, encode
from polywire.wires.mqtt.packets import (
    Acks,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from polywire.wires.mqtt.properties import read, write
from tests.wires.mqtt.brokers import Mosquitto, Settings
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.samples import WRITTEN, Sample

USER = [("a", "1"), ("a", "ü")]
PATIENCE = 10


class End:
    """One end of a connection, in packets. ``level``: of an end that receives no CONNECT."""

    def __init__(self, connection: socket.socket, level: int | None = None) -> None:
        connection.settimeout(PATIENCE)
        self.connection = connection
        self.decoder = Decoder(maximum_packet_size=1 << 20, level=level)
        self._read: list[Packet] = []

    def send(self, *packets: Packet) -> None:
        assert self.decoder.level is not None
        self.connection.sendall(b"".join(encode(packet, self.decoder.level) for packet in packets))

    def next(self) -> Packet | None:
        """None at the end."""
        while not self._read:
            data = self.connection.recv(65_536)
            if not data:
                return None
            self._read = self.decoder.receive(data)
            assert self.decoder.error is None, self.decoder.error
        return self._read.pop(0)


def answers(packet: Packet) -> list[Packet]:  # noqa: PLR0911 - one line for each packet
    """By rote. To a subscription a message at each QoS is the answer as well."""
    match packet:
        case Connect():
            return [Connack(0, False, {Property.ASSIGNED_CLIENT_IDENTIFIER: "id", Property.USER_PROPERTY: USER})]
        case Subscribe(id=packet_id, filters=filters):
            block = write({Property.CONTENT_TYPE: "text/plain", Property.USER_PROPERTY: USER})[1:]
            said = [Publish(b"t/\xc3\xbc", b"x" * 200, qos, qos, True, False, block) for qos in (0, 1, 2)]
            return [Suback(packet_id, [options.qos for _, options in filters]), *said]
        case Unsubscribe(id=packet_id, filters=filters):
            return [Unsuback(packet_id, [0x11 for _ in filters])]
        case Publish(qos=1, id=packet_id):
            return [Puback(packet_id, 0x10)]
        case Publish(qos=2, id=packet_id):
            return [Pubrec(packet_id)]
        case Pubrec(id=packet_id):
            return [Pubrel(packet_id)]
        case Pubrel(id=packet_id):
            return [Pubcomp(packet_id)]
        case Pingreq():
            return [Pingresp()]
    return []


@contextmanager
def answering() -> Iterator[tuple[int, queue.SimpleQueue[Packet | None]]]:
    """Answers one connection. Yields the port, and where what is received waits: None is its end."""
    heard: queue.SimpleQueue[Packet | None] = queue.SimpleQueue()

    def answer() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                end = End(connection)
                while packet := end.next():
                    heard.put(packet)
                    end.send(*answers(packet))
        except OSError:  # the test is over
            pass
        finally:
            heard.put(None)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            thread.join()


def all_of(heard: queue.SimpleQueue[Packet | None]) -> list[Packet]:
    """To the end; PUBACKs in any company are one by one."""
    packets: list[Packet] = []
    while packet := heard.get(timeout=PATIENCE):
        packets += [Acks([packet_id]) for packet_id in packet.ids] if isinstance(packet, Acks) else [packet]
    return packets


@pytest.mark.parametrize("level", [3, 4, 5])
def test_paho(level: int) -> None:
    only5: dict[str, Any] = {"ContentType": "t", "UserProperty": USER} if level == 5 else {}
    with answering() as (port, heard):
        connecting = {"SessionExpiryInterval": 7} if level == 5 else {}
        client = PahoClient("127.0.0.1", port, "c", level=level, login=("u", "p"), connecting=connecting)
        client.will("w", b"gone", 1, retain=True, **only5)
        assert client.connect().reason == 0
        assert [client.publish("t/ü", b"x" * 300, qos, **only5) for qos in (0, 1, 2)] == [
            0,
            0x10 if level == 5 else 0,
            0,
        ]
        assert client.subscribe("t/#", "+", qos=2) == [2, 2]
        messages = [client.next() for _ in range(3)]
        client.unsubscribe("t/#")
        client.disconnect()
        packets = all_of(heard)
    found = {Property.CONTENT_TYPE: "t", Property.USER_PROPERTY: USER} if level == 5 else {}
    block = write(found)[1:] if level == 5 else b""
    will = Will(b"w", b"gone", 1, True, found)
    expiry = {Property.SESSION_EXPIRY_INTERVAL: 7} if level == 5 else {}
    assert packets[0] == Connect(level, "c", True, 60, "u", b"p", will, expiry)
    publishes = [packet for packet in packets if isinstance(packet, Publish)]
    assert [(p.topic, p.payload, p.qos, p.properties) for p in publishes] == [
        ("t/ü".encode(), b"x" * 300, qos, block) for qos in (0, 1, 2)
    ]
    assert {type(packet) for packet in packets} >= {Pubrel, Subscribe, Acks, Pubrec, Pubcomp, Unsubscribe, Disconnect}
    (subscribe,) = (packet for packet in packets if isinstance(packet, Subscribe))
    assert subscribe.filters == [("t/#", SubscriptionOptions(2)), ("+", SubscriptionOptions(2))]
    assert [(m.topic, m.payload, m.qos, m.retain) for m in messages] == [
        ("t/ü", b"x" * 200, q, True) for q in (0, 1, 2)
    ]
    if level == 5:
        assert all(message.properties.UserProperty == USER for message in messages)


@pytest.mark.parametrize("version", [MQTTv311, MQTTv50])
async def test_gmqtt(version: int) -> None:
    five = version == MQTTv50
    with answering() as (port, heard):
        messages: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        client = gmqtt.Client("c", will_message=gmqtt.Message("w", b"gone", qos=1, will_delay_interval=3))
        client.set_auth_credentials("u", "p")
        client.on_message = lambda _client, *message: messages.put(message) or 0
        subscribed = asyncio.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        async with asyncio.timeout(PATIENCE):
            await client.connect("127.0.0.1", port, version=version)
            client.subscribe("t/#", 2)
            await subscribed.wait()
            client.publish("t/ü", b"x" * 300, qos=2, content_type="t", user_property=USER)
            client.unsubscribe("t/#")
            received = [await asyncio.to_thread(messages.get, timeout=PATIENCE) for _ in range(3)]
            await client.disconnect()
        packets = await asyncio.to_thread(all_of, heard)
    (connect,) = (packet for packet in packets if isinstance(packet, Connect))
    assert (connect.level, connect.username, connect.password) == (version, "u", b"p")
    assert connect.will is not None
    assert (connect.will.topic, connect.will.payload, connect.will.qos) == (b"w", b"gone", 1)
    assert connect.will.properties.get(Property.WILL_DELAY_INTERVAL) == (3 if five else None)
    (publish,) = (packet for packet in packets if isinstance(packet, Publish))
    assert (publish.topic, publish.payload, publish.qos) == ("t/ü".encode(), b"x" * 300, 2)
    if five:
        assert read(publish.properties, Publish) == {Property.CONTENT_TYPE: "t", Property.USER_PROPERTY: USER}
    assert {type(packet) for packet in packets} >= {Pubrel, Subscribe, Acks, Pubrec, Unsubscribe, Disconnect}
    assert [message[:3] for message in received] == [("t/ü", b"x" * 200, qos) for qos in (0, 1, 2)]


# --- a broker --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), Settings())
    broker.start()
    yield broker
    broker.stop()


@contextmanager
def connected(broker: Mosquitto, connect: Connect) -> Iterator[End]:
    with socket.create_connection((broker.host, broker.port)) as connection:
        end = End(connection, connect.level)
        end.send(connect)
        connack = end.next()
        assert isinstance(connack, Connack)
        assert connack.reason == 0
        yield end


CONNECTS = [sample for sample in WRITTEN if isinstance(sample.packet, Connect) and sample.name != "connect-everything"]


@pytest.mark.parametrize("sample", [pytest.param(sample, id=f"{sample.name}-{sample.level}") for sample in CONNECTS])
def test_mosquitto_accepts_every_connect(mosquitto: Mosquitto, sample: Sample) -> None:
    assert isinstance(sample.packet, Connect)
    with connected(mosquitto, sample.packet) as end:
        end.send(Pingreq())
        assert end.next() == Pingresp()
        end.send(Disconnect())
        assert end.next() is None


@pytest.mark.parametrize("level", [3, 4, 5])
@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_mosquitto_understands_a_conversation(mosquitto: Mosquitto, level: int, size: int) -> None:
    found = {
        Property.PAYLOAD_FORMAT_INDICATOR: 1,
        Property.RESPONSE_TOPIC: "r",
        Property.CORRELATION_DATA: b"\xff",
        Property.CONTENT_TYPE: "t",
        Property.USER_PROPERTY: USER,
    }
    block = write(found)[1:] if level == 5 else b""
    name = f"oracle/{level}/{size}"
    with connected(mosquitto, Connect(level, f"{level}-{size}")) as end:
        end.send(Subscribe(7, [(f"{name}/#", SubscriptionOptions(2))], {Property.SUBSCRIPTION_IDENTIFIER: [300]}))
        assert end.next() == Suback(7, [2])
        for qos in (0, 1, 2):
            end.send(Publish(f"{name}/ü".encode(), b"x" * size, qos, 20 + qos if qos else 0, properties=block))
            publish = until_published(end)
            assert (publish.topic, publish.payload, publish.qos) == (f"{name}/ü".encode(), b"x" * size, qos)
            if level == 5:
                assert read(publish.properties, Publish) == {**found, Property.SUBSCRIPTION_IDENTIFIER: [300]}
        end.send(Unsubscribe(8, [f"{name}/#"]))
        assert end.next() == Unsuback(8, [0] if level == 5 else [])
        end.send(Disconnect())
        assert end.next() is None


def until_published(end: End) -> Publish:
    """Both ways to their ends, which come in any order."""
    publish: Publish | None = None
    left = {"out", "in"}
    while left:
        packet = end.next()
        match packet:
            case Publish(qos=qos):
                publish = packet
                end.send(*([] if qos == 0 else [Acks([packet.id])] if qos == 1 else [Pubrec(packet.id)]))
                left -= {"in"} if qos < 2 else set()
                left -= {"out"} if qos == 0 else set()
            case Acks() | Pubcomp():
                left -= {"out"}
            case Pubrec(id=packet_id):
                end.send(Pubrel(packet_id))
            case Pubrel(id=packet_id):
                end.send(Pubcomp(packet_id))
                left -= {"in"}
            case _:
                raise AssertionError(packet)
    assert publish is not None
    return publish
