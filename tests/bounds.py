"""What the tests of bounds share: a hub with all its wires in this process, and how much memory that takes."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from polywire import Hub, Limits
from polywire.core.core import Core
from polywire.core.message import Record
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
from polywire.server.settings import HttpSettings
from polywire.serving import Server, ServeSettings
from polywire.wires.mqtt.settings import MqttSettings

__all__ = ["BYTES", "JSON", "KIB", "MIB", "Served", "grows_at_most", "serving"]

KIB, MIB = 1 << 10, 1 << 20
FAST = SqliteSettings(synchronous="OFF", reserve_size=0, switch_interval=0, page_cache=MIB, wal_limit=4 * MIB)
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
_LIBC = ctypes.CDLL(None)


class Served:
    """A hub with all its wires on a free port, and an unmodified HTTP and WebSocket client."""

    def __init__(self, server: Server, client: aiohttp.ClientSession) -> None:
        self.server = server
        self.client = client
        assert server.http is not None
        self.listener = server.http
        self.url = server.http.url

    @property
    def core(self) -> Core:
        return self.server.hub.core

    async def status(self, method: str, path: str, **given: Any) -> int:
        async with self.client.request(method, self.url + path, **given) as answer:
            await answer.read()
            return answer.status

    async def statuses(self, requests: Iterable[Callable[[], Awaitable[int]]], at_once: int = 16) -> Counter[int]:
        """How often each status came; so many requests are under way at a time."""
        waiting = iter(requests)

        async def worker() -> list[int]:
            return [await request() for request in waiting]

        return Counter(status for told in await asyncio.gather(*[worker() for _ in range(at_once)]) for status in told)

    async def fill(self, topic: str, size: int, *, piece: int = 64 * KIB) -> None:
        """Publish so many bytes, by the application; each message has bytes of its own."""
        for number in range(size // piece):
            payload = b"%0*d" % (piece, number)
            await self.core.publish(self.core.access.system, topic, [Record(payload, content_type="text/plain")])

    async def stalled(self, path: str, upgrade: str = "") -> socket.socket:
        """A connection whose answer has begun and of which nothing more is read."""
        loop = asyncio.get_running_loop()
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", self.listener.port))
        await loop.sock_sendall(peer, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(peer, 1)
        return peer

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - any state of the hub: nothing tells of it
                await asyncio.sleep(0.005)

    async def assert_alive(self) -> None:
        assert await self.status("POST", "/topics/alive", data=b"1", headers=JSON) == 201


@asynccontextmanager
async def serving(
    folder: Path, limits: Limits | None = None, *, engine: Any = None, hub: Hub | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """``rest``, ``sse``, ``jsonrpc``, ``mqtt``: the settings of those wires; others are those of the HTTP listener."""
    hub = hub or Hub("bounds")
    hub.configure(data=folder)
    hub.limits = limits or hub.limits
    wires = {name: settings.pop(name) for name in ("rest", "sse", "jsonrpc", "mqtt") if name in settings}
    wires.setdefault("mqtt", MqttSettings(port=0))
    server = Server(hub, ServeSettings(http=HttpSettings(port=0, **settings), **wires))
    await server.start(engine=engine or SqliteEngine(str(folder), settings=FAST))
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            served = Served(server, client)
            await served.assert_alive()  # what is loaded on first use is there before memory is read
            yield served
    finally:
        await server.stop()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _kept() -> int:
    """Without what is free again and only not yet given back to the system."""
    gc.collect()
    if sys.platform == "linux" and hasattr(_LIBC, "malloc_trim"):  # glibc's
        _LIBC.malloc_trim(0)
    return resident()


@contextmanager
def grows_at_most(size: int) -> Iterator[None]:
    """The process, which is client and hub in one, grows by at most so many bytes."""
    before = _kept()
    yield
    grown = _kept() - before
    assert grown <= size, f"the process grew by {grown / MIB:.1f} MiB"
