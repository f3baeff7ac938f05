"""A hub with operations of all kinds, and clients that call them over MQTT."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from polywire import Call, Conflict, File, Hub, NotFound, Principal
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import RawClient
from tests.wires.served_hub import ServedHub

__all__ = ["Caller", "Desk", "Doors", "Reply", "desk", "desk_of"]


@dataclass
class Order:
    number: int
    customer: Annotated[str, msgspec.Meta(min_length=1)]


class Doors:
    """What operations of a test wait for, and how far they came."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.began = threading.Semaphore(0)
        self.calls: list[str] = []

    async def wait(self, name: str) -> None:
        self.calls.append(name)
        self.began.release()
        while not self.open.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.002)

    def await_calls(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=10)


def desk(doors: Doors, **settings: Any) -> Hub:
    hub = Hub("desk", **settings)
    for declare in (declare_calls, declare_faults, declare_bytes, declare_streams):
        declare(hub, doors)
    return hub


def declare_calls(hub: Hub, doors: Doors) -> None:
    @hub.operation
    def add(a: int, b: int) -> int:
        doors.calls.append("add")
        return a + b

    @hub.operation
    async def greet(name: str = "you", times: int = 1) -> str:
        return " ".join([f"hello {name}"] * times)

    @hub.operation(name="orders.place")
    async def place(order: Order) -> Order:
        if order.number == 0:
            raise NotFound("there is no order 0", hint="count from 1")
        if order.number < 0:
            raise Conflict("it was placed")
        return order

    @hub.operation
    async def note(text: str) -> None:
        doors.calls.append(text)
        doors.began.release()

    @hub.operation
    async def wait(name: str = "") -> str:
        await doors.wait(name)
        return f"waited {name}"

    @hub.operation
    async def who(call: Call, principal: Principal) -> dict[str, Any]:
        return {
            "principal": principal.name,
            "wire": call.origin.wire,
            "client": call.origin.client,
            "headers": [list(header) for header in call.headers],
            "remaining": call.remaining,
        }


def declare_faults(hub: Hub, doors: Doors) -> None:
    @hub.operation
    async def broken() -> int:
        raise ValueError("of no business of yours")

    @hub.operation
    async def liar() -> int:
        return object()  # type: ignore[return-value]


def declare_bytes(hub: Hub, doors: Doors) -> None:
    @hub.operation
    async def size(data: bytes) -> int:
        return len(data)

    @hub.operation
    async def head(file: File) -> File:
        return File(file.content[:4], f"head-{file.name}", file.content_type)

    @hub.operation
    async def raw() -> bytes:
        return b"\x00\xff"


def declare_streams(hub: Hub, doors: Doors) -> None:
    @hub.operation
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        if to == 7:
            raise NotFound("no more than 7")

    @hub.operation
    async def ticks(name: str = "") -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
                await doors.wait(name)
        finally:
            doors.calls.append("ended")

    @hub.operation
    async def flood(size: int) -> AsyncIterator[str]:
        try:
            while True:
                doors.calls.append("item")
                yield "x" * size
        finally:
            doors.calls.append("ended")


class Desk:
    def __init__(self, served: ServedHub, doors: Doors) -> None:
        self.served = served
        self.doors = doors
        self.clients: list[PahoClient | RawClient] = []

    @property
    def port(self) -> int:
        return self.served.served.mqtt_port

    def paho(self, client_id: str = "", **options: Any) -> PahoClient:
        client = PahoClient("127.0.0.1", self.port, client_id, **options)
        self.clients.append(client)
        return client

    def raw(self, level: int = 5) -> RawClient:
        client = RawClient("127.0.0.1", self.port, level)
        self.clients.append(client)
        return client

    def caller(self, client_id: str | None = None, **options: Any) -> Caller:
        return Caller(self, client_id or f"c{next(_clients)}", **options)

    @property
    def running(self) -> int:
        return self.served.core.calls.running

    def dead_letters(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Payloads and headers of what no reply could tell."""
        page = self.served.get("/topics/_dead").json()
        return [(message["data"], message["headers"]) for message in page.get("messages", [])]


_clients = itertools.count()


class Reply:
    """What came to a response topic."""

    def __init__(self, message: Any) -> None:
        self.topic: str = message.topic
        self.payload: bytes = message.payload
        said = message.properties
        self.correlation: bytes | None = getattr(said, "CorrelationData", None)
        self.content_type: str | None = getattr(said, "ContentType", None)
        self.user: dict[str, str] = dict(getattr(said, "UserProperty", []))

    @property
    def value(self) -> Any:
        return json.loads(self.payload)

    @property
    def error(self) -> str | None:
        return self.user.get("polywire-error")

    @property
    def stream(self) -> str | None:
        return self.user.get("polywire-stream")


class Caller:
    """paho at level 5, with a response topic that is its own."""

    def __init__(self, desk: Desk, client_id: str, **options: Any) -> None:
        asked = {"RequestResponseInformation": 1, **options.pop("connecting", {})}
        self.client = desk.paho(client_id, connecting=asked, **options)
        connack = self.client.connect()
        assert connack.reason == 0
        self.own: str = connack.properties.ResponseInformation  # type: ignore[union-attr]
        self.replies = f"{self.own}/r"
        assert self.client.subscribe(f"{self.own}/#", qos=1) == [1]
        self._numbers = itertools.count()

    def ask(self, operation: str, arguments: Any = None, qos: int = 1, **values: Any) -> int:
        payload = b"" if arguments is None else arguments if isinstance(arguments, bytes) else json.dumps(arguments)
        values.setdefault("ResponseTopic", self.replies)
        return self.client.publish(f"operations/{operation}", payload, qos, **values)

    def next(self) -> Reply:
        return Reply(self.client.next())

    def call(self, operation: str, arguments: Any = None, qos: int = 1, **values: Any) -> Reply:
        correlation = b"%d" % next(self._numbers)
        assert self.ask(operation, arguments, qos, CorrelationData=correlation, **values) == 0
        reply = self.next()
        assert reply.correlation == correlation
        return reply


def desk_of(served: ServedHub, doors: Doors) -> Iterator[Desk]:
    """For a fixture; closes its clients."""
    found = Desk(served, doors)
    try:
        yield found
    finally:
        doors.open.set()
        for client in found.clients:
            client.close()
