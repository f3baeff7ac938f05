"""What nobody should send: told in one problem+json, and the hub goes on."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from polywire.core.limits import Limits
from polywire.wires.rest import RestSettings
from tests.wires.http_hub import HttpHub, serving

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[HttpHub]:
    limits = Limits(message_size=64 << 10, batch_size=256 << 10, batch_messages=100)
    with serving(tmp_path / "data", limits=limits) as hub:
        yield hub


def assert_problem(answer: requests.Response, status: int, code: str) -> dict[str, object]:
    problem: dict[str, object] = answer.json()
    assert answer.status_code == status, problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["title"]
    assert problem["detail"]
    return problem


def assert_alive(hub: HttpHub) -> None:
    with requests.Session() as fresh:
        assert fresh.post(hub.url + "/topics/alive", json=1, timeout=10).status_code == 201


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "unfinished at line 1, column 2 (byte 1)"),
        (b'{"a": 1,\n "b": x}', "line 2, column 7 (byte 15)"),
        (b"{'a': 1}", "line 1, column 2 (byte 1)"),
        (b"1 2", "trailing characters"),
        (b'"\xff"', "not UTF-8 at line 1, column 2 (byte 1)"),
        (b"\xef\xbb\xbf1", "byte 0"),
        (b"NaN", "byte"),
        (b"[" * 50_000, "nested too deeply"),
        (b"01", "byte"),
    ],
)
def test_malformed_json_is_placed(hub: HttpHub, body: bytes, said: str) -> None:
    problem = assert_problem(hub.post("/topics/t", data=body, headers=JSON), 400, "invalid")
    assert said in str(problem["detail"])
    assert hub.get("/topics/t").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/topics/unknown", 404, "not_found"),
        ("GET", "/topics/unknown/info", 404, "not_found"),
        ("GET", "/topics/unknown/events", 404, "not_found"),
        ("GET", "/topics/unknown/latest/k", 404, "not_found"),
        ("DELETE", "/topics/unknown", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/topics/", 404, "not_found"),
        ("GET", "/topics//info", 404, "not_found"),
        ("GET", "/topics/t/info/more", 404, "not_found"),
        ("POST", "/topics/_dead", 400, "invalid"),
        ("POST", "/topics/%00", 400, "invalid"),
        ("POST", "/topics/%FF", 400, "invalid"),
        ("POST", "/topics/a%2Fb", 400, "invalid"),
        ("POST", "/topics/" + "x" * 300, 400, "invalid"),
        ("GET", "/topics/t?limit=ten", 400, "invalid"),
        ("GET", "/topics/t?limit=0", 400, "invalid"),
        ("GET", "/topics/t?limit=-1", 400, "invalid"),
        ("GET", "/topics/t?limit=1000000000", 400, "invalid"),
        ("GET", "/topics/t?limit=" + "9" * 5_000, 400, "invalid"),
        ("GET", "/topics/t?from=yesterday", 400, "invalid"),
        ("GET", "/topics/t?from=2026-99-99T00:00:00Z", 400, "invalid"),
        ("GET", "/topics/t?from=1-0-" + "9" * 100, 400, "invalid"),
        ("GET", "/topics/t?from=%FF", 400, "invalid"),
        ("GET", "/topics/t?wait=ever", 400, "invalid"),
        ("GET", "/topics/t?form=earliest", 400, "invalid"),
        ("GET", "/topics/t?limit=1&limit=2", 400, "invalid"),
        ("GET", "/topics/t?" + "&".join(f"a{n}=1" for n in range(1_000)), 400, "invalid"),
        ("GET", "/topics/t/messages/one", 400, "invalid"),
        ("GET", "/topics/t/messages/99-0-1", 404, "not_found"),
        ("GET", "/topics/t/messages/1-0-99", 404, "not_found"),
        ("GET", "/topics/t/latest?after=!!", 400, "invalid"),
        ("GET", "/topics/t/events?from=sometime", 400, "invalid"),
        ("GET", "/topics/t/events?lastEventID=1", 400, "invalid"),
        ("GET", "/health?x=1", 400, "invalid"),
        ("PATCH", "/topics/t", 405, "method_not_allowed"),
        ("TRACE", "/health", 405, "method_not_allowed"),
        ("POST", "/topics/t/info", 405, "method_not_allowed"),
    ],
)
def test_wrong_requests(hub: HttpHub, method: str, path: str, status: int, code: str) -> None:
    hub.put("/topics/t")
    assert_problem(hub.request(method, path), status, code)


def test_allowed_methods_are_told(hub: HttpHub) -> None:
    assert hub.request("PATCH", "/topics/t").headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, POST, PUT"
    options = hub.request("OPTIONS", "/subscriptions/x/pull")
    assert (options.status_code, options.headers["Allow"]) == (204, "OPTIONS, POST")
    assert hub.request("OPTIONS", "/nowhere").status_code == 404


def test_head_has_the_headers_of_get(hub: HttpHub) -> None:
    hub.post("/topics/t", json=1)
    got, headed = hub.get("/topics/t"), hub.request("HEAD", "/topics/t")
    assert headed.status_code == 200
    assert headed.headers["Content-Length"] == got.headers["Content-Length"]
    assert headed.content == b""
    events = hub.request("HEAD", "/topics/t/events")
    assert events.headers["Content-Type"] == "text/event-stream"
    assert hub.request("HEAD", "/topics/unknown/events").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Polywire-Delay": "later"},
        {"Polywire-Expires-In": "-1"},
        {"Polywire-Priority": "1000"},
        {"Polywire-Priority": "high"},
        {"Polywire-Retain": "maybe"},
        {"Polywire-Time": "noon"},
        {"Polywire-Time": "0001-01-01T00:00:00"},
        {"Polywire-Id": "x" * 300},
        {"Polywire-Dealy": "10m"},
        {"Polywire-Id": "a", "Idempotency-Key": "b"},
        {"Polywire-Key": "other"},
        {"Content-Type": "text/\xe9"},
        {"Content-Type": "x" * 1_000},
    ],
)
def test_wrong_headers_are_named(hub: HttpHub, headers: dict[str, str]) -> None:
    answer = hub.post("/topics/t", params={"key": "k"}, data="1", headers={**JSON, **headers})
    problem = assert_problem(answer, 400, "invalid")
    [name, *_] = headers
    assert f"header.{name.lower()}" in str(problem["errors"]) or name.lower() in str(problem["detail"]).lower()
    assert hub.get("/topics/t").status_code == 404


@pytest.mark.parametrize(
    "header", ["Content-Type: text/plain", "Idempotency-Key: a", "Polywire-Key: k", "X-API-Key: x"]
)
def test_a_header_that_may_stand_once_stands_once(hub: HttpHub, header: str) -> None:
    other = header + "2"
    status, _ = exchange(
        hub, f"POST /topics/t HTTP/1.1\r\nHost: localhost\r\n{header}\r\n{other}\r\nContent-Length: 1\r\n\r\n1"
    )
    assert status in {400, 401}
    assert hub.get("/topics/t").status_code == 404


def exchange(hub: HttpHub, request: str | bytes) -> tuple[int, bytes]:
    """Send raw bytes, read to the end of what comes; the status and all of it."""
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return int(answer[9:12] or b"0"), answer


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /topics/\xff HTTP/1.1",
        "GET /topics/%ZZ HTTP/1.1",
        "FLY /topics HTTP/1.1",
        "GET",
        "\x00\x01\x02",
        "GET / HTTP/9.9",
    ],
)
def test_bytes_that_are_hardly_http(hub: HttpHub, request_line: str) -> None:
    status, _ = exchange(hub, f"{request_line}\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status in {0, 400, 404, 405, 505}
    assert_alive(hub)


def test_a_body_over_the_limit_is_refused_by_its_announcement(hub: HttpHub) -> None:
    announced = f"POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10 * MIB}\r\n\r\n"
    status, answer = exchange(hub, announced)
    assert status == 413
    assert b'"limit":1048576' in answer


def test_a_client_that_sends_it_all_the_same_reads_the_refusal_and_goes_on(hub: HttpHub) -> None:
    for _ in range(3):
        assert_problem(hub.post("/topics/t", data=b"x" * 10 * MIB), 413, "too_large")
        assert hub.post("/topics/alive", json=1).status_code == 201


def test_a_body_exactly_at_the_limit_is_taken(small: HttpHub) -> None:
    headers = {"Content-Type": "text/plain"}
    assert small.post("/topics/t", data=b"x" * (64 << 10), headers=headers).status_code == 201
    assert_problem(small.post("/topics/t", data=b"x" * ((64 << 10) + 1), headers=headers), 413, "too_large")


def chunks(size: int, piece: int = 64 << 10) -> Iterator[bytes]:
    for _ in range(size // piece):
        yield b"x" * piece


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, JSON])
def test_a_body_ten_times_too_long_is_not_kept(hub: HttpHub, headers: dict[str, str]) -> None:
    hub.post("/topics/t", json=1)
    before = resident()
    for _ in range(5):
        assert_problem(hub.post("/topics/t", data=chunks(10 * MIB), headers=headers), 413, "too_large")
    assert resident() - before < 10 * MIB
    assert len(hub.messages("t")) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/x-ndjson"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bombs_do_not_go_off(small: HttpHub, content_type: str, encoding: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    bomb = pack(b"[" * (60 * MIB))
    assert len(bomb) <= 64 << 10
    before = resident()
    answer = small.post("/topics/t", data=bomb, headers={"Content-Type": content_type, "Content-Encoding": encoding})
    assert_problem(answer, 413, "too_large")
    assert resident() - before < 8 * MIB


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"1", 415),
        ("gzip, gzip", b"1", 415),
        ("gzip", b"not packed", 400),
        ("gzip", gzip.compress(b"1", mtime=0)[:-3], 400),
        ("gzip", gzip.compress(b"1", mtime=0) + b"tail", 400),
        ("deflate", b"\x00\xff\xff\xff", 400),
    ],
)
def test_wrong_packing(hub: HttpHub, encoding: str, body: bytes, status: int) -> None:
    answer = hub.post("/topics/t", data=body, headers={**JSON, "Content-Encoding": encoding})
    assert_problem(answer, status, "unsupported" if status == 415 else "invalid")


def test_batches_are_bounded(small: HttpHub) -> None:
    assert small.post("/topics/t", data=b"1\n" * 100, headers=NDJSON).status_code == 201
    assert_problem(small.post("/topics/t", data=b"1\n" * 101, headers=NDJSON), 413, "too_large")
    assert_problem(small.post("/topics/t", data=b"\n" * (200 << 10), headers=NDJSON), 413, "too_large")
    assert_problem(small.post("/topics/t", data=b"", headers=NDJSON), 400, "invalid")
    long = b'"' + b"x" * (65 << 10) + b'"'
    problem = assert_problem(small.post("/topics/t", data=b"1\n" + long, headers=NDJSON), 413, "too_large")
    assert "$[1]" in str(problem)
    assert len(small.messages("t")) == 100


def test_a_batch_cannot_have_one_id(hub: HttpHub) -> None:
    assert_problem(hub.post("/topics/t", data="1\n2", headers={**NDJSON, "Polywire-Id": "x"}), 400, "invalid")


def test_a_slow_body_is_ended(tmp_path: Path) -> None:
    with serving(tmp_path / "data", body_timeout=200) as hub:
        host, port = hub.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
            assert slow.recv(65_536).startswith(b"HTTP/1.1 408")
        assert_alive(hub)


def test_the_wire_ends_a_slow_body_also_where_its_host_does_not(tmp_path: Path) -> None:
    limits = Limits(message_size=1_000)
    with serving(tmp_path / "data", limits=limits, rest=RestSettings(body_timeout=100), body_timeout=60_000) as hub:
        host, port = hub.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
            answer = b""
            while not answer.endswith(b"}"):
                answer += slow.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"request_timeout" in answer


def test_a_client_that_leaves_in_the_middle_of_its_body_publishes_nothing(hub: HttpHub) -> None:
    hub.put("/topics/t")
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as leaving:
        leaving.sendall(b"POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n12345")
    assert_alive(hub)
    assert hub.messages("t") == []


def test_many_at_once_are_all_answered(hub: HttpHub) -> None:
    statuses: list[int] = []

    def publish() -> None:
        with requests.Session() as session:
            url = hub.url + "/topics/t"
            statuses.extend(session.post(url, json=number, timeout=30).status_code for number in range(20))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 160
    assert hub.get("/topics/t/info").json()["count"] == 160
