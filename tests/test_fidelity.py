"""docs/fidelity.md, tried: every publishing protocol x every reading one x every property."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import polywire.testing
from polywire import Hub, Message
from polywire.testing import Served

PAGE = Path(__file__).parent.parent / "docs/fidelity.md"
PAYLOADS = {"text": "grüße, 1.50".encode(), "binary": bytes([0, 255, 128, 10])}
TYPES = {"text": "text/plain; charset=utf-8", "binary": "application/octet-stream"}
PYTHON_TYPES = {"text": "application/json", "binary": "application/octet-stream"}
SAID: dict[str, Any] = {
    "key": "room1",
    "id": "the-id",
    "headers": [["colour", "red"], ["colour", "blue"], ["size", "9"]],
    "producer time": "2026-01-02T03:04:05.000Z",
    "priority": 5,
    "reply-to": "answers",
    "correlation id": "c-7",
}

Shown = dict[str, Any]


def table(first: str) -> dict[str, dict[str, bool]]:
    """Row → column → whether there is a ✓, of the table whose first column is headed so."""
    lines = PAGE.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    columns = [cell.strip() for cell in lines[begin].strip("|").split("|")][1:]
    rows = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = {column: cell == "✓" for column, cell in zip(columns, cells, strict=True)}
    return rows


PUBLISHERS = table("published over")
READERS = table("read over")


async def publish_rest(t: Served, kind: str) -> None:
    headers = [
        ("Content-Type", TYPES[kind]),
        ("Polywire-Key", SAID["key"]),
        ("Polywire-Id", SAID["id"]),
        ("Polywire-Time", SAID["producer time"]),
        ("Polywire-Priority", str(SAID["priority"])),
        ("Polywire-Reply-To", SAID["reply-to"]),
        ("Polywire-Correlation-Id", SAID["correlation id"]),
        *((f"Polywire-Header-{name}", value) for name, value in SAID["headers"]),
    ]
    async with aiohttp.ClientSession() as http:
        answer = await http.post(f"{t.http_url}/topics/t", data=PAYLOADS[kind], headers=headers)
        assert answer.status == 201, await answer.text()


async def publish_websocket(t: Served, kind: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/t/room1") as socket:
        if kind == "text":
            await socket.send_str(PAYLOADS[kind].decode())
        else:
            await socket.send_bytes(PAYLOADS[kind])
        await socket.receive(timeout=5)  # it hears itself: then it is stored


async def publish_python(t: Served, kind: str) -> None:
    # Text goes out of Python as JSON.
    value = PAYLOADS[kind].decode() if kind == "text" else PAYLOADS[kind]
    await t.hub.topic_named("t").publish(
        value, key=SAID["key"], id=SAID["id"], headers=[(n, v) for n, v in SAID["headers"]]
    )


async def read_rest(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http:
        page = await (await http.get(f"{t.http_url}/topics/t")).json()
    return from_json(page["messages"][0])


async def read_pull(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http:
        settings = {"sources": [{"topic": "t"}], "start": "earliest"}
        assert (await http.put(f"{t.http_url}/subscriptions/s", json=settings)).status == 201
        answer = await http.post(f"{t.http_url}/subscriptions/s/pull", json={"max": 1, "wait": "5s"})
        return from_json((await answer.json())["deliveries"][0]["message"])


async def read_sse(t: Served) -> Shown:
    kind, data = await first_event(f"{t.http_url}/topics/t/events?from=earliest")
    if kind == "binary":
        return {"payload": base64.b64decode(data), "kind": "binary"}
    return {"payload": data.encode(), "kind": "text"}


async def read_envelope(t: Served) -> Shown:
    _, data = await first_event(f"{t.http_url}/topics/t/events?from=earliest&envelope=1")
    return from_json(json.loads(data))


async def read_websocket(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/t?from=earliest") as socket:
        frame = await socket.receive(timeout=5)
    text = frame.type == aiohttp.WSMsgType.TEXT
    return {"payload": frame.data.encode() if text else frame.data, "kind": "text" if text else "binary"}


async def read_python(t: Served) -> Shown:
    message: Message[Any]
    async for message in t.hub.topic_named("t").follow("earliest"):
        record = message.raw.record
        content_type = message.content_type or ""
        return {
            "payload": message.payload,
            "kind": "binary" if content_type == TYPES["binary"] else "text",
            "key": message.key,
            "id": message.id,
            "content type": content_type,
            "headers": [list(header) for header in message.headers],
            "producer time": "2026-01-02T03:04:05.000Z" if record.time == 1_767_323_045_000 else record.time,
            "priority": record.priority,
            "reply-to": record.reply_to,
            "correlation id": record.correlation_id.decode() if record.correlation_id is not None else None,
        }
    raise AssertionError("nothing came")


def from_json(message: dict[str, Any]) -> Shown:
    binary = "data_base64" in message
    is_json = message["content_type"].startswith("application/json")
    data = json.dumps(message["data"], ensure_ascii=False) if is_json else message.get("data", "")
    headers = [[n, v] for n, vs in message["headers"].items() for v in (vs if isinstance(vs, list) else [vs])]
    return {
        "payload": base64.b64decode(message["data_base64"]) if binary else data.encode(),
        "kind": "binary" if binary else "text",
        "key": message["key"],
        "id": message["id"],
        "content type": message["content_type"],
        "headers": headers,
        "producer time": message.get("producer_time"),
        "priority": message.get("priority"),
        "reply-to": message.get("reply_to"),
        "correlation id": message.get("correlation_id"),
    }


async def first_event(url: str) -> tuple[str, str]:
    """The type and data of the first message (WHATWG HTML §9.2.6), past comments, ids and retry hints."""
    kind, data = "message", []
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        while True:
            line = (await asyncio.wait_for(answer.content.readline(), 5)).decode().rstrip("\n")
            field, _, value = line.partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                return kind, "\n".join(data)


PUBLISH: dict[str, Callable[[Served, str], Awaitable[None]]] = {
    "REST": publish_rest,
    "WebSocket": publish_websocket,
    "Python": publish_python,
}
READ: dict[str, Callable[[Served], Awaitable[Shown]]] = {
    "REST": read_rest,
    "REST pull": read_pull,
    "SSE": read_sse,
    "SSE envelope": read_envelope,
    "WebSocket": read_websocket,
    "Python": read_python,
}


def expected(publisher: str, kind: str) -> Shown:
    payload = PAYLOADS[kind]
    if publisher == "Python" and kind == "text":
        payload = json.dumps(payload.decode(), ensure_ascii=False).encode()
    types = PYTHON_TYPES if publisher == "Python" else TYPES
    return {**SAID, "payload": payload, "kind": kind, "content type": types[kind]}


def test_the_page_has_a_row_for_each_protocol() -> None:
    assert list(PUBLISHERS) == list(PUBLISH)
    assert list(READERS) == list(READ)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize("publisher", PUBLISH)
async def test_fidelity(publisher: str, reader: str, kind: str) -> None:
    hub = Hub("fidelity")
    hub.topic("t")
    async with polywire.testing.serve(hub) as t:
        await PUBLISH[publisher](t, kind)
        shown = await READ[reader](t)
    said = expected(publisher, kind)
    for name in READERS[reader]:
        if PUBLISHERS[publisher][name] and READERS[reader][name]:
            assert shown[name] == said[name], name
        elif name != "content type":  # which a protocol that cannot say it may still get right
            assert shown.get(name) != said[name], f"{name} survives; the page says that it does not"
