"""gmqtt, asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from tests.wires.mqtt.brokers import Broker

VERSIONS = pytest.mark.parametrize("version", [MQTTv311, MQTTv50], ids=["MQTTv311", "MQTTv50"])


class Client:
    """gmqtt's client; what it is told waits in queues."""

    def __init__(self, client_id: str, **options: Any) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes, int, dict[str, Any]]] = asyncio.Queue()
        self.granted: asyncio.Queue[Any] = asyncio.Queue()
        self.present: bool | None = None
        self.client = gmqtt.Client(client_id, **options)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda _client, _mid, qos, _properties: self.granted.put_nowait(list(qos))
        self.client.on_connect = self._on_connect

    def _on_connect(self, _client: Any, flags: int, _rc: int, _properties: Any) -> None:
        self.present = bool(flags)

    async def _on_message(self, _client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        self.messages.put_nowait((topic, payload, qos, properties))
        return 0

    async def subscribe(self, name: str, qos: int = 0, **options: Any) -> list[int]:
        self.client.subscribe(name, qos, **options)
        async with asyncio.timeout(10):
            found: list[int] = await self.granted.get()
        return found

    async def next(self) -> tuple[str, bytes, int, dict[str, Any]]:
        async with asyncio.timeout(10):
            return await self.messages.get()


@asynccontextmanager
async def connected(
    broker: Broker, client_id: str, version: int = MQTTv50, *, login: tuple[str, str] | None = None, **options: Any
) -> AsyncIterator[Client]:
    made = Client(client_id, **options)
    if login is not None:
        made.client.set_auth_credentials(*login)
    async with asyncio.timeout(10):
        await made.client.connect(broker.host, broker.port, version=version)
    try:
        yield made
    finally:
        await made.client.disconnect()


@VERSIONS
async def test_publish_and_subscribe(broker: Broker, topic: str, version: int) -> None:
    async with connected(broker, topic, version) as client:
        assert await client.subscribe(f"{topic}/#", 2) == [2]
        for qos in (0, 1, 2):
            client.client.publish(f"{topic}/{qos}", f"hello {qos}", qos=qos)
        found = sorted([(await client.next())[:3] for _ in range(3)])
    assert found == [(f"{topic}/{qos}", f"hello {qos}".encode(), qos) for qos in (0, 1, 2)]


async def test_properties(broker: Broker, topic: str) -> None:
    async with connected(broker, topic) as client:
        await client.subscribe(topic, 1, subscription_identifier=9)
        client.client.publish(
            topic, {"a": 1}, qos=1, content_type="application/json", user_property=[("b", "1"), ("a", "2")],
            response_topic="answers", correlation_data=b"\0\1", message_expiry_interval=100,
        )  # fmt: skip
        _, payload, _, properties = await client.next()
    assert payload == b'{"a": 1}'
    assert properties["content_type"] == ["application/json"]
    assert properties["user_property"] == [("b", "1"), ("a", "2")]
    assert properties["response_topic"] == ["answers"]
    assert properties["correlation_data"] == [b"\0\1"]
    assert properties["subscription_identifier"] == [9]
    assert 98 <= properties["message_expiry_interval"][0] <= 100


@VERSIONS
async def test_retained(broker: Broker, topic: str, version: int) -> None:
    async with connected(broker, topic, version) as client:
        await client.subscribe(f"{topic}/fence", 1)
        client.client.publish(topic, "kept", qos=1, retain=True)
        client.client.publish(f"{topic}/fence", "x", qos=1)
        assert (await client.next())[1] == b"x"
        await client.subscribe(topic, 1)
        found = await client.next()
    assert (found[1], found[3]["retain"]) == (b"kept", True)


async def test_a_session_that_waits(broker: Broker, topic: str) -> None:
    lasting: dict[str, Any] = {"clean_session": False, "session_expiry_interval": 1000}
    async with connected(broker, topic, **lasting) as client:
        assert client.present is False
        await client.subscribe(f"{topic}/#", 2)
    publisher = broker.connected()
    for number in range(10):
        await asyncio.to_thread(publisher.publish, f"{topic}/a", b"%d" % number, number % 2 + 1)
    async with connected(broker, topic, **lasting) as client:
        assert client.present is True
        assert sorted([(await client.next())[1] for _ in range(10)]) == [b"%d" % number for number in range(10)]


@VERSIONS
async def test_a_will(broker: Broker, topic: str, version: int) -> None:
    watcher = broker.connected()
    watcher.subscribe(topic, qos=1)
    will = gmqtt.Message(topic, "gone", qos=1)
    async with connected(broker, f"{topic}-dying", version, will_message=will) as client:
        client.client.stop_reconnect()
        client.client._connection._transport.abort()
        assert (await asyncio.to_thread(watcher.next)).payload == b"gone"


@VERSIONS
async def test_a_refused_login(start_broker: Callable[..., Broker], version: int) -> None:
    broker = start_broker(login=True)
    with pytest.raises(gmqtt.MQTTConnectError):
        async with connected(broker, "x", version, login=("device", "wrong")):
            pass
    async with connected(broker, "x", version, login=broker.user) as client:
        assert await client.subscribe("a", 1) == [1]


async def test_many_messages(broker: Broker, topic: str) -> None:
    async with connected(broker, topic) as client:
        await client.subscribe(topic, 1)
        found = []
        for start in range(0, 300, 10):  # within any broker's Receive Maximum
            for number in range(start, start + 10):
                client.client.publish(topic, str(number), qos=1)
            found += [int((await client.next())[1]) for _ in range(10)]
    assert found == list(range(300))
