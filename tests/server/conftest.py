"""A listener on a free port, with a WebSocket room in which everybody hears everybody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.server.frames import BINARY, TEXT, encode, encode_deflated
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings
from polywire.server.websocket import Frames, WebSocket, WebSocketRequest


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Everything here stands on transports: it runs on both loops that the hub runs on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Room:
    """A route whose members all get every message; each member records what it went through."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.log: list[str] = []

    def __call__(self, request: WebSocketRequest, socket: WebSocket) -> Member:
        return Member(self, request, socket)


class Member:
    def __init__(self, room: Room, request: WebSocketRequest, socket: WebSocket) -> None:
        self.room, self.request, self.socket = room, request, socket
        self.reads: list[int] = []
        self.writable_calls = 0

    def opened(self) -> None:
        self.room.members.append(self)
        self.room.log.append("opened")

    def received(self, messages: Frames) -> None:
        self.reads.append(len(messages))
        for is_text, payload in messages:
            if payload == b"fail":
                raise RuntimeError("asked to fail")
            if payload == b"hold":
                self.socket.hold()
            encoder = encode_deflated if payload.startswith(b"deflate") else encode
            frame = encoder(TEXT if is_text else BINARY, payload)
            for member in self.room.members:
                member.socket.send(frame)

    def writable(self) -> None:
        self.writable_calls += 1

    def closed(self) -> None:
        self.room.log.append("closed")
        self.room.members.remove(self)


class Served:
    def __init__(self, listener: HttpListener, room: Room, access: Access) -> None:
        self.listener, self.room, self.access = listener, room, access
        self.port = listener.port
        self.writers: list[asyncio.StreamWriter] = []
        self.http = listener.url
        self.ws = listener.url.replace("http", "ws", 1)

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for the event that makes ``condition`` true; fails after ``seconds``."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  any state of the server: nothing tells of it
                await asyncio.sleep(0.005)

    async def raw(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def stop(self) -> None:
        await self.listener.close()
        for writer in self.writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def whole_body(receive: Callable[[], Awaitable[Any]]) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    body = await whole_body(receive)
    if body is None:
        return
    text = f"{scope['method']} {scope['path']} {scope['principal'].name} {len(body)}".encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts listeners with given settings; they are closed when the test ends."""
    started: list[Served] = []

    async def start(app: Any = echo_app, **settings: Any) -> Served:
        access = Access(SystemClock())
        listener = HttpListener(HttpSettings(port=0, **settings), access)
        room = Room()
        listener.router.mount("/echo", app)
        listener.router.mount_websocket("/room", room)
        listener.router.mount_websocket_exact("/", room)
        listener.router.mount_websocket_fallback(room)
        await listener.start()
        served = Served(listener, room, access)
        started.append(served)
        return served

    yield start
    for served in started:
        await served.stop()


Dial = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """``dial(port)``, with an ``ssl`` context perhaps: a connection that is closed when the test ends."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(port: int, host: str = "127.0.0.1", **given: Any) -> Any:
        reader, writer = await asyncio.open_connection(host, port, **given)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
