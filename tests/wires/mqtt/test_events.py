"""CloudEvents over MQTT: as the binding's specification shows them, and as the CNCF's own SDK makes and reads them.

The SDK has no MQTT binding of its own; its events and its JSON format stand on both ends here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from polywire.core.errors import Invalid
from polywire.core.message import Flag, Message, Origin, Record
from polywire.core.position import Position
from polywire.formats import cloudevents
from polywire.wires.mqtt import properties
from polywire.wires.mqtt.fields import Fields
from polywire.wires.mqtt.packets import Property, Publish
from polywire.wires.mqtt.records import block_of, payload_of, qos_of, record_of

NOW = 1_795_176_000_000  # 2026-11-20T12:00:00Z
ORIGIN = Origin("ann", "mqtt", "shop")
SDK = JSONFormat()
STRUCTURED = "application/cloudevents+json; charset=utf-8"
LEAST = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
EXAMPLE = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
    "datacontenttype": "application/json; charset=utf-8",
}
"""§3.1.4, with the content type in both places as it is there."""


def published(
    user: dict[str, str] | list[tuple[str, str]],
    payload: bytes = b"{}",
    content_type: str | None = None,
    *,
    key: bytes | None = None,
    retain: bool = False,
) -> Record:
    said: dict[int, Any] = {Property.USER_PROPERTY: list(user.items()) if isinstance(user, dict) else user}
    if content_type is not None:
        said[Property.CONTENT_TYPE] = content_type
    fields = Fields(properties.write(said), "")
    block = fields.take(fields.varint("size"), "block")
    return record_of(Publish(b"mytopic", payload, 1, 1, retain, properties=block), key, ORIGIN, NOW)


def message(record: Record) -> Message:
    return Message("mytopic", record, 7, Position(1, 0, 0), NOW)


def told(record: Record) -> tuple[dict[str, str], str | None, bytes]:
    """What a reader at level 5 sees: user properties, Content Type, payload."""
    said = properties.read(block_of(message(record)), Publish)
    user = said.get(Property.USER_PROPERTY, [])
    assert len(dict(user)) == len(user)
    return dict(user), said.get(Property.CONTENT_TYPE), payload_of(message(record))


def from_rest(headers: dict[str, str], body: bytes) -> Record:
    return cloudevents.read_binary([(name.encode(), value.encode()) for name, value in headers.items()], body)


def wrong(*args: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as raised:
        published(*args, **options)
    return {field.path: field.message for field in raised.value.fields}


# --- binary mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False])
def test_the_example_of_binary_mode(beside: bool) -> None:
    user = EXAMPLE if beside else {name: value for name, value in EXAMPLE.items() if name != "datacontenttype"}
    record = published(user, b'{"a":1}', EXAMPLE["datacontenttype"])
    assert cloudevents.attributes_of(message(record)) == EXAMPLE
    assert record.payload == b'{"a":1}'
    assert told(record) == (user, EXAMPLE["datacontenttype"], b'{"a":1}'), "unaltered"
    assert qos_of(record) == 1


def test_it_is_stored_as_rest_stores_it() -> None:
    attributes = {**LEAST, "subject": "s", "time": "2026-11-20T12:00:00.25+01:00", "comexampleext": "5 € % x"}
    ours = published(attributes, b"hi", "text/plain")
    headers = {f"ce-{name}": value for name, value in attributes.items()} | {"content-type": "text/plain"}
    theirs = from_rest({**headers, "ce-comexampleext": "5 %E2%82%AC %25 x"}, b"hi")
    for field in ("id", "time", "content_type", "headers", "payload", "key"):
        assert getattr(ours, field) == getattr(theirs, field), field


def test_an_event_of_the_sdk_goes_to_mqtt_and_back() -> None:
    event = CloudEvent(
        {
            "specversion": "1.0",
            "id": "A-1",
            "source": "/shop/größe",
            "type": "order.placed",
            "time": datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
            "datacontenttype": "application/json",
            "subject": "order 7",
            "attempt": 3,
            "urgent": True,
        },
        {"number": 7},
    )
    event.get_attributes()["source"] = "/shop/gr%C3%B6%C3%9Fe"
    record = cloudevents.read_structured(SDK.write(event))
    record.key, record.origin = b"eu.7", Origin("ann", "rest", "1.2.3.4")
    user, content_type, payload = told(record)
    assert user == {
        "specversion": "1.0",
        "id": "A-1",
        "source": "/shop/gr%C3%B6%C3%9Fe",
        "type": "order.placed",
        "time": "2026-01-31T12:00:00Z",
        "subject": "order 7",
        "partitionkey": "eu.7",
        "attempt": "3",
        "urgent": "true",
    }
    assert (content_type, json.loads(payload)) == ("application/json", {"number": 7})
    again = published(user, payload, content_type, key=b"eu.7")
    read = SDK.read(None, cloudevents.write_structured(message(again)))
    assert {**event.get_attributes(), "attempt": "3", "urgent": "true", "partitionkey": "eu.7"} == read.get_attributes()
    assert read.get_data() == {"number": 7}


def test_other_headers_of_an_event() -> None:
    """What can be no attribute is a header, on both ways."""
    record = published([*LEAST.items(), ("Trace-Id", "x"), ("ext", "1"), ("Trace-Id", "y"), ("ext", "2")])
    assert record.headers == [
        ("ce-source", "/s"), ("ce-type", "t"), ("ce-ext", "1"), ("Trace-Id", "x"), ("Trace-Id", "y"), ("ext", "2"),
    ]  # fmt: skip
    record.origin = Origin("ann", "rest", "")
    said = properties.read(block_of(message(record)), Publish)[Property.USER_PROPERTY]
    assert said[-3:] == [("Trace-Id", "x"), ("Trace-Id", "y"), ("ext", "2")]
    assert ("ext", "1") in said


@pytest.mark.parametrize(
    "user",
    [
        {name: value for name, value in LEAST.items() if name != left_out}
        for left_out in ("specversion", "id", "source", "type")
    ]
    + [{**LEAST, "specversion": "0.3"}, {"SpecVersion": "1.0", "id": "1", "source": "/s", "type": "t"}],
    ids="+".join,
)
def test_what_is_no_event(user: dict[str, str]) -> None:
    record = published(user, b"x")
    assert record.headers == list(user.items())
    assert record.id == ""
    assert told(record) == (user, None, b"x")


def test_what_is_wrong_with_an_event() -> None:
    user = {
        "specversion": "1.0", "id": "", "source": "not a uri", "type": "", "time": "today", "dataschema": "relative",
        "data": "x", "ext": "a\x01",
    }  # fmt: skip
    assert wrong(user, content_type="json") == {
        "property.id": "must not be empty",
        "property.source": "must be a URI-reference (RFC 3986) and not empty",
        "property.type": "must not be empty",
        "property.time": "must be a time as in 2026-11-20T10:00:00Z (RFC 3339)",
        "property.dataschema": "must be an absolute URI (RFC 3986)",
        "property.data": "attribute names are lower-case letters and digits, and not data",
        "property.ext": "must not have control characters or noncharacters",
        "property.datacontenttype": "must be a media type (RFC 2046)",
    }
    assert wrong({**LEAST, "id": "x" * 256}) == {"property.id": "must have at most 255 characters"}


# --- structured mode -------------------------------------------------------------------------------------------------


def event(**members: Any) -> bytes:
    return json.dumps({**LEAST, **members}, indent=1).encode()


@pytest.mark.parametrize("content_type", [STRUCTURED, "application/cloudevents+json", "Application/CloudEvents+JSON"])
def test_an_event_in_structured_mode(content_type: str) -> None:
    payload = event(datacontenttype="text/plain", data="grün", ext=5)
    record = published({}, payload, content_type)
    assert (record.payload, record.content_type, record.id) == ("grün".encode(), "text/plain", "1")
    assert record.headers == [("ce-source", "/s"), ("ce-type", "t"), ("ce-ext", 5)]
    assert told(record) == ({}, content_type, payload), "MQTT readers get it as it came"
    assert qos_of(record) == 1


def test_an_event_of_the_sdk_in_structured_mode() -> None:
    sent = CloudEvent({**LEAST, "datacontenttype": "application/json", "time": datetime(2026, 1, 31, tzinfo=UTC)}, [1])
    record = published({}, SDK.write(sent), STRUCTURED)
    assert record.payload == b"[1]"
    read = SDK.read(None, payload_of(message(record)))
    assert (read.get_attributes(), read.get_data()) == (sent.get_attributes(), sent.get_data())


def test_a_long_event_is_written_anew() -> None:
    members = {"data": {"n": 1, "x": "y" * 20_000}, "ext": True, "partitionkey": "p", "time": "2026-01-31T12:00:00.5Z"}
    record = published({}, event(**members), STRUCTURED, key=b"k")
    assert record.native is not None
    assert len(record.native) < 100
    assert told(record)[:2] == ({}, STRUCTURED)
    assert json.loads(payload_of(message(record))) == {**LEAST, "datacontenttype": "application/json", **members}


def test_user_properties_may_repeat_the_attributes() -> None:
    """§3.2.3"""
    user = {**LEAST, "ext": "5", "Trace-Id": "x"}
    record = published(user, event(ext=5), STRUCTURED)
    assert record.headers == [("ce-source", "/s"), ("ce-type", "t"), ("ce-ext", 5), ("Trace-Id", "x")]
    assert told(record)[0] == user


def test_what_is_wrong_with_an_event_in_structured_mode() -> None:
    assert wrong({}, b'{"specversion":"1.0","id":5}', STRUCTURED) == {
        "$.id": "must be a string",
        "$.source": "required",
        "$.type": "required",
    }
    with pytest.raises(Invalid, match="not JSON"):
        published({}, b"{", STRUCTURED)


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+avro", "application/cloudevents-batch+json", "application/cloudevents"]
)
def test_other_formats_are_carried_on(content_type: str) -> None:
    """§3: a receiver may forward what it cannot read."""
    record = published({"a": "1"}, b"\x00\x01", content_type)
    assert (record.payload, record.content_type, record.headers) == (b"\x00\x01", content_type, [("a", "1")])
    assert told(record) == ({"a": "1"}, content_type, b"\x00\x01")


def test_an_event_without_data_can_be_retained() -> None:
    """An empty payload would end what is retained."""
    record = published({}, event(), STRUCTURED, retain=True)
    assert (record.payload, record.content_type) == (event(), STRUCTURED)
    assert record.flags & Flag.RETAINED
    assert published({}, event(), STRUCTURED).payload == b""
    assert published(LEAST, b"", retain=True).payload == b"", "this publisher means it"


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_the_key_is_that_of_the_topic_name(mode: str) -> None:
    def publish(partition: str, key: bytes | None) -> Record:
        if mode == "binary":
            return published({**LEAST, "partitionkey": partition}, key=key)
        return published({}, event(partitionkey=partition), STRUCTURED, key=key)

    for key in (b"kitchen", None):
        record = publish("room1", key)
        assert record.key == key
        assert cloudevents.attributes_of(message(record))["partitionkey"] == "room1"
    record = publish("kitchen", b"kitchen")
    assert [name for name, _ in record.headers] == ["ce-source", "ce-type"]
    assert cloudevents.attributes_of(message(record))["partitionkey"] == "kitchen"


def test_events_can_be_told_apart_by_source_and_id() -> None:
    record = published(LEAST)
    cloudevents.deduplicate(record)
    assert record.flags & Flag.DEDUP
    assert record.id == "/s 1"
    assert told(record)[0] == LEAST
