"""Publishing in every form: XML, forms, files, CloudEvents; and reading CloudEvents."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from polywire import Hub
from tests.wires.served_hub import ServedHub, serving_hub

XML = {"Content-Type": "application/xml"}
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


@dataclass
class Reading:
    sensor: str
    celsius: float
    tags: list[str]


@dataclass
class Photo:
    title: str
    image: bytes


hub = Hub("forms")
hub.topic("readings", Reading, key="sensor")
hub.topic("photos", Photo)
hub.topic("any")
hub.topic("raw", bytes)
hub.topic("events", dedup=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedHub]:
    with serving_hub(hub, tmp_path / "data") as served:
        yield served


def publish(served: ServedHub, topic: str, *, status: int = 201, **given: Any) -> dict[str, Any]:
    answer = served.post(f"/topics/{topic}", **given)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def stored(served: ServedHub, topic: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = served.get(f"/topics/{topic}").json()["messages"]
    return found


def paths(told: dict[str, Any]) -> set[str]:
    return {wrong["path"] for wrong in told["errors"]}


# --- typed topics ----------------------------------------------------------------------------------------------------

KITCHEN = {"sensor": "kitchen", "celsius": 21.5, "tags": ["a", "b"]}
KITCHEN_XML = "<r><sensor>kitchen</sensor><celsius>21.5</celsius><tags>a</tags><tags>b</tags></r>"
KITCHEN_FORM = [("sensor", "kitchen"), ("celsius", "21.5"), ("tags", "a"), ("tags", "b")]


@pytest.mark.parametrize(
    "given",
    [
        {"json": KITCHEN},
        {"data": KITCHEN_XML, "headers": XML},
        {"data": KITCHEN_XML, "headers": {"Content-Type": "text/xml; charset=utf-8"}},
        {"data": KITCHEN_FORM},
        {"files": [(name, (None, value)) for name, value in KITCHEN_FORM]},
        {"data": json.dumps(KITCHEN), "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ],
)
def test_a_typed_topic_holds_json_whatever_came(served: ServedHub, given: dict[str, Any]) -> None:
    publish(served, "readings", **given)
    (message,) = stored(served, "readings")
    assert (message["data"], message["key"], message["content_type"]) == (KITCHEN, "kitchen", "application/json")


def test_a_key_fills_the_field_that_is_missing(served: ServedHub) -> None:
    body = "<r><celsius>1</celsius><tags/></r>"
    publish(served, "readings?key=hall", data=body, headers=XML)
    publish(served, "readings", data={"celsius": "1", "tags": "a"}, headers={"Polywire-Key": "hall"})
    assert [message["data"]["sensor"] for message in stored(served, "readings")] == ["hall", "hall"]


@pytest.mark.parametrize(
    "given",
    [
        {"data": "<r><celsius>warm</celsius><tags>a</tags></r>", "headers": XML},
        {"data": {"celsius": "warm", "tags": "a"}},
        {"files": {"celsius": (None, "warm"), "tags": (None, "a")}},
    ],
)
def test_all_wrong_fields_are_named(served: ServedHub, given: dict[str, Any]) -> None:
    assert paths(publish(served, "readings", status=400, **given)) == {"$.sensor", "$.celsius"}
    assert stored(served, "readings") == []


def test_a_file_is_a_field(served: ServedHub) -> None:
    publish(served, "photos", data={"title": "me"}, files={"image": ("me.png", b"\x89PNG", "image/png")})
    assert stored(served, "photos")[0]["data"] == {"title": "me", "image": base64.b64encode(b"\x89PNG").decode()}


# --- topics without a type -------------------------------------------------------------------------------------------


def test_a_body_stays_as_it_is(served: ServedHub) -> None:
    for topic in ("any", "raw"):
        publish(served, topic, data="<a>1", headers=XML)  # not even well-formed: nobody reads it here
        publish(served, topic, data={"a": "1"})
        first, second = stored(served, topic)
        assert (first["content_type"], base64.b64decode(first["data_base64"])) == ("application/xml", b"<a>1")
        assert second["content_type"] == "application/x-www-form-urlencoded"
        assert base64.b64decode(second["data_base64"]) == b"a=1"


def test_json_that_curl_calls_a_form_is_json(served: ServedHub) -> None:
    command = ["curl", "-sS", "-d", '{"a": 1}', served.url + "/topics/any"]
    assert b'"position"' in subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
    (message,) = stored(served, "any")
    assert (message["content_type"], message["data"]) == ("application/json", {"a": 1})


def test_each_file_of_a_form_is_a_message(served: ServedHub, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.bin").write_bytes(b"\x00\xff")
    command = [
        "curl",
        "-sS",
        "-F",
        f"one=@{tmp_path / 'a.txt'}",
        "-F",
        "album=cats",
        "-F",
        f"two=@{tmp_path / 'b.bin'}",
    ]
    done = subprocess.run([*command, served.url + "/topics/any?key=k"], capture_output=True, timeout=20, check=True)
    assert json.loads(done.stdout)["count"] == 2
    first, second = stored(served, "any")
    assert (first["content_type"], first["data"], first["key"]) == ("text/plain", "hello", "k")
    assert first["headers"] == {"filename": "a.txt", "album": "cats"}
    assert base64.b64decode(second["data_base64"]) == b"\x00\xff"
    assert second["headers"] == {"filename": "b.bin", "album": "cats"}


def test_files_are_stored_all_or_none(served: ServedHub) -> None:
    limit = served.core.limits.message_size
    files = [("a", ("a", b"x")), ("b", ("b", b"x" * (limit + 1)))]
    assert publish(served, "any", status=413, files=files)["code"] == "too_large"
    publish(served, "any", status=400, files={"a": (None, "no file")})
    publish(served, "any", status=400, files=files[:1] * 2, headers={"Polywire-Id": "one"})
    assert stored(served, "any") == []
    files = [("a", ("../../etc/passwd", b"x")), ("a", ("C:\\b.txt", b"y"))]
    told = publish(served, "any", files=files, headers={"Idempotency-Key": "k"})
    assert [one["id"] for one in told["receipts"]] == ["k#0", "k#1"]
    assert [one["headers"]["filename"] for one in stored(served, "any")] == ["passwd", "b.txt"]


# --- CloudEvents -----------------------------------------------------------------------------------------------------

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/sensors/kitchen",
    "type": "com.example.reading",
    "time": "2026-11-20T10:00:00Z",
    "datacontenttype": "application/json",
    "partitionkey": "kitchen",
    "data": KITCHEN,
}


def binary(**changes: str) -> dict[str, str]:
    said = {f"ce-{name}": value for name, value in EVENT.items() if name not in ("data", "datacontenttype")}
    return {"Content-Type": "application/json", **said, **changes}


def event(**changes: Any) -> str:
    return json.dumps({name: value for name, value in {**EVENT, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    "given",
    [
        {"data": json.dumps(KITCHEN), "headers": binary()},
        {"data": event(), "headers": {"Content-Type": STRUCTURED}},
        {"data": f"[{event()}]", "headers": {"Content-Type": BATCH}},
        {"data": KITCHEN_XML, "headers": binary(**{"Content-Type": "text/xml"})},
    ],
)
@pytest.mark.parametrize("topic", ["readings", "any"])
def test_an_event_is_a_message(served: ServedHub, topic: str, given: dict[str, Any]) -> None:
    told = publish(served, topic, **given)
    assert (told.get("receipts", [told]))[0]["id"] == "e1"
    (message,) = stored(served, topic)
    assert (message["id"], message["key"]) == ("e1", "kitchen")
    assert message["producer_time"] == "2026-11-20T10:00:00.000Z"
    assert message["headers"] == {"ce-source": "/sensors/kitchen", "ce-type": "com.example.reading"}
    if topic == "readings" or "xml" not in str(given["headers"]):
        assert (message["data"], message["content_type"]) == (KITCHEN, "application/json")


def test_what_other_headers_say_of_an_event(served: ServedHub) -> None:
    headers = binary(**{"Polywire-Priority": "3", "Polywire-Header-Trace": "t", "Polywire-Retain": "true"})
    publish(served, "any", data=b"{}", headers=headers)
    (message,) = stored(served, "any")
    assert (message["priority"], message["headers"]["trace"], message["retained"]) == (3, "t", True)
    assert publish(served, "any", status=202, data=b"{}", headers=binary(**{"Polywire-Delay": "1h"}))["id"]
    for header in ("Polywire-Id", "Idempotency-Key"):
        assert paths(publish(served, "any", status=400, data=b"{}", headers=binary(**{header: "x"})))
    publish(served, "any?key=other", status=400, data=b"{}", headers=binary())


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (
            {"data": b"{}", "headers": binary(**{"ce-source": "", "ce-time": "noon"})},
            {"header.ce-source", "header.ce-time"},
        ),
        ({"data": event(source=None, type=""), "headers": {"Content-Type": STRUCTURED}}, {"$.source", "$.type"}),
        ({"data": f"[{event()},{event(id=1)}]", "headers": {"Content-Type": BATCH}}, {"$[1].id"}),
    ],
)
def test_what_is_wrong_with_an_event(served: ServedHub, given: dict[str, Any], wrong: set[str]) -> None:
    assert paths(publish(served, "any", status=400, **given)) == wrong
    assert stored(served, "any") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_event(served: ServedHub, body: bytes) -> None:
    publish(served, "any", status=400, data=body, headers={"Content-Type": STRUCTURED})
    publish(served, "any", status=400, data=body, headers={"Content-Type": BATCH})
    publish(served, "any", status=415, data=body, headers={"Content-Type": "application/cloudevents+avro"})


def test_one_event_wrong_in_a_batch_refuses_all(served: ServedHub) -> None:
    body = f"[{event()},{event(id='e2', data={'sensor': 'x'})}]"
    told = publish(served, "readings", status=400, data=body, headers={"Content-Type": BATCH})
    assert {path for path in paths(told) if path.startswith("$[1]")} == paths(told)
    assert stored(served, "readings") == []


def test_an_event_is_stored_once_where_that_was_declared(served: ServedHub) -> None:
    first = publish(served, "events", data=event(), headers={"Content-Type": STRUCTURED})
    again = publish(served, "events", data=json.dumps(KITCHEN), headers=binary())
    assert again["duplicate"]
    assert again["position"] == first["position"]
    publish(served, "events", data=event(source="/other"), headers={"Content-Type": STRUCTURED})
    assert len(stored(served, "events")) == 2
    conflict = publish(served, "events", status=409, data=event(data=1), headers={"Content-Type": STRUCTURED})
    assert conflict["code"] == "conflict"
    for _ in range(2):
        publish(served, "any", data=event(), headers={"Content-Type": STRUCTURED})
    assert len(stored(served, "any")) == 2


def test_reading_events(served: ServedHub) -> None:
    position = publish(served, "any", data=event(), headers={"Content-Type": STRUCTURED})["position"]
    publish(served, "any?key=k", data=b"\x00", headers={"Content-Type": "image/png"})
    one = served.get(f"/topics/any/messages/{position}", headers={"Accept": STRUCTURED})
    assert (one.headers["Content-Type"], one.json()) == (STRUCTURED, EVENT)
    raw = served.get(f"/topics/any/messages/{position}?raw=1")
    assert {name.lower(): value for name, value in raw.headers.items() if name.lower().startswith("ce-")} == {
        name: value for name, value in binary().items() if name.startswith("ce-")
    }
    assert (raw.headers["Content-Type"], raw.json()) == ("application/json", KITCHEN)
    page = served.get("/topics/any?limit=2", headers={"Accept": f"{BATCH}, */*;q=0.1"})
    assert page.headers["Content-Type"] == BATCH
    first, second = page.json()
    assert first == EVENT
    assert (second["source"], second["subject"], second["data_base64"]) == ("/topics/any", "k", "AA==")
    rest = served.get(f"/topics/any?from={page.headers['Polywire-Next']}", headers={"Accept": BATCH})
    assert rest.json() == []
    # and what was read can be published
    published = served.post("/topics/raw", data=page.content, headers={"Content-Type": BATCH})
    assert (published.status_code, published.json()["count"]) == (201, 2)


def test_who_may_not_publish(served: ServedHub) -> None:
    access = served.core.access
    _, secret = served.run(access.create_key(access.system, "alice", ["publish:raw"]))
    answer: requests.Response
    for given in (
        {"data": KITCHEN_XML, "headers": XML},
        {"files": {"a": ("a", b"x")}},
        {"data": b"{}", "headers": binary()},
    ):
        headers = {**given.pop("headers", {}), "X-API-Key": secret}  # type: ignore[dict-item]
        answer = served.post("/topics/any", headers=headers, **given)
        assert answer.status_code == 403, answer.text
