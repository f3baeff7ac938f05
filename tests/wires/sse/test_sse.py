"""Follow a topic as a browser does: with a parser to the letter of the specification, curl, node's EventSource and
Chromium."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.wires.sse import SseSettings
from tests.wires.http_hub import HttpHub, serving
from tests.wires.sse.stream import Event, EventStream

MIB = 1 << 20


@contextmanager
def following(hub: HttpHub, topic: str = "t", last: str | None = None, **query: Any) -> Iterator[EventStream]:
    headers = {} if last is None else {"Last-Event-ID": last}
    stream = EventStream(f"{hub.url}/topics/{topic}/events", params=query, headers=headers)
    try:
        yield stream
    finally:
        stream.close()


def publish(hub: HttpHub, payload: bytes, content_type: str | None = "application/json", **given: Any) -> str:
    records = [Record(payload, content_type=content_type, **given)]
    [receipt] = hub.run(hub.core.publish(hub.core.access.system, "t", records))
    return str(receipt.position)


def followers(hub: HttpHub) -> int:
    return hub.core.topic_info(hub.core.access.system, "t").followers


@pytest.fixture
def topic(hub: HttpHub) -> HttpHub:
    hub.put("/topics/t")
    return hub


def test_what_is_published_comes_with_its_cursor(topic: HttpHub) -> None:
    with following(topic) as stream:
        position = topic.post(
            "/topics/t", data=b'{"celsius": 21.50}', headers={"Content-Type": "application/json"}
        ).json()
        assert next(stream) == Event("message", '{"celsius": 21.50}', position["position"])
    assert stream.retry == 2_000
    assert stream.response.headers["Cache-Control"] == "no-store"


def test_the_default_start_is_now_and_earliest_is_asked_for(topic: HttpHub) -> None:
    for number in range(3):
        topic.post("/topics/t", json=number)
    with following(topic, **{"from": "earliest"}) as all_of_it, following(topic) as new:
        assert [event.data for event in all_of_it.take(3)] == ["0", "1", "2"]
        topic.post("/topics/t", json=3)
        assert next(new).data == next(all_of_it).data == "3"
    with following(topic, **{"from": "2026-01-01T00:00:00Z"}) as since:
        assert [event.data for event in since.take(4)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_reader_goes_on_after_the_last_event_it_saw(topic: HttpHub, how: str) -> None:
    for number in range(5):
        topic.post("/topics/t", json=number)
    with following(topic, **{"from": "earliest"}) as stream:
        seen = stream.take(2)
    again = {"last": seen[1].id} if how == "header" else {"lastEventId": seen[1].id}
    with following(topic, **again, **{"from": "earliest"}) as stream:
        assert [event.data for event in stream.take(3)] == ["2", "3", "4"]


def test_the_header_wins_over_the_query(topic: HttpHub) -> None:
    cursors = [publish(topic, b"%d" % number) for number in range(3)]
    with following(topic, last=cursors[1], lastEventId=cursors[0]) as stream:
        assert next(stream).data == "2"


def test_a_reader_that_saw_nothing_yet_misses_nothing_either(topic: HttpHub) -> None:
    with following(topic) as stream:
        topic.until(lambda: followers(topic) == 1)
        publish(topic, b"0")
        next(stream)
    with following(topic, key="nobody") as quiet:
        for line in quiet.response.iter_lines():
            if line.startswith(b"id: "):
                remembered = line[4:].decode()
                break
    publish(topic, b"1")
    with following(topic, last=remembered) as stream:
        assert next(stream).data == "1"


@pytest.mark.parametrize(
    ("content_type", "payload", "shown"),
    [
        ("text/plain", b"one\ntwo", "one\ntwo"),
        ("text/plain", b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("text/plain", b"", ""),
        ("text/plain", b" leading: colon", " leading: colon"),
        ("text/plain", b"id: 7\n\nevent: reset\ndata: forged\n\n", "id: 7\n\nevent: reset\ndata: forged\n\n"),
        ("text/plain", "grün\u2028\x85".encode(), "grün\u2028\x85"),
        ("application/json", b'{\r\n "a": 1\r\n}', '{\n "a": 1\n}'),
        ("application/problem+json", b"12345678901234567890.0", "12345678901234567890.0"),
    ],
)
def test_text_arrives_line_by_line(topic: HttpHub, content_type: str, payload: bytes, shown: str) -> None:
    with following(topic, **{"from": "earliest"}) as stream:
        publish(topic, payload, content_type)
        publish(topic, b'"after"')
        assert next(stream)[:2] == ("message", shown)
        assert next(stream).data == '"after"'


@pytest.mark.parametrize("content_type", ["application/octet-stream", None, "text/plain", "application/json"])
def test_bytes_come_as_binary(topic: HttpHub, content_type: str | None) -> None:
    with following(topic, **{"from": "earliest"}) as stream:
        publish(topic, b"\xff\n\x00", content_type)
        event = next(stream)
    assert (event.type, base64.b64decode(event.data)) == ("binary", b"\xff\n\x00")


def test_an_envelope_is_the_message_as_rest_shows_it(topic: HttpHub) -> None:
    publish(topic, b'{"a":\n1}', key=b"k", headers=[("trace", "x")])
    publish(topic, b"\xff", None)
    with following(topic, envelope=1, **{"from": "earliest"}) as stream:
        events = stream.take(2)
    assert [json.loads(event.data) for event in events] == topic.messages("t")
    assert [event.type for event in events] == ["message", "message"]


def test_a_key_pattern_chooses(topic: HttpHub) -> None:
    with following(topic, key="kitchen.*") as kitchen, following(topic, key="#") as everything:
        topic.until(lambda: followers(topic) == 2)
        for key in ("kitchen.a", "cellar.a", "kitchen.b"):
            topic.post("/topics/t", params={"key": key}, json=key)
        topic.post(
            "/topics/t", data="1\n2", headers={"Content-Type": "application/x-ndjson", "Polywire-Key": "kitchen.c"}
        )
        assert [json.loads(event.data) for event in kitchen.take(4)] == ["kitchen.a", "kitchen.b", 1, 2]
        assert len(everything.take(5)) == 5


@pytest.mark.parametrize(
    ("cursor", "reason"), [("nonsense", "unknown"), ("1-0-99", "ahead"), ("77-0-1", "epoch"), ("ü", "unknown")]
)
def test_a_cursor_of_no_use_is_told_and_the_stream_goes_on(topic: HttpHub, cursor: str, reason: str) -> None:
    old = publish(topic, b"0")
    with following(topic, lastEventId=cursor) as stream:
        event = next(stream)
        told = json.loads(event.data)
        assert (event.type, told["reason"], told["newest"]) == ("reset", reason, old)
        assert told["oldest"] == f"{old.split('-', 1)[0]}-0--1"
        assert event.id == old
        publish(topic, b"1")
        assert next(stream).data == "1"


def test_quiet_streams_are_kept_alive(tmp_path: Path) -> None:
    with serving(tmp_path / "data", sse=SseSettings(heartbeat=20)) as hub:
        hub.put("/topics/t")
        with following(hub) as stream:
            comments = 0
            for line in stream.response.iter_lines():
                comments += line == b":"
                if comments == 3:
                    break


def test_deleting_the_topic_ends_the_stream(topic: HttpHub) -> None:
    with following(topic) as stream:
        topic.delete("/topics/t")
        event = next(stream)
        assert (event.type, json.loads(event.data)["code"]) == ("end", "not_found")
        assert list(stream) == []


def test_draining_ends_the_stream_and_a_late_reader_is_told_to_come_again(topic: HttpHub) -> None:
    with following(topic) as stream:
        topic.run(topic.core.drain())
        event = next(stream)
        assert (event.type, json.loads(event.data)["code"]) == ("end", "unavailable")
        assert list(stream) == []
    with following(topic) as late:
        assert list(late) == []
        assert late.retry == 2_000


def test_access_is_asked_at_the_start_and_while_it_lasts(topic: HttpHub) -> None:
    made = topic.post("/api-keys", json={"name": "admin", "allow": ["*:#"]}).json()
    admin = {"Authorization": f"Bearer {made['key']}"}
    viewer = topic.post("/api-keys", json={"name": "viewer", "allow": ["subscribe:t.#"]}, headers=admin).json()["key"]
    events = topic.url + "/topics/t/events"
    accept = {"Accept": "text/event-stream"}
    assert requests.get(events, timeout=10).status_code == 401
    assert requests.get(events, params={"api_key": "pw_x_y"}, headers=accept, timeout=10).status_code == 401
    writer = topic.post("/api-keys", json={"name": "writer", "allow": ["publish:#"]}, headers=admin).json()["key"]
    assert requests.get(events, params={"api_key": writer}, headers=accept, timeout=10).status_code == 403
    with following(topic, api_key=viewer) as stream:
        topic.post("/topics/t", json=1, headers=admin)
        assert next(stream).data == "1"
        topic.delete("/api-keys/viewer", headers=admin)
        event = next(stream)
        assert event.type == "end"
        assert list(stream) == []


def test_a_client_that_leaves_is_forgotten(topic: HttpHub) -> None:
    with following(topic):
        topic.until(lambda: followers(topic) == 1 and topic.core.counters.wires["sse"].connections == 1)
    topic.until(lambda: followers(topic) == 0 and topic.core.counters.wires["sse"].connections == 0)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_does_not_read_costs_little_and_goes_on_from_the_log(tmp_path: Path) -> None:
    limits = Limits(tail_size=4 * MIB)
    with serving(tmp_path / "data", limits=limits, sse=SseSettings(out_buffer=256 << 10)) as hub:
        hub.put("/topics/t")
        host, port = hub.url.removeprefix("http://").split(":")
        stalled = []
        for _ in range(4):
            client = socket.create_connection((host, int(port)), timeout=20)
            client.sendall(b"GET /topics/t/events?from=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stalled.append(client)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
        hub.until(lambda: followers(hub) == 4)
        payload = b"x" * (64 << 10)

        async def fill() -> None:
            for _ in range(64):  # 4 MiB
                await hub.core.publish(hub.core.access.system, "t", [Record(payload, content_type="text/plain")])

        hub.run(fill())
        before = resident()
        for _ in range(9):
            hub.run(fill())
        assert resident() - before < 16 * MIB
        received = 0
        wanted = 640 * len(payload)
        while received < wanted:
            chunk = stalled[0].recv(1 << 20)
            assert chunk
            received += chunk.count(b"x")
        assert received == wanted
        for client in stalled:
            client.close()
        hub.until(lambda: hub.core.counters.wires["sse"].connections == 0)


def test_a_reader_that_retention_overtook_is_told(tmp_path: Path) -> None:
    with serving(tmp_path / "data", sse=SseSettings(out_buffer=64 << 10)) as hub:
        hub.put(
            "/topics/t",
            json={"durability": "memory", "retention_size": MIB, "hard_limit": 2 * MIB, "overflow": "drop-oldest"},
        )
        host, port = hub.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as stalled:
            stalled.sendall(b"GET /topics/t/events?from=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
            hub.until(lambda: followers(hub) == 1)

            async def fill() -> None:
                for _ in range(1_000):
                    await hub.core.publish(
                        hub.core.access.system, "t", [Record(b"y" * 30_000, content_type="text/plain")]
                    )

            hub.run(fill())
            got = b""
            while b"event: reset" not in got:
                got = got[-100:] + stalled.recv(1 << 20)


def test_curl_follows(topic: HttpHub, require: Callable[[str], str]) -> None:
    command = [require("curl"), "-sSN", topic.url + "/topics/t/events?from=earliest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        try:
            topic.post("/topics/t", json={"n": 1})
            assert curl.stdout is not None
            lines = iter(curl.stdout)
            assert next(line for line in lines if line.startswith("data:")) == 'data: {"n": 1}\n'
        finally:
            curl.terminate()


NODE_CLIENT = """
import { EventSource } from 'eventsource'
const source = new EventSource(process.argv[2])
source.onopen = () => console.log('open')
source.onmessage = (event) => console.log(event.lastEventId + ' ' + event.data)
source.addEventListener('reset', (event) => console.log('reset ' + event.data))
"""


@pytest.mark.needs_node
def test_an_eventsource_in_node_goes_on_after_a_cut(
    tmp_path: Path, node_clients: Path, require: Callable[[str], str]
) -> None:
    # Node finds packages from the folder a module lies in, and the module comes from standard input.
    with serving(tmp_path / "data", sse=SseSettings(retry=50)) as hub:
        hub.put("/topics/t")
        command = [require("node"), "--input-type=module", "-", hub.url + "/topics/t/events"]
        with subprocess.Popen(
            command, cwd=node_clients, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as node:
            try:
                assert node.stdin is not None
                assert node.stdout is not None
                node.stdin.write(NODE_CLIENT)
                node.stdin.close()
                assert node.stdout.readline() == "open\n"
                cursors = [publish(hub, b"%d" % number) for number in range(3)]
                assert [node.stdout.readline() for _ in range(3)] == [f"{c} {n}\n" for n, c in enumerate(cursors)]
                hub.cut()
                missed = [publish(hub, b"%d" % number) for number in (3, 4)]
                assert node.stdout.readline() == "open\n"
                assert [node.stdout.readline() for _ in range(2)] == [f"{missed[0]} 3\n", f"{missed[1]} 4\n"]
            finally:
                node.kill()


PAGE = """<!doctype html><title>viewer</title><script>
const say = (what) => fetch('/topics/seen', {method: 'POST', body: what, headers: {'Content-Type': 'text/plain'}})
const source = new EventSource('/topics/t/events')
source.onopen = () => say('open')
source.onmessage = (event) => say(event.data)
source.addEventListener('reset', (event) => say('reset'))
</script>"""


@pytest.mark.needs_chromium
def test_a_browser_goes_on_after_a_cut(tmp_path: Path, require: Callable[[str], str]) -> None:
    with serving(tmp_path / "data", sse=SseSettings(retry=50), pages={"/viewer": PAGE}) as hub:
        hub.put("/topics/t")
        hub.put("/topics/seen")
        profile = tmp_path / "profile"
        command = [
            require("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", hub.url + "/viewer",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                saw(hub, ["open"])
                publish(hub, b'"one"')
                saw(hub, ["open", '"one"'])
                hub.cut()
                publish(hub, b'"two"')
                publish(hub, b'"three"')
                saw(hub, ["open", '"one"', "open", '"two"', '"three"'])
            finally:
                browser.kill()


def saw(hub: HttpHub, expected: list[str]) -> None:
    """Wait until the page has told of exactly these; its requests may overtake each other."""
    cursor, seen = "earliest", []
    while len(seen) < len(expected):
        page = hub.get("/topics/seen", params={"from": cursor, "wait": "30s"}).json()
        cursor = page["next"]
        assert page["messages"], f"only saw {seen}"
        seen += [message["data"] for message in page["messages"]]
    assert sorted(seen) == sorted(expected)
