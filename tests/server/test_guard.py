"""Foreign Host and Origin, CORS, credentials: over real sockets, and the header parsers on their own."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from polywire.core.access import Access, Principal
from polywire.core.clock import SystemClock
from polywire.core.errors import Invalid, LimitExceeded
from polywire.server.connections import Connections
from polywire.server.guard import credentials, host_name
from tests.server.conftest import Serve, Served

Answer = tuple[int, dict[str, str], bytes]


async def ask(
    served: Served, *headers: str, method: str = "GET", path: str = "/echo", host: str | None = None
) -> Answer:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{served.port}'}", *headers]
    reader, _ = await served.raw("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, _, v in (f.partition(": ") for f in fields)}, body


async def with_key(served: Served, *allow: str) -> str:
    async def store(changes: Any) -> None: ...

    served.access.load([], store)
    _, secret = await served.access.create_key(served.access.system, "alice", list(allow))
    return secret


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "hub.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:8000"]
)
async def test_loopback_is_the_hub(serve: Serve, host: str) -> None:
    assert (await ask(await serve(), host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "xlocalhost",
        "[::2]",
        "@localhost",
        "[",
    ],
)
async def test_a_foreign_host_is_refused_while_the_hub_is_open(serve: Serve, host: str) -> None:
    served = await serve()
    status, headers, body = await ask(served, host=host)
    assert (status, headers["content-type"]) == (403, "application/problem+json")
    assert b"denied" in body
    await with_key(served)
    assert (await ask(served, host=host))[0] == 200


async def test_allowed_hosts(serve: Serve) -> None:
    served = await serve(allowed_hosts=("hub.example",))
    assert (await ask(served, host="Hub.Example:8000"))[0] == 200
    assert (await ask(served, host="other.example"))[0] == 403
    assert (await ask(await serve(allowed_hosts=("*",)), host="other.example"))[0] == 200


async def test_no_host_and_two_hosts_are_wrong(serve: Serve) -> None:
    served = await serve()
    assert (await ask(served, "Host: localhost"))[0] == 400
    reader, _ = await served.raw(b"GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    reader, _ = await served.raw(b"GET /echo HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://", "x", ""])
@pytest.mark.parametrize("keys", [False, True])
async def test_a_foreign_origin_is_refused(serve: Serve, origin: str, keys: bool) -> None:
    served = await serve()
    headers = [f"Origin: {origin}"]
    if keys:
        headers.append(f"X-API-Key: {await with_key(served)}")
    status, answered, _ = await ask(served, *headers)
    assert status == 403
    assert "access-control-allow-origin" not in answered


async def test_the_own_origin_is_welcome(serve: Serve) -> None:
    served = await serve()
    status, headers, _ = await ask(served, f"Origin: http://127.0.0.1:{served.port}")
    assert status == 200
    assert "access-control-allow-origin" not in headers


async def test_origins_are_answered_with_cors(serve: Serve) -> None:
    served = await serve(origins=("https://app.example",))
    status, headers, _ = await ask(served, "Origin: https://APP.example")
    assert status == 200
    assert headers["access-control-allow-origin"] == "https://APP.example"
    assert headers["vary"] == "origin"
    status, headers, body = await ask(
        served,
        "Origin: https://app.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: polywire-key",
        method="OPTIONS",
    )
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-headers"] == "polywire-key"
    assert "POST" in headers["access-control-allow-methods"]
    assert (await ask(served, "Origin: https://other.example"))[0] == 403


@pytest.mark.parametrize("credentials", ["X-API-Key: nobody's", "Authorization: Digest x"])
async def test_a_page_may_read_why_it_was_refused(serve: Serve, credentials: str) -> None:
    served = await serve(origins=("https://app.example",))
    status, headers, _ = await ask(served, "Origin: https://app.example", credentials)
    assert status in (400, 401)
    assert headers["access-control-allow-origin"] == "https://app.example"
    _, headers, _ = await ask(served, "Origin: https://other.example", credentials)
    assert "access-control-allow-origin" not in headers


async def test_an_application_that_says_itself_who_may_read_is_left_alone(serve: Serve) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"Access-Control-Allow-Origin", b"https://app.example"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    served = await serve(origins=("https://app.example",))
    served.listener.router.mount("/own", app)
    reader, _ = await served.raw(b"GET /own HTTP/1.0\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 10)).lower().count(b"access-control-allow-origin") == 1


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("https://app.example", 101), (None, 101)]
)
async def test_websockets_obey_the_same_origins(serve: Serve, origin: Any, status: int) -> None:
    served = await serve(origins=("https://app.example",))
    headers = [f"Origin: {origin}"] if origin else []
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", key, "Connection: Upgrade"]
    reader, _ = await served.raw(
        "\r\n".join(["GET /room HTTP/1.1\r\nHost: localhost", *upgrade, *headers, "", ""]).encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert (b"application/problem+json" in head) == (status == 403)


async def test_a_foreign_host_gets_no_websocket(serve: Serve) -> None:
    served = await serve()
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://evil.example:{served.port}/room", host="127.0.0.1", proxy=None).__aenter__()
    assert refused.value.response.status_code == 403


async def test_every_way_to_send_a_key(serve: Serve) -> None:
    served = await serve()
    key = await with_key(served)
    basic = base64.b64encode(f"anyone:{key}".encode()).decode()
    for header in (
        f"Authorization: Bearer {key}",
        f"authorization: bearer {key}",
        f"Authorization: Basic {basic}",
        f"X-API-Key: {key}",
    ):
        assert (await ask(served, header))[2] == b"GET /echo alice 0", header
    in_query = f"/echo?x=1&api_key={key}"
    assert (await ask(served, "Accept: text/event-stream", path=in_query))[2] == b"GET /echo alice 0"
    assert (await ask(served, path=in_query))[2] == b"GET /echo anonymous 0", "only where no header can be set"
    assert (await ask(served))[2] == b"GET /echo anonymous 0"
    async with connect(f"{served.ws}/room?api_key={key}"), connect(f"{served.ws}/room"):
        await served.until(lambda: len(served.room.members) == 2)
        assert {member.request.principal.name for member in served.room.members} == {"alice", "anonymous"}


@pytest.mark.parametrize(
    "header", ["Authorization: Bearer wrong", "X-API-Key: pw_1_2", "X-API-Key:", "Authorization: Basic eDp5"]
)
async def test_unknown_keys_are_refused(serve: Serve, header: str) -> None:
    served = await serve()
    status, headers, _ = await ask(served, header)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="polywire"')
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{served.ws}/room?api_key=wrong").__aenter__()
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"Basic !!!", b"Basic eA==", b"Basic /w==", b"Digest x", b"\xff"]
)
def test_credentials_nobody_understands(value: bytes) -> None:
    with pytest.raises(Invalid):
        credentials(value)


async def test_too_many_query_fields(serve: Serve) -> None:
    served = await serve()
    assert (await ask(served, "Accept: text/event-stream", path="/echo?api_key=x" + "&a=b" * 200))[0] == 400
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{served.ws}/room?api_key=x" + "&a=b" * 200).__aenter__()
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"A.b:1", "a.b"),
        (b"[::1]:1", "::1"),
        (b"a.", "a"),
        (b"", ""),
        (b"[", ""),
        (b"\xff", ""),
        (b"x:y", ""),
        (b"u@x", ""),
    ],
)
def test_host_name(host: bytes, name: str) -> None:
    assert host_name(host) == name


def test_connections_of_a_principal_are_counted() -> None:
    access = Access(SystemClock())
    connections = Connections(access, 2)
    alice = Principal("alice", "key")
    closers = [connections.open(alice) for _ in range(3)]  # an open hub has one principal for all
    access.anonymous.narrow(())
    with pytest.raises(LimitExceeded):
        connections.open(alice)
    connections.open(Principal("bob", "key"))
    closers.pop()()
    with pytest.raises(LimitExceeded):
        connections.open(alice)
    closers.pop()()
    connections.open(alice)
    assert connections.count(alice) == 2
