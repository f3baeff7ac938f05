"""Each client is cut, reset and half-opened while it publishes and reads: it resumes, and nothing acknowledged is lost.

The sessions last; the clients reconnect in the way their documentation shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiomqtt
import gmqtt
import paho.mqtt.client as mqtt
import pytest
from gmqtt.mqtt.constants import MQTTv311

from tests.conftest import require_tool
from tests.wires.mqtt.brokers import BACKENDS, Broker
from tests.wires.mqtt.proxy import Proxy, proxy

COUNT = 240
FAULTS = {60: Proxy.cut, 120: Proxy.reset, 180: Proxy.freeze}
"""What happens once so many were published, the last ones in a burst."""
BURST = 20


class Arrived:
    """What a subscriber was given, in whatever thread."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._changed = threading.Condition()

    def add(self, payload: bytes) -> None:
        with self._changed:
            self.numbers.append(int(payload))
            self._changed.notify_all()

    def wait(self, condition: Callable[[set[int]], bool], seconds: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(set(self.numbers)), seconds), sorted(self.numbers)[-3:]

    def wait_for_all(self) -> None:
        self.wait(lambda found: len(found) == COUNT)
        assert set(self.numbers) == set(range(COUNT))


def numbers(arrived: Arrived, between: Proxy, faults: Mapping[int, Callable[[Proxy], None]] = FAULTS) -> Iterator[int]:
    """Those to publish; faults happen on the way, while the last ones are on theirs."""
    for number in range(COUNT):
        if number + BURST in faults:
            arrived.wait(lambda found, number=number: len(found) >= number)  # type: ignore[misc]
        yield number
        if number in faults:
            faults[number](between)


@pytest.fixture(params=["hub", pytest.param("mosquitto", marks=pytest.mark.long)])
def backend(request: pytest.FixtureRequest) -> type[Broker]:
    """Clients take seconds to find a connection half open: mosquitto is asked in the long runs only."""
    return BACKENDS[request.param]


@pytest.fixture
def between(broker: Broker) -> Iterator[Proxy]:
    with proxy(broker.host, broker.port) as made:
        yield made


@pytest.mark.parametrize("qos", [1, 2])
def test_paho(broker: Broker, topic: str, between: Proxy, qos: int) -> None:
    if qos == 2 and broker.differs("QoS 2 after a cut"):
        return
    arrived, ready = Arrived(), threading.Event()
    reader, writer = (paho_client(f"{topic}-{role}") for role in ("reader", "writer"))
    reader.on_message = lambda _c, _u, message: arrived.add(message.payload)
    reader.on_connect = lambda client, *_: client.subscribe(topic, qos)
    reader.on_subscribe = lambda *_: ready.set()
    for client in (reader, writer):
        client.connect(broker.host, between.port, keepalive=1)
        client.loop_start()
    try:
        assert ready.wait(10)
        for number in numbers(arrived, between):
            writer.publish(topic, str(number), qos)  # without a connection it is queued
        arrived.wait_for_all()
        if qos == 2:
            assert sorted(arrived.numbers) == list(range(COUNT)), "exactly once"
    finally:
        for client in (reader, writer):
            client.disconnect()
            client.loop_stop()


def paho_client(client_id: str) -> mqtt.Client:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, clean_session=False)
    client.reconnect_delay_set(min_delay=0.05, max_delay=0.2)  # type: ignore[arg-type] - only added to a time
    return client


async def test_aiomqtt(broker: Broker, topic: str, between: Proxy) -> None:
    arrived, ready = Arrived(), asyncio.Event()

    def client(role: str) -> aiomqtt.Client:
        return aiomqtt.Client(
            broker.host, between.port, identifier=f"{topic}-{role}", clean_session=False, keepalive=1, timeout=2
        )

    async def read() -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with client("reader") as reader:
                    await reader.subscribe(topic, qos=1)
                    ready.set()
                    async for message in reader.messages:
                        arrived.add(message.payload)  # type: ignore[arg-type] - bytes

    async def write() -> None:
        waiting = numbers(arrived, between)
        number = await asyncio.to_thread(next, waiting, None)
        while number is not None:
            with contextlib.suppress(aiomqtt.MqttError):
                async with client("writer") as writer:
                    while number is not None:
                        await writer.publish(topic, str(number), qos=1)
                        number = await asyncio.to_thread(next, waiting, None)

    reading = asyncio.create_task(read())
    await asyncio.wait_for(ready.wait(), 10)
    await asyncio.wait_for(write(), 40)
    await asyncio.to_thread(arrived.wait_for_all)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_gmqtt(broker: Broker, topic: str, between: Proxy) -> None:
    arrived, ready = Arrived(), asyncio.Event()

    async def on_message(_client: Any, _topic: str, payload: bytes, _qos: int, _properties: Any) -> int:
        arrived.add(payload)
        return 0

    reader, writer = (gmqtt.Client(f"{topic}-{role}", clean_session=False) for role in ("reader", "writer"))
    reader.on_message = on_message
    reader.on_subscribe = lambda *_: ready.set()
    for client in (reader, writer):
        client.set_config({"reconnect_retries": -1, "reconnect_delay": 0.05})
        await client.connect(broker.host, between.port, keepalive=1, version=MQTTv311)
    reader.subscribe(topic, qos=1)
    await asyncio.wait_for(ready.wait(), 10)
    waiting = numbers(arrived, between)
    while (number := await asyncio.to_thread(next, waiting, None)) is not None:
        writer.publish(topic, str(number), qos=1)
    await asyncio.to_thread(arrived.wait_for_all)
    await writer.disconnect()
    await reader.disconnect()


@pytest.mark.needs_node
def test_mqttjs(broker: Broker, topic: str, between: Proxy, node_clients: Path) -> None:
    arrived = Arrived()
    command = ["node", "mqtt-cuts.mjs", f"mqtt://{broker.host}:{between.port}", topic]
    process = subprocess.Popen(command, cwd=node_clients, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    with listening(process, arrived):
        for number in numbers(arrived, between):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
        arrived.wait_for_all()
        process.stdin.close()


def test_mosquitto_sub(broker: Broker, topic: str, between: Proxy) -> None:
    """Its shortest keep-alive is 5 s, and it waits 1 s before it reconnects: only the first two faults."""
    arrived = Arrived()
    writer = broker.connected()
    where = ["-h", broker.host, "-p", str(between.port)]
    lasting = [require_tool("mosquitto_sub"), *where, "-i", f"{topic}-reader", "-c", "-q", "1", "-t", topic]
    subprocess.run([*lasting, "-E"], check=True, timeout=20)
    with listening(subprocess.Popen(lasting, stdout=subprocess.PIPE), arrived):
        for number in numbers(arrived, between, {80: Proxy.cut, 160: Proxy.reset}):
            writer.client.publish(topic, str(number), 1)
        arrived.wait_for_all()


@contextlib.contextmanager
def listening(process: subprocess.Popen[bytes], arrived: Arrived) -> Iterator[None]:
    """Each line that it writes arrives. It is killed in the end."""
    thread = threading.Thread(target=lambda: [arrived.add(line) for line in process.stdout or ()])
    thread.start()
    try:
        yield
    finally:
        process.kill()
        process.wait(10)
        thread.join(10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
