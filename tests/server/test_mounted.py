"""ASGI applications of other people beside the wires: FastAPI and Starlette, as they are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount as StarletteMount
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.mounts import Mount
from polywire.server.listener import HttpListener
from polywire.server.mounted import Applications
from polywire.server.settings import HttpSettings, WebSocketSettings
from tests.server.conftest import Room, echo_app


class Life:
    """What an application went through."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.let_go = asyncio.Event()


def fastapi_app(life: Life) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        life.log.append("start")
        yield {"database": "db"}
        life.log.append("end")

    app = FastAPI(title="theirs", lifespan=lifespan)

    @app.get("/items/{number}")
    def item(number: int, request: Request) -> dict[str, Any]:
        principal = request.scope["principal"]
        here = str(request.url_for("item", number=number))
        return {"number": number, "who": principal.name, "state": request.state.database, "here": here}

    @app.get("/slow")
    async def slow() -> str:
        life.log.append("slow begins")
        await life.let_go.wait()
        life.log.append("slow ends")
        return "done"

    @app.websocket("/chat/{room}")
    async def chat(socket: WebSocket, room: str) -> None:
        if room == "closed":
            await socket.close(1008)
            return
        await socket.accept(socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None)
        try:
            while True:
                text = await socket.receive_text()
                if text == "close":
                    await socket.close(4000, "as asked")
                    return
                await socket.send_text(f"{socket.scope['principal'].name} in {room}: {text}")
        except WebSocketDisconnect as gone:
            life.log.append(f"gone {gone.code}")

    return app


class Served:
    """A listener as `polywire.serving.Server` builds it."""

    def __init__(self, listener: HttpListener, applications: Applications, access: Access, room: Room) -> None:
        self.listener, self.applications, self.access, self.room = listener, applications, access, room
        self.url = listener.url
        self.ws_url = self.url.replace("http", "ws", 1)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def json(self, path: str, **headers: str) -> Any:
        status, text = await self.get(path, **headers)
        assert status == 200, text
        return json.loads(text)

    async def key(self) -> str:
        async def store(changes: Any) -> None: ...

        self.access.load([], store)
        return (await self.access.create_key(self.access.system, "alice", ["*:#"]))[1]


@asynccontextmanager
async def serving(*mounts: Mount, patience: float = 1, **http: Any) -> AsyncIterator[Served]:
    access, room = Access(SystemClock()), Room()
    listener = HttpListener(HttpSettings(port=0, **http), access)
    listener.router.mount("/echo", echo_app)
    listener.router.mount_exact("/", echo_app)
    listener.router.mount_websocket("/ws", room)
    listener.router.mount_websocket_exact("/", room)
    listener.router.mount_websocket_fallback(room)
    applications = Applications(mounts, patience=patience)
    applications.mount(listener.router)
    await applications.start()
    await listener.start()
    try:
        yield Served(listener, applications, access, room)
    finally:
        listener.end_mounted()
        await applications.stop()
        await listener.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  any state of the server: nothing tells of it
            await asyncio.sleep(0.005)


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.mark.parametrize("at", ["/shop", "/", "/a/b"])
async def test_fastapi_knows_where_it_is(life: Life, at: str) -> None:
    root = at.rstrip("/")
    async with serving(Mount(at, fastapi_app(life))) as served:
        item = await served.json(f"{root}/items/3")
        assert item == {"number": 3, "who": "anonymous", "state": "db", "here": f"{served.url}{root}/items/3"}
        assert (await served.get(f"{root}/nothing"))[0] == 404
        status, page = await served.get(f"{root}/docs")
        assert status == 200
        assert f"{root}/openapi.json" in page
        document = await served.json(f"{root}/openapi.json")
        assert "/items/{number}" in document["paths"]
        assert document.get("servers", [{"url": ""}])[0]["url"] == root
    assert life.log == ["start", "end"]


async def test_wires_keep_their_paths(life: Life) -> None:
    async with serving(Mount("/", fastapi_app(life))) as served:
        assert await served.get("/echo/x") == (200, "GET /echo/x anonymous 0")
        assert (await served.get("/ws/x"))[0] == 426
        assert (await served.get("/"))[0] == 404  # its own: FastAPI has nothing there


async def test_who_asks_is_in_the_scope(life: Life) -> None:
    async with serving(Mount("/shop", fastapi_app(life))) as served:
        key = await served.key()
        assert (await served.json("/shop/items/1", Authorization=f"Bearer {key}"))["who"] == "alice"
        assert (await served.json("/shop/items/1"))["who"] == "anonymous"  # public, unless it asks
        assert (await served.json("/shop/items/1", Authorization="Bearer a.b.c"))["who"] == "anonymous"
        assert (await served.get("/echo", Authorization="Bearer a.b.c"))[0] == 401
        assert (await served.get("/shop/items/1", Origin="https://evil.example"))[0] == 403


async def test_starlette_knows_where_it_is() -> None:
    async def where(request: Request) -> PlainTextResponse:
        scope = request.scope
        return PlainTextResponse(f"{scope['root_path']} {scope['path']} {request.url_for('where')}")

    deep = Starlette(routes=[StarletteMount("/deep", routes=[Route("/where", where, name="where")])])
    flat = Starlette(routes=[Route("/where", where, name="where")])
    async with serving(Mount("/in", flat), Mount("/in/two", deep)) as served:
        assert (await served.get("/in/where"))[1] == f"/in /in/where {served.url}/in/where"
        assert (await served.get("/in/two/deep/where"))[1].startswith("/in/two/deep /in/two/deep/where ")


async def test_websockets_of_fastapi(life: Life) -> None:
    async with serving(Mount("/shop", fastapi_app(life))) as served:
        key = await served.key()
        url = f"{served.ws_url}/shop/chat/one"
        async with connect(url, proxy=None, subprotocols=["a", "b"]) as one:
            assert one.subprotocol == "a"
            await one.send("hello")
            assert await one.recv() == "anonymous in one: hello"
            await one.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await one.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "as asked")
        async with connect(f"{url}?api_key={key}", proxy=None) as one:
            await one.send("hello")
            assert await one.recv() == "alice in one: hello"
        async with connect(f"{served.ws_url}/ws/chat", proxy=None) as ours:
            await ours.send("to the hub")
            assert await ours.recv() == "to the hub"
        await until(lambda: not served.listener.state.connections)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/shop/chat/closed", {}, 403),
        ("/shop/nothing", {}, 403),
        ("/shop/chat/one", {"Origin": "https://evil.example"}, 403),
        ("/shop/chat/one", {"Host": "evil.example"}, 403),
        ("/echo/x", {}, 404),
    ],
)
async def test_refused_websockets(life: Life, path: str, headers: dict[str, str], status: int) -> None:
    async with serving(Mount("/shop", fastapi_app(life))) as served, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.url + path, headers=headers)
        assert refused.value.status == status


async def test_an_application_on_the_root_takes_what_the_hub_does_not(life: Life) -> None:
    async with serving(Mount("/", fastapi_app(life))) as served:
        async with connect(f"{served.ws_url}/chat/one", proxy=None) as one:
            await one.send("x")
            assert await one.recv() == "anonymous in one: x"
        async with connect(f"{served.ws_url}/ws/one", proxy=None) as one:
            await one.send("x")
            assert await one.recv() == "x"


async def test_long_messages_are_bounded(life: Life) -> None:
    limits = WebSocketSettings(max_message_size=1_000)
    async with (
        serving(Mount("/shop", fastapi_app(life)), websocket=limits) as served,
        connect(f"{served.ws_url}/shop/chat/one", proxy=None) as one,
    ):
        await one.send("x" * 1_001)
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd.code == 1009


async def test_a_peer_that_does_not_answer_pings_is_cut(life: Life) -> None:
    limits = WebSocketSettings(ping_interval=50, ping_timeout=50, close_timeout=50)
    async with serving(Mount("/shop", fastapi_app(life)), websocket=limits) as served:
        one = await connect(f"{served.ws_url}/shop/chat/one", proxy=None).__aenter__()
        one.transport.pause_reading()
        await until(lambda: not served.listener.state.connections)
        one.transport.abort()


HANDSHAKE = (
    b"GET /shop/chat/one HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_pongs_for_who_does_not_read_are_not_kept(life: Life) -> None:
    async with serving(Mount("/shop", fastapi_app(life))) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port, limit=1 << 26)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        [connection] = served.listener.state.connections
        writer.transport.pause_reading()
        for number in range(3_000):
            writer.write((b"\x89\xfd\0\0\0\0" + b"%0125d" % number) * 20)
            await writer.drain()
        assert connection.transport.get_write_buffer_size() < 1_000_000
        writer.transport.resume_reading()
        await asyncio.wait_for(reader.readuntil(b"\x8a\x7d" + b"%0125d" % 2_999), 10)
        writer.transport.abort()


async def test_empty_pieces_of_a_message_are_not_kept(life: Life) -> None:
    async with serving(Mount("/shop", fastapi_app(life))) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        [connection] = served.listener.state.connections
        writer.write(b"\x01\x81\0\0\0\0a" + b"\x00\x80\0\0\0\0" * 2_000 + b"\x00\x81\0\0\0\0b")
        await until(lambda: connection.frames == [b"a", b"b"])
        writer.write(b"\x80\x80\0\0\0\0")
        assert (await reader.readexactly(22))[2:] == b"anonymous in one: ab"
        writer.transport.abort()


async def test_its_log_tells_no_query(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(Mount("/shop", fastapi_app(life))) as served:
        with pytest.raises(InvalidStatus):
            await connect(f"{served.ws_url}/shop/nothing?api_key=sesame", proxy=None).__aenter__()
        async with connect(f"{served.ws_url}/shop/chat/one?token=sesame", proxy=None):
            pass
    told = [record for record in caplog.records if "sesame" in record.getMessage()]
    # the test's own client tells what it sends
    assert {record.name for record in told} <= {"websockets.client"}


async def test_what_is_under_way_is_finished_before_the_end(life: Life) -> None:
    async with serving(Mount("/shop", fastapi_app(life)), patience=10) as served:
        asking = asyncio.create_task(served.get("/shop/slow"))
        chatting = await connect(f"{served.ws_url}/shop/chat/one", proxy=None).__aenter__()
        await until(lambda: "slow begins" in life.log)
        served.listener.end_mounted()
        stopping = asyncio.create_task(served.applications.stop())
        with pytest.raises(ConnectionClosed) as closed:
            await chatting.recv()
        assert closed.value.rcvd.code == 1012
        status, text = await served.get("/shop/items/1")
        assert (status, json.loads(text)["code"]) == (503, "unavailable")
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{served.ws_url}/shop/chat/one", proxy=None).__aenter__()
        assert refused.value.response.status_code == 503
        assert "end" not in life.log
        life.let_go.set()
        assert await asking == (200, '"done"')
        await stopping
        assert life.log == ["start", "slow begins", "gone 1012", "slow ends", "end"]


async def test_what_does_not_end_is_not_waited_for(life: Life) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(endless())

    app = Starlette(routes=[Route("/stream", stream)])
    async with (
        serving(Mount("/shop", app), patience=0.05) as served,
        aiohttp.ClientSession() as session,
        session.get(served.url + "/shop/stream") as answer,
    ):
        assert await answer.content.readany() == b"x"
        async with asyncio.timeout(5):
            await served.applications.stop()


# Lifespans ----------------------------------------------------------------------------------------------------------


def failing(*, at: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if at == "start":
            raise ConnectionError("the database is away")
        yield
        raise ConnectionError("the database is away")

    return Starlette(lifespan=lifespan)


async def test_an_application_that_cannot_start_is_named(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    applications = Applications([Mount("/a", fastapi_app(life)), Mount("/b", failing(at="start"))], patience=1)
    with pytest.raises(RuntimeError, match=r"the application mounted on /b did not start: .*the database is away"):
        await applications.start()
    assert "Traceback" in caplog.text
    await applications.stop()
    assert life.log == ["start", "end"]  # those that had started are ended


async def test_an_application_that_does_not_end_well_is_logged(caplog: pytest.LogCaptureFixture, life: Life) -> None:
    applications = Applications([Mount("/a", fastapi_app(life)), Mount("/b", failing(at="end"))], patience=1)
    await applications.start()
    await applications.stop()
    assert "the application mounted on /b did not end well" in caplog.text
    assert life.log == ["start", "end"]


async def test_an_application_without_a_lifespan() -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await echo_app(scope, receive, send)

    async def returning(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await echo_app(scope, receive, send)

    async with serving(Mount("/a", plain), Mount("/b", returning)) as served:
        assert (await served.get("/a/x"))[1] == "GET /a/x anonymous 0"
        assert (await served.get("/b/x"))[1] == "GET /b/x anonymous 0"


async def test_a_lifespan_that_dies_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    async def dying(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise ValueError("its background task")

    applications = Applications([Mount("/a", dying)], patience=1)
    await applications.start()
    await applications.stop()
    assert "the lifespan of the application mounted on /a failed" in caplog.text


async def test_a_faulty_application_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def faulty(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("oops")

    async with serving(Mount("/faulty", faulty)) as served:
        assert (await served.get("/faulty"))[0] == 500
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{served.ws_url}/faulty", proxy=None).__aenter__()
        assert refused.value.response.status_code == 500
        assert (await served.get("/echo/x"))[0] == 200
    assert "oops" in caplog.text
