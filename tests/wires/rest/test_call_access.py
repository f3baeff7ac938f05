"""Who may call: asked before anything of a request is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from polywire import Hub
from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ServedHub]:
    with serving_hub(calling.hub, tmp_path / "data") as served:
        yield served


def problem(answer: requests.Response, status: int, code: str) -> None:
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), told


def test_who_may_not_call_is_told_before_anything_is_read(hub: ServedHub) -> None:
    access = hub.core.access
    _, secret = hub.run(access.create_key(access.system, "alice", ["call:add"]))
    key = {"X-API-Key": secret}
    assert hub.post("/operations/add", json={"a": 1, "b": 2}, headers=key).json() == 3
    problem(hub.post("/operations/echo", data=b"{", headers=key), 403, "denied")
    problem(hub.post("/operations/echo", data=b"{", headers={**key, "Accept": "image/png"}), 403, "denied")
    problem(hub.post("/operations/echo", data=iter([b"{"]), headers=key), 403, "denied")
    problem(hub.post("/operations/add", data=b"{"), 401, "unauthenticated")
    problem(hub.get("/users/1", headers=key), 403, "denied")
    assert [one["name"] for one in hub.get("/operations", headers=key).json()["operations"]] == ["add"]


def test_a_key_that_is_revoked_between_two_calls(hub: ServedHub) -> None:
    access = hub.core.access
    _, secret = hub.run(access.create_key(access.system, "alice", ["call:add"]))
    key = {"X-API-Key": secret}
    assert hub.post("/operations/add", json={"a": 1, "b": 2}, headers=key).json() == 3
    hub.run(access.revoke_key(access.system, "alice"))
    problem(hub.post("/operations/add", json={"a": 1, "b": 2}, headers=key), 401, "unauthenticated")


def test_a_key_that_is_revoked_while_its_stream_is_read(hub: ServedHub) -> None:
    access = hub.core.access
    _, secret = hub.run(access.create_key(access.system, "alice", ["call:slow_stream"]))
    with hub.post("/operations/slow_stream", headers={"X-API-Key": secret}, stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert json.loads(next(lines))["name"] == "ada"
        hub.run(access.revoke_key(access.system, "alice"))
        assert json.loads(next(lines))["error"]["code"] in ("denied", "unauthenticated")
        assert list(lines) == []


def test_what_everybody_may_call(tmp_path: Path) -> None:
    calling.hub.configure(anonymous_allow=("call:user",))
    try:
        with serving_hub(calling.hub, tmp_path / "data") as served:
            access = served.core.access
            served.run(access.create_key(access.system, "admin", ["*:#"]))
            assert served.get("/users/1").status_code == 200
            problem(served.request("DELETE", "/users/1"), 401, "unauthenticated")
    finally:
        calling.hub.configure(anonymous_allow=())


MULTIPART = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n'


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/x-www-form-urlencoded", b"a=1"), (MULTIPART, PART), ("text/plain", b'{"a":1}'), (None, b'{"a":1}')],
    ids=["form", "multipart", "text", "nothing"],
)
def test_pages_of_others_call_nothing(tmp_path: Path, origin: str, content_type: str | None, body: bytes) -> None:
    """A form needs no preflight: that a browser names the page's origin is all that keeps it out of an open hub."""
    called: list[int] = []
    own = Hub("open")

    @own.operation(safe=True)
    def note(a: int = 0) -> None:
        called.append(a)

    @own.post("/notes/{a}")
    def note_on_its_path(a: int) -> None:
        called.append(a)

    with serving_hub(own, tmp_path) as served:
        headers = {"Origin": origin} | ({"Content-Type": content_type} if content_type else {})
        for path in ("/operations/note", "/notes/1", "/notes/1/", "/topics/t", "/api-keys"):
            problem(served.post(path, data=body, headers=headers), 403, "denied")
        for path in ("/operations/note?a=1", "/topics", "/openapi.json"):
            problem(served.get(path, headers={"Origin": origin}), 403, "denied")
        problem(served.post("/operations/note", data=body, headers={"Host": "evil.example"}), 403, "denied")
        assert called == []
        assert served.post("/operations/note", json={"a": 1}, headers={"Origin": served.url}).status_code == 204
        assert called == [1]
