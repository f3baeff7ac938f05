"""The examples of hubs in and beside web applications, and their pages: real servers, clients that people use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
from websockets.sync.client import connect

from polywire.testing import serve
from tests.asgi_servers import ServerProcess, hypercorn, server_process, uvicorn, wsgi
from tests.conftest import ROOT
from tests.processes import run_hub
from tests.test_docs import Block, blocks

EXAMPLES = ROOT / "examples"
PAGES = ["fastapi", "starlette", "flask", "django"]
SECONDS = 10

NODE = """
const { WebSocket } = require("ws");
const socket = new WebSocket(process.argv[1]);
socket.on("message", (data) => { console.log(data.toString()); socket.close(1000); });
socket.on("close", (code) => console.log(code));
socket.on("error", (error) => { console.error(error.message); process.exitCode = 1; });
"""


def environment(data: Path) -> dict[str, str]:
    return {"POLYWIRE_HUB_DATA": str(data), "POLYWIRE_SQLITE_RESERVE_SIZE": "0", "PYTHONPATH": str(ROOT)}


@contextmanager
def example(name: str, data: Path, command: list[str]) -> Iterator[ServerProcess]:
    with server_process(command, EXAMPLES / name, environment(data)) as server:
        yield server


def page_blocks(name: str, mark: str) -> list[Block]:
    return [block for block in blocks(f"docs/embedding/{name}.md") if mark in block.marks.split()]


def run_page(name: str, **ports: str) -> None:
    """Every block for a client, one after the other; ``ports``: what stands for the ports that the page names."""
    names: dict[str, object] = {}
    found = page_blocks(name, "client")
    assert found
    for block in found:
        source = block.text
        for port, url in ports.items():
            source = source.replace(f"127.0.0.1:{port.removeprefix('p')}", url.removeprefix("http://"))
        exec(compile("\n" * block.line + source, name, "exec"), names)  # noqa: S102 - our own documentation


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_example_as_it_is(name: str) -> None:
    shown = [block for block in blocks(f"docs/embedding/{name}.md") if "file=" in block.marks]
    assert shown
    for block in shown:
        assert block.text == (ROOT / block.marks.removeprefix("file=")).read_text()


# FastAPI and Starlette ----------------------------------------------------------------------------------------------

SERVERS: dict[str, Callable[[], list[str]]] = {
    "uvicorn, websockets": lambda: uvicorn("app:app", "--ws", "websockets"),
    "uvicorn, websockets-sansio": lambda: uvicorn("app:app", "--ws", "websockets-sansio"),
    "uvicorn, wsproto": lambda: uvicorn("app:app", "--ws", "wsproto"),
    "hypercorn": lambda: hypercorn("app:app"),
}


def events(url: str, count: int) -> list[Any]:
    with requests.get(url, stream=True, timeout=SECONDS) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith(b"data: "))
        return [json.loads(next(lines).removeprefix(b"data: ")) for _ in range(count)]


@pytest.mark.needs_node
@pytest.mark.parametrize("name", SERVERS)
def test_fastapi_publishes_and_clients_of_the_hub_read(name: str, tmp_path: Path, node_clients: Path) -> None:
    with example("fastapi_hub", tmp_path / "data", SERVERS[name]()) as server:
        hub, sockets = server.url + "/hub", server.ws_url + "/hub/ws"
        hot, cold = {"sensor": "kitchen", "celsius": 41.5}, {"sensor": "cellar", "celsius": 7.0}
        with (
            connect(f"{sockets}/readings") as viewer,
            closing(websocket.create_connection(f"{sockets}/alerts", timeout=SECONDS)) as alerts,
        ):
            answer = requests.post(f"{server.url}/measurements/kitchen", params={"celsius": 41.5}, timeout=SECONDS)
            assert (answer.status_code, answer.json()) == (201, {"position": "1-0-0"})
            assert json.loads(viewer.recv(SECONDS)) == hot
            assert json.loads(alerts.recv()) == {"sensor": "kitchen", "text": "41.5 °C"}
            answer = requests.post(f"{server.url}/imports", json=[cold, cold], timeout=SECONDS)
            assert answer.json() == {"stored": 2}
            viewer.send(json.dumps(cold))
            assert [json.loads(viewer.recv(SECONDS)) for _ in range(3)] == [cold] * 3
        page = requests.get(f"{hub}/topics/readings", timeout=SECONDS).json()
        assert [message["data"] for message in page["messages"]] == [hot, cold, cold, cold]
        assert events(f"{hub}/topics/readings/events?from=earliest", 4) == [hot, cold, cold, cold]
        assert requests.get(f"{hub}/topics/readings/latest/kitchen", timeout=SECONDS).json()["data"] == hot
        command = ["node", "-e", NODE, f"{sockets}/readings?from=earliest"]
        node = subprocess.run(command, cwd=node_clients, capture_output=True, text=True, timeout=30, check=False)
        first, *_, code = node.stdout.splitlines()
        assert (json.loads(first), code) == (hot, "1000"), node.stderr
        refused = requests.get(f"{hub}/topics", headers={"Origin": "https://evil.example"}, timeout=SECONDS)
        assert refused.status_code == 403
        wrong = requests.post(f"{hub}/topics/readings", json={"sensor": "x", "celsius": "hot"}, timeout=SECONDS)
        assert [error["path"] for error in wrong.json()["errors"]] == ["$.celsius"]
        with pytest.raises(websocket.WebSocketBadStatusException) as denied:
            websocket.create_connection(f"{sockets}/readings?frm=earliest", timeout=SECONDS)
        assert denied.value.status_code == 400
        assert b"from" in denied.value.resp_body
        assert server.end() in (0, -15)  # uvicorn gives itself the signal again
    assert "Traceback" not in server.log
    assert "Exception" not in server.log


def test_an_event_stream_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    command = [*uvicorn("app:app"), "--timeout-graceful-shutdown", "1"]
    with (
        example("fastapi_hub", tmp_path / "data", command) as server,
        requests.get(f"{server.url}/hub/topics/readings/events", stream=True, timeout=SECONDS) as stream,
        connect(f"{server.ws_url}/hub/ws/readings") as viewer,
    ):
        assert stream.status_code == 200
        assert server.end() in (0, -15)
        with pytest.raises(Exception, match="1012"):
            viewer.recv(SECONDS)
    assert "Application shutdown complete" in server.log
    with run_hub(data=tmp_path / "data"):  # the log was left as it should be
        pass


def test_a_second_worker_is_told_why_it_cannot_start(tmp_path: Path) -> None:
    with example("fastapi_hub", tmp_path / "data", uvicorn("app:app")):
        second = ServerProcess(uvicorn("app:app"), EXAMPLES / "fastapi_hub", environment(tmp_path / "data"))
        second.process.wait(20)
        assert second.end() != 0
        assert not second.url
        assert "in use" in second.log


def test_the_page_about_fastapi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with example("fastapi_hub", tmp_path / "data", uvicorn("app:app")) as server:
        run_page("fastapi", p8000=server.url)
        listing = subprocess.run(
            [sys.executable, "-m", "polywire", "topics", "list", "--url", f"{server.url}/hub", "--json"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    printed = capsys.readouterr().out
    assert "201 {'position': '1-0-0'}" in printed
    assert 'b\'data: {"sensor":"kitchen","celsius":41.5}\'' in printed
    assert '{"sensor":"kitchen","text":"41.5 °C"}' in printed
    assert "readings" in listing.stdout


def test_the_test_of_the_page_about_fastapi(tmp_path: Path) -> None:
    (block,) = page_blocks("fastapi", "test")
    (tmp_path / "test_app.py").write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    path = {"PYTHONPATH": f"{EXAMPLES / 'fastapi_hub'}:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_page_about_starlette(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with example("starlette_hub", tmp_path / "data", uvicorn("app:app")) as server:
        run_page("starlette", p8000=server.url)
        data = {"sensor": "kitchen", "celsius": 41.5}
        assert events(f"{server.url}/hub/topics/readings/events?from=earliest", 1) == [data]
    printed = capsys.readouterr().out
    assert "201 {'position': '1-0-0'}" in printed
    assert str(data) in printed
    assert '{"sensor":"kitchen","celsius":41.5}' in printed


# Flask and Django ---------------------------------------------------------------------------------------------------


def test_a_flask_view_publishes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = EXAMPLES / "flask_publish"
    with (
        run_hub(str(folder / "hub.py"), data=tmp_path / "data") as hub,
        server_process(wsgi("app:app"), folder, {"POLYWIRE_URL": hub.http}) as app,
    ):
        run_page("flask", p5000=app.url, p8000=hub.http)
        again = requests.post(f"{app.url}/orders", json={"number": "A-1", "cents": 1999}, timeout=SECONDS)
        (message,) = requests.get(f"{hub.http}/topics/orders", timeout=SECONDS).json()["messages"]
        assert (message["key"], message["id"]) == ("A-1", again.json()["id"])  # stored once
    printed = capsys.readouterr().out
    assert "201 {'id'" in printed
    assert "400 {'errors': [{" in printed
    assert "$.cents" in printed
    assert "{'number': 'A-1', 'cents': 1999}" in printed


def test_a_django_view_publishes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        run_hub(data=tmp_path / "data") as hub,
        server_process(wsgi("app:application"), EXAMPLES / "django_publish", {"POLYWIRE_URL": hub.http}) as app,
    ):
        run_page("django", p8080=app.url, p8000=hub.http)
        assert requests.get(f"{app.url}/orders", timeout=SECONDS).status_code == 405
        assert len(requests.get(f"{hub.http}/topics/orders", timeout=SECONDS).json()["messages"]) == 1
    printed = capsys.readouterr().out
    assert "201 {'id'" in printed
    assert "{'number': 'A-1', 'cents': 1999}" in printed


DJANGO_IN_THE_HUB = """
import os, sys
sys.path.insert(0, os.environ["DJANGO_PUBLISH"])
import app as project
from django.core.asgi import get_asgi_application
from polywire import Hub
hub = Hub("shop")
hub.topic("orders")
hub.mount("/site", get_asgi_application())
"""


def test_django_in_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.py").write_text(DJANGO_IN_THE_HUB)
    monkeypatch.setenv("DJANGO_PUBLISH", str(EXAMPLES / "django_publish"))
    with run_hub("served.py", data=tmp_path / "data", cwd=tmp_path) as hub:
        assert requests.get(f"{hub.http}/site/orders", timeout=SECONDS).status_code == 405
        assert requests.get(f"{hub.http}/site/nothing", timeout=SECONDS).status_code == 404
        assert requests.get(f"{hub.http}/topics/orders", timeout=SECONDS).status_code == 200
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(hub.http.replace("http", "ws", 1) + "/site/orders", timeout=SECONDS)
        assert refused.value.status_code == 500


# Mounting in the hub ------------------------------------------------------------------------------------------------


async def test_the_page_about_mounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text("a shop")
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("docs/embedding.md") if "mount" in block.marks.split()]
    names: dict[str, Any] = {"__name__": "mounting"}
    monkeypatch.setitem(sys.modules, "mounting", type(sys)("mounting"))
    exec(compile("\n" * block.line + block.text, "docs/embedding.md", "exec"), names)  # noqa: S102 - our own documentation
    async with serve(names["hub"]) as t, aiohttp.ClientSession(t.http_url) as session:
        for path, text in (("/", "a shop"), ("/admin/who", '"anonymous"')):
            async with session.get(path) as answer:
                assert (answer.status, await answer.text()) == (200, text)
