"""Connections that fail under load, and a hub that does: clients come back by themselves, and nothing that was
acknowledged is lost."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import NODE_CLIENTS, require_tool
from tests.core.harness import FaultyEngine
from tests.processes import started
from tests.wires.mqtt.lasting_clients import Aiomqtt, Gmqtt, Lasting, MqttJs, Paho
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.proxy import Proxy, proxy
from tests.wires.mqtt.raw_client import PUBACK, PUBREC, RawClient, connect, publish, subscribe, will
from tests.wires.mqtt.watched_hub import WatchedHub, watching

COUNT = 240
FAULTS = {60: Proxy.cut, 120: Proxy.reset, 180: Proxy.freeze}
"""What happens once so many were published, the last ones in a burst."""
BURST = 20
LASTS = b"\x11\0\0\x0e\x10"  # Session Expiry Interval: an hour


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[WatchedHub]:
    with watching(tmp_path) as hub:
        yield hub


def mqtt_js(port: int, topic: str, **options: Any) -> MqttJs:
    require_tool("node")
    if not (NODE_CLIENTS / "node_modules").is_dir():
        pytest.skip("the packages of tests/node are not installed: run `make test`")
    return MqttJs(port, topic, folder=NODE_CLIENTS, **options)


def mqtt_js_over_websocket(port: int, topic: str, **options: Any) -> MqttJs:
    return mqtt_js(port, topic, url="ws://{}/mqtt", **options)


CLIENTS: dict[str, tuple[Callable[..., Lasting], int, int]] = {
    "paho, 3.1.1, QoS 2": (Paho, 4, 2),
    "paho, 5, QoS 1": (Paho, 5, 1),
    "paho, 5, QoS 2": (Paho, 5, 2),
    "aiomqtt, 5, QoS 1": (Aiomqtt, 5, 1),
    "gmqtt, 5, QoS 1": (Gmqtt, 5, 1),
    "mqtt.js, 5, QoS 2": (mqtt_js, 5, 2),
    "mqtt.js, WebSocket, 3.1.1, QoS 1": (mqtt_js_over_websocket, 4, 1),
    "mqtt.js, WebSocket, 5, QoS 2": (mqtt_js_over_websocket, 5, 2),
}


PYTHON = [name for name in CLIENTS if "mqtt.js" not in name]
NODE = [name for name in CLIENTS if "mqtt.js" in name]


class Lot:
    """Some of the clients, side by side, each with a topic of its own. ``mqtt``, ``http``: where the hub listens."""

    def __init__(self, names: Sequence[str], mqtt: Callable[[], int], http: Callable[[], int]) -> None:
        self.clients: dict[str, Lasting] = {}
        for topic, name in enumerate(names):
            make, level, qos = CLIENTS[name]
            port = http() if "WebSocket" in name else mqtt()
            self.clients[name] = make(port, f"t{topic}", level=level, qos=qos)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for client in self.clients.values():
                client.start()
                stack.callback(client.stop)
            yield

    def publish(self, number: int) -> None:
        for client in self.clients.values():
            client.publish(number)

    def wait_for(self, count: int) -> None:
        for name, client in self.clients.items():
            client.wait_for(count, name)

    def check(self, stored: Callable[[str], Iterable[bytes]], not_once: Sequence[str] = ()) -> None:
        """``stored``: the payloads of a topic. ``not_once``: clients that publish at QoS 2 more than once."""
        for name, client in self.clients.items():
            found = Counter(map(int, stored(client.topic)))
            assert set(found) == set(client.arrived) == set(range(COUNT)), name
            if client.qos == 2 and name not in not_once:
                assert max(found.values()) == 1, f"{name}: stored exactly once"
                assert max(client.arrived.values()) == 1, f"{name}: given exactly once"


# mqtt.js is stuck, with any broker, when it is cut again while it sends its store again: see clients/test_cuts.py.
@pytest.mark.parametrize("names", [PYTHON, pytest.param(NODE, marks=pytest.mark.long)], ids=["Python", "node"])
def test_clients_that_are_cut_reset_and_half_open(hub: WatchedHub, names: list[str]) -> None:
    with ExitStack() as stack:
        proxies: list[Proxy] = []

        def between(port: int) -> int:
            proxies.append(stack.enter_context(proxy("127.0.0.1", port)))
            return proxies[-1].port

        lot = Lot(names, lambda: between(hub.served.mqtt_port), lambda: between(hub.port))
        with lot.running():
            for number in range(COUNT):
                if number + BURST in FAULTS:
                    lot.wait_for(number)
                lot.publish(number)
                if number in FAULTS:
                    for one in proxies:
                        FAULTS[number](one)
            lot.wait_for(COUNT)
    lot.check(hub.payloads)
    hub.advance(31 * 86_400)  # the sessions end
    hub.until(lambda: len(hub.wire.sessions) == 0)


# --- the hub goes ----------------------------------------------------------------------------------------------------


class Process:
    """A hub of its own process, always at the same addresses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.mqtt, self.http = (int(free.getsockname()[1]) for free in (one, other))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ports = ["--mqtt", str(self.mqtt), "--http", str(self.http)]
        command = [sys.executable, "-m", "polywire", "run", *ports, "--ready-json", "--data", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started(self._process, self._folder)

    def end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.communicate(timeout=20)
            assert process.returncode == (0 if how == signal.SIGTERM else -how)

    def payloads(self, topic: str) -> list[bytes]:
        url, found, start = f"http://127.0.0.1:{self.http}/topics/{topic}", list[bytes](), "earliest"
        while page := (answer := requests.get(f"{url}?limit=1000&from={start}", timeout=10).json())["messages"]:
            found += [str(message["data"]).encode() for message in page]
            start = answer["next"]
        return found


# With pauses: of what waits to be sent again mqtt.js loses one, if it is cut a second time.
ENDINGS = {80: signal.SIGTERM, 160: signal.SIGKILL}


@pytest.mark.timeout(120)
def test_a_hub_that_is_restarted_and_killed(tmp_path: Path) -> None:
    process = Process(tmp_path / "data")
    process.start()
    try:
        lot = Lot(PYTHON, lambda: process.mqtt, lambda: process.http)
        with lot.running():
            for number in range(COUNT):
                if number + BURST in ENDINGS:
                    lot.wait_for(number)
                lot.publish(number)
                if number in ENDINGS:
                    process.end(ENDINGS[number])
                    process.start()
            lot.wait_for(COUNT)
        # At its second attempt to connect again paho forgets which of its messages had their PUBREC.
        lot.check(process.payloads, not_once=[name for name in PYTHON if "paho" in name])
    finally:
        process.end(signal.SIGTERM)


# --- wills and keep-alive --------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[Proxy], None]] = {"cut": Proxy.cut, "reset": Proxy.reset, "half open": Proxy.freeze}


@pytest.mark.parametrize("level", [3, 4, 5])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_wills(hub: WatchedHub, end: Callable[[Proxy], None], level: int) -> None:
    """They appear, and behind everything that was published before."""
    with proxy("127.0.0.1", hub.served.mqtt_port) as between:
        clients = [hub.adopt(RawClient("127.0.0.1", between.port, level)) for _ in range(20)]
        for each, client in enumerate(clients):
            last_will = will("wills", b"%d gone" % each, level=level)
            client.connect(f"c{each}", last_will=last_will, keep_alive=60)
            client.publish("wills", b"%d here" % each, 1, 1)
            client.expect(PUBACK)
        end(between)
        if end is Proxy.freeze:
            assert hub.wire.open == 20
            hub.advance(80)
            assert hub.wire.open == 20
            hub.advance(11)  # one and a half times what was agreed
            hub.advance(6)  # and they do not close
        hub.until(lambda: hub.stored_in("wills") == 40)
        found = hub.payloads("wills")
        assert all(found.index(b"%d here" % each) < found.index(b"%d gone" % each) for each in range(20))
        hub.until(lambda: hub.wire.open == 0)


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_keep_alive_finds_the_half_open(hub: WatchedHub, transport: str) -> None:
    """With sessions: they are kept, and what comes meanwhile is queued at once."""
    with proxy("127.0.0.1", hub.port if transport == "websockets" else hub.served.mqtt_port) as between:
        clients = [
            PahoClient(
                "127.0.0.1", between.port, f"c{each}", transport=transport, keep_alive=3_600,
                clean=False, connecting={"SessionExpiryInterval": 86_400},
            ) for each in range(10)
        ]  # fmt: skip
        for client in clients:
            hub.adopt(client)
            client.connect()
            client.subscribe("t", qos=1)
        between.freeze()
        hub.publish("t", b"1")
        hub.advance(3_600)
        assert hub.wire.open == 10
        hub.advance(1_801)
        hub.until(lambda: hub.wire.open == 0)
        assert hub.wire.silent_closed == 10
        hub.publish("t", b"2")
        assert [one.pending.count for one in hub.core.subscriptions.of_kind("session")] == [2] * 10
        again = hub.paho("c7", clean=False, connecting={"SessionExpiryInterval": 86_400})
        assert [again.next().payload for _ in range(2)] == [b"1", b"2"]


def test_takeover_of_the_half_open(hub: WatchedHub) -> None:
    """A client that was cut without the hub knowing comes back at once, many times."""
    with proxy("127.0.0.1", hub.served.mqtt_port) as between:
        for number in range(50):
            client = hub.adopt(RawClient("127.0.0.1", between.port, 5))
            connack = client.connect("c", clean=False, properties=LASTS)
            assert connack.body[0] == (number > 0)
            client.subscribe(("t", 1))
            between.freeze()
        hub.publish("t", b"x")
        client = hub.connected("c", clean=False, properties=LASTS)
        assert client.receive().payload == b"x"
        hub.until(lambda: sum(not one.ended for one in hub.connections) == 1)
        hub.advance(6)
        hub.until(lambda: hub.wire.open == 1)


# --- a connection that goes in the middle of something ---------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
@pytest.mark.parametrize("lasts", [False, True], ids=["clean", "session"])
def test_a_client_that_goes_while_it_is_answered(tmp_path: Path, reset: bool, lasts: bool) -> None:
    """CONNACK, SUBACK and the rest wait for the disk, and the client for nothing."""
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, engine=engine) as hub:
        options = {"clean": False, "properties": LASTS} if lasts else {}
        last_will = will("wills", b"gone", level=5)
        others = [hub.connected(f"o{each}", **options) for each in range(10)]
        hub.publish("r", b"kept", key="k", retain=True)
        engine.holding = True
        clients = [hub.raw() for _ in range(10)]
        for each, client in enumerate(clients):
            client.send(connect(f"c{each}", 5, last_will=last_will, **options))
            client.send(subscribe(1, ("r/#", 1), level=5), publish("t", b"x", 2, 1, level=5))
        for client in others:
            client.send(subscribe(1, ("r/#", 1), ("$share/g/r/#", 1), level=5), publish("t", b"x", 2, 1, level=5))
        hub.until(lambda: hub.wire.open == 20)
        for client in [*clients, *others]:
            client.reset() if reset else client.close()
        hub.until(lambda: sum(not one.ended for one in hub.connections) == 10)  # more is not read from who waits
        hub.call(engine.let_go)
        hub.until(lambda: hub.wire.open == 0)
        hub.until(lambda: hub.stored_in("wills") == 10)
        hub.until(lambda: hub.stored_in("t") == 20)


@pytest.mark.parametrize("qos", [1, 2])
def test_a_disk_that_refuses_for_a_while(tmp_path: Path, qos: int) -> None:
    """At level 5 there is an answer for that; at 3.1.1 the connection ends, and the client sends it again."""
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, engine=engine) as hub:
        client, old = hub.connected(), hub.connected("old", level=4, clean=False)
        engine.fault = "the disk is full"
        client.publish("t", b"new", qos, 1)
        old.publish("t", b"old", qos, 1)
        answer = client.packet()
        assert answer is not None
        assert (answer.kind, answer.body[2] >= 0x80) == (PUBACK if qos == 1 else PUBREC, True)
        assert old.rest() == []
        engine.fault = None
        client.publish("t", b"new", qos, 1)
        again = hub.connected("old", level=4, clean=False)
        again.publish("t", b"old", qos, 1, dup=True)
        for one in (client, again):
            answer = one.expect(PUBACK if qos == 1 else PUBREC)
            assert answer.body[2:] in (b"", b"\0")
        assert sorted(hub.payloads("t")) == [b"new", b"old"]
