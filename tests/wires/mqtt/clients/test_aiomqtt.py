"""aiomqtt, asyncio on paho."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiomqtt
import pytest
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import properties

VERSIONS = pytest.mark.parametrize("version", list(ProtocolVersion), ids=[version.name for version in ProtocolVersion])
TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "websockets"])


def connecting(broker: Broker, transport: str = "tcp", **options: Any) -> aiomqtt.Client:
    port = broker.port if transport == "tcp" else broker.websocket_port
    return aiomqtt.Client(broker.host, port, transport=transport, **options)  # type: ignore[arg-type] - a literal


async def received(client: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    found = []
    async with asyncio.timeout(10):
        async for message in client.messages:
            found.append(message)
            if len(found) == count:
                break
    return found


@VERSIONS
@TRANSPORTS
async def test_publish_and_subscribe(broker: Broker, topic: str, version: ProtocolVersion, transport: str) -> None:
    async with connecting(broker, transport, protocol=version) as client:
        await client.subscribe(f"{topic}/#", qos=2)
        for qos in (0, 1, 2):
            await client.publish(f"{topic}/{qos}", payload=f"hello {qos}", qos=qos)
        found = await received(client, 3)
    assert sorted((str(message.topic), message.payload, message.qos) for message in found) == [
        (f"{topic}/{qos}", f"hello {qos}".encode(), qos) for qos in (0, 1, 2)
    ]


async def test_one_publishes_another_listens(broker: Broker, topic: str) -> None:
    async with connecting(broker) as listener, connecting(broker) as publisher:
        await listener.subscribe(f"{topic}/+/temperature")
        await publisher.publish(f"{topic}/kitchen/temperature", payload=28.4)
        [message] = await received(listener, 1)
    assert message.topic.matches(f"{topic}/+/temperature")
    assert message.payload == b"28.4"


async def test_many_at_once(broker: Broker, topic: str) -> None:
    async with connecting(broker) as client:
        client.pending_calls_threshold = 1000
        await client.subscribe(topic, qos=1)
        await asyncio.gather(*(client.publish(topic, str(number), qos=1) for number in range(300)))
        found = await received(client, 300)
    assert [int(message.payload) for message in found] == list(range(300))  # type: ignore[arg-type] - bytes


async def test_unsubscribing(broker: Broker, topic: str) -> None:
    async with connecting(broker) as client:
        await client.subscribe(f"{topic}/a")
        await client.subscribe(f"{topic}/b")
        await client.unsubscribe(f"{topic}/a")
        await client.publish(f"{topic}/a", "a", qos=1)
        await client.publish(f"{topic}/b", "b", qos=1)
        [message] = await received(client, 1)
    assert message.payload == b"b"


async def test_properties(broker: Broker, topic: str) -> None:
    async with connecting(broker, protocol=ProtocolVersion.V5) as client:
        await client.subscribe(topic, qos=1)
        said = properties(PacketTypes.PUBLISH, ContentType="text/plain", UserProperty=[("a", "1"), ("a", "2")])
        await client.publish(topic, "x", qos=1, properties=said)
        [message] = await received(client, 1)
    assert message.properties is not None
    assert message.properties.json() == {"ContentType": "text/plain", "UserProperty": [("a", "1"), ("a", "2")]}


async def test_a_session_that_waits(broker: Broker, topic: str) -> None:
    async with connecting(broker, identifier=topic, clean_session=False) as client:
        await client.subscribe(topic, qos=1)
    async with connecting(broker) as publisher:
        for number in range(10):
            await publisher.publish(topic, str(number), qos=1)
    async with connecting(broker, identifier=topic, clean_session=False) as client:
        found = await received(client, 10)
    assert [int(message.payload) for message in found] == list(range(10))  # type: ignore[arg-type] - bytes


async def test_a_will(broker: Broker, topic: str) -> None:
    will = aiomqtt.Will(topic, b"gone", qos=1)
    async with connecting(broker) as watcher:
        await watcher.subscribe(topic, qos=1)
        dying = connecting(broker, will=will)
        await dying.__aenter__()
        dying._client._sock_close()
        await dying.__aexit__(None, None, None)
        [message] = await received(watcher, 1)
    assert message.payload == b"gone"


async def test_a_shared_subscription(broker: Broker, topic: str) -> None:
    async with connecting(broker) as one, connecting(broker) as other, connecting(broker) as publisher:
        await one.subscribe(f"$share/workers/{topic}", qos=1)
        await other.subscribe(f"$share/workers/{topic}", qos=1)
        for number in range(20):
            await publisher.publish(topic, str(number), qos=1)
        await one.subscribe(f"{topic}/fence", qos=1)
        await other.subscribe(f"{topic}/fence", qos=1)
        await publisher.publish(f"{topic}/fence", "fence", qos=1)
        shares = [await until_fence(client) for client in (one, other)]
    assert sorted(shares[0] + shares[1]) == list(range(20))
    assert min(len(share) for share in shares) >= 5


async def until_fence(client: aiomqtt.Client) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(10):
        async for message in client.messages:
            if message.payload == b"fence":
                break
            found.append(int(message.payload))  # type: ignore[arg-type] - bytes
    return found


@pytest.mark.parametrize("version", [ProtocolVersion.V311, ProtocolVersion.V5], ids=["V311", "V5"])
async def test_a_refused_login(start_broker: Callable[..., Broker], version: ProtocolVersion) -> None:
    broker = start_broker(login=True)
    name, password = broker.user
    with pytest.raises(aiomqtt.MqttError, match=r"(?i)not authori[sz]ed|bad user ?name"):
        async with connecting(broker, username=name, password="wrong", protocol=version):
            pass
    async with connecting(broker, username=name, password=password, protocol=version) as client:
        await client.publish("a", "x", qos=1)
