"""mqtt.js in node (tests/node/mqtt.mjs), over TCP and WebSocket."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wires.mqtt.brokers import Broker

pytestmark = pytest.mark.needs_node


def url(broker: Broker, scheme: str) -> str:
    if scheme == "ws":
        return f"ws://{broker.host}:{broker.websocket_port}/mqtt"
    return f"mqtt://{broker.host}:{broker.port}"


def run(node_clients: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", "mqtt.mjs", *arguments], cwd=node_clients, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("version", [3, 4, 5], ids=["3.1", "3.1.1", "5"])
def test_the_scenarios(broker: Broker, topic: str, node_clients: Path, scheme: str, version: int) -> None:
    seen = run(node_clients, url(broker, scheme), str(version), topic)
    assert seen["presence"] == {
        "granted": 2,
        "seen": [[f"{topic}/presence/{qos}", f"Hello mqtt {qos}", qos, False] for qos in (0, 1, 2)],
    }
    assert seen["retained"] == ["kept", 1, True]
    assert seen["session"]["payloads"] == [str(number) for number in range(10)]
    assert seen["session"]["present"] is True or version == 3
    assert seen["will"] == ["gone", 1]
    assert seen["reconnect"] == "queued"
    if version == 5:
        assert seen["properties"] == {
            "contentType": "text/plain",
            "responseTopic": "answers",
            "correlationData": [0, 1],
            "userProperties": {"a": ["1", "2"], "b": "3"},
            "subscriptionIdentifier": 3,
        }
        assert seen["aliases"] == "aa bb cc aa bb cc aa bb cc aa bb cc"


REFUSED = """
const [url, username, password] = process.argv.slice(1);
const client = require("mqtt").connect(url, { protocolVersion: 5, username, password, reconnectPeriod: 0 });
client.on("connect", () => { console.log("connected"); client.end(); });
client.on("error", (error) => { console.log(error.code); client.end(); });
"""


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_login(start_broker: Callable[..., Broker], node_clients: Path, scheme: str) -> None:
    broker = start_broker(login=True)
    name, password = broker.user
    for given, expected in ((password, {"connected"}), ("wrong", {"134", "135"})):
        command = ["node", "-e", REFUSED, url(broker, scheme), name, given]
        done = subprocess.run(command, cwd=node_clients, capture_output=True, text=True, timeout=40, check=True)
        assert done.stdout.strip() in expected
