"""The hub's WebSocket routes under somebody else's server: every protocol class of uvicorn, clients that people use."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.core.errors import LimitExceeded
from polywire.server.asgi import AsgiApp
from polywire.server.asgi_websocket import AsgiWebSocket, messages_of
from polywire.server.connections import Connections
from polywire.server.frames import BINARY, TEXT, encode
from polywire.server.router import Router
from polywire.server.settings import HttpSettings, WebSocketSettings
from polywire.server.websocket import WebSocket, WebSocketHandler, WebSocketRequest
from tests.hosts import Host, hosted
from tests.server.conftest import Member, Room

IMPLEMENTATIONS = ["websockets-sansio", "wsproto"]


def test_frames_are_taken_apart() -> None:
    long, longest = b"x" * 70_000, b"y" * 200
    frames = encode(TEXT, "ü".encode()) + encode(BINARY, b"") + encode(BINARY, long) + encode(TEXT, longest)
    assert list(messages_of(frames)) == [
        {"type": "websocket.send", "text": "ü"},
        {"type": "websocket.send", "bytes": b""},
        {"type": "websocket.send", "bytes": long},
        {"type": "websocket.send", "text": longest.decode()},
    ]


class Hosted:
    def __init__(self, host: Host, app: AsgiApp, room: Room, access: Access) -> None:
        self.host, self.app, self.room, self.access = host, app, room, access
        self.url = host.ws_url + "/hub/room"

    def open(self, path: str = "/hub/room", **options: Any) -> connect:
        return connect(self.host.ws_url + path, proxy=None, **options)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  any state of the server: nothing tells of it
                await asyncio.sleep(0.005)


Serve = Callable[..., Awaitable[Hosted]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a room on /hub/room, /hub/ws and whatever nobody claims; ``http`` are settings."""
    async with AsyncExitStack() as stack:

        async def start(route: Any = None, *, ws: str = "websockets-sansio", config: Any = None, **http: Any) -> Hosted:
            access, router, room = Access(SystemClock()), Router(), Room()
            settings = HttpSettings(**http)
            connections = Connections(access, settings.max_connections_per_principal)
            router.mount_websocket("/room", route or room)
            router.mount_websocket_fallback(room)
            app = AsgiApp(settings, access, router, connections, only_local=True)

            async def below(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "root_path": "/hub"}, receive, send)

            host = await stack.enter_async_context(hosted(below, ws=ws, lifespan="off", **(config or {})))
            return Hosted(host, app, room, access)

        yield start


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_text_stays_text_and_binary_binary(serve: Serve, ws: str) -> None:
    served = await serve(ws=ws)
    async with served.open() as one, served.open("/hub/room/deep") as two:
        await one.send("über")
        assert [await one.recv(), await two.recv()] == ["über"] * 2
        await two.send(b"\x00\xff" * 40_000)
        assert [await one.recv(), await two.recv()] == [b"\x00\xff" * 40_000] * 2
        request = served.room.members[1].request
        assert (request.path, request.principal.name) == ("/room/deep", "anonymous")
        assert request.client.startswith("127.0.0.1:")
    await served.until(lambda: served.room.log == ["opened", "opened", "closed", "closed"])


async def test_whoever_listens_to_nobody_is_on_the_fallback(serve: Serve) -> None:
    served = await serve()
    async with served.open("/hub/chat/a%2Fb?x=1") as one:
        await one.send("hello")
        assert await one.recv() == "hello"
        request = served.room.members[0].request
        assert (request.path, request.query) == ("/chat/a/b", b"x=1")


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_a_refusal_is_told_by_status_and_problem(serve: Serve, ws: str) -> None:
    def full(request: WebSocketRequest, socket: WebSocket) -> WebSocketHandler:
        raise LimitExceeded("the room is full", retry_after=7)

    served = await serve(full, ws=ws)
    with pytest.raises(InvalidStatus) as refused:
        await served.open().__aenter__()
    response = refused.value.response
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body)["detail"] == "the room is full"


async def test_a_faulty_route_is_a_500(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def faulty(request: WebSocketRequest, socket: WebSocket) -> WebSocketHandler:
        raise KeyError("oops")

    served = await serve(faulty)
    with pytest.raises(InvalidStatus) as refused:
        await served.open("/hub/room?api_key=secret").__aenter__()
    assert refused.value.response.status_code in (401, 500)
    with pytest.raises(InvalidStatus) as refused:
        await served.open().__aenter__()
    assert refused.value.response.status_code == 500
    assert "a WebSocket route failed" in caplog.text
    assert "secret" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("polywire"))


async def test_a_server_without_responses_gets_a_close() -> None:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        said.append(event)

    app = AsgiApp(HttpSettings(), access := Access(SystemClock()), Router(), Connections(access, 1), only_local=True)
    scope = {
        "type": "websocket", "path": "/nowhere", "headers": [(b"host", b"localhost")], "query_string": b"",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "subprotocols": [],
    }  # fmt: skip
    await app(scope, receive, send)
    assert said == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert "principal" not in scope  # the server's own scope is left as it is


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
@pytest.mark.parametrize(("origin", "allowed"), [("https://evil.example", False), ("https://app.example", True)])
async def test_foreign_origins_are_refused(serve: Serve, ws: str, origin: str, allowed: bool) -> None:
    served = await serve(ws=ws, origins=("https://app.example",))
    if allowed:
        async with served.open(origin=origin):
            return
    with pytest.raises(InvalidStatus) as refused:
        await served.open(origin=origin).__aenter__()
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_a_browser_sends_its_key_in_the_query(serve: Serve, ws: str) -> None:
    async def store(changes: Any) -> None: ...

    served = await serve(ws=ws)
    served.access.load([], store)
    _, secret = await served.access.create_key(served.access.system, "alice", ["*:#"])
    async with served.open(f"/hub/room?api_key={secret}"):
        assert served.room.members[0].request.principal.name == "alice"
    async with served.open(additional_headers={"Authorization": f"Bearer {secret}"}):
        assert served.room.members[-1].request.principal.name == "alice"
    with pytest.raises(InvalidStatus) as refused:
        await served.open("/hub/room?api_key=pw_1_2").__aenter__()
    assert refused.value.response.status_code == 401


async def test_a_subprotocol_is_chosen_by_the_route(serve: Serve) -> None:
    room = Room()

    def choosing(request: WebSocketRequest, socket: WebSocket) -> WebSocketHandler:
        socket.subprotocol = request.subprotocols[-1]
        return room(request, socket)

    served = await serve(choosing)
    async with served.open(subprotocols=["a", "b"]) as one:
        assert one.subprotocol == "b"


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_the_hub_closes_with_code_and_reason(serve: Serve, ws: str) -> None:
    served = await serve(ws=ws)
    async with served.open() as one:
        await served.until(lambda: bool(served.room.members))
        member = served.room.members[0]
        member.socket.send(encode(TEXT, b"last words"))
        member.socket.close(4001, "x" * 200)
        member.socket.close(4002, "a second close does nothing")
        assert not served.room.members  # it hears of its end at once
        assert await one.recv() == "last words"
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "x" * 123)
    assert served.room.log == ["opened", "closed"]


async def test_what_is_said_before_the_opening_comes_after_it(serve: Serve) -> None:
    room = Room()

    def hasty(request: WebSocketRequest, socket: WebSocket) -> WebSocketHandler:
        assert socket.send(encode(TEXT, b"early")) is False
        socket.close(4000, "at once")
        return room(request, socket)

    served = await serve(hasty)
    async with served.open() as one:
        assert await one.recv() == "early"
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd.code == 4000
    assert room.log == ["opened", "closed"]


async def test_a_failing_handler_closes_with_1011(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = await serve()
    async with served.open() as one:
        await one.send("fail")
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd.code == 1011
    assert "asked to fail" in caplog.text


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_a_long_message_closes_with_1009(serve: Serve, ws: str) -> None:
    served = await serve(ws=ws, websocket=WebSocketSettings(max_message_size=1_000))
    async with served.open() as one:
        await one.send("x" * 1_000)
        assert await one.recv() == "x" * 1_000
        await one.send("x" * 1_001)
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd.code == 1009


async def test_what_comes_while_held_is_handed_over_later(serve: Serve) -> None:
    served = await serve()
    async with served.open() as one:
        await one.send("hold")
        assert await one.recv() == "hold"
        for number in range(100):
            await one.send(str(number))
        (member,) = served.room.members
        assert member.reads == [1]
        member.socket.release()
        assert [await one.recv() for _ in range(100)] == [str(number) for number in range(100)]


async def test_a_held_socket_can_be_closed(serve: Serve) -> None:
    served = await serve()
    async with served.open() as one:
        await one.send("hold")
        await one.recv()
        await one.send("never handed over")
        served.room.members[0].socket.close(4000)
        with pytest.raises(ConnectionClosed):
            await one.recv()
    assert served.room.log == ["opened", "closed"]


async def stalled(served: Hosted) -> ClientConnection:
    """A client that reads nothing; nor does its kernel take much."""
    one = await served.open(compression=None).__aenter__()
    one.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    one.transport.pause_reading()
    return one


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
async def test_a_peer_that_does_not_read_is_cut(serve: Serve, ws: str) -> None:
    limits = WebSocketSettings(out_buffer=64 << 10, slow_timeout=200, close_timeout=200)
    served = await serve(ws=ws, websocket=limits)
    one = await stalled(served)
    await served.until(lambda: bool(served.room.members))
    (member,) = served.room.members
    frame, written = encode(BINARY, bytes(16 << 10)), 0
    while member.socket.send(frame):
        written += len(frame)
        await asyncio.sleep(0)
    assert isinstance(member.socket, AsgiWebSocket)
    assert member.writable_calls == 0
    await served.until(lambda: not served.room.members)  # cut: nothing waits for it any more
    assert written < 64 << 20  # what kernels and transports took
    one.transport.abort()


async def test_a_peer_that_reads_again_is_told_to_the_handler(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(out_buffer=64 << 10, slow_timeout=10_000))
    one = await stalled(served)
    await served.until(lambda: bool(served.room.members))
    (member,) = served.room.members
    frame, sent = encode(BINARY, bytes(16 << 10)), 1
    while member.socket.send(frame):
        sent += 1
        await asyncio.sleep(0)
    one.transport.resume_reading()
    for _ in range(sent):
        assert len(await one.recv()) == 16 << 10
    assert member.writable_calls >= 1
    await one.close()
    await served.until(lambda: not served.room.members)


async def test_a_cut_connection_is_noticed(serve: Serve) -> None:
    served = await serve()
    one = await served.open().__aenter__()
    await served.until(lambda: bool(served.room.members))
    one.transport.abort()
    await served.until(lambda: served.room.log == ["opened", "closed"])


async def test_shutdown_tells_them_to_go(serve: Serve) -> None:
    served = await serve()
    async with served.open() as one, served.open() as two:
        await served.until(lambda: len(served.room.members) == 2)
        served.app.shutdown()
        for client in (one, two):
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1001


async def test_nothing_is_left_when_clients_come_and_go(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    served = await serve()
    before = len(asyncio.all_tasks())

    async def visit(number: int) -> None:
        async with served.open(max_queue=None) as one:  # it closes with messages unread
            await one.send(str(number))
            while await one.recv() != str(number):
                pass

    for _ in range(3):
        await asyncio.gather(*(visit(number) for number in range(20)))
    await served.until(lambda: not served.room.members and len(asyncio.all_tasks()) <= before)
    assert not [record for record in caplog.records if record.name.startswith("polywire")]
    assert all(isinstance(member, Member) for member in served.room.members)
