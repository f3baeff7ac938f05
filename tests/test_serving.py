"""A server with all its listeners: what stands before anybody is let in, and how it is taken down."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from polywire import Hub
from polywire.core.errors import Invalid, Unavailable
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
from polywire.server.settings import HttpSettings
from polywire.server.sockets import PortTaken
from polywire.serving import Server, ServeSettings, mqtt_settings
from polywire.testing import serve
from polywire.wires.mqtt import MqttSettings
from tests.certificates import Certificates, make_certificates
from tests.processes import started

CONNECT_5 = bytes.fromhex("100e00044d51545405020000000001") + b"a"
CONNECT_4 = bytes.fromhex("100d00044d51545404020000000161")
SHUTTING_DOWN = bytes.fromhex("8b")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def engine(folder: Path) -> SqliteEngine:
    return SqliteEngine(str(folder), settings=SqliteSettings(reserve_size=0))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def connack(port: int, packet: bytes = CONNECT_4) -> bytes:
    """What CONNECT is answered; empty, if the connection is closed instead."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(packet)
            return await reader.read(64)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


# --- starting --------------------------------------------------------------------------------------------------------


async def test_free_ports_for_every_listener(certificates: Certificates) -> None:
    settings = ServeSettings(mqtt=MqttSettings(tls=certificates.settings))
    async with serve(Hub("all"), settings=settings) as served:
        assert list(served.server.urls) == ["http", "mqtt", "mqtts"]
        assert served.mqtt_url == f"mqtt://127.0.0.1:{served.mqtt_port}"
        port = served.mqtt_port
        assert await connack(port) == bytes.fromhex("20020000")
    with pytest.raises(ConnectionRefusedError):
        await connack(port)


async def test_a_taken_port_leaves_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServeSettings(http=HttpSettings(port=port), mqtt=MqttSettings(port=taken.getsockname()[1]))
        hub = Hub("twice")
        server = Server(hub, settings)
        with pytest.raises(PortTaken, match="mqtt cannot listen"):
            await server.start(engine=engine(tmp_path))
    assert server.urls == {}
    with pytest.raises(Unavailable):
        _ = hub.core
    with socket.create_server(("127.0.0.1", port)):  # nobody has it
        pass
    async with Server(hub, ServeSettings(http=HttpSettings(port=0), mqtt=MqttSettings(port=0))):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ServeSettings(only=("mqt",)), "no protocol listens under the name 'mqt'"),
        (ServeSettings(without=("amqp",)), "no protocol listens under the name 'amqp'"),
        (ServeSettings(only=("http", "mqtts")), "mqtts needs a certificate"),
    ],
    ids=["only", "without", "certificate"],
)
def test_listeners_that_cannot_be(settings: ServeSettings, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        Server(Hub("none"), settings)


def test_what_other_settings_say() -> None:
    """The host is everybody's, and a packet holds the largest message."""
    hub = Hub("large")
    found = mqtt_settings(hub, ServeSettings(http=HttpSettings(host="::1")))
    assert (found.host, found.max_packet_size) == ("::1", hub.limits.message_size + (128 << 10))
    given = MqttSettings(host="127.0.0.2", max_packet_size=5_000)
    assert mqtt_settings(hub, ServeSettings(mqtt=given)) == given


async def test_mqtt_over_websocket_is_there_with_mqtt() -> None:
    async with serve(Hub("both")) as served:
        async with connect(f"{served.ws_url}/mqtt", subprotocols=["mqtt"]) as client:
            await client.send(CONNECT_4)
            assert await client.recv() == bytes.fromhex("20020000")
        with pytest.raises(InvalidStatus):
            await connect(f"{served.ws_url}/mqtt")


async def test_without_mqtt_its_path_is_one_like_any_other() -> None:
    settings = ServeSettings(only=("http",))
    async with serve(Hub("http"), settings=settings) as served, connect(f"{served.ws_url}/mqtt") as chat:
        await chat.send("hello")
        assert await chat.recv() == "hello"


async def test_there_is_room_for_so_many() -> None:
    settings = ServeSettings(mqtt=MqttSettings(max_connections=3))
    async with serve(Hub("small"), settings=settings) as served:
        peers = [await asyncio.open_connection("127.0.0.1", served.mqtt_port) for _ in range(3)]
        for number, (reader, writer) in enumerate(peers):
            writer.write(CONNECT_4.replace(b"a", b"%d" % number))
            assert await reader.readexactly(4) == bytes.fromhex("20020000")
        for _ in range(30):
            assert await connack(served.mqtt_port) == b""
        async with aiohttp.ClientSession() as client, client.get(f"{served.http_url}/health") as answer:
            assert answer.status == 200
        peers[0][1].close()
        async with asyncio.timeout(10):
            while not await connack(served.mqtt_port):  # until the hub has seen that one is gone
                pass
        for _, writer in peers:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("given", "listening"),
    [
        ("mqtt=MqttSettings(port=0)", {"http", "mqtt"}),
        ("only=('http',)", {"http"}),
        ("without=('http',), mqtt=MqttSettings(port=0)", {"mqtt"}),
    ],
    ids=["mqtt", "only", "without"],
)
def test_from_the_application_itself(tmp_path: Path, given: str, listening: set[str]) -> None:
    (tmp_path / "app.py").write_text(
        "from polywire import Hub\nfrom polywire.wires.mqtt import MqttSettings\n"
        f"Hub('own').run(port=0, {given}, started=lambda server: print(*server.urls, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "app.py"], stdout=subprocess.PIPE, cwd=tmp_path)
    with process:
        assert process.stdout is not None
        assert set(process.stdout.readline().decode().split()) == listening
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_clients_are_told(tmp_path: Path) -> None:
    """DISCONNECT with reason 0x8B at level 5; before that there is none from the server [MQTT 3.1.1 §3.14]."""
    server = Server(Hub("stopping"), ServeSettings(http=HttpSettings(port=0), mqtt=MqttSettings(port=0)))
    await server.start(engine=engine(tmp_path))
    port = urlsplit(server.urls["mqtt"]).port
    readers = []
    for packet in (CONNECT_5, CONNECT_4.replace(b"\x01a", b"\x01b")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet)
        assert (await reader.read(256))[:1] == b"\x20"
        readers.append((reader, writer))
    await server.stop()
    async with asyncio.timeout(5):
        told, nothing = [await reader.read() for reader, _ in readers]
    assert (told[:1], told[2:3]) == (b"\xe0", SHUTTING_DOWN)
    assert nothing == b""
    for _, writer in readers:
        writer.close()
        await writer.wait_closed()


def test_a_process_ends_whatever_its_clients_do(tmp_path: Path, certificates: Certificates) -> None:
    """Idle ones, half-open handshakes, and connections that never said a word, or not all of it."""
    command = [sys.executable, "-m", "polywire", "run", "--ready-json", "--free-ports", "--data", "data"]
    flags = ["--tls-cert", certificates.certificate, "--tls-key", certificates.key]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    with process, contextlib.ExitStack() as peers:
        hub = started(process, tmp_path)
        ports = {name: urlsplit(url).port for name, url in hub.ready["wires"].items()}

        def dial(name: str, said: bytes = b"") -> socket.socket:
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", ports[name]), 10))
            peer.sendall(said)
            return peer

        for number in range(20):
            assert dial("mqtt", CONNECT_5[:-1] + b"%c" % (65 + number)).recv(1) == b"\x20"
        for said in (b"", b"\x16\x03\x01\x02\x00", CONNECT_4):
            dial("mqtts", said)
            dial("http", said)
        dial("mqtt")
        dial("mqtt", CONNECT_4[:6])
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, b"")
        assert time.monotonic() - began < 5
