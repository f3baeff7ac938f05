"""A hub for tests that do it harm: on uvloop as in production, with a look inside, and a check that nothing is left.

Whatever clients did: once they are gone, no connection, reader, consumer, task or timer of theirs may be.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from polywire import Hub, Limits
from polywire.core.engine import Engine
from polywire.core.message import Flag, Record
from polywire.core.position import Cursor
from polywire.core.streams import Earliest
from polywire.engines.sqlite import SqliteEngine
from polywire.serving import ServeSettings
from polywire.testing import serve
from polywire.wires.mqtt import Mqtt, MqttSettings
from polywire.wires.mqtt.connection import Connection
from tests.bounds import FAST
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import RawClient
from tests.wires.served_hub import ServedHub

__all__ = ["WatchedHub", "watching"]

T = TypeVar("T", RawClient, PahoClient)


class WatchedHub(ServedHub):
    def __init__(self, folder: Path, limits: Limits | None, engine: Engine | None, hub: Hub | None, mqtt: Any) -> None:
        hub = hub or Hub("watched")
        hub.limits = limits or hub.limits
        settings = msgspec.structs.replace(ServeSettings(), mqtt=mqtt)
        super().__init__(hub, folder, settings)
        if sys.platform != "win32":
            import uvloop

            self._loop.close()
            self._loop = uvloop.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._engine = engine or SqliteEngine(str(folder), settings=FAST)
        self._clients: list[RawClient | PahoClient] = []
        self._before: set[asyncio.Task[Any]] = set()

    async def _start(self) -> None:
        serving = serve(self.hub, settings=self._settings, data=str(self._folder), engine=self._engine)
        self.served = await self._stack.enter_async_context(serving)
        self._before = asyncio.all_tasks()

    @property
    def wire(self) -> Mqtt:
        assert self.served.server.mqtt is not None
        return self.served.server.mqtt

    @property
    def connections(self) -> list[Connection]:
        return list(self.wire._open)

    # Clients

    def raw(self, level: int = 5, **options: Any) -> RawClient:
        client = RawClient("127.0.0.1", self.served.mqtt_port, level, **options)
        self.adopt(client)
        return client

    def adopt(self, client: T) -> T:
        """It is closed with the test."""
        self._clients.append(client)
        return client

    def connected(self, client_id: str = "", level: int = 5, **options: Any) -> RawClient:
        client = self.raw(level)
        assert client.connect(client_id, **options).body[1] == 0
        return client

    def paho(self, client_id: str = "", **options: Any) -> PahoClient:
        client = PahoClient("127.0.0.1", self.served.mqtt_port, client_id, **options)
        self.adopt(client)
        assert client.connect().reason == 0
        return client

    # The application

    def publish(self, topic: str, *payloads: bytes, key: str | None = None, retain: bool = False) -> None:
        """By the application, all in one batch; returns once it is stored and offered to everybody."""
        flags = Flag.RETAINED if retain else 0
        records = [Record(one, key=None if key is None else key.encode(), flags=flags) for one in payloads]

        async def publishing() -> None:
            await self.core.publish(self.core.access.system, topic, records)
            await self.core.log.published()

        self.run(publishing())

    def stored_in(self, topic: str) -> int:
        """Messages that its log holds."""
        found = self.core.catalog.get(topic)
        return 0 if found is None else found.count

    def payloads(self, topic: str) -> list[bytes]:
        """Of all messages that its log holds."""

        async def reading() -> list[bytes]:
            found: list[bytes] = []
            start: Earliest | Cursor = Earliest()
            while (page := await self.core.read(self.core.access.system, topic, start, limit=1_000)).messages:
                found += [message.record.payload for message in page.messages]
                start = page.next
            return found

        return self.run(reading())

    def stored(self) -> None:
        """Wait until everything that was handed to the log is stored and published."""
        self.run(self.core.log.published())

    def advance(self, seconds: float) -> None:
        self.call(self.served.clock.advance, round(seconds * 1_000))

    # What is left

    def close_clients(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def assert_nothing_is_left(self) -> None:
        """Once all clients are gone. What sessions keep by right is not counted."""
        self.close_clients()
        deadline = time.monotonic() + 10
        while left := self.call(self._left):
            assert time.monotonic() < deadline, f"there is left: {left}"
            time.sleep(0.005)
        assert len(self.wire.sessions._due) <= 2 * len(self.wire.sessions) + 64

    def _left(self) -> dict[str, Any]:
        wire, core = self.wire, self.core
        consumers = {s.name: s.consumers for s in core.subscriptions if s.consumers and s.settings.kind != "queue"}
        found: dict[str, Any] = {
            "connections": wire.open or wire.counters.connections,
            "connections of principals": wire.connections._held,
            "connected sessions": [one.client_id for one in wire.sessions if one.connection is not None],
            "sessions that should have ended": [one.client_id for one in wire.sessions if not one.persistent],
            "live readers": {k: v for k, v in core.live.metrics().items() if v and k != "live_messages_missed"},
            "consumers": consumers,
            "readers of $SYS": list(wire.sys._readers),
            "calls": wire.calls._running,
            "tasks": [task for task in asyncio.all_tasks() - self._before if task is not asyncio.current_task()],
            "bytes that wait for the log": core.log.uncommitted,
        }
        return {name: value for name, value in found.items() if value}

    @contextmanager
    def timing(self) -> Iterator[Callable[[], float]]:
        """What is returned tells the longest turn of the loop until now, in milliseconds."""
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now

        task = self.call(self._loop.create_task, beat())
        gc.collect()
        gc.freeze()  # as the hub's own process does
        try:
            longest = 0.0
            yield lambda: longest * 1_000
        finally:
            gc.unfreeze()
            self.call(task.cancel)


@contextmanager
def watching(
    folder: Path, limits: Limits | None = None, *, engine: Engine | None = None, hub: Hub | None = None, **mqtt: Any
) -> Iterator[WatchedHub]:
    """``mqtt``: fields of `MqttSettings`."""
    watched = WatchedHub(folder, limits, engine, hub, MqttSettings(**mqtt))
    watched.start()
    try:
        yield watched
        watched.assert_nothing_is_left()
    finally:
        watched.close_clients()
        watched.stop()
