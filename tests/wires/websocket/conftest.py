"""A hub's core on the embedded engine, served over raw WebSockets on a free port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from polywire.core.core import Core
from polywire.core.limits import Limits
from polywire.core.message import Message, Record
from polywire.core.streams import Earliest
from polywire.core.topics import Admit, TopicSettings
from polywire.engines.sqlite import SqliteEngine
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings, WebSocketSettings
from polywire.wires.websocket.server import RawWebSockets


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class Hub:
    """What the hub does with these parts: start, serve, stop."""

    def __init__(self, core: Core, listener: HttpListener) -> None:
        self.core, self.listener = core, listener
        self.system = core.access.system

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.listener.port}"

    async def publish(self, topic: str, payload: bytes, content_type: str | None = None, key: str | None = None) -> str:
        record = Record(payload, key.encode() if key is not None else None, content_type=content_type)
        (receipt,) = await self.core.publish(self.system, topic, [record])
        return str(receipt.position)

    async def messages(self, topic: str, count: int) -> list[Message]:
        """The topic's messages, once there are ``count``."""
        async with asyncio.timeout(10):
            found: list[Message] = []
            while len(found) < count:
                page = await self.core.read(self.system, topic, Earliest(), limit=10_000, wait=100)
                found = page.messages
            return found

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  any state of the hub: nothing tells of it
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        await self.core.stop()
        await self.listener.drain(2)
        await self.listener.close()


Serve = Callable[..., Awaitable[Hub]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a hub: ``topics`` are declared (settings and what checks their records)."""
    hubs: list[Hub] = []

    async def start(
        *,
        strict: bool = False,
        limits: Limits | None = None,
        topics: list[tuple[TopicSettings, Admit | None]] | None = None,
        websocket: WebSocketSettings | None = None,
        **settings: Any,
    ) -> Hub:
        core = Core(SqliteEngine(str(tmp_path / f"hub{len(hubs)}")), strict=strict, limits=limits)
        for declared, admit in topics or []:
            core.declare_topic(declared, admit)
        await core.start()
        websocket = websocket or WebSocketSettings()
        listener = HttpListener(HttpSettings(port=0, websocket=websocket, **settings), core.access)
        RawWebSockets(core, settings=websocket, connections=listener.connections).mount(listener.router)
        await listener.start()
        hubs.append(Hub(core, listener))
        return hubs[-1]

    yield start
    for hub in hubs:
        await hub.stop()
