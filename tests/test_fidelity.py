"""docs/fidelity.md, tried: every publishing protocol x every reading one x every property."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes

import polywire.testing
from polywire import Hub, Message
from polywire.testing import Served
from tests.wires.mqtt.paho_client import properties

PAGE = Path(__file__).parent.parent / "docs/fidelity.md"
PAYLOADS = {"text": "grüße, 1.50".encode(), "binary": bytes([0, 255, 128, 10])}
TYPES = {"text": "text/plain; charset=utf-8", "binary": "application/octet-stream"}
PYTHON_TYPES = {"text": "application/json", "binary": "application/octet-stream"}
SAID: dict[str, Any] = {
    "key": "room1",
    "id": "the-id",
    "headers": [["colour", "red"], ["colour", "blue"], ["size", "9"]],
    "producer time": "2026-01-02T03:04:05.250Z",
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


@dataclass
class Note:
    """Of the topic, for publishers that are read by a type."""

    text: str = ""
    data: bytes = b""


HEADERS = [
    ("Polywire-Priority", str(SAID["priority"])),
    ("Polywire-Reply-To", SAID["reply-to"]),
    ("Polywire-Correlation-Id", SAID["correlation id"]),
    *((f"Polywire-Header-{name}", value) for name, value in SAID["headers"]),
]
OF_A_MESSAGE = [
    ("Polywire-Key", SAID["key"]),
    ("Polywire-Id", SAID["id"]),
    ("Polywire-Time", SAID["producer time"]),
    *HEADERS,
]
EVENT = {
    "specversion": "1.0",
    "id": SAID["id"],
    "source": "/test",
    "type": "test",
    "time": SAID["producer time"],
    "partitionkey": SAID["key"],
}
OF_THE_EVENT = [["ce-source", "/test"], ["ce-type", "test"]]


async def post(t: Served, data: Any, headers: list[tuple[str, str]]) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{t.http_url}/topics/t", data=data, headers=headers) as answer,
    ):
        assert answer.status == 201, await answer.text()


async def publish_rest(t: Served, kind: str) -> None:
    await post(t, PAYLOADS[kind], [("Content-Type", TYPES[kind]), *OF_A_MESSAGE])


def by_type(kind: str) -> tuple[str, str]:
    """The field of a `Note`, and its text."""
    payload = PAYLOADS[kind]
    return ("text", payload.decode()) if kind == "text" else ("data", base64.b64encode(payload).decode())


async def publish_xml(t: Served, kind: str) -> None:
    name, value = by_type(kind)
    body = f"<note><{name}>{value}</{name}></note>".encode()
    await post(t, body, [("Content-Type", "application/xml"), *OF_A_MESSAGE])


async def publish_form(t: Served, kind: str) -> None:
    await post(t, aiohttp.FormData([by_type(kind)], charset="utf-8"), OF_A_MESSAGE)


async def publish_file(t: Served, kind: str) -> None:
    form = aiohttp.FormData()
    form.add_field("file", PAYLOADS[kind], filename="note", content_type=TYPES[kind])
    await post(t, form, OF_A_MESSAGE)


async def publish_binary_event(t: Served, kind: str) -> None:
    attributes = [(f"ce-{name}", value) for name, value in EVENT.items()]
    await post(t, PAYLOADS[kind], [("Content-Type", TYPES[kind]), *attributes, *HEADERS])


def event(kind: str) -> dict[str, Any]:
    payload = PAYLOADS[kind]
    data = {"data": payload.decode()} if kind == "text" else {"data_base64": base64.b64encode(payload).decode()}
    return {**EVENT, "datacontenttype": TYPES[kind], **data}


async def publish_event(t: Served, kind: str) -> None:
    await post(t, json.dumps(event(kind)), [("Content-Type", "application/cloudevents+json"), *HEADERS])


async def publish_events(t: Served, kind: str) -> None:
    await post(t, json.dumps([event(kind)]), [("Content-Type", "application/cloudevents-batch+json"), *HEADERS])


async def publish_event_frame(t: Served, kind: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/t", protocols=EVENT_FRAMES) as socket:
        await socket.send_str(json.dumps(event(kind)))
        await socket.receive(timeout=5)  # it hears itself: then it is stored


async def publish_jsonrpc(t: Served, kind: str) -> None:
    payload = PAYLOADS[kind]
    data = {"data": payload.decode()} if kind == "text" else {"data_base64": base64.b64encode(payload).decode()}
    names = {"producer time": "time", "reply-to": "reply_to", "correlation id": "correlation_id"}
    said = {names.get(name, name): value for name, value in SAID.items()}
    said |= {"headers": {"colour": ["red", "blue"], "size": "9"}, "content_type": TYPES[kind], **data}
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/ws") as socket:
        answer = await ask(socket, "publish", {"topic": "t", **said})
        assert "result" in answer, answer


EVENT_FRAMES = ("cloudevents.json",)


async def ask(socket: aiohttp.ClientWebSocketResponse, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The next that comes: an answer, and after that what is told."""
    await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    answer: dict[str, Any] = await socket.receive_json(timeout=5)
    return answer


async def publish_websocket(t: Served, kind: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/t/room1") as socket:
        if kind == "text":
            await socket.send_str(PAYLOADS[kind].decode())
        else:
            await socket.send_bytes(PAYLOADS[kind])
        await socket.receive(timeout=5)  # it hears itself: then it is stored


def mqtt(t: Served, level: int) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", t.mqtt_port, protocol=aiomqtt.ProtocolVersion(level))


async def publish_mqtt(t: Served, level: int, payload: bytes, **values: Any) -> None:
    async with mqtt(t, level) as client:
        await client.publish(f"t/{SAID['key']}", payload, qos=1, properties=properties(PacketTypes.PUBLISH, **values))


ASKED = {"ResponseTopic": SAID["reply-to"], "CorrelationData": SAID["correlation id"].encode()}


async def publish_mqtt_3(t: Served, kind: str) -> None:
    await publish_mqtt(t, 4, PAYLOADS[kind])


async def publish_mqtt_5(t: Served, kind: str) -> None:
    user = [(name, value) for name, value in SAID["headers"]]
    await publish_mqtt(t, 5, PAYLOADS[kind], ContentType=TYPES[kind], UserProperty=user, **ASKED)


async def publish_mqtt_binary_event(t: Served, kind: str) -> None:
    await publish_mqtt(t, 5, PAYLOADS[kind], ContentType=TYPES[kind], UserProperty=list(EVENT.items()), **ASKED)


async def publish_mqtt_event(t: Served, kind: str) -> None:
    user = [(name, value) for name, value in SAID["headers"]]
    payload = json.dumps(event(kind)).encode()
    await publish_mqtt(t, 5, payload, ContentType="application/cloudevents+json", UserProperty=user, **ASKED)


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


async def read_event(t: Served) -> Shown:
    async with aiohttp.ClientSession(headers={"Accept": "application/cloudevents+json"}) as http:
        position = (await (await http.get(f"{t.http_url}/topics/t", headers={"Accept": "*/*"})).json())["messages"][0]
        answer = await http.get(f"{t.http_url}/topics/t/messages/{position['position']}")
        assert answer.content_type == "application/cloudevents+json"
        return from_event(await answer.json(content_type=None))


async def read_events(t: Served) -> Shown:
    async with aiohttp.ClientSession(headers={"Accept": "application/cloudevents-batch+json"}) as http:
        answer = await http.get(f"{t.http_url}/topics/t")
        assert answer.content_type == "application/cloudevents-batch+json"
        return from_event((await answer.json(content_type=None))[0])


async def read_event_frame(t: Served) -> Shown:
    url = f"{t.ws_url}/t?from=earliest"
    async with aiohttp.ClientSession() as http, http.ws_connect(url, protocols=EVENT_FRAMES) as socket:
        return from_event(await socket.receive_json(timeout=5))


async def read_jsonrpc(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/ws") as socket:
        await ask(socket, "subscribe", {"topic": "t", "from": "earliest"})
        return from_json((await socket.receive_json(timeout=5))["params"]["messages"][0])


async def read_jsonrpc_queue(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/ws") as socket:
        await ask(socket, "consume", {"queue": "q", "topic": "t", "from": "earliest"})
        return from_json((await socket.receive_json(timeout=5))["params"]["deliveries"][0]["message"])


async def read_websocket(t: Served) -> Shown:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{t.ws_url}/t?from=earliest") as socket:
        frame = await socket.receive(timeout=5)
    text = frame.type == aiohttp.WSMsgType.TEXT
    return {"payload": frame.data.encode() if text else frame.data, "kind": "text" if text else "binary"}


async def read_mqtt_3(t: Served) -> Shown:
    message = await retained(t, 4)
    payload = message.payload
    if isinstance(payload, bytes) and payload.startswith(b'{"specversion"'):
        payload = payload_of(json.loads(payload), TYPES["binary"])[0]
    return {"payload": payload, "key": str(message.topic).removeprefix("t/")}


async def read_mqtt_5(t: Served) -> Shown:
    """Events are unwrapped, as their readers do."""
    message = await retained(t, 5)
    payload, said = message.payload, message.properties
    assert isinstance(payload, bytes)
    content_type = getattr(said, "ContentType", None)
    headers = [[name, value] for name, value in getattr(said, "UserProperty", [])]
    kind = kind_of(payload, content_type)
    if content_type == "application/cloudevents+json":
        event = json.loads(payload)
        content_type = event["datacontenttype"]
        payload, kind = payload_of(event, content_type)
        headers = [["ce-source", event["source"]], ["ce-type", event["type"]], *headers]
    elif ["specversion", "1.0"] in headers:
        renamed = {"source": "ce-source", "type": "ce-type"}
        others = ("specversion", "id", "time", "partitionkey")
        headers = [[renamed.get(name, name), value] for name, value in headers if name not in others]
    correlation_id = getattr(said, "CorrelationData", None)
    return {
        "payload": payload,
        "kind": kind,
        "key": str(message.topic).removeprefix("t/"),
        "content type": content_type,
        "headers": headers,
        "reply-to": getattr(said, "ResponseTopic", None),
        "correlation id": correlation_id.decode() if correlation_id is not None else None,
    }


async def retained(t: Served, level: int) -> aiomqtt.Message:
    """What comes at once: the topic keeps its latest message."""
    async with mqtt(t, level) as client, asyncio.timeout(5):
        await client.subscribe("t/#", qos=1)
        return await anext(aiter(client.messages))


def kind_of(payload: bytes, content_type: str | None) -> str:
    """Without a content type by what it looks like."""
    if content_type:
        return "binary" if content_type == TYPES["binary"] else "text"
    return "text" if payload == PAYLOADS["text"] else "binary"


async def read_python(t: Served) -> Shown:
    message: Message[Any]
    async for message in t.hub.topic_named("t").follow("earliest"):
        record = message.raw.record
        content_type = message.content_type or ""
        return {
            "payload": message.payload,
            "kind": kind_of(record.payload, content_type),
            "key": message.key,
            "id": message.id,
            "content type": content_type,
            "headers": [list(header) for header in message.headers],
            "producer time": "2026-01-02T03:04:05.250Z" if record.time == 1_767_323_045_250 else record.time,
            "priority": record.priority,
            "reply-to": record.reply_to,
            "correlation id": record.correlation_id.decode() if record.correlation_id is not None else None,
        }
    raise AssertionError("nothing came")


def from_json(message: dict[str, Any]) -> Shown:
    payload, kind = payload_of(message, message["content_type"] or "")
    headers = [[n, v] for n, vs in message["headers"].items() for v in (vs if isinstance(vs, list) else [vs])]
    return {
        "payload": payload,
        "kind": kind,
        "key": message["key"],
        "id": message["id"],
        "content type": message["content_type"],
        "headers": headers,
        "producer time": message.get("producer_time"),
        "priority": message.get("priority"),
        "reply-to": message.get("reply_to"),
        "correlation id": message.get("correlation_id"),
    }


def from_event(event: dict[str, Any]) -> Shown:
    """CloudEvents 1.0.2, JSON format."""
    content_type = event.get("datacontenttype")
    payload, kind = payload_of(event, content_type or "")
    return {
        "payload": payload,
        "kind": kind,
        "key": event["partitionkey"],
        "id": event["id"],
        "content type": content_type,
        "producer time": event["time"],
    }


def payload_of(shown: dict[str, Any], content_type: str) -> tuple[bytes, str]:
    if "data_base64" in shown:
        return base64.b64decode(shown["data_base64"]), "binary"
    if content_type.startswith("application/json"):
        return json.dumps(shown["data"], ensure_ascii=False, separators=(",", ":")).encode(), "text"
    return shown["data"].encode(), "text"


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
    "REST, XML": publish_xml,
    "REST, form": publish_form,
    "REST, file": publish_file,
    "REST, binary event": publish_binary_event,
    "REST, event": publish_event,
    "REST, batch of events": publish_events,
    "WebSocket": publish_websocket,
    "WebSocket, events": publish_event_frame,
    "JSON-RPC": publish_jsonrpc,
    "MQTT 3.1.1": publish_mqtt_3,
    "MQTT 5": publish_mqtt_5,
    "MQTT 5, binary event": publish_mqtt_binary_event,
    "MQTT 5, event": publish_mqtt_event,
    "Python": publish_python,
}
READ: dict[str, Callable[[Served], Awaitable[Shown]]] = {
    "REST": read_rest,
    "REST, event": read_event,
    "REST, batch of events": read_events,
    "REST pull": read_pull,
    "SSE": read_sse,
    "SSE envelope": read_envelope,
    "WebSocket": read_websocket,
    "WebSocket, events": read_event_frame,
    "JSON-RPC": read_jsonrpc,
    "JSON-RPC queue": read_jsonrpc_queue,
    "MQTT 3.1.1": read_mqtt_3,
    "MQTT 5": read_mqtt_5,
    "Python": read_python,
}
BY_TYPE = ("REST, XML", "REST, form")


def expected(publisher: str, kind: str) -> Shown:
    payload, headers = PAYLOADS[kind], SAID["headers"]
    said = {**SAID, "payload": payload, "kind": kind, "content type": TYPES[kind]}
    if publisher == "Python":
        said["content type"] = PYTHON_TYPES[kind]
        said["payload"] = json.dumps(payload.decode(), ensure_ascii=False).encode() if kind == "text" else payload
    elif publisher in BY_TYPE:
        name, value = by_type(kind)
        said["payload"] = json.dumps(
            {"text": "", "data": "", name: value}, ensure_ascii=False, separators=(",", ":")
        ).encode()
    elif publisher == "REST, file":
        said["headers"] = [*headers, ["filename", "note"]]
    elif "event" in publisher:
        said["headers"] = [*OF_THE_EVENT, *headers]
    return said


def test_the_page_has_a_row_for_each_protocol() -> None:
    assert list(PUBLISHERS) == list(PUBLISH)
    assert list(READERS) == list(READ)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("publisher", PUBLISH)
async def test_fidelity(publisher: str, kind: str) -> None:
    """To every reader."""
    hub = Hub("fidelity")
    hub.topic("t", Note if publisher in BY_TYPE else Any, latest=True)
    said = expected(publisher, kind)
    async with polywire.testing.serve(hub) as t:
        await PUBLISH[publisher](t, kind)
        for reader, read in READ.items():
            shown = await read(t)
            for name in READERS[reader]:
                survives = PUBLISHERS[publisher][name] and READERS[reader][name]
                if survives:
                    assert shown[name] == said[name], f"{reader}: {name}"
                elif not _may_come_right(name, kind):
                    assert shown.get(name) != said[name], f"{reader}: {name} survives; the page says that it does not"


def _may_come_right(name: str, kind: str) -> bool:
    """A protocol that cannot say a content type may still get it right; what all becomes text leaves text as it is."""
    return name == "content type" or (name == "kind" and kind == "text")
