"""The subprotocol ``cloudevents.json``, with the CNCF's own SDK at the other end."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import websocket
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from websockets.asyncio.client import ClientConnection, connect

from polywire.core.message import Record
from polywire.core.topics import TopicSettings
from tests.wires.websocket.conftest import Hub, Serve

EVENTS: Any = ["cloudevents.json"]
SDK = JSONFormat()


def an_event(data: Any = None, **attributes: Any) -> CloudEvent:
    given = {"id": "A-1", "source": "/shop", "type": "order.placed", "specversion": "1.0"}
    given |= {"datacontenttype": "application/json", "time": datetime(2026, 1, 31, 12, 0, tzinfo=UTC)}
    return CloudEvent({**given, **attributes}, {"number": 1} if data is None else data)


async def receive(client: ClientConnection) -> CloudEvent:
    text = await asyncio.wait_for(client.recv(), 10)
    assert isinstance(text, str), "the binding wants text frames"
    return SDK.read(None, text)  # type: ignore[return-value]


async def send(client: ClientConnection, event: CloudEvent) -> None:
    await client.send(SDK.write(event).decode())


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    await asyncio.wait_for(client.wait_closed(), 10)
    return client.close_code, client.close_reason


def events(hub: Hub, path: str, **options: Any) -> connect:
    return connect(f"{hub.ws}{path}", subprotocols=EVENTS, **options)


@pytest.mark.parametrize("path", ["/ws/orders", "/orders"])
async def test_an_event_goes_in_and_comes_out(serve: Serve, path: str) -> None:
    hub = await serve()
    async with events(hub, path) as one, events(hub, path, compression=None) as two:
        assert one.subprotocol == two.subprotocol == "cloudevents.json"
        sent = an_event(subject="A", partitionkey="ann", myextension=True)
        await send(one, sent)
        for client in (one, two):
            got = await receive(client)
            assert got.get_attributes() == sent.get_attributes()
            assert got.get_data() == {"number": 1}
    (message,) = await hub.messages("orders", 1)
    record = message.record
    assert (record.id, record.key, record.content_type) == ("A-1", b"ann", "application/json")
    assert json.loads(record.payload) == {"number": 1}


@pytest.mark.parametrize(
    ("data", "content_type"), [("<a/>", "application/xml"), ("grün", "text/plain"), (b"\x00\xff", "image/png")]
)
async def test_data_of_other_types(serve: Serve, data: Any, content_type: str) -> None:
    hub = await serve()
    async with events(hub, "/t") as client:
        await send(client, an_event(data, datacontenttype=content_type))
        assert (await receive(client)).get_data() == data
    (message,) = await hub.messages("t", 1)
    assert message.record.payload == (data if isinstance(data, bytes) else data.encode())


async def test_what_was_published_otherwise_is_an_event_too(serve: Serve) -> None:
    hub = await serve()
    async with events(hub, "/t") as client, connect(f"{hub.ws}/t") as raw:
        await hub.publish("t", b'{"a":1}', "application/json", key="k")
        event = await receive(client)
        assert (event.get_source(), event.get_type(), event.get_subject()) == ("/topics/t", "polywire.message", "k")
        assert event.get_data() == {"a": 1}
        await raw.send("hello")
        assert (await receive(client)).get_data() == "hello"
        await raw.send(b"\x00\xff")
        assert (await receive(client)).get_data() == b"\x00\xff"
        assert [await raw.recv() for _ in range(3)] == ['{"a":1}', "hello", b"\x00\xff"]
        await send(client, an_event())
        assert await raw.recv() == '{"number": 1}', "a raw reader gets the data"


async def test_the_key_of_the_path(serve: Serve) -> None:
    hub = await serve()
    async with events(hub, "/t/room1") as client, events(hub, "/t?key=room2") as other:
        await send(client, an_event())
        assert (await receive(client)).get_extension("partitionkey") == "room1"
        await send(other, an_event(id="A-2"))
        assert (await receive(other)).get_id() == "A-2"
        await send(client, an_event(partitionkey="room2"))
        code, reason = await closed(client)
        assert (code, reason) == (1007, "$.partitionkey is not the key that the path says")


async def test_once_on_a_topic_that_asks_for_it(serve: Serve) -> None:
    hub = await serve(topics=[(TopicSettings("once", dedup=True), None), (TopicSettings("many"), None)])
    for topic, count in (("once", 2), ("many", 3)):
        async with events(hub, f"/{topic}") as client:
            for sent in (an_event(), an_event(), an_event(source="/other")):
                await send(client, sent)
            got = [await receive(client) for _ in range(count)]
            assert {event.get_id() for event in got} == {"A-1"}
            assert len(await hub.messages(topic, count)) == count


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        ("nonsense", 1007, "not JSON"),
        ("[]", 1007, ""),
        ("{}", 1007, "required"),
        ('{"specversion":"0.3","id":"1","source":"/a","type":"t"}', 1007, "1.0"),
        ('{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{},"data_base64":""}', 1007, "data"),
        ('[{"specversion":"1.0","id":"1","source":"/a","type":"t"}]', 1007, ""),
        (b'{"specversion":"1.0","id":"1","source":"/a","type":"t"}', 1003, "text frame"),
        ("[" * 10_000, 1007, "nested"),
    ],
)
async def test_a_frame_that_is_no_event_closes_and_those_before_it_count(
    serve: Serve, frame: str | bytes, code: int, says: str
) -> None:
    hub = await serve()
    async with events(hub, "/t") as client:
        client.transport.pause_reading()
        await send(client, an_event())
        await client.send(frame)
        await client.send(SDK.write(an_event(id="late")).decode())
        client.transport.resume_reading()
        assert (got := await closed(client))[0] == code
        assert says in str(got[1])
    assert [m.record.id for m in await hub.messages("t", 1)] == ["A-1"]


async def test_many_events_in_order(serve: Serve) -> None:
    hub = await serve()
    async with events(hub, "/t") as one, events(hub, "/t?echo=0") as two:
        records = [Record(b"%d" % n, content_type="application/json") for n in range(1_000)]
        await hub.core.publish(hub.system, "t", records)
        await send(two, an_event(1_000))
        assert [(await receive(one)).get_data() for _ in range(1_001)] == list(range(1_001))
        assert [(await receive(two)).get_data() for _ in range(1_000)] == list(range(1_000))


async def test_websocket_client_as_its_readme_shows(serve: Serve) -> None:
    hub = await serve()

    def converse() -> Any:
        ws = websocket.create_connection(f"{hub.ws}/ws/orders", subprotocols=EVENTS, timeout=10)
        ws.send(SDK.write(an_event()).decode())
        got = SDK.read(None, ws.recv())
        ws.close()
        return ws.subprotocol, got.get_id()

    assert await asyncio.to_thread(converse) == ("cloudevents.json", "A-1")


async def test_other_formats_are_not_chosen(serve: Serve) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/t", subprotocols=["cloudevents.avro", "cloudevents.json"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "cloudevents.json"
    async with connect(f"{hub.ws}/t", subprotocols=["cloudevents.avro"]) as client:  # type: ignore[list-item]
        assert client.subprotocol is None
