"""The bounds of HTTP: slow, large and many requests, over raw sockets; and the listener's life."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import email.utils
import json
import resource
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings, TlsSettings
from polywire.server.sockets import PortTaken
from tests.server.conftest import Serve

HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_requests_on_one_connection_and_pipelined(serve: Serve) -> None:
    served = await serve()
    request = HEAD + b"Content-Length: 3\r\n\r\nabc"
    reader, writer = await served.raw(request)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nserver:" not in head.lower()
        date = email.utils.parsedate_to_datetime(head.lower().split(b"date: ")[1].split(b"\r\n")[0].decode())
        assert abs(date - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
        assert await reader.readexactly(22) == b"POST /echo anonymous 3"
        writer.write(request)
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(22)
    writer.write(request * 10)
    for _ in range(10):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(22) == b"POST /echo anonymous 3"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET", 408),
        (HEAD, 408),
        (HEAD + b"Content-Length: 10\r\n\r\nabc", 408),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (HEAD + b"X: " + b"x" * 70_000, 431),
        (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 70_000, 431),
        (HEAD + b"X: x\r\n" * 15_000 + b"\r\n", 431),
        (HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000, 413),
        (
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"2000\r\n"
            + b"x" * 8_192
            + b"\r\n17318\r\n"
            + b"x" * 95_000,
            413,
        ),
        (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET /room HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 426),
    ],
)
async def test_bad_requests_get_a_problem_and_their_end(serve: Serve, sent: bytes, status: int) -> None:
    served = await serve(head_timeout=100, body_timeout=100, max_body_size=100_000)
    reader, _ = await served.raw(sent)
    answer = await asyncio.wait_for(reader.read(), 10)
    assert status_of(answer) == status, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status
    assert await ok(served)


async def ok(served: Any) -> bool:
    reader, _ = await served.raw(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return status_of(await asyncio.wait_for(reader.read(), 10)) == 200


async def test_dribbling_a_head_does_not_prolong_it(serve: Serve) -> None:
    served = await serve(head_timeout=200)
    reader, writer = await served.raw(b"GET /echo HTTP/1.1\r\n")
    answering = asyncio.create_task(reader.read())
    dribbled = 0
    while not answering.done():
        writer.write(b"X: y\r\n")
        await asyncio.sleep(0.02)
        dribbled += 1
        assert dribbled < 100
    assert status_of(answering.result()) == 408


async def test_a_body_after_a_body_is_not_a_head(serve: Serve) -> None:
    """A read that ends a body of many bytes and begins the next head: only the head counts."""
    served = await serve(max_head_size=1_000)
    body = b"x" * 60_000
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader, writer = await served.raw(request + request[:20])
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len("POST /echo anonymous 60000"))
    writer.write(request[20:])
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "more"),
    [(b"0\r\n", b"a:\r\n" * 1_000), (b"0\r\n", b"a" * 4_000), (b"0\r\na: ", b"b" * 4_000), (b"2;x=", b"y" * 4_000)],
    ids=["trailers", "name", "value", "extension"],
)
async def test_what_is_beside_a_body_is_bounded(serve: Serve, begun: bytes, more: bytes) -> None:
    served = await serve(max_head_size=20_000)
    reader, writer = await served.raw(CHUNKED + b"1\r\nx\r\n" + begun)
    answering = asyncio.create_task(reader.read())
    for _ in range(500):
        writer.write(more)
        await asyncio.sleep(0)
        if answering.done():
            break
    assert status_of(await asyncio.wait_for(answering, 10)) == 431
    assert await ok(served)


async def test_small_chunks_are_no_extensions(serve: Serve) -> None:
    served = await serve(max_head_size=1_000)
    reader, writer = await served.raw(CHUNKED)
    for _ in range(40):
        writer.write(b"1\r\nx\r\n" * 100)
        await writer.drain()
    writer.write(b"0\r\nTrailer: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(25) == b"POST /echo anonymous 4000"


async def test_trailers_are_no_headers(serve: Serve) -> None:
    """RFC 9110 §6.5.1: what decides who is asking, and whence, is not said behind the body."""
    served = await serve()
    reader, _ = await served.raw(CHUNKED + b"0\r\nX-API-Key: unknown\r\nOrigin: https://evil.example\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_idle_connections_are_closed(serve: Serve) -> None:
    served = await serve(idle_timeout=100)
    reader, _ = await served.raw()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    reader, _ = await served.raw(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    assert status_of(answer) == 200


async def test_one_connection_too_many(serve: Serve) -> None:
    served = await serve(max_connections=5)
    first = [await served.raw() for _ in range(5)]
    await served.until(lambda: len(served.listener.state.connections) == 5)
    refused = [await served.raw() for _ in range(50)]
    for reader, _ in refused:
        answer = await asyncio.wait_for(reader.read(), 5)
        assert status_of(answer) == 503
    assert served.listener.state.connections_refused == 50
    first[0][1].close()
    await served.until(lambda: len(served.listener.state.connections) == 4)
    assert await ok(served)


async def test_pipelined_requests_are_bounded(serve: Serve) -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = await serve(slow, max_pipelined=10)
    reader, _ = await served.raw(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5_000)
    with contextlib.suppress(ConnectionResetError):  # the hub did not read the rest
        assert await asyncio.wait_for(reader.read(), 5) == b""
    release.set()
    await served.until(lambda: not served.listener.state.tasks)


async def test_drain_lets_requests_finish_and_takes_no_more(serve: Serve) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    served = await serve(slow)
    idle, _ = await served.raw()
    busy, _ = await served.raw(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await begun.wait()
    draining = asyncio.create_task(served.listener.drain(10))
    assert await asyncio.wait_for(idle.read(), 5) == b""
    with pytest.raises(OSError):  # noqa: PT011  the system's words differ
        await served.raw()
    release.set()
    assert (await asyncio.wait_for(busy.read(), 5)).endswith(b"\r\n\r\ndone")
    await asyncio.wait_for(draining, 5)


async def test_close_cuts_who_does_not_finish(serve: Serve) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    served = await serve(endless)
    reader, _ = await served.raw(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await begun.wait()
    await served.listener.drain(0.05)
    await served.listener.close()
    assert ended.is_set()
    assert not served.listener.state.tasks
    with pytest.raises((ConnectionError, EOFError)):
        await reader.readexactly(1)


async def test_a_taken_port_names_wire_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = HttpListener(HttpSettings(port=port), Access(SystemClock()))
        with pytest.raises(PortTaken, match=rf"http cannot listen on 127\.0\.0\.1:{port}: the port is taken") as error:
            await listener.start()
    assert error.value.extra == {"wire": "http", "host": "127.0.0.1", "port": port}


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(PortTaken, match=r"nowhere\.invalid"):
        await HttpListener(HttpSettings(host="nowhere.invalid"), Access(SystemClock())).start()


ANY = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(("host", "url"), [("localhost", "localhost"), (ANY, "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
async def test_free_port_and_dialable_url(host: str, url: str) -> None:
    listener = HttpListener(HttpSettings(host=host, port=0), Access(SystemClock()))
    await listener.start()
    assert listener.port > 0
    assert listener.url == f"http://{url}:{listener.port}"
    _, writer = await asyncio.open_connection(url, listener.port)
    writer.close()
    await writer.wait_closed()
    await listener.close()


async def test_the_port_is_free_again_at_once(serve: Serve) -> None:
    served = await serve()
    assert await ok(served)
    await served.listener.drain(1)
    await served.listener.close()
    again = HttpListener(HttpSettings(port=served.port), Access(SystemClock()))
    await again.start()
    await again.close()


async def test_as_many_files_as_connections_may_be_open(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        await serve(max_connections=1_000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(2_024, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_tls(serve: Serve, tmp_path: Path, require: Callable[[str], str]) -> None:
    """HTTPS and WSS on one port; what is refused is refused there too."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    making = await asyncio.create_subprocess_exec(
        require("openssl"), *command.split(), *names, stderr=asyncio.subprocess.DEVNULL
    )
    assert await making.wait() == 0
    served = await serve(tls=TlsSettings(certificate, key))
    assert served.listener.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=certificate)
    async with connect(f"wss://localhost:{served.port}/room", ssl=trusting, host="127.0.0.1") as client:
        await client.send("secret")
        assert await client.recv() == "secret"
        await client.send("x" * (2 << 20))
        await client.wait_closed()
        assert client.close_code == 1009
    for request, status in ((HEAD + b"Connection: close\r\n\r\n", 200), (b"nonsense\r\n\r\n", 400)):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.port, ssl=trusting, server_hostname="localhost"
        )
        served.writers.append(writer)
        writer.write(request)
        assert status_of(await asyncio.wait_for(reader.read(), 5)) == status
    async with connect(f"wss://localhost:{served.port}/room", ssl=trusting, host="127.0.0.1") as client:
        await served.listener.drain(2)
        await client.wait_closed()
        assert client.close_code == 1001
