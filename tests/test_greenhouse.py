"""The example of the first page, as a process, with the clients that people use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
from websockets.sync.client import connect

from tests.conftest import ROOT
from tests.processes import RunningHub, run_hub

APP = ROOT / "examples" / "greenhouse" / "app.py"
SECONDS = 10

NODE_CHAT = """
const { WebSocket } = require("ws");
const [url, text, count] = process.argv.slice(1);
const socket = new WebSocket(url);
let left = Number(count);
socket.on("open", () => console.log(JSON.stringify("open")));
socket.on("message", (data, isBinary) => {
  console.log(JSON.stringify(isBinary ? ["binary", data.toString("hex")] : data.toString()));
  if (--left === 3) socket.send(text);
  if (left === 0) socket.close(1000);
});
socket.on("error", (error) => { console.error(error.message); process.exitCode = 1; });
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with run_hub(str(APP), data=tmp_path / "data") as running:
        yield running


def get(hub: RunningHub, path: str, **query: str) -> Any:
    answer = requests.get(hub.http + path, params=query, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(hub: RunningHub, topic: str, **body: Any) -> requests.Response:
    return requests.post(f"{hub.http}/topics/{topic}", timeout=SECONDS, **body)


def test_a_hot_sensor_raises_an_alert(hub: RunningHub) -> None:
    for celsius in (21.5, 41.5):
        answer = post(hub, "readings", json={"sensor": "kitchen", "celsius": celsius})
        assert answer.status_code == 201
        assert answer.json()["key"] == "kitchen"
    (alert,) = get(hub, "/topics/alerts", **{"from": "earliest", "wait": "10s"})["messages"]
    assert (alert["key"], alert["data"]) == ("kitchen", {"sensor": "kitchen", "text": "41.5 °C"})
    assert get(hub, "/topics/readings/latest/kitchen")["data"] == {"sensor": "kitchen", "celsius": 41.5}
    hub.wait_for(lambda: get(hub, "/subscriptions/watch")["pending"] == 0)


def test_a_wrong_reading_is_refused_and_named(hub: RunningHub) -> None:
    answer = post(hub, "readings", json={"sensor": "kitchen", "celsius": "hot"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == ["$.celsius"]
    answer = post(hub, "reading", json={})
    assert answer.status_code == 404
    assert "readings" in answer.json()["hint"]
    assert get(hub, "/topics/readings")["messages"] == []


def test_pull_and_acknowledge(hub: RunningHub) -> None:
    where = f"{hub.http}/subscriptions/mine"
    made = requests.put(where, json={"sources": [{"topic": "readings", "key": "kitchen"}]}, timeout=SECONDS)
    assert made.status_code == 201
    for sensor in ("kitchen", "cellar"):
        post(hub, "readings", json={"sensor": sensor, "celsius": 20})
    pulled = requests.post(f"{where}/pull", json={"max": 10}, timeout=SECONDS).json()["deliveries"]
    assert [delivery["message"]["data"]["sensor"] for delivery in pulled] == ["kitchen"]
    answer = requests.post(f"{where}/ack", json={"tokens": [pulled[0]["token"]]}, timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (200, {"settled": 1})
    assert get(hub, "/subscriptions/mine")["pending"] == 0


@contextmanager
def node_chatting(folder: Path, url: str, text: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A chat of `ws`; returns once it is connected. Sends ``text`` when three of ``count`` messages are left."""
    pipe = subprocess.PIPE
    command = ["node", "-e", NODE_CHAT, url, text, str(count)]
    with subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline() == '"open"\n'
            yield node
        finally:
            node.kill()


@pytest.mark.needs_node
def test_clients_chat_with_each_other(hub: RunningHub, node_clients: Path) -> None:
    url = hub.http.replace("http", "ws", 1) + "/chat"
    expected: list[Any] = ["from websocket-client", "from websockets", "from node", "from REST", "über websockets ☺"]
    with (
        closing(websocket.create_connection(url, timeout=SECONDS)) as first,
        connect(url) as second,
        node_chatting(node_clients, url, "from node", len(expected)) as node,
    ):
        first.send("from websocket-client")
        assert [first.recv(), second.recv(SECONDS)] == expected[:1] * 2
        second.send("from websockets")
        seen = {"first": [first.recv(), first.recv()], "second": [second.recv(SECONDS), second.recv(SECONDS)]}
        assert seen == {"first": expected[1:3], "second": expected[1:3]}
        answer = post(hub, "chat", data="from REST", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 201
        assert [first.recv(), second.recv(SECONDS)] == ["from REST"] * 2
        second.send("über websockets ☺")
        assert first.recv() == "über websockets ☺"
        out, errors = node.communicate(timeout=SECONDS)
        assert [json.loads(line) for line in out.splitlines()] == expected, errors
    assert [message["data"] for message in get(hub, "/topics/chat")["messages"]] == expected


@contextmanager
def sensor(command: list[str], folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Killed in the end, as a sensor whose plug is pulled."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def check_a_hot_sensor(hub: RunningHub, running: subprocess.Popen[str], name: str) -> None:
    """Its reading is seen over REST, the handler's alert comes back to it, and its end is noticed."""
    assert running.stdout is not None
    assert running.stdout.readline().startswith("alert: 7"), running.stderr and running.stderr.read()
    (first, *_) = get(hub, "/topics/readings", key=name)["messages"]
    assert (first["key"], first["data"]) == (name, {"sensor": name, "celsius": 75})
    assert get(hub, "/topics/alerts", key=name)["messages"][0]["data"] == {"sensor": name, "text": "75.0 °C"}
    running.kill()
    (last,) = get(hub, "/topics/chat", wait="10s")["messages"]
    assert last["data"] == f"{name} is gone"


def mqtt_port(hub: RunningHub) -> str:
    return str(hub.ready["wires"]["mqtt"]).rpartition(":")[2]


def test_a_sensor_of_paho(hub: RunningHub) -> None:
    command = [sys.executable, str(APP.with_name("sensor.py")), "roof", "--port", mqtt_port(hub), "--celsius", "75"]
    with sensor(command) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "connected: Success\n", running.stderr and running.stderr.read()
        check_a_hot_sensor(hub, running, "roof")


@pytest.mark.needs_node
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_sensor_of_mqtt_js(hub: RunningHub, node_clients: Path, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "node_modules").symlink_to(node_clients / "node_modules")
    shutil.copy(APP.with_name("sensor.mjs"), tmp_path)
    over_websocket = hub.http.replace("http", "ws", 1) + "/mqtt"
    url = over_websocket if scheme == "ws" else str(hub.ready["wires"]["mqtt"])
    with sensor(["node", "sensor.mjs", "cellar", url, "75"], tmp_path) as running:
        check_a_hot_sensor(hub, running, "cellar")


def test_bytes_stay_bytes(hub: RunningHub) -> None:
    url = hub.http.replace("http", "ws", 1) + "/ws/chat"
    with closing(websocket.create_connection(url, timeout=SECONDS)) as first, connect(url) as second:
        first.send_binary(b"\x00\xff")
        assert second.recv(SECONDS) == b"\x00\xff"
        assert first.recv() == b"\x00\xff"
    (message,) = get(hub, "/topics/chat")["messages"]
    assert message["data_base64"] == "AP8="


def test_what_was_said_is_there_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with run_hub(str(APP), data=data) as hub:
        post(hub, "readings", json={"sensor": "attic", "celsius": 45})
        get(hub, "/topics/alerts", **{"from": "earliest", "wait": "10s"})
    with run_hub(str(APP), data=data) as hub:
        assert len(get(hub, "/topics/alerts")["messages"]) == 1
        assert get(hub, "/topics/readings/latest/attic")["data"]["celsius"] == 45
        url = hub.http.replace("http", "ws", 1) + "/readings?from=earliest"
        with connect(url) as viewer:
            assert json.loads(viewer.recv(SECONDS)) == {"sensor": "attic", "celsius": 45}
