"""The hub in somebody else's server: who starts it, who stops it, where its paths are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire import Hub, Unavailable
from tests.application import Reading
from tests.hosts import CannotStart, Host, hosted


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYWIRE_SQLITE_RESERVE_SIZE", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    hub = Hub("test", data=tmp_path / "data")
    hub.topic("readings", Reading, key="sensor")
    return hub


def starlette(hub: Hub, **options: Any) -> Starlette:
    return Starlette(routes=[Mount("/hub", hub.asgi())], **options)


async def ask(url: str, method: str = "GET", **options: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if "json" in answer.headers.get("content-type", "") else text


async def publish(host: Host, sensor: str = "a", at: str = "/hub") -> int:
    return (await ask(f"{host.url}{at}/topics/readings", "POST", json={"sensor": sensor, "celsius": 1}))[0]


def running(hub: Hub) -> bool:
    try:
        return hub.core is not None
    except Unavailable:
        return False


# Started by a lifespan ----------------------------------------------------------------------------------------------


async def test_a_lifespan_starts_and_stops_the_hub(hub: Hub) -> None:
    seen: list[str] = []

    @hub.subscribe("readings")
    async def see(reading: dict[str, Any]) -> None:
        seen.append(reading["sensor"])

    for sensor in ("a", "b"):  # and again: a server may be started twice in one process
        async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host:
            assert running(hub)  # before anybody asks
            assert await publish(host, sensor) == 201
        assert not running(hub)
    assert seen == ["a", "b"]


async def test_a_lifespan_of_ones_own(hub: Hub) -> None:
    order: list[Any] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        async with hub.lifespan(app):
            order.append(running(hub))
            yield {"x": 1}
            order.append(running(hub))

    app = FastAPI(lifespan=lifespan)
    app.mount("/hub", hub.asgi())
    async with hosted(app, lifespan="on") as host:
        assert await publish(host) == 201
    assert order == [True, True]
    assert not running(hub)


async def test_the_hub_as_the_servers_own_application(hub: Hub) -> None:
    async with hosted(hub.asgi(), lifespan="on") as host:
        assert running(hub)
        assert await publish(host, at="") == 201
        assert (await ask(host.url + "/"))[1]["links"]["topics"] == "/topics"
    assert not running(hub)


async def test_a_hub_that_was_started_by_its_user(hub: Hub) -> None:
    async with hub, hosted(starlette(hub), lifespan="off") as host:
        assert await publish(host) == 201
        await hub.stop()
        status, problem = await ask(f"{host.url}/hub/topics")
        assert (status, problem["code"]) == (503, "unavailable")
        assert not running(hub)  # nobody but its user starts it again


@pytest.mark.parametrize("as_root", [True, False])
async def test_a_failure_keeps_the_server_from_starting(
    hub: Hub, as_root: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hub("other", data=hub.settings.data):  # the folder is taken
        app = hub.asgi() if as_root else starlette(hub, lifespan=hub.lifespan)
        with pytest.raises(CannotStart):
            async with hosted(app, lifespan="on"):
                pytest.fail("it must not start")
    assert "in use" in caplog.text
    async with hosted(app, lifespan="on") as host:
        assert (await ask(f"{host.url}{'' if as_root else '/hub'}/ready"))[0] == 200


# Started by the first request ---------------------------------------------------------------------------------------


async def test_the_first_requests_wait_for_one_start(hub: Hub) -> None:
    starts: list[int] = []

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        starts.append(1)
        await asyncio.sleep(0.05)
        yield

    hub._lifespan = lifespan
    async with hosted(starlette(hub), lifespan="off") as host:
        assert not running(hub)
        async with connect(f"{host.ws_url}/hub/ws/readings", proxy=None) as viewer:
            assert await asyncio.gather(*(publish(host, str(number)) for number in range(20))) == [201] * 20
            assert len({await viewer.recv() for _ in range(20)}) == 20
        assert starts == [1]
        await hub.stop()


async def test_a_client_that_leaves_takes_the_start_from_nobody(hub: Hub) -> None:
    gate = asyncio.Event()

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        await gate.wait()
        yield

    hub._lifespan = lifespan
    app = hub.asgi()
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(event: Any) -> None:
        said.append(event)

    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/health", "query_string": b"",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    first, second = (asyncio.create_task(app(scope, receive, send)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    assert said[0]["status"] == 200
    await hub.stop()


async def test_a_start_that_fails_is_a_503_and_tried_again(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(starlette(hub), lifespan="off") as host:
        async with Hub("other", data=hub.settings.data):
            answers = await asyncio.gather(*(ask(f"{host.url}/hub/topics") for _ in range(5)))
            assert [status for status, _ in answers] == [503] * 5
            assert answers[0][1]["hint"] == "its log says why"
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{host.ws_url}/hub/ws/readings", proxy=None).__aenter__()
            assert refused.value.response.status_code == 503
            told = [record for record in caplog.records if record.getMessage() == "the hub could not start"]
            assert len(told) == 1  # it was tried once for all of them
            assert "in use" in caplog.text
        monkeypatch.setattr("polywire.embedding._TRY_AGAIN", 0.0)
        assert await publish(host) == 201
        await hub.stop()


async def test_a_wrong_setting_is_a_start_that_fails(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYWIRE_HTTP_MAX_BODY_SIZE", "plenty")
    async with hosted(starlette(hub), lifespan="off") as host:
        assert (await ask(f"{host.url}/hub/topics"))[0] == 503
    assert "POLYWIRE_HTTP_MAX_BODY_SIZE" in caplog.text


def test_another_event_loop_is_told(hub: Hub) -> None:
    app = starlette(hub)

    def ask() -> tuple[int, Any]:  # each in a loop of its own, as this client has it without its lifespan
        client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
        answer = client.get("/hub/health")
        return answer.status_code, answer.json()

    assert ask()[0] == 200
    status, problem = ask()
    assert status == 503
    assert problem["detail"] == "the hub runs in another event loop"


def test_starlettes_test_client(hub: Hub) -> None:
    with TestClient(
        starlette(hub, lifespan=hub.lifespan), base_url="http://localhost", client=("127.0.0.1", 1)
    ) as client:
        assert client.post("/hub/topics/readings", json={"sensor": "a", "celsius": 1}).status_code == 201
        with client.websocket_connect("ws://localhost/hub/ws/readings?from=earliest") as socket:
            assert socket.receive_json() == {"sensor": "a", "celsius": 1}
    assert not running(hub)


# Paths --------------------------------------------------------------------------------------------------------------


async def test_paths_below_a_proxys_and_a_mounts(hub: Hub) -> None:
    """A proxy takes /proxy away and says so (``--root-path``); inside, the hub is below two mounts."""
    app = Starlette(routes=[Mount("/v1", routes=[Mount("/hub", hub.asgi())])], lifespan=hub.lifespan)
    async with hosted(app, lifespan="on", root_path="/proxy") as host:
        at = host.url + "/v1/hub"
        status, index = await ask(f"{at}/")
        assert (status, index["links"]["topics"]) == (200, "/proxy/v1/hub/topics")
        _, page = await ask(f"{at}/", headers={"Accept": "text/html"})
        assert 'href="/proxy/v1/hub/topics"' in page
        for key in ("a%2Fb", "a/b"):
            payload = json.dumps({"sensor": "a/b", "celsius": 1})
            status, _ = await ask(f"{at}/topics/readings?key={key}", "POST", data=payload)
            assert status == 201
        async with connect(f"{host.ws_url}/v1/hub/ws/readings?from=earliest", proxy=None) as viewer:
            assert json.loads(await viewer.recv())["sensor"] == "a/b"
        status, problem = await ask(f"{at}/nothing")
        assert status == 404
        assert "'/nothing'" in problem["detail"]


async def test_an_event_stream_below_a_mount(hub: Hub) -> None:
    async with (
        hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host,
        aiohttp.ClientSession() as session,
        session.get(f"{host.url}/hub/topics/readings/events?from=earliest") as stream,
    ):
        assert stream.headers["content-type"] == "text/event-stream"
        await publish(host, "kitchen")
        async with asyncio.timeout(10):
            while b"kitchen" not in await stream.content.readline():
                pass


async def test_operations_and_json_rpc_below_a_mount(hub: Hub) -> None:
    @hub.operation
    def add(a: int, b: int) -> int:
        return a + b

    @hub.get("/sums/{a}")
    def more(a: int) -> int:
        return a + 1

    async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host:
        at = host.url + "/hub"
        assert await ask(f"{at}/operations/add", "POST", json={"a": 2, "b": 3}) == (200, 5)
        assert await ask(f"{at}/sums/41") == (200, 42)
        assert (await ask(f"{at}/openapi.json"))[1]["servers"][0]["url"].endswith("/hub")
        async with aiohttp.ClientSession() as session:
            body, asynchronously = {"a": 1, "b": 1}, {"Prefer": "respond-async"}
            async with session.post(f"{at}/operations/add", json=body, headers=asynchronously) as answer:
                assert answer.status == 202
                assert answer.headers["location"].startswith("/hub/jobs/")
        async with connect(f"{host.ws_url}/hub/ws", proxy=None) as one:
            await one.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "add", "params": body}))
            assert json.loads(await one.recv()) == {"jsonrpc": "2.0", "id": 1, "result": 2}


async def test_mounts_of_the_hub_work_below_it(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("front")

    async def where(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{request.scope['root_path']} {request.url_for('where')}")

    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        log.append(f"start {running(hub)}")
        yield
        log.append(f"end {running(hub)}")

    hub.mount("/", tmp_path)
    hub.mount("/in", Starlette(routes=[Route("/where", where, name="where")], lifespan=lifespan))
    async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host:
        assert await ask(f"{host.url}/hub/") == (200, "front")
        assert await ask(f"{host.url}/hub/in/where") == (200, f"/hub/in {host.url}/hub/in/where")
        assert (await ask(f"{host.url}/hub/topics"))[0] == 200
        assert (await ask(f"{host.url}/hub/nothing"))[0] == 404
    assert log == ["start True", "end True"]


async def test_websockets_of_an_application_in_the_hub_in_an_application(hub: Hub) -> None:
    theirs = FastAPI()

    @theirs.websocket("/chat")
    async def chat(socket: Any) -> None: ...

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": f"{scope['root_path']} {scope['path']}"})
        await send({"type": "websocket.close", "code": 4001})

    hub.mount("/in", echo)
    async with (
        hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host,
        connect(f"{host.ws_url}/hub/in/chat", proxy=None) as one,
    ):
        assert await one.recv() == "/hub/in /hub/in/chat"
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd.code == 4001


# Access and settings ------------------------------------------------------------------------------------------------


async def test_proxies_on_this_machine_open_nothing(hub: Hub) -> None:
    """The server takes the client's address from a proxy that it trusts."""
    async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on", forwarded_allow_ips="*") as host:
        status, problem = await ask(f"{host.url}/hub/topics", headers={"X-Forwarded-For": "192.0.2.7"})
        assert (status, problem["code"]) == (403, "denied")
        assert (await ask(f"{host.url}/hub/topics"))[0] == 200
        access = hub.core.access
        _, key = await access.create_key(access.system, "reader", ["subscribe:#"])
        headers = {"X-Forwarded-For": "192.0.2.7", "Authorization": f"Bearer {key}"}
        assert (await ask(f"{host.url}/hub/topics/readings", headers=headers))[0] == 200


async def test_settings_come_from_the_call_the_file_and_the_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "polywire.toml").write_text('[hub]\ndata = "elsewhere"\n[http]\nmax_body_size = "2KiB"\n')
    monkeypatch.setenv("POLYWIRE_HTTP_MAX_BODY_SIZE", "1KiB")
    app = hub.asgi(open=True, origins=["https://app.example"], max_body_size=100)
    assert hub.asgi() is app
    assert hub.asgi(open=True, origins=["https://app.example"], max_body_size=100) is app
    with pytest.raises(ValueError, match="with other settings"):
        hub.asgi(open=False, origins=["https://other.example"])
    async with hosted(app, lifespan="on") as host:
        assert (tmp_path / "elsewhere").is_dir()
        origin = {"Origin": "https://app.example", "X-Forwarded-For": "192.0.2.7"}
        assert (await ask(f"{host.url}/topics", headers=origin))[0] == 200
        assert (await ask(f"{host.url}/topics", headers={"Origin": "https://other.example"}))[0] == 403
        for size, status in ((900, 201), (2_000, 413)):
            payload = json.dumps({"sensor": "x" * size, "celsius": 1})
            assert (await ask(f"{host.url}/topics/readings?key={'x' * size}", "POST", data=payload))[0] == status


def test_unknown_settings_are_named(hub: Hub) -> None:
    with pytest.raises(TypeError, match="orgins"):
        hub.asgi(orgins=["https://app.example"])


async def test_cors_of_the_host_is_not_the_hubs(hub: Hub) -> None:
    cors = Middleware(CORSMiddleware, allow_origins=["https://app.example"])
    app = Starlette(routes=[Mount("/hub", hub.asgi())], middleware=[cors], lifespan=hub.lifespan)
    async with hosted(app, lifespan="on") as host:
        assert (await ask(f"{host.url}/hub/topics", headers={"Origin": "https://app.example"}))[0] == 403


# Stopping -----------------------------------------------------------------------------------------------------------


async def test_open_websockets_are_told_when_the_hub_stops(hub: Hub) -> None:
    async with (
        hub,
        hosted(starlette(hub), lifespan="off") as host,
        connect(f"{host.ws_url}/hub/ws/readings", proxy=None) as viewer,
    ):
        await hub.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await viewer.recv()
        assert closed.value.rcvd.code == 1001


async def test_revoking_a_key_closes_its_websockets(hub: Hub) -> None:
    async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host:
        access = hub.core.access
        _, key = await access.create_key(access.system, "reader", ["subscribe:#"])
        async with connect(f"{host.ws_url}/hub/ws/readings?api_key={key}", proxy=None) as viewer:
            await access.revoke_key(access.system, "reader")
            with pytest.raises(ConnectionClosed) as closed:
                await viewer.recv()
            assert closed.value.rcvd.code == 1008


async def test_nothing_is_logged_when_all_is_well(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with hosted(starlette(hub, lifespan=hub.lifespan), lifespan="on") as host:
        await publish(host)
        async with connect(f"{host.ws_url}/hub/ws/readings", proxy=None) as one:
            await one.send('{"sensor": "a", "celsius": 1}')
            await one.recv()
    assert not caplog.records


async def test_what_is_no_request_is_refused(hub: Hub) -> None:
    call: Callable[..., Any] = hub.asgi()
    with pytest.raises(ValueError, match="neither HTTP nor a WebSocket"):
        await call({"type": "webtransport"}, None, None)
