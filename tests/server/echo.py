"""A stream wire that sends back what it gets, and remembers it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Echo", "Echoes", "until"]


class Echoes:
    """``said``: what each connection got, once it has ended."""

    def __init__(self) -> None:
        self.made = 0
        self.open: set[Echo] = set()
        self.said: list[bytes] = []

    def protocol(self) -> Echo:
        return Echo(self)

    async def close(self) -> None:
        for one in list(self.open):
            one.transport.abort()
        await until(lambda: not self.open)


class Echo(asyncio.BufferedProtocol):
    def __init__(self, echoes: Echoes) -> None:
        self.echoes = echoes
        self.transport: asyncio.Transport
        self.said = b""
        self.buffer = memoryview(bytearray(1 << 16))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.echoes.made += 1
        self.echoes.open.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self.said += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.echoes.open.discard(self)
        self.echoes.said.append(self.said)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any state of the server: nothing tells of it
            await asyncio.sleep(0.005)
