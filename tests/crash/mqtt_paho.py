"""paho, as its users have it: its loop in a thread, its session kept by the library and the hub beyond kills."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt

from tests.crash.mqtt_device import Role
from tests.crash.mqtt_journal import Entry, Journal, Memory
from tests.wires.mqtt.paho_client import properties

__all__ = ["Paho"]

_PACE = 0.003  # seconds between two messages
_CONNECT = 1  # the packet, as paho counts


class Paho:
    """As `mqtt_device.Device`; what becomes of packet ids is the library's business."""

    def __init__(self, name: str, role: Role, journal: Journal, chance: random.Random) -> None:
        self.name = name
        self.role = role
        self.calm = False
        self.online = False
        self.memory = Memory()
        self._journal = journal
        self._chance = chance
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._connected, self._gone = asyncio.Event(), asyncio.Event()
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._names: dict[int, str] = {}  # by packet id
        self._early: set[int] = set()  # acknowledged before `publish` returned
        self._lock = threading.Lock()
        self._client = self._make()

    @property
    def filters(self) -> dict[str, int]:
        return dict(self.role.subscribes)

    @property
    def done(self) -> bool:
        return len(self.memory.acked) == len(self.memory.sent)

    def _make(self) -> mqtt.Client:
        level = self.role.level
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            self.name,
            clean_session=None if level == 5 else False,
            protocol=mqtt.MQTTProtocolVersion(level),
            reconnect_on_failure=False,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self._tell(self._gone.set)
        client.on_message = lambda _c, _u, message: self.note("took", message.payload.decode())
        client.on_publish = self._on_publish
        client.on_subscribe = lambda *_: self.note("subscribed", self._asked.get_nowait())
        return client

    def note(self, what: str, name: str = "", id: int = 0, qos: int = 0, topic: str = "") -> None:
        """From any thread."""
        entry = Entry(self.name, what, name, id, qos, topic)
        self.memory.take(entry, self._journal.write(entry))
        self._tell(self._wake)

    def _tell(self, what: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    # Connections

    async def live(self, port: int) -> None:
        """One connection. Raises `ConnectionError` when the hub ends it, or nobody listens."""
        self._loop = asyncio.get_running_loop()
        self._connected.clear()
        self._gone.clear()
        self.note("connecting")
        await asyncio.to_thread(self._connect, port)
        self._client.loop_start()
        try:
            await _first(self._connected, self._gone)
            self.online = self._connected.is_set()
            self._wake()
            await self._publish_on()
            await self._gone.wait()
        finally:
            self.online = False
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)
            self._client._reset_sockets(sockpair_only=True)  # it makes new ones each time, and leaves the old ones open
        raise ConnectionResetError

    def _connect(self, port: int) -> None:
        options: dict[str, Any] = {}
        if self.role.level == 5:
            options = {
                "clean_start": False, "properties": properties(_CONNECT, SessionExpiryInterval=0xFFFF_FFFF),
            }  # fmt: skip
        self._client.connect("127.0.0.1", port, **options)

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        assert not reason.is_failure, reason
        self.note("connected", id=flags.session_present, qos=self.role.level > 3)
        for name, qos in self.role.subscribes:
            if not self.memory.wants(name):
                self.subscribe(name, qos)
        self._tell(self._connected.set)

    # Publishing and subscribing

    async def _publish_on(self) -> None:
        while self.role.publishes and not self.calm and not self._gone.is_set():
            if len(self.memory.sent) - len(self.memory.acked) < self.role.window:
                self._publish()
            await asyncio.sleep(self._chance.uniform(0, _PACE))

    def _publish(self) -> None:
        number = len(self.memory.puts)
        topic, name = self.role.publishes[number % len(self.role.publishes)], f"{self.name}-{number}"
        self.note("sending", name, topic=topic)
        packet_id = self._client.publish(topic, name, self.role.qos).mid
        with self._lock:
            self._names[packet_id] = name
            acknowledged = packet_id in self._early
            self._early.discard(packet_id)
        if acknowledged:
            self.note("acked", name)

    def _on_publish(self, _client: Any, _data: Any, packet_id: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            name = self._names.get(packet_id)
            if name is None:
                self._early.add(packet_id)
        if name is not None:
            self.note("acked", name)

    def subscribe(self, name: str, qos: int) -> None:
        self.note("subscribing", name)
        self._asked.put(name)
        self._client.subscribe(name, qos)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
