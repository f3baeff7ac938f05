"""Publish and read with `requests` and curl."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from tests.wires.http_hub import HttpHub

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def test_a_published_message_is_read_back(hub: HttpHub) -> None:
    answer = hub.post("/topics/readings", params={"key": "kitchen.temp"}, json={"celsius": 21.5})
    assert answer.status_code == 201
    receipt = answer.json()
    assert receipt.keys() == {"id", "position", "topic", "key", "time"}
    assert (receipt["topic"], receipt["key"]) == ("readings", "kitchen.temp")
    assert abs(datetime.fromisoformat(receipt["time"]).timestamp() - time.time()) < 60

    page = hub.get("/topics/readings").json()
    [message] = page["messages"]
    assert message == {
        "id": receipt["id"],
        "position": receipt["position"],
        "key": "kitchen.temp",
        "time": receipt["time"],
        "content_type": "application/json",
        "headers": {},
        "data": {"celsius": 21.5},
    }
    assert hub.get("/topics/readings", params={"from": page["next"]}).json()["messages"] == []


def test_json_is_neither_decoded_nor_respelled(hub: HttpHub) -> None:
    payload = (
        b'{"big": 123456789012345678901234567890, "one": 1.0, "exp": 1E+2,\n "twice": 1, "twice": 2, "a":"\\u00e9"}'
    )
    hub.post("/topics/t", data=payload, headers=JSON)
    answer = hub.get("/topics/t")
    assert payload in answer.content
    position = answer.json()["messages"][0]["position"]
    raw = hub.get(f"/topics/t/messages/{position}", params={"raw": "1"})
    assert raw.content == payload
    assert raw.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("content_type", "payload", "shown"),
    [
        ("text/plain", "grün".encode(), {"data": "grün"}),
        ("text/csv; charset=utf-8", b"a,b\r\n", {"data": "a,b\r\n"}),
        ("text/plain", b"\xff\xfe", {"data_base64": base64.b64encode(b"\xff\xfe").decode()}),
        ("application/vnd.api+json", b'{"a":[1]}', {"data": {"a": [1]}}),
        ("application/json; charset=utf-8", b"null", {"data": None}),
        ("image/png", b"\x89PNG", {"data_base64": base64.b64encode(b"\x89PNG").decode()}),
        (None, b"as it is", {"data_base64": base64.b64encode(b"as it is").decode()}),
        ("text/plain", b"", {"data": ""}),
    ],
)
def test_payloads_are_shown_by_content_type(
    hub: HttpHub, content_type: str | None, payload: bytes, shown: dict[str, object]
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert hub.post("/topics/t", data=payload, headers=headers).status_code == 201
    [message] = hub.messages("t")
    assert {name: message[name] for name in message if name.startswith("data")} == shown
    assert message["content_type"] == (content_type or "application/octet-stream")


def test_json_that_another_protocol_let_in_broken_does_not_break_the_page(hub: HttpHub) -> None:
    from polywire.core.message import Record

    records = [
        Record(b'{"a":', content_type="application/json"),
        Record(b"\xff", key=b"\xff", content_type="text/plain"),
    ]
    hub.run(hub.core.publish(hub.core.access.system, "t", records))
    first, second = hub.messages("t")
    assert base64.b64decode(first["data_base64"]) == b'{"a":'
    assert (second["key"], base64.b64decode(second["key_base64"])) == (None, b"\xff")


def test_what_headers_say_is_kept(hub: HttpHub) -> None:
    headers = {
        **JSON,
        "Polywire-Key": "k",
        "Polywire-Id": "my-id",
        "Polywire-Expires-In": "1h",
        "Polywire-Retain": "true",
        "Polywire-Priority": "7",
        "Polywire-Correlation-Id": "c-1",
        "Polywire-Reply-To": "answers",
        "Polywire-Time": "2026-01-31T12:00:00+01:00",
        "Polywire-Header-Trace": "ünïcode".encode().decode("latin-1"),
    }
    assert hub.post("/topics/t", data="1", headers=headers).json()["id"] == "my-id"
    [message] = hub.messages("t")
    assert message["headers"] == {"trace": "ünïcode"}
    assert (message["key"], message["priority"], message["retained"]) == ("k", 7, True)
    assert (message["correlation_id"], message["reply_to"]) == ("c-1", "answers")
    assert message["producer_time"] == "2026-01-31T11:00:00.000Z"
    lasts = datetime.fromisoformat(message["expires"]) - datetime.now(UTC)
    assert 3_500 < lasts.total_seconds() <= 3_600


def test_a_repeated_user_header_keeps_every_value(hub: HttpHub, require: Callable[[str], str]) -> None:
    command = [require("curl"), "-sS", "-d", "x", "-H", "Polywire-Header-Tag: a", "-H", "Polywire-Header-Tag: b"]
    subprocess.run([*command, hub.url + "/topics/t"], check=True, capture_output=True)
    assert hub.messages("t")[0]["headers"] == {"tag": ["a", "b"]}


def test_curl_publishes_and_reads(hub: HttpHub, require: Callable[[str], str]) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run([require("curl"), "-sS", *arguments], check=True, capture_output=True, text=True).stdout

    url = hub.url + "/topics/readings"
    assert json.loads(curl("--json", '{"celsius": 41}', url))["topic"] == "readings"
    curl("-d", "a=1&b=2", url)
    first, second = json.loads(curl(url))["messages"]
    assert first["data"] == {"celsius": 41}
    assert base64.b64decode(second["data_base64"]) == b"a=1&b=2"
    assert second["content_type"] == "application/x-www-form-urlencoded"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "-I", url) == "200"
    big = "x" * 2_000_000  # curl asks with Expect: 100-continue before it sends so much
    assert (
        curl("-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: text/plain", "-d", big[:100_000], url)
        == "201"
    )


def test_a_batch_is_stored_whole(hub: HttpHub) -> None:
    body = b'{"n":1}\n\n  {"n":2}\r\n[3]'
    answer = hub.post("/topics/t", data=body, headers={**NDJSON, "Polywire-Key": "k"})
    assert answer.status_code == 201
    assert answer.json()["count"] == 3
    assert [receipt["key"] for receipt in answer.json()["receipts"]] == ["k"] * 3
    assert [message["data"] for message in hub.messages("t")] == [{"n": 1}, {"n": 2}, [3]]


def test_a_batch_with_bad_lines_names_them_and_stores_nothing(hub: HttpHub) -> None:
    hub.put("/topics/t")
    body = b'{"n":1}\n{"n":\n"fine"\n{"n": x}'
    answer = hub.post("/topics/t", data=body, headers=NDJSON)
    assert answer.status_code == 400
    problem = answer.json()
    assert [error["path"] for error in problem["errors"]] == ["$[1]", "$[3]"]
    assert "line 1, column 7" in problem["errors"][1]["message"]
    assert hub.messages("t") == []


def test_a_long_batch_is_checked_beside_the_loop(hub: HttpHub) -> None:
    line = json.dumps({"text": "x" * 400}).encode()
    answer = hub.post("/topics/t", data=b"\n".join([line] * 1_000), headers=NDJSON)
    assert answer.json()["count"] == 1_000


def test_an_idempotency_key_stores_once(hub: HttpHub) -> None:
    headers = {**JSON, "Idempotency-Key": '"order-17"'}
    first = hub.post("/topics/t", data="1", headers=headers).json()
    again = hub.post("/topics/t", data="1", headers=headers)
    assert again.status_code == 201
    assert again.json()["position"] == first["position"]
    assert again.json()["duplicate"] is True
    assert hub.post("/topics/t", data="2", headers=headers).status_code == 409
    assert len(hub.messages("t")) == 1


def test_an_idempotent_batch_stores_once(hub: HttpHub) -> None:
    headers = {**NDJSON, "Idempotency-Key": "batch-1"}
    first, again = (hub.post("/topics/t", data="1\n2\n3", headers=headers).json() for _ in range(2))
    assert [r["position"] for r in first["receipts"]] == [r["position"] for r in again["receipts"]]
    assert [message["data"] for message in hub.messages("t")] == [1, 2, 3]


def test_a_reader_may_keep_its_cursor_here(hub: HttpHub) -> None:
    for number in range(3):
        hub.post("/topics/t", json=number)
    page = hub.get("/topics/t?limit=2").json()
    path = "/topics/t/cursors/report"
    assert hub.get(path).status_code == 404
    assert hub.put(path, json={"cursor": page["next"]}).json() == {"cursor": page["next"]}
    kept = hub.get(path).json()["cursor"]
    assert [message["data"] for message in hub.get(f"/topics/t?from={kept}").json()["messages"]] == [2]
    stale = hub.put(path, json={"cursor": "9-0-1"})
    assert (stale.status_code, stale.json()["reason"]) == (409, "epoch")
    assert hub.put(path, json={"cursor": "nonsense"}).status_code == 400
    assert hub.delete(path).status_code == 204
    assert hub.get(path).status_code == 404


def test_a_delayed_publish_is_listed_cancelled_and_stored_when_due(hub: HttpHub) -> None:
    answers = [hub.post("/topics/t", data=str(n), headers={**JSON, "Polywire-Delay": "10m"}) for n in (1, 2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    kept, dropped = (answer.json() for answer in answers)
    assert kept["position"] is None
    assert datetime.fromisoformat(kept["due"]) > datetime.now(UTC)
    assert {one["id"] for one in hub.get("/topics/t/delayed").json()["delayed"]} == {kept["id"], dropped["id"]}
    assert hub.delete(f"/topics/t/delayed/{dropped['id']}").status_code == 204
    assert hub.delete(f"/topics/t/delayed/{dropped['id']}").status_code == 404
    assert hub.messages("t") == []
    hub.call(hub.clock.advance, 600_000)
    assert [message["data"] for message in hub.messages("t", wait="10s")] == [1]


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
        ("identity", lambda data: data),
    ],
)
def test_packed_bodies_are_unpacked(hub: HttpHub, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body = json.dumps({"text": "x" * 100_000}).encode()
    answer = hub.post("/topics/t", data=pack(body), headers={**JSON, "Content-Encoding": encoding})
    assert answer.status_code == 201, answer.text
    assert hub.messages("t")[0]["data"] == {"text": "x" * 100_000}


def test_pages_and_keys_and_times(hub: HttpHub) -> None:
    for number in range(7):
        hub.post("/topics/t", params={"key": f"room.{number % 2}"}, json=number)
    page = hub.get("/topics/t", params={"limit": 3}).json()
    assert [message["data"] for message in page["messages"]] == [0, 1, 2]
    rest = hub.get("/topics/t", params={"from": page["next"], "limit": 100}).json()
    assert [message["data"] for message in rest["messages"]] == [3, 4, 5, 6]
    assert [message["data"] for message in hub.messages("t", key="room.1")] == [1, 3, 5]
    assert [message["data"] for message in hub.messages("t", key="*.0", limit=2)] == [0, 2]
    assert len(hub.messages("t", **{"from": "2026-01-01T00:00:00Z"})) == 7
    assert hub.messages("t", **{"from": "2999-01-01T00:00:00Z"}) == []
    assert hub.messages("t", **{"from": "latest"}) == []


def test_a_long_poll_answers_when_something_comes(hub: HttpHub) -> None:
    hub.put("/topics/t")
    found: list[object] = []
    polling = threading.Thread(
        target=lambda: found.append(
            requests.get(hub.url + "/topics/t", params={"from": "latest", "wait": "20s"}, timeout=30).json()
        )
    )
    began = time.monotonic()
    polling.start()
    hub.until(lambda: bool(hub.core.catalog.existing("t").waiting))
    hub.post("/topics/t", json="news")
    polling.join(10)
    assert time.monotonic() - began < 10
    assert found[0]["messages"][0]["data"] == "news"  # type: ignore[index]


def test_a_long_poll_ends_empty_after_its_time(hub: HttpHub) -> None:
    hub.put("/topics/t")
    assert hub.get("/topics/t", params={"from": "latest", "wait": "50ms"}).json()["messages"] == []


def test_latest_by_key(hub: HttpHub) -> None:
    for key, number in (("a", 1), ("b", 2), ("a", 3), ("c/d", 4), ("ü", 5)):
        hub.post("/topics/t", params={"key": key}, json=number, headers={"Polywire-Retain": "true"})
    assert hub.get("/topics/t/latest/a").json()["data"] == 3
    assert hub.get("/topics/t/latest/c%2Fd").json()["data"] == 4
    assert hub.get("/topics/t/latest/%C3%BC").json()["data"] == 5
    assert hub.get("/topics/t/latest/nothing").status_code == 404
    first = hub.get("/topics/t/latest", params={"limit": 3}).json()
    rest = hub.get("/topics/t/latest", params={"limit": 3, "after": first["next"]}).json()
    shown = {message["key"]: message["data"] for message in first["messages"] + rest["messages"]}
    assert shown == {"a": 3, "b": 2, "c/d": 4, "ü": 5}
    assert rest["next"] is None


def by_pages(hub: HttpHub, path: str, what: str, **params: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    more: dict[str, object] = {}
    while True:
        page = hub.get(path, params={**params, **more}).json()
        found += page[what]
        if page["next"] is None:
            return found
        more = {"after": page["next"]}


@pytest.mark.parametrize("durability", ["durable", "memory"])
def test_pages_of_retained_messages_lose_none(hub: HttpHub, durability: str) -> None:
    hub.put("/topics/t", json={"durability": durability, "latest": True})
    for key in (None, "", "a", "b", "c"):  # no key, and the empty one, are two keys
        hub.post("/topics/t", params={} if key is None else {"key": key}, data=b"x" * 400_000)
    for limit in (1, 2, 3, 100):
        assert [one["key"] for one in by_pages(hub, "/topics/t/latest", "messages", limit=limit)] == [
            None,
            "",
            "a",
            "b",
            "c",
        ]
    assert len(hub.get("/topics/t/latest").json()["messages"]) == 3  # about 1 MiB


@pytest.mark.parametrize("after", ["", "!!", "a", "k!", "kA", "d", "dMQ", "MSBhIGI"])
@pytest.mark.parametrize("what", ["latest", "delayed"])
def test_only_what_next_said_is_taken_as_after(hub: HttpHub, what: str, after: str) -> None:
    hub.put("/topics/t")
    answer = hub.get(f"/topics/t/{what}", params={"after": after})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "query.after")


def test_pages_of_delayed_messages(hub: HttpHub) -> None:
    for number in range(5):
        headers = {**JSON, "Polywire-Key": f"{number}", "Polywire-Delay": "10m"}
        hub.post("/topics/t", data='"' + "x" * 400_000 + '"', headers=headers)
    for limit in (1, 2, 3, 100):
        found = by_pages(hub, "/topics/t/delayed", "delayed", limit=limit)
        assert sorted(str(one["key"]) for one in found) == ["0", "1", "2", "3", "4"]


def test_a_repeated_delayed_publish_shows_the_first_ones_receipt(hub: HttpHub) -> None:
    headers = {**JSON, "Idempotency-Key": "k"}
    first = hub.post("/topics/t", data="1", headers={**headers, "Polywire-Delay": "10m"}).json()
    for more in ({}, {"Polywire-Delay": "10m"}, {"Polywire-Delay": "20m"}):
        answer = hub.post("/topics/t", data="1", headers={**headers, **more})
        assert (answer.status_code, answer.json()) == (202, {**first, "duplicate": True})
    assert len(hub.get("/topics/t/delayed").json()["delayed"]) == 1


def test_a_revoked_long_poll_is_answered_at_once(hub: HttpHub) -> None:
    hub.put("/topics/t")
    secret = hub.post("/api-keys", json={"name": "reader", "allow": ["subscribe:#"]}).json()["key"]
    answers: list[requests.Response] = []

    def poll() -> None:
        query = {"from": "latest", "wait": "50s"}
        key = {"X-API-Key": secret}
        answers.append(requests.get(hub.url + "/topics/t", params=query, headers=key, timeout=60))

    polling = threading.Thread(target=poll)
    polling.start()
    hub.until(lambda: bool(hub.core.catalog.existing("t").waiting))
    hub.run(hub.core.access.revoke_key(hub.core.access.system, "reader"))
    polling.join(10)
    assert [answer.status_code for answer in answers] == [403]


def test_the_bytes_themselves_are_safe_to_show(hub: HttpHub) -> None:
    page = b"<script>alert(1)</script>"
    headers = {"Content-Type": "text/html", "Polywire-Header-Note": "n", "Polywire-Key": "k"}
    position = hub.post("/topics/t", data=page, headers=headers).json()["position"]
    answer = hub.get(f"/topics/t/messages/{position}", headers={"Accept": "text/html"})
    assert answer.content == page
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert (answer.headers["Polywire-Header-Note"], answer.headers["Polywire-Key"]) == ("n", "k")
    assert hub.get(f"/topics/t/messages/{position}").json()["data"] == page.decode()


def test_message_headers_cannot_break_out_of_http_headers(hub: HttpHub) -> None:
    from polywire.core.message import Record

    record = Record(
        b"x",
        key=b"a\r\nSet-Cookie: b",
        content_type="text/x\r\nEvil: 1",
        headers=[("no pe", "1"), ("ok", "a\nb"), ("n", 1)],
    )
    [receipt] = hub.run(hub.core.publish(hub.core.access.system, "t", [record]))
    answer = hub.get(f"/topics/t/messages/{receipt.position}", params={"raw": 1})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert {name.lower() for name in answer.headers} & {
        "evil",
        "set-cookie",
        "polywire-key",
        "polywire-header-ok",
    } == set()
    assert answer.headers["Polywire-Header-N"] == "1"


def test_topics_are_made_shown_and_deleted(hub: HttpHub) -> None:
    settings = {"retention": "7d", "durability": "memory", "latest": True, "overflow": "drop-oldest"}
    made = hub.put("/topics/t", json=settings)
    assert made.status_code == 201
    assert settings.items() <= made.json()["settings"].items()
    assert hub.put("/topics/t", json=settings).status_code == 200
    assert hub.put("/topics/t", json={"retention": "1d"}).status_code == 409
    hub.post("/topics/t", json=1)
    info = hub.get("/topics/t/info").json()
    assert (info["name"], info["count"]) == ("t", 1)
    assert hub.messages("t", **{"from": info["cursors"]["oldest"]})[0]["data"] == 1
    assert [topic["name"] for topic in hub.get("/topics").json()["topics"] if not topic["name"].startswith("_")] == [
        "t"
    ]
    assert hub.delete("/topics/t").status_code == 204
    assert hub.get("/topics/t").status_code == 404


def test_a_stale_cursor_says_where_to_go_on(hub: HttpHub, tmp_path: Path) -> None:
    cursor = hub.post("/topics/t", json=1).json()["position"]
    epoch, _, offset = cursor.split("-")
    ahead = hub.get("/topics/t", params={"from": f"{epoch}-0-{int(offset) + 10}"})
    assert (ahead.status_code, ahead.json()["code"], ahead.json()["reason"]) == (409, "stale_cursor", "ahead")
    assert hub.messages("t", **{"from": ahead.json()["oldest"]})[0]["data"] == 1
    hub.delete("/topics/t")
    hub.post("/topics/t", json=2)
    other = hub.get("/topics/t", params={"from": cursor})
    assert (other.status_code, other.json()["reason"]) == (409, "epoch")
