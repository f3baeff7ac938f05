"""Who may come in, and with how much, where the server is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI, Request

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.core.errors import Denied
from polywire.mounts import Mount
from polywire.server.asgi import AsgiApp, require_local
from polywire.server.connections import Connections
from polywire.server.mounted import Applications
from polywire.server.router import Router
from polywire.server.settings import HttpSettings
from tests.hosts import hosted
from tests.server.conftest import echo_app, whole_body


def scope(client: Any, server: Any = ("127.0.0.1", 80), *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "client": client, "server": server, "headers": list(headers)}


@pytest.mark.parametrize(
    "asked",
    [
        scope(("127.0.0.1", 1)),
        scope(("127.8.8.8", 1), ("127.0.0.1", 80)),
        scope(("::1", 1), ("::1", 80)),
        scope(("::ffff:127.0.0.1", 1), ("::ffff:127.0.0.1", 80)),
        scope(("localhost", 1), ("localhost", None)),
        scope(("127.0.0.1", 1), None),
    ],
)
def test_this_machine_is_local(asked: dict[str, Any]) -> None:
    require_local(asked)


@pytest.mark.parametrize(
    "asked",
    [
        scope(("192.0.2.7", 1)),
        scope(("192.0.2.7", 1), ("192.0.2.1", 80)),
        scope(("127.0.0.1", 1), ("192.0.2.1", 80)),
        scope(("::ffff:192.0.2.7", 1)),
        scope(("::", 1)),
        scope(None),
        scope(("", 0)),
        scope(None, ("/run/hub.sock", None)),
        scope(("127.0.0.1", 1), ("/run/hub.sock", None)),
        scope(("testclient", 50_000), ("testserver", 80)),
        scope(("127.0.0.1", 1), ("127.0.0.1", 80), (b"x-forwarded-for", b"127.0.0.1")),
        scope(("127.0.0.1", 1), ("127.0.0.1", 80), (b"forwarded", b"for=192.0.2.7")),
        scope(("127.0.0.1", 1), ("127.0.0.1", 80), (b"x-real-ip", b"192.0.2.7")),
    ],
)
def test_everything_else_is_not(asked: dict[str, Any]) -> None:
    with pytest.raises(Denied, match="this machine only"):
        require_local(asked)


class Served:
    def __init__(self, url: str, access: Access, connections: Connections) -> None:
        self.url, self.access, self.connections = url, access, connections

    async def ask(self, path: str = "/echo", method: str = "GET", **options: Any) -> tuple[int, Any, bytes]:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, **options) as answer:
            return answer.status, answer.headers, await answer.read()

    async def key(self) -> str:
        async def store(changes: Any) -> None: ...

        self.access.load([], store)
        return (await self.access.create_key(self.access.system, "alice", ["*:#"]))[1]


async def counting_app(scope: Any, receive: Any, send: Any) -> None:
    """Knows nothing of the hub's errors."""
    body = await whole_body(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body or b"")).encode()})


async def fastapis_app(scope: Any, receive: Any, send: Any) -> None:
    app = FastAPI()

    @app.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    await app(scope, receive, send)


async def early_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers before it reads."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await whole_body(receive)
        await send({"type": "http.response.body", "body": b" and read"})


@pytest.fixture(params=["plain", "behind a proxy that says for whom it asks"])
def headers(request: pytest.FixtureRequest) -> dict[str, str]:
    return {} if request.param == "plain" else {"X-Forwarded-For": "192.0.2.7"}


@pytest.fixture
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """An echo on /echo, a mounted application on /theirs."""
    access, router = Access(SystemClock()), Router()
    settings = HttpSettings(origins=("https://app.example",), max_body_size=10_000, max_connections_per_principal=1)
    connections = Connections(access, settings.max_connections_per_principal)
    router.mount("/echo", echo_app)
    router.mount_websocket("/ws", lambda *_: None)
    mounts = [Mount("/theirs", counting_app), Mount("/fastapi", fastapis_app), Mount("/early", early_app)]
    Applications(mounts, patience=1).mount(router)
    app = AsgiApp(settings, access, router, connections, only_local=getattr(request, "param", True))
    async with hosted(app, lifespan="off") as host:
        yield Served(host.url, access, connections)


async def test_an_open_hub_answers_its_own_machine(served: Served, headers: dict[str, str]) -> None:
    status, answered, body = await served.ask(headers=headers)
    if headers:
        assert (status, answered["content-type"]) == (403, "application/problem+json")
        assert b"hub.asgi(open=True)" in body
        await served.key()
        status, _, body = await served.ask(headers=headers)
    assert (status, body) == (200, b"GET /echo anonymous 0")


@pytest.mark.parametrize("served", [False], indirect=True)
async def test_unless_it_is_open_to_all(served: Served) -> None:
    assert (await served.ask(headers={"X-Forwarded-For": "192.0.2.7"}))[0] == 200
    # A name that was made to point here is refused all the same.
    assert (await served.ask(headers={"Host": "evil.example"}))[0] == 403


async def test_the_guard_stands_before_it(served: Served) -> None:
    assert (await served.ask(headers={"Host": "evil.example"}))[0] == 403
    assert (await served.ask(headers={"Origin": "https://evil.example"}))[0] == 403
    status, headers, _ = await served.ask(headers={"Origin": "https://app.example"})
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert (await served.ask(headers={"X-API-Key": "pw_x_y"}))[0] == 401
    key = await served.key()
    assert (await served.ask(headers={"X-API-Key": key}))[2] == b"GET /echo alice 0"


async def test_nothing_there(served: Served) -> None:
    assert (await served.ask("/nothing"))[0] == 404
    assert (await served.ask("/ws/chat"))[0] == 426


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100):
        yield bytes(100)
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/echo", "/theirs", "/fastapi/"])
async def test_a_body_is_bounded_whoever_reads_it(served: Served, path: str) -> None:
    assert (await served.ask(path, "POST", data=bytes(10_000)))[0] == 200
    for data in (bytes(10_001), chunks(11_000), chunks(100_000)):
        status, headers, _ = await served.ask(path, "POST", data=data)
        assert (status, headers["content-type"]) == (413, "application/problem+json")


async def test_an_answer_that_has_begun_is_cut(served: Served) -> None:
    assert (await served.ask("/early", "POST", data=chunks(5_000)))[2] == b"begun and read"
    with pytest.raises(aiohttp.ClientError):
        await served.ask("/early", "POST", data=chunks(50_000))


async def test_credentials_of_a_mounted_application_are_its_own(served: Served) -> None:
    await served.key()
    for headers in ({"Authorization": "Digest abc"}, {"Authorization": "Bearer a.b.c"}, {"X-API-Key": "theirs"}):
        assert (await served.ask("/theirs", headers=headers))[0] == 200
        assert (await served.ask("/echo", headers=headers))[0] in (400, 401)


async def test_websockets_of_mounted_applications_count(served: Served) -> None:
    key = await served.key()
    alice = served.access.authenticate(key)
    release = served.connections.open(alice)
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.url + "/theirs")
        assert refused.value.status == 429
        release()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.url + "/theirs")  # it takes none itself
        assert refused.value.status == 500
    assert served.connections.count(alice) == 0
