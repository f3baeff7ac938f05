"""The bytes of a WebSocket as a stream: a stand-in for the wire's protocol records what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire.core.access import Access, Principal
from polywire.core.clock import SystemClock
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings, WebSocketSettings
from polywire.wires.mqtt.settings import MqttSettings
from polywire.wires.mqtt.websocket import OverWebSocket
from tests.certificates import make_certificates


class Talker:
    """A protocol that echoes, or does what it is told in one word."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.transport: Any = None
        self.log: list[str] = []
        self.got = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=1)  # accepted, as by a TCP connection

    def data_received(self, data: bytes) -> None:
        assert data
        self.got += data
        if data == b"close":
            self.transport.writelines([b"good", b"bye"])
            self.transport.close()
            self.transport.close()
            self.log.append("closing")
        elif data == b"abort":
            self.transport.abort()
        elif data == b"pause":
            self.transport.pause_reading()
        elif data != b"quiet":
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.log.append("pause")

    def resume_writing(self) -> None:
        self.log.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        assert exc is None
        self.log.append("lost")


class Hub:
    def __init__(self, listener: HttpListener, access: Access) -> None:
        self.listener, self.access = listener, access
        self.url = listener.url.replace("http", "ws", 1) + "/mqtt"
        self.talkers: list[Talker] = []

    def talker(self, principal: Principal) -> Talker:
        self.talkers.append(Talker(principal))
        return self.talkers[-1]

    def dial(self, **given: Any) -> connect:
        given.setdefault("subprotocols", ["mqtt"])
        return connect(given.pop("url", self.url), **given)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any state: nothing tells of it
            await asyncio.sleep(0.005)


async def code_of(client: ClientConnection) -> int | None:
    await asyncio.wait_for(client.wait_closed(), 10)
    return client.close_code


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Hub]]]:
    started: list[Hub] = []

    async def start(mqtt: MqttSettings | None = None, **http: Any) -> Hub:
        access = Access(SystemClock())
        hub = Hub(HttpListener(HttpSettings(port=0, **http), access), access)
        settings = mqtt or MqttSettings(max_packet_size=1 << 20)
        OverWebSocket(settings, hub.talker).mount(hub.listener.router)
        await hub.listener.start()
        hub.url = hub.listener.url.replace("http", "ws", 1) + "/mqtt"
        started.append(hub)
        return hub

    yield start
    for hub in started:
        await hub.listener.close()
        await until(lambda hub=hub: all(talker.log[-1:] == ["lost"] for talker in hub.talkers))


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["mqtt"], "mqtt"),
        (["mqttv3.1"], "mqttv3.1"),
        (["mqtt", "mqttv3.1"], "mqtt"),
        (["chat", "mqttv3.1", "mqtt"], "mqttv3.1"),
    ],
    ids=" ".join,
)
async def test_the_subprotocol_is_answered(serve, offered: list[str], chosen: str) -> None:
    hub = await serve()
    async with hub.dial(subprotocols=offered) as client:
        assert client.subprotocol == chosen


@pytest.mark.parametrize("offered", [None, ["chat"]], ids=["none", "another"])
async def test_who_does_not_offer_it_is_told(serve, offered: list[str] | None) -> None:
    hub = await serve()
    with pytest.raises(InvalidStatus) as caught:
        await hub.dial(subprotocols=offered)
    assert caught.value.response.status_code == 400
    assert b"offer the subprotocol mqtt" in caught.value.response.body
    assert hub.talkers == []


async def test_plain_http_is_told_to_upgrade(serve) -> None:
    hub = await serve()
    async with aiohttp.ClientSession() as client, client.get(hub.listener.url + "/mqtt") as answer:
        assert answer.status == 426


async def test_frames_carry_bytes_however_they_are_cut(serve) -> None:
    hub = await serve()
    data = bytes(range(256)) * 40
    async with hub.dial() as client:
        for size in (1, 7, 4_096, len(data)):
            answer = b""
            for at in range(0, len(data), size):
                await client.send(data[at : at + size])
            while len(answer) < len(data):
                answer += await client.recv()
            assert answer == data
        await client.send([b"one ", b"message ", b"of fragments"])
        assert await client.recv() == b"one message of fragments"
        assert hub.talkers[0].transport.get_extra_info("peername") == client.local_address
    await until(lambda: hub.talkers[0].log == ["lost"])


async def test_text_ends_it_and_what_came_before_counts(serve) -> None:
    hub = await serve()
    async with hub.dial() as client:
        await client.send(b"quiet")
        await client.send("text")
        assert await code_of(client) == 1003
    await until(lambda: hub.talkers[0].log == ["lost"])
    assert hub.talkers[0].got == b"quiet"


async def test_the_wire_closes_after_what_it_wrote(serve) -> None:
    hub = await serve()
    async with hub.dial() as client:
        await client.send(b"close")
        assert await client.recv() == b"goodbye"
        assert await code_of(client) == 1000
    await until(lambda: hub.talkers[0].log == ["closing", "lost"])
    assert hub.talkers[0].transport.is_closing()
    hub.talkers[0].transport.write(b"nobody hears this")


async def test_the_wire_aborts(serve) -> None:
    hub = await serve()
    async with hub.dial() as client:
        await client.send(b"abort")
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert await code_of(client) == 1008


async def test_a_connection_that_is_cut(serve) -> None:
    hub = await serve()
    client = await hub.dial()
    client.transport.abort()
    await until(lambda: hub.talkers and hub.talkers[0].log == ["lost"])


async def test_a_client_that_does_not_read(serve) -> None:
    hub = await serve(websocket=WebSocketSettings(out_buffer=64 << 10))
    async with hub.dial(max_queue=1) as client:
        await client.send(b"hello")
        await client.recv()
        (talker,) = hub.talkers
        sent = 0
        while talker.log != ["pause"]:
            talker.transport.write(b"x" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)
        assert talker.transport.get_write_buffer_size() > 0
        while sent:
            sent -= len(await client.recv())
        await until(lambda: talker.log == ["pause", "resume"])
        assert talker.transport.get_write_buffer_size() == 0


async def test_the_wire_reads_no_more_for_a_while(serve) -> None:
    hub = await serve()
    async with hub.dial() as client:
        await client.send(b"pause")
        await until(lambda: hub.talkers and not hub.talkers[0].transport.is_reading())
        await client.send(b"later")
        pong = await client.ping()
        await asyncio.wait_for(pong, 10)
        assert hub.talkers[0].got == b"pause"
        hub.talkers[0].transport.resume_reading()
        assert await client.recv() == b"later"


async def test_frames_may_be_as_long_as_some_packets(serve) -> None:
    hub = await serve(MqttSettings(max_packet_size=2 << 20, held_size=1 << 20))
    async with hub.dial(max_size=None) as client:
        await client.send(bytes(3 << 20))
        assert len(await client.recv()) == 3 << 20
        with contextlib.suppress(ConnectionClosed):
            await client.send(bytes((3 << 20) + 100_000))
        assert await code_of(client) == 1009


async def test_who_asked_for_the_websocket(serve) -> None:
    hub = await serve()

    async def store(*changes: object) -> None:
        pass

    hub.access.load([], store)
    info, key = await hub.access.create_key(hub.access.system, "device", ["publish:#"])
    for given in ({"additional_headers": {"Authorization": f"Bearer {key}"}}, {"url": f"{hub.url}?api_key={key}"}, {}):
        async with hub.dial(**given) as client:
            await client.send(b"quiet")
    await until(lambda: len(hub.talkers) == 3)
    assert [talker.principal.name for talker in hub.talkers] == [info.name, info.name, "anonymous"]
    with pytest.raises(InvalidStatus) as caught:
        await hub.dial(additional_headers={"Authorization": "Bearer wrong"})
    assert caught.value.response.status_code == 401


async def test_pages_of_other_sites(serve) -> None:
    hub = await serve(origins=("https://app.example",))
    async with hub.dial(origin="https://app.example") as client:
        await client.send(b"hello")
        assert await client.recv() == b"hello"
    with pytest.raises(InvalidStatus) as caught:
        await hub.dial(origin="https://evil.example")
    assert caught.value.response.status_code == 403


async def test_over_tls(serve, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    hub = await serve(tls=certificates.settings)
    assert hub.url.startswith("wss://")
    async with hub.dial(ssl=certificates.trusting()) as client:
        await client.send(b"secret")
        assert await client.recv() == b"secret"
