"""``websockets`` at its best: ``/echo``, and ``broadcast`` of what comes in on ``/pub`` to those on ``/sub``."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

readers: set[ServerConnection] = set()


async def handle(socket: ServerConnection) -> None:
    path = socket.request.path if socket.request is not None else ""
    if path == "/echo":
        async for message in socket:
            await socket.send(message)
    elif path == "/sub":
        readers.add(socket)
        try:
            await socket.wait_closed()
        finally:
            readers.discard(socket)
    else:
        async for message in socket:
            broadcast(readers, message)
            await asyncio.sleep(0)


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1])):
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
