"""Somebody else's ASGI server in the test's own event loop: uvicorn on a free port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

__all__ = ["CannotStart", "Host", "hosted"]


class CannotStart(Exception):
    """The application's lifespan has failed."""


class Host:
    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def hosted(app: Any, **config: Any) -> AsyncIterator[Host]:
    """Serve ``app``; ``config`` are uvicorn's settings. These are the steps of `uvicorn.Server.serve`, without its
    signals and its loop that looks ten times a second whether to end. Raises `CannotStart`."""
    settings = {"log_config": None, "timeout_graceful_shutdown": 1, "ws": "websockets-sansio", **config}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        try:
            await server.startup(sockets=[bound])
        except SystemExit:
            raise CannotStart from None
        try:
            yield Host(server, bound.getsockname()[1])
        finally:
            await _end(server, bound)


async def _end(server: uvicorn.Server, bound: socket.socket) -> None:
    state = server.server_state
    for _ in range(20):  # where the clients have gone, uvicorn need not wait for them
        if not state.connections and not state.tasks:
            for one in server.servers:
                one.close()
            await server.lifespan.shutdown()
            await asyncio.sleep(0.001)  # uvloop closes in its next turn
            return
        await asyncio.sleep(0.001)
    await server.shutdown(sockets=[bound])
