"""Files of a folder on the hub's listener: what is served, and what never is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from polywire.mounts import Mount
from polywire.server.mounted import Applications
from tests.server.conftest import Serve, Served

PAGE = "<!doctype html><title>über</title>"


@pytest.fixture
async def served(serve: Serve, tmp_path: Path) -> Served:
    folder = tmp_path / "static"
    (folder / "deep").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "deep" / "index.html").write_text("deep")
    (folder / "app.js").write_text("0123456789")
    (folder / "über.txt").write_text("ü")
    (folder / ".env").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "security.txt").write_text("mail us")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    served = await serve()
    Applications([Mount("/", folder), Mount("/files", folder)], patience=1).mount(served.listener.router)
    return served


async def ask(served: Served, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """As the path stands: clients tidy ``..`` away."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close", "", ""]
    reader, _ = await served.raw("\r\n".join(lines).encode("latin-1"))
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, _, v in (f.partition(": ") for f in fields)}, body


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/", PAGE.encode(), "text/html; charset=utf-8"),
        ("/index.html", PAGE.encode(), "text/html; charset=utf-8"),
        ("/app.js?v=3", b"0123456789", "text/javascript; charset=utf-8"),
        ("/deep/", b"deep", "text/html; charset=utf-8"),
        ("/%C3%BCber.txt", "ü".encode(), "text/plain; charset=utf-8"),
        ("/files/", PAGE.encode(), "text/html; charset=utf-8"),
        ("/files/app.js", b"0123456789", "text/javascript; charset=utf-8"),
        ("/.well-known/security.txt", b"mail us", "text/plain; charset=utf-8"),
        ("/deep/../app.js", b"0123456789", "text/javascript; charset=utf-8"),
    ],
)
async def test_what_is_there(served: Served, path: str, body: bytes, kind: str) -> None:
    status, headers, answered = await ask(served, path)
    assert (status, answered, headers["content-type"]) == (200, body, kind)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/deep/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "//secret.txt",
        "/files/../../secret.txt",
        "/files/%2e%2e/%2e%2e/secret.txt",
        "/link.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/files/.git/config",
        "/nothing",
        "/deep/nothing/more",
        "/app.js/more",
        "/%00",
        "/app.js%00.html",
        "/" + "x" * 300,
        "/" + "x/" * 3_000,
        "/%ff%fe",
    ],
)
async def test_what_is_not(served: Served, path: str) -> None:
    status, headers, body = await ask(served, path)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert b"secret" not in body


@pytest.mark.parametrize("at", ["", "/files"])
async def test_a_folder_without_its_slash_is_elsewhere(served: Served, at: str) -> None:
    status, headers, _ = await ask(served, f"{at}/deep")
    assert (status, headers["location"]) == (307, f"http://localhost{at}/deep/")


async def test_what_the_client_has_is_not_sent_again(served: Served) -> None:
    _, headers, _ = await ask(served, "/app.js")
    for condition in (f"If-None-Match: {headers['etag']}", f"If-Modified-Since: {headers['last-modified']}"):
        status, _, body = await ask(served, "/app.js", condition)
        assert (status, body) == (304, b"")
    assert (await ask(served, "/app.js", 'If-None-Match: "other"'))[0] == 200


async def test_parts(served: Served) -> None:
    status, headers, body = await ask(served, "/app.js", "Range: bytes=2-4")
    assert (status, headers["content-range"], body) == (206, "bytes 2-4/10", b"234")
    assert (await ask(served, "/app.js", "Range: bytes=-3"))[2] == b"789"
    assert (await ask(served, "/app.js", "Range: bytes=20-"))[0] == 416
    assert (await ask(served, "/app.js", "Range: bytes=nonsense"))[0] in (200, 400)


async def test_only_reading(served: Served) -> None:
    status, headers, body = await ask(served, "/app.js", method="HEAD")
    assert (status, headers["content-length"], body) == (200, "10", b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = await ask(served, "/app.js", method=method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_wires_keep_their_paths(served: Served) -> None:
    assert (await ask(served, "/echo/x"))[2] == b"GET /echo/x anonymous 0"
    assert (await ask(served, "/room/x"))[0] == 426


async def test_a_page_of_ones_own_where_nothing_is(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("nothing here")
    served = await serve()
    Applications([Mount("/files", tmp_path)], patience=1).mount(served.listener.router)
    status, _, body = await ask(served, "/files/x")
    assert (status, body) == (404, b"nothing here")


async def test_websockets_go_on_beside_files(served: Served) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", key, "Connection: Upgrade"]
    statuses: dict[str, Any] = {}
    for path in ("/", "/chat", "/room/x", "/files/chat"):
        reader, _ = await served.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
        served.writers[-1].write("\r\n".join([*upgrade, "", ""]).encode())
        statuses[path] = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
    assert statuses == {"/": 101, "/chat": 101, "/room/x": 101, "/files/chat": 404}
