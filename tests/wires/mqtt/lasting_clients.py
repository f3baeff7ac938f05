"""Clients that publish and read for as long as they are asked to, and come back by themselves when they are cut.

Each is one library, set up as its documentation shows it, with a session that lasts: a writer and a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import gmqtt
import paho.mqtt.client as mqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from paho.mqtt.packettypes import PacketTypes

from tests.wires.mqtt.paho_client import properties

__all__ = ["Aiomqtt", "Gmqtt", "Lasting", "MqttJs", "Paho"]

PATIENCE = 40
HOUR = 3_600


class Lasting(ABC):
    """``acknowledged``: what was, by number; None where the library does not tell. ``arrived``: how often each came."""

    tells_acknowledged: ClassVar[bool] = True

    def __init__(self, port: int, topic: str, *, level: int, qos: int) -> None:
        self.port = port
        self.topic = topic
        self.level = level
        self.qos = qos
        self.acknowledged: set[int] = set()
        self.arrived: Counter[int] = Counter()
        self._changed = threading.Condition()

    @abstractmethod
    def start(self) -> None:
        """Returns once the reader is subscribed."""

    @abstractmethod
    def publish(self, number: int) -> None:
        """Without waiting: it may be without a connection just now."""

    @abstractmethod
    def stop(self) -> None: ...

    def was_acknowledged(self, number: int) -> None:
        with self._changed:
            self.acknowledged.add(number)
            self._changed.notify_all()

    def came(self, payload: bytes) -> None:
        with self._changed:
            self.arrived[int(payload)] += 1
            self._changed.notify_all()

    def wait_for(self, count: int, name: str) -> None:
        """Until so many have arrived and, as far as it is told, are acknowledged."""
        with self._changed:
            there = self._changed.wait_for(
                lambda: len(self.arrived) >= count and (not self.tells_acknowledged or len(self.acknowledged) >= count),
                PATIENCE,
            )
        left = {number for number in range(count) if number not in self.arrived}
        assert there, f"{name}: {left} did not arrive, {len(self.acknowledged)} of {count} are acknowledged"


class Paho(Lasting):
    def start(self) -> None:
        ready = threading.Event()
        self._numbers: dict[int, int] = {}
        self._early: set[int] = set()
        self._mids = threading.Lock()  # not held while paho is called, which has locks of its own
        self._reader, self._writer = self._client("reader"), self._client("writer")
        self._reader.on_message = lambda _c, _u, message: self.came(message.payload)
        self._reader.on_connect = lambda client, *_: client.subscribe(self.topic, self.qos)
        self._reader.on_subscribe = lambda *_: ready.set()
        self._writer.on_publish = lambda _c, _u, mid, *_: self._published(mid)
        for client in (self._reader, self._writer):
            lasts: dict[str, Any] = {}
            if self.level == 5:
                lasts = {
                    "clean_start": False,
                    "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=HOUR),
                }
            client.connect("127.0.0.1", self.port, keepalive=1, **lasts)
            client.loop_start()
        assert ready.wait(10)

    def _client(self, role: str) -> mqtt.Client:
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            f"{self.topic}-{role}",
            clean_session=None if self.level == 5 else False,
            protocol=mqtt.MQTTProtocolVersion(self.level),
        )
        client.reconnect_delay_set(min_delay=0.05, max_delay=0.2)  # type: ignore[arg-type] - only added to a time
        return client

    def publish(self, number: int) -> None:
        mid = self._writer.publish(self.topic, str(number), self.qos).mid
        with self._mids:
            self._numbers[mid] = number
            early = mid in self._early
        if early:
            self.was_acknowledged(number)

    def _published(self, mid: int) -> None:
        with self._mids:
            number = self._numbers.get(mid)
            if number is None:  # its id is not known yet
                self._early.add(mid)
        if number is not None:
            self.was_acknowledged(number)

    def stop(self) -> None:
        for client in (self._reader, self._writer):
            client.disconnect()
            client.loop_stop()


class _InLoop(Lasting):
    """A library for asyncio; its loop is in a thread."""

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def stop(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    async def _stop(self) -> None: ...


class Aiomqtt(_InLoop):
    async def _start(self) -> None:
        self._waiting: asyncio.Queue[int] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        await self._ready.wait()

    def _client(self, role: str) -> aiomqtt.Client:
        lasts: dict[str, Any] = {"clean_session": False}
        if self.level == 5:
            lasts = {
                "protocol": aiomqtt.ProtocolVersion.V5,
                "clean_start": False,
                "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=HOUR),
            }
        name = f"{self.topic}-{role}"
        return aiomqtt.Client("127.0.0.1", self.port, identifier=name, keepalive=1, timeout=2, **lasts)

    async def _read(self) -> None:
        while True:
            reader = self._client("reader")
            with contextlib.suppress(aiomqtt.MqttError):
                async with reader:
                    await reader.subscribe(self.topic, qos=self.qos)
                    self._ready.set()
                    async for message in reader.messages:
                        self.came(message.payload)  # type: ignore[arg-type] - bytes
            while len(reader.messages):  # acknowledged, and not iterated over once the connection is lost
                self.came(reader._queue.get_nowait().payload)  # type: ignore[arg-type] - bytes
            await asyncio.sleep(0.05)

    async def _write(self) -> None:
        number: int | None = None
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with self._client("writer") as writer:
                    while True:
                        if number is None:
                            number = await self._waiting.get()
                        await writer.publish(self.topic, str(number), qos=self.qos)
                        self.was_acknowledged(number)
                        number = None
            await asyncio.sleep(0.05)

    def publish(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, number)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Gmqtt(_InLoop):
    tells_acknowledged = False

    async def _start(self) -> None:
        ready = asyncio.Event()
        self._reader, self._writer = self._client("reader"), self._client("writer")
        self._reader.on_message = self._on_message
        self._reader.on_subscribe = lambda *_: ready.set()
        for client in (self._reader, self._writer):
            client.set_config({"reconnect_retries": -1, "reconnect_delay": 0.05})
            version = MQTTv50 if self.level == 5 else MQTTv311
            await client.connect("127.0.0.1", self.port, keepalive=1, version=version)
        self._reader.subscribe(self.topic, qos=self.qos)
        await ready.wait()

    def _client(self, role: str) -> gmqtt.Client:
        lasts = {"session_expiry_interval": HOUR} if self.level == 5 else {}
        return gmqtt.Client(f"{self.topic}-{role}", clean_session=False, **lasts)

    async def _on_message(self, _client: Any, _topic: str, payload: bytes, _qos: int, _properties: Any) -> int:
        self.came(payload)
        return 0

    def publish(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._writer.publish, self.topic, str(number), self.qos)

    async def _stop(self) -> None:
        await self._writer.disconnect()
        await self._reader.disconnect()


class MqttJs(Lasting):
    """tests/node/mqtt-lasting.mjs. ``url`` is without a port."""

    def __init__(self, port: int, topic: str, *, level: int, qos: int, folder: Path, url: str = "mqtt://{}") -> None:
        super().__init__(port, topic, level=level, qos=qos)
        self._folder = folder
        self._url = url.format(f"127.0.0.1:{port}")

    def start(self) -> None:
        command = ["node", "mqtt-lasting.mjs", self._url, self.topic, str(self.level), str(self.qos)]
        self._process = subprocess.Popen(command, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            what, _, number = line.partition(b" ")
            if what == b"acknowledged":
                self.was_acknowledged(int(number))
            else:
                self.came(number)

    def publish(self, number: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        self._process.stdin.flush()

    def stop(self) -> None:
        with self._process:
            self._process.kill()
            self._listening.join(10)
