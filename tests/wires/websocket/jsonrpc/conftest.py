"""A hub with operations, all its wires on a free port, and a JSON-RPC client that knows only the specification."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from polywire import Hub
from polywire.core.message import Record
from polywire.server.settings import HttpSettings, WebSocketSettings
from polywire.serving import ServeSettings
from polywire.testing import Served
from polywire.testing import serve as serve_hub
from polywire.wires.websocket import JsonRpcSettings


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class RpcError(Exception):
    """``{"code", "message", "data"}``."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data: dict[str, Any] = error["data"]

    @property
    def paths(self) -> list[str]:
        return [field["path"] for field in self.data["errors"]]


class Client:
    """`call` returns the result or raises `RpcError`; notifications wait in `told`, by method."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[Any, asyncio.Future[Any]] = {}
        self._told: dict[str, asyncio.Queue[Any]] = {}
        self.stray: asyncio.Queue[Any] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self.socket:
                assert isinstance(text, str), "answers are text"
                for one in self._each(json.loads(text)):
                    self._take(one)
        for waiting in self._answers.values():
            waiting.set_exception(ConnectionError("the connection was closed"))

    @staticmethod
    def _each(said: Any) -> list[Any]:
        return said if isinstance(said, list) else [said]

    def _take(self, one: dict[str, Any]) -> None:
        assert one["jsonrpc"] == "2.0"
        if "method" in one:
            self.queue(one["method"]).put_nowait(one["params"])
        elif (waiting := self._answers.pop(one["id"], None)) is not None:
            if "error" in one:
                waiting.set_exception(RpcError(one["error"]))
            else:
                waiting.set_result(one["result"])
        else:
            self.stray.put_nowait(one)

    def queue(self, method: str) -> asyncio.Queue[Any]:
        return self._told.setdefault(method, asyncio.Queue())

    async def start(self, method: str, params: Any = None, *, id: Any = None) -> asyncio.Future[Any]:
        """Send a request; the future gets its result."""
        number = next(self._ids) if id is None else id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        await self.send({"method": method, "id": number, **({} if params is None else {"params": params})})
        return future

    async def call(self, method: str, params: Any = None, /, **named: Any) -> Any:
        given = {name.rstrip("_"): value for name, value in named.items()} if params is None else params
        return await asyncio.wait_for(await self.start(method, given), 10)

    async def notify(self, method: str, /, **params: Any) -> None:
        await self.send({"method": method, "params": params})

    async def send(self, request: dict[str, Any]) -> None:
        await self.socket.send(json.dumps({"jsonrpc": "2.0", **request}))

    async def told(self, method: str) -> Any:
        """The parameters of the next notification."""
        return await asyncio.wait_for(self.queue(method).get(), 10)

    async def messages(self, count: int) -> list[Any]:
        """The data of so many messages, however they are put together."""
        found: list[Any] = []
        while len(found) < count:
            found += [message["data"] for message in (await self.told("message"))["messages"]]
        assert len(found) == count
        return found

    async def deliveries(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            found += (await self.told("delivery"))["deliveries"]
        assert len(found) == count
        return found

    async def error(self, method: str, params: Any = None, /, **named: Any) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await self.call(method, params, **named)
        return caught.value

    def close(self) -> None:
        self._reading.cancel()


class RpcHub:
    """A hub that serves."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.core = served.hub.core
        self.system = self.core.access.system
        self.url = f"{served.ws_url}/ws"

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        async with connect(self.url, **{"compression": None, **options}) as socket:
            client = Client(socket)
            try:
                yield client
            finally:
                client.close()

    async def publish(self, topic: str, *values: Any, key: str | None = None) -> str:
        """As the application; returns the last position."""
        said = [Record(msgspec.json.encode(v), key and key.encode(), content_type="application/json") for v in values]  # type: ignore[arg-type]
        return str((await self.core.publish(self.system, topic, said))[-1].position)

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  any state of the hub: nothing tells of it
                await asyncio.sleep(0.005)

    async def key(self, *allow: str, name: str = "key") -> dict[str, str]:
        _, secret = await self.core.access.create_key(self.system, name, list(allow))
        return {"Authorization": f"Bearer {secret}"}

    @property
    def connections(self) -> int:
        return self.core.counters.wire("websocket").connections


Serve = Callable[..., Awaitable[RpcHub]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a hub. ``jsonrpc`` and ``websocket`` are fields of their settings."""
    async with AsyncExitStack() as stack:

        async def start(
            hub: Hub | None = None,
            *,
            jsonrpc: dict[str, Any] | None = None,
            websocket: dict[str, Any] | None = None,
            engine: Any = None,
            **http: Any,
        ) -> RpcHub:
            settings = ServeSettings(
                http=HttpSettings(port=0, websocket=WebSocketSettings(**(websocket or {})), **http),
                jsonrpc=JsonRpcSettings(**(jsonrpc or {})),
            )
            served = serve_hub(hub or Hub("rpc"), settings=settings, data=str(tmp_path / "data"), engine=engine)
            return RpcHub(await stack.enter_async_context(served))

        yield start
