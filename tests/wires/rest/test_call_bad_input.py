"""What nobody should send to an operation, in every form: told in one problem, and the hub goes on."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from polywire.core.limits import Limits
from polywire.serving import ServeSettings
from polywire.wires.rest import RestSettings
from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub

MIB = 1 << 20
JSON, XML, FORM = "application/json", "application/xml", "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
BOMB = b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 1_000 + b'"><!ENTITY c "' + b"&b;" * 1_000 + b'">]><a><a>&c;</a></a>'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    calling.hub.limits = Limits(message_size=256 << 10)
    settings = ServeSettings(rest=RestSettings(upload_size=1 << 20))
    with serving_hub(calling.hub, tmp_path_factory.mktemp("data"), settings) as served:
        yield served
    calling.hub.limits = Limits()


@pytest.fixture
def hub(running: ServedHub) -> ServedHub:
    calling.events.clear()
    return running


def refused(answer: requests.Response, status: int) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text[:500]
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["status"]) == (status, status), told
    assert told["title"]
    assert told["detail"]
    assert len(answer.content) < 64 << 10
    return told


def assert_alive(hub: ServedHub) -> None:
    assert hub.post("/operations/add", json={"a": 1, "b": 2}).json() == 3
    assert hub.call(lambda: hub.core.calls.running) == 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        # malformed and truncated
        (JSON, b"{", 400),
        (JSON, b'{"a": 1, "b": 2', 400),
        (JSON, b'{"a": 1, "b": 2}}', 400),
        (JSON, b"{'a': 1}", 400),
        (JSON, b"\xff\xfe", 400),
        (JSON, b'{"a": "\xff", "b": 2}', 400),
        (JSON, b"\x00", 400),
        (XML, b"<x><a>1</a>", 400),
        (XML, b"<x><a>1</b></x>", 400),
        (XML, b"not xml", 400),
        (XML, b'<?xml version="1.0" encoding="nonsense"?><x/>', 415),
        (XML, b"<x>\xff</x>", 400),
        (FORM, b"a=%FF&b=2", 400),
        (FORM, b"a=\xff&b=2", 400),
        (FORM, b"=&&==&a", 400),
        (FORM, b"a=1&a=2&b=3", 400),
        (FORM, b"a.b.c.d=1&a=2", 400),
        (MULTIPART, b"", 400),
        (MULTIPART, b"--x", 400),
        (MULTIPART, part(b"a", b"1"), 400),
        (MULTIPART, b"--y\r\n\r\n--y--", 400),
        (MULTIPART, b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", 400),
        ("multipart/form-data", part(b"a", b"1") + b"--x--", 400),
        ("multipart/form-data; boundary=" + "b" * 200, b"", 400),
        # the wrong shape
        (JSON, b"1", 400),
        (JSON, b"[]", 400),
        (JSON, b"null", 400),
        (XML, b"<x>text</x>", 400),
        # deep
        (JSON, b"[" * 100_000, 400),
        (JSON, b'{"a":' * 50_000, 400),
        (XML, b"<a>" * 10_000 + b"</a>" * 10_000, 400),
        (FORM, b".".join([b"a"] * 1_000) + b"=1", 400),
        (FORM, b"a" + b"[b]" * 1_000 + b"=1", 400),
        # twice
        (JSON, b'{"a": 1, "a": 2, "b": 3}', 400),
        (MULTIPART, part(b"a", b"1") + part(b"a", b"2") + part(b"b", b"3") + b"--x--\r\n", 400),
        # numbers
        (JSON, b'{"a": NaN, "b": 2}', 400),
        (JSON, b'{"a": Infinity, "b": 2}', 400),
        (JSON, b'{"a": 1e999, "b": 2}', 400),
        (JSON, b'{"a": ' + b"9" * 10_000 + b', "b": 2}', 400),
        (JSON, b'{"a": 1.5, "b": 2}', 400),
        (XML, b"<x><a>NaN</a><b>1</b></x>", 400),
        (FORM, b"a=" + b"9" * 10_000 + b"&b=1", 400),
        (FORM, b"a=1e999&b=1", 400),
        # XML's own
        (XML, BOMB, 400),
        (XML, b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', 400),
        (XML, b'<!DOCTYPE a [<!ENTITY b SYSTEM "http://127.0.0.1:1/">]><x><a>&b;</a></x>', 400),
        # many
        (FORM, b"&".join(b"f%d=1" % n for n in range(10_000)), 413),
        (MULTIPART, b"".join(part(b"p%d" % n, b"1") for n in range(1_000)) + b"--x--\r\n", 413),
        (XML, b"<x>" + b"<a/>" * 50_000 + b"</x>", 400),
        # too long
        (JSON, b" " * (256 << 10) + b"1", 413),
        (XML, b" " * (256 << 10) + b"<a/>", 413),
        (FORM, b"a=" + b"1" * (256 << 10), 413),
        (MULTIPART, part(b"a", b"1" * MIB), 413),
        # not taken
        ("text/plain", b"1", 415),
        ("application/octet-stream", b"1", 415),
        ("application/x-ndjson", b"1", 415),
        ("multipart/mixed; boundary=x", b"1", 415),
        ("text", b"1", 415),
        ("\xe9/\xe9", b"1", 415),
        ("a" * 8_000, b"1", 415),
    ],
)
def test_a_bad_body(hub: ServedHub, kind: str, body: bytes, status: int) -> None:
    told = refused(hub.post("/operations/add", data=body, headers={"Content-Type": kind.encode("latin-1")}), status)
    assert calling.events == []
    if status == 400 and body[:1] == b"{" and b"NaN" not in body:
        assert told["errors"]
    assert_alive(hub)


@pytest.mark.parametrize("kind", [JSON, XML, FORM, MULTIPART])
@pytest.mark.parametrize("limit", [256 << 10, MIB])
def test_a_bomb_in_gzip(hub: ServedHub, kind: str, limit: int) -> None:
    before = resident()
    bomb = gzip.compress(b"\x20" * (64 * MIB))
    path = "/operations/add" if limit < MIB else "/operations/look"
    for _ in range(3):
        refused(hub.post(path, data=bomb, headers={"Content-Type": kind, "Content-Encoding": "gzip"}), 413)
    assert resident() - before < 32 * MIB
    assert_alive(hub)


def test_a_body_that_never_ends_is_not_kept(hub: ServedHub) -> None:
    before = resident()
    for kind in (JSON, XML, "application/octet-stream"):
        refused(hub.post("/operations/swap", data=iter([b"x" * MIB] * 12), headers={"Content-Type": kind}), 413)
    assert resident() - before < 32 * MIB
    assert_alive(hub)


def test_many_large_requests_leave_nothing_behind(hub: ServedHub) -> None:
    def one_round() -> None:
        hub.post("/operations/look", files={"file": ("x", b"x" * (900 << 10))}).raise_for_status()
        hub.post("/operations/swap", data=b"x" * (900 << 10)).raise_for_status()
        refused(hub.post("/operations/add", data=b"[" * (200 << 10), headers={"Content-Type": JSON}), 400)
        refused(hub.post("/operations/add", data=b"<a>" * 60_000, headers={"Content-Type": XML}), 400)
        many = b"".join(part(b"p%d" % n, b"1" * 1_000) for n in range(900))
        refused(hub.post("/operations/look", data=many, headers={"Content-Type": MULTIPART}), 413)

    for _ in range(3):
        one_round()
    before = resident()
    for _ in range(15):
        one_round()
    assert resident() - before < 24 * MIB
    assert_alive(hub)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/etc/passwd", "C:\\x\\passwd", "a\x00b", "x" * 3_000])
def test_a_file_name_that_is_a_path(hub: ServedHub, name: str) -> None:
    answer = hub.post("/operations/look", data=part(b"file", b"1", b'; filename="%b"' % name.encode()) + b"--x--\r\n",
                      headers={"Content-Type": MULTIPART})  # fmt: skip
    if answer.status_code == 200:
        assert answer.json()["name"] in (None, "passwd", "x" * 3_000)
    else:
        refused(answer, 400)
    assert_alive(hub)


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=0",
        "limit=1&limit=2",
        "limit=%FF",
        "limit=" + "9" * 5_000,
        "limit=NaN",
        "zzz=1",
        "limit[]=1",
        "limit.a=1",
        "&".join(f"a{n}=1" for n in range(999)),
        "&" * 5_000 + "a=1",
        "%00=%00",
    ],
)
def test_a_bad_query(hub: ServedHub, query: str) -> None:
    told = refused(hub.get(f"/users?{query}"), 400)
    assert all(wrong["path"].startswith("query") for wrong in told.get("errors", []))
    assert_alive(hub)


@pytest.mark.parametrize("segment", ["x", "1.5", "9" * 5_000, "%00", "%FF", "NaN", "-", "1%2F2", "..", "%2e%2e"])
def test_a_bad_path(hub: ServedHub, segment: str) -> None:
    request = f"DELETE /users/{segment} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hub.port)) as connection:  # requests would tidy the path up
        connection.sendall(request.encode())
        head = b"".join(iter(lambda: connection.recv(65_536), b"")).decode().partition("\r\n")[0]
    assert head.split()[1] in ("400", "404")
    assert calling.events == []
    assert_alive(hub)


def test_with_curl(hub: ServedHub, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (2 * MIB))
    for arguments, status in (
        (["-d", "{"], b"400"),
        (["-d", "<a>", "-H", "Content-Type: text/xml"], b"400"),
        (["-F", "a=1", "-H", "Content-Type: multipart/form-data"], b"400"),
        (["-X", "POST", "-H", "Transfer-Encoding: chunked", "-d", "{"], b"400"),
        (["-X", "PATCH", "-d", "{}"], b"405"),
        (["--data-binary", f"@{large}", "-H", "Content-Type: application/json"], b"413"),
    ):
        command = ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", *arguments]
        done = subprocess.run([*command, f"{hub.url}/operations/add"], capture_output=True, timeout=30, check=False)
        assert done.stdout == status, (arguments, done.stderr)
    assert_alive(hub)


def test_a_client_that_stops_in_the_middle_of_its_upload(hub: ServedHub) -> None:
    for kind in (b"application/json", b"application/octet-stream", b"multipart/form-data; boundary=x"):
        with socket.create_connection(("127.0.0.1", hub.port)) as connection:
            connection.sendall(
                b"POST /operations/swap HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n"
                b"Content-Length: 200000\r\n\r\n%b" % (kind, b"x" * 100_000)
            )
            hub.until(lambda: any(task for task in hub.served.server.http.state.tasks))  # type: ignore[union-attr]
        hub.until(lambda: not hub.served.server.http.state.tasks)  # type: ignore[union-attr]
    assert_alive(hub)
