"""CloudEvents as other people's SDK writes and reads them, as the specification shows them, and as nobody should."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.core.message import Flag, Message, Record
from polywire.core.position import Position
from polywire.formats.cloudevents import (
    attributes_of,
    deduplicate,
    is_binary,
    mode_of,
    read_batch,
    read_binary,
    read_structured,
    write_batch,
    write_binary,
    write_structured,
)
from tests.formats.hostile import MIB, mutations, prefixes, refusal, survives
from tests.formats.trees import TEXTS, VALUES

NOON = 1_795_176_000_000  # 2026-11-20T12:00:00Z
LEAST: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
Headers = list[tuple[bytes, bytes]]


def message(record: Record, topic: str = "readings") -> Message:
    return Message(topic, record, 1, Position(1, 0, 0), NOON)


def structured(**members: Any) -> Record:
    return read_structured(json.dumps(LEAST | members).encode())


def binary(**headers: str) -> Record:
    return read_binary(as_headers({f"ce-{name}": value for name, value in (LEAST | headers).items()}), b"")


def as_headers(headers: dict[str, str]) -> Headers:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def wrong(body: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as raised:
        read_structured(body if isinstance(body, bytes) else json.dumps(body).encode())
    return {field.path: field.message for field in raised.value.fields}


# --- other people's SDK ----------------------------------------------------------------------------------------------

EVENTS = [
    CloudEvent({"type": "com.example.some", "source": "/mycontext", "id": "A1"}, {"a": [1, None]}),
    CloudEvent(
        {
            "type": "com.example.some",
            "source": "https://example.com/x?y#z",
            "id": "ü €",
            "time": datetime(2026, 11, 20, 10, 0, 0, 123_000, tzinfo=UTC),
            "subject": 'a "quoted" 100% name',
            "dataschema": "https://example.com/schema",
            "datacontenttype": "application/json",
            "partitionkey": "kitchen é",
            "comexampleextension1": "value €",
            "comexampleothervalue": 5,
        },
        {"celsius": 21.5},
    ),
    CloudEvent({"type": "t", "source": "/s", "id": "2", "datacontenttype": "application/xml"}, '<much wow="xml"/>'),
    CloudEvent({"type": "t", "source": "/s", "id": "3", "datacontenttype": "application/octet-stream"}, b"\x00\xff"),
]


@pytest.mark.parametrize("event", EVENTS, ids=["least", "most", "text", "bytes"])
def test_events_of_the_sdk_in_both_modes(event: CloudEvent) -> None:
    sent = sdk.to_structured_event(event)
    assert mode_of(sent.headers["content-type"]) == "structured"
    again = sdk.from_structured_event(
        sdk.HTTPMessage(sent.headers, write_structured(message(read_structured(sent.body))))
    )
    expected = event.get_attributes()
    if event.get_data() is not None and event.get_datacontenttype() is None:
        expected = expected | {"datacontenttype": "application/json"}  # JSON format §3.1.2: the implied one, explicitly
    assert again.get_attributes() == expected
    assert again.get_data() == event.get_data()

    sent = sdk.to_binary_event(event)
    headers = as_headers(sent.headers)
    assert is_binary(headers)
    written, body = write_binary(message(read_binary(headers, sent.body)))
    back = sdk.from_binary_event(sdk.HTTPMessage({k.decode(): v.decode() for k, v in written}, body))
    assert back.get_attributes() == {
        name: value if isinstance(value, (str, datetime)) else json.dumps(value)
        for name, value in event.get_attributes().items()
    }
    assert body == sent.body


def test_a_message_that_was_no_event_for_the_sdk() -> None:
    record = Record(b'{"celsius":21.5}', b"kitchen", "m-1", "application/json", [("trace", "x"), ("ce-bad!", "y")])
    event = sdk.from_structured_event(sdk.HTTPMessage({}, write_structured(message(record))))
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": "m-1",
        "source": "/topics/readings",
        "type": "polywire.message",
        "subject": "kitchen",
        "partitionkey": "kitchen",
        "datacontenttype": "application/json",
        "time": datetime(2026, 11, 20, 12, tzinfo=UTC),
    }
    assert event.get_data() == {"celsius": 21.5}


# --- attributes and records ------------------------------------------------------------------------------------------


def test_where_each_attribute_goes() -> None:
    record = structured(
        time="2026-11-20T12:00:00.250Z",
        subject="cam.jpg",
        dataschema="urn:schema",
        datacontenttype="text/plain",
        partitionkey="kitchen",
        number=7,
        flag=False,
        unset=None,
        data="21 °C",
    )
    assert record == Record(
        "21 °C".encode(),
        b"kitchen",
        "1",
        "text/plain",
        [
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-subject", "cam.jpg"),
            ("ce-dataschema", "urn:schema"),
            ("ce-number", 7),
            ("ce-flag", False),
        ],
        NOON + 250,
    )


@pytest.mark.parametrize(
    ("time", "milliseconds", "kept"),
    [
        ("2026-11-20T12:00:00Z", NOON, False),
        ("2026-11-20T12:00:00.500Z", NOON + 500, False),
        ("2026-11-20T12:00:00.5Z", NOON + 500, True),
        ("2026-11-20T12:00:00.123456789Z", NOON + 123, True),
        ("2026-11-20T14:00:00+02:00", NOON, True),
        ("2026-11-20t12:00:00z", NOON, True),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000, True),
        ("1970-01-01T00:00:00Z", 0, False),
        ("1969-12-31T23:59:59Z", None, True),
        ("0001-01-01T00:00:00+23:59", None, True),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000, True),
    ],
)
def test_times(time: str, milliseconds: int | None, kept: bool) -> None:
    record = structured(time=time)
    assert record.time == milliseconds
    assert (("ce-time", time) in record.headers) is kept
    assert attributes_of(message(record))["time"] == time


@pytest.mark.parametrize(
    ("members", "payload", "content_type"),
    [
        ({}, b"", None),
        ({"datacontenttype": "text/plain"}, b"", "text/plain"),
        ({"data": None}, b"null", "application/json"),
        ({"data": "text"}, b'"text"', "application/json"),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", "text/plain"),
        ({"data": "é", "datacontenttype": "text/plain; charset=ISO-8859-1"}, b"\xe9", "text/plain; charset=ISO-8859-1"),
        ({"data": {"a": 1}, "datacontenttype": "application/vnd.x+json"}, b'{"a": 1}', "application/vnd.x+json"),
        ({"data_base64": "AP8="}, b"\x00\xff", None),
        ({"data_base64": "e30=", "datacontenttype": "application/json"}, b"{}", "application/json"),
        ({"data": None, "data_base64": "AP8="}, b"\x00\xff", None),
        ({"data": 1, "data_base64": None}, b"1", "application/json"),
    ],
)
def test_data(members: dict[str, Any], payload: bytes, content_type: str | None) -> None:
    record = structured(**members)
    assert (record.payload, record.content_type) == (payload, content_type)


def test_numbers_in_data_keep_their_spelling() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n": 1.50, "m": 12345678901234567890123}}'
    assert read_structured(body).payload == b'{"n": 1.50, "m": 12345678901234567890123}'
    assert b'"data":{"n": 1.50, "m": 12345678901234567890123}' in write_structured(message(read_structured(body)))


@pytest.mark.parametrize(
    ("payload", "content_type", "member", "value"),
    [
        (b'{"a":1}', "application/json", "data", {"a": 1}),
        (b"{", "application/json", "data_base64", "ew=="),
        (b"\xff", "text/plain", "data_base64", "/w=="),
        (b"hi", "text/plain", "data", "hi"),
        (b"hi", "text/plain; charset=utf-16", "data_base64", "aGk="),
        (b"<a/>", "image/svg+xml", "data", "<a/>"),
        (b"hi", None, "data", "hi"),
        (b'{"a":1}', None, "data", {"a": 1}),
        (b"\0hi", None, "data_base64", "AGhp"),
        (b"hi", "image/png", "data_base64", "aGk="),
    ],
)
def test_payloads_in_json(payload: bytes, content_type: str | None, member: str, value: Any) -> None:
    event = json.loads(write_structured(message(Record(payload, id="1", content_type=content_type))))
    assert {name: event[name] for name in event if name.startswith("data") and name != "datacontenttype"} == {
        member: value
    }


def test_an_event_without_time_gets_none() -> None:
    assert "time" not in attributes_of(message(structured()))
    assert attributes_of(message(Record(id="1")))["time"] == "2026-11-20T12:00:00Z"
    assert attributes_of(message(Record(id="1", time=250)))["time"] == "1970-01-01T00:00:00.250Z"
    assert attributes_of(message(Record(id="1", time=10**18)))["time"] == "9999-12-31T23:59:59.999Z"


def test_what_no_attribute_can_hold_is_left_out() -> None:
    headers: list[tuple[str, Any]] = [
        ("ce-a", "x\x00"),
        ("ce-b", None),
        ("ce-c", 2**40),
        ("ce-d", b"\xff"),
        ("ce-e", 1.5),
        ("ce-e", "again"),
        ("ce-source", "no uri"),
        ("ce-id", ""),
        ("ce-time", "noon"),
        ("ce-specversion", "2.0"),
        ("ce-data", "x"),
        ("CE-upper", "x"),
    ]
    record = Record(id="1", key=b"\xff", content_type="a/b; c=d\r\nX: y", headers=headers)
    assert attributes_of(message(record, "a b"), default_type="my.type") == {
        "specversion": "1.0",
        "id": "1",
        "source": "/topics/a%20b",
        "type": "my.type",
        "time": "2026-11-20T12:00:00Z",
        "c": str(2**40),
        "d": "/w==",
        "e": "1.5",
    }


def test_source_and_id_are_what_is_deduplicated() -> None:
    first, second, other = structured(), structured(), structured(source="/other")
    for record in (first, second, other):
        deduplicate(record)
        assert record.flags & Flag.DEDUP
    assert first.id == second.id == "/s 1" != other.id
    assert attributes_of(message(first))["id"] == "1"
    long = structured(id="i" * 255, source="/" + "s" * 300)
    deduplicate(long)
    assert len(long.id) == 64
    assert attributes_of(message(long))["id"] == "i" * 255
    plain = Record(id="1")
    deduplicate(plain)
    assert plain == Record(id="1")


@given(TEXTS, VALUES)
def test_any_text_and_any_data_come_back(text: str, data: Any) -> None:
    try:
        record = structured(subject=text, extension=text, data=data)
    except Invalid as error:
        assert {field.path for field in error.fields} <= {"$.subject", "$.extension"}  # noqa: PT017
        return
    event = json.loads(write_structured(message(record)))
    assert (event["subject"], event["extension"]) == (text, text)
    assert repr(event["data"]) == repr(json.loads(json.dumps(data)))
    headers, _ = write_binary(message(record))
    assert all(0x21 <= byte <= 0x7E for name, value in headers for byte in value if name != b"content-type")
    assert [header for header in read_binary(headers, b"").headers if header[1] == text] == [
        header for header in record.headers if header[1] == text
    ]


# --- binary mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("a b", "a b"),
        ('"a \\"b\\" \\\\ c"', 'a "b" \\ c'),
        ("%25%32%30", "%20"),
        ("100%", "100%"),
        ("€", "€"),
    ],
)
def test_values_of_headers(value: str, text: str) -> None:
    assert ("ce-subject", text) in binary(subject=value).headers


def test_the_value_of_the_specification_is_written_as_it_says() -> None:
    headers, _ = write_binary(message(structured(subject="Euro € 😀", number=5, flag=True)))
    assert dict(headers) == {
        b"ce-specversion": b"1.0",
        b"ce-id": b"1",
        b"ce-source": b"/s",
        b"ce-type": b"t",
        b"ce-subject": b"Euro%20%E2%82%AC%20%F0%9F%98%80",
        b"ce-number": b"5",
        b"ce-flag": b"true",
    }


def test_all_wrong_headers_are_named_at_once() -> None:
    headers = as_headers(
        {
            "ce-specversion": "0.3",
            "ce-id": "",
            "ce-source": "a b",
            "ce-time": "noon",
            "ce-Foo-Bar": "x",
            "ce-subject": "%C0%A0",
            "ce-datacontenttype": "a/b",
            "ce-data": "x",
            "content-type": "what?",
        }
    )
    with pytest.raises(Invalid) as raised:
        read_binary([*headers, (b"ce-id", b"2")], b"")
    assert dict(raised.value.fields) == {
        "header.ce-subject": "is not UTF-8",
        "header.ce-datacontenttype": "is said by Content-Type",
        "header.ce-id": "must not be empty",
        "header.ce-specversion": "must be 1.0",
        "header.ce-time": "must be a time as in 2026-11-20T10:00:00Z (RFC 3339)",
        "header.content-type": "must be a media type (RFC 2046)",
        "header.ce-source": "must be a URI-reference (RFC 3986) and not empty",
        "header.ce-foo-bar": "attribute names are lower-case letters and digits, and not data",
        "header.ce-data": "attribute names are lower-case letters and digits, and not data",
        "header.ce-type": "required",
    }


# --- structured and batch mode ---------------------------------------------------------------------------------------


def test_all_wrong_attributes_are_named_at_once() -> None:
    assert wrong({}) == {f"$.{name}": "required" for name in ("specversion", "id", "source", "type")}
    assert wrong(
        {
            "specversion": 1.0,
            "id": 7,
            "source": "",
            "type": "",
            "subject": "",
            "time": "2026-02-30T00:00:00Z",
            "dataschema": "/relative",
            "datacontenttype": "json",
            "partitionkey": "",
            "Upper": "x",
            "a": 1.5,
            "b": 2**31,
            "c": [],
            "d": "\x00",
            "e": "\ufffe",
            "data": 1,
            "data_base64": "%%",
        }
    ) == {
        "$.specversion": "must be a string",
        "$.id": "must be a string",
        "$.source": "must be a URI-reference (RFC 3986) and not empty",
        "$.type": "must not be empty",
        "$.subject": "must not be empty",
        "$.time": "must be a time as in 2026-11-20T10:00:00Z (RFC 3339)",
        "$.dataschema": "must be an absolute URI (RFC 3986)",
        "$.datacontenttype": "must be a media type (RFC 2046)",
        "$.partitionkey": "must not be empty",
        "$.Upper": "attribute names are lower-case letters and digits, and not data",
        "$.a": "must be a string, a boolean or an integer of 32 bits",
        "$.b": "must be a string, a boolean or an integer of 32 bits",
        "$.c": "must be a string, a boolean or an integer of 32 bits",
        "$.d": "must not have control characters or noncharacters",
        "$.e": "must not have control characters or noncharacters",
        "$.data_base64": "must be base64",
    }


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"id": "i" * 256}, "$.id"),
        ({"data": {}, "datacontenttype": "text/plain"}, "$.data"),
        ({"data": "€", "datacontenttype": "text/plain; charset=iso-8859-1"}, "$.data"),
        ({"data": "x", "datacontenttype": "text/plain; charset=idna"}, "$.data"),
        ({"data_base64": 1}, "$.data_base64"),
        ({"specversion": "1.1"}, "$.specversion"),
    ],
)
def test_wrong_attributes(members: dict[str, Any], path: str) -> None:
    assert list(wrong(LEAST | members)) == [path]


def test_data_of_both_kinds() -> None:
    assert wrong(LEAST | {"data": 1, "data_base64": ""}) == {"$.data_base64": "is given besides data"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","id":"2"}',
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","\\u0069d":"2"}',
    ],
)
def test_an_attribute_that_is_given_twice(body: bytes) -> None:
    assert wrong(body) == {"$.id": "is given twice"}
    assert read_structured(b'{"specversion":"1.0","id":"type","source":"/s","type":"t","a":"id"}').id == "type"


@pytest.mark.parametrize(
    "source",
    ["1-555-123-4567", "urn:uuid:6e8bc430", "mailto:a@b", "https://[::1]:80/x?y=z#f", "//host", "?q", "a/b:c", "%20"],
)
def test_sources(source: str) -> None:
    assert structured(source=source).headers[0] == ("ce-source", source)


@pytest.mark.parametrize("source", ["a b", "é", "%zz", "a#b#c", "1:2", "<>", "\\", "[", "a^b", "http://a b"])
def test_what_is_no_source(source: str) -> None:
    assert list(wrong(LEAST | {"source": source})) == ["$.source"]


def test_batches() -> None:
    records = read_batch(json.dumps([LEAST, LEAST | {"id": "2", "data": 1}]).encode(), most=2)
    assert [record.id for record in records] == ["1", "2"]
    assert json.loads(write_batch([message(record) for record in records])) == [
        LEAST,
        LEAST | {"id": "2", "data": 1, "datacontenttype": "application/json"},
    ]
    assert read_batch(b"[]", most=2) == []
    assert write_batch([]) == b"[]"
    with pytest.raises(TooLarge):
        read_batch(json.dumps([LEAST] * 3).encode(), most=2)
    with pytest.raises(Invalid) as raised:
        read_batch(json.dumps([LEAST, LEAST | {"id": ""}, 7]).encode(), most=9)
    assert dict(raised.value.fields) == {"$[1].id": "must not be empty", "$[2]": "must be an object"}
    with pytest.raises(Invalid, match="array"):
        read_batch(json.dumps(LEAST).encode(), most=9)


def test_modes() -> None:
    assert mode_of("application/cloudevents+json; charset=UTF-8") == "structured"
    assert mode_of("Application/CloudEvents-Batch+JSON") == "batch"
    assert mode_of("application/json") is mode_of(None) is None
    for other in ("application/cloudevents+avro", "application/cloudevents", "application/cloudevents-batch+xml"):
        with pytest.raises(Unsupported):
            mode_of(other)


# --- hostile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"\\ud800"',
        b'{"\\ud800":1}',
        json.dumps(LEAST | {"a": 0}).encode().replace(b"0}", b'"\\ud800"}'),
        json.dumps(LEAST | {"data": 0}).encode().replace(b"0}", b"[" * 100_000 + b"}"),
        json.dumps(LEAST | {"data": 0}).encode().replace(b"0}", b"[" * 900 + b"]" * 900 + b',"id":"2"}'),
        json.dumps(LEAST | {"data": 0}).encode().replace(b"0}", b"NaN}"),
        json.dumps(LEAST | {"a": "x"}).encode().replace(b"x", b"\xff"),
        json.dumps({f"a{n}": "x" for n in range(50_000)}).encode(),
        json.dumps({f"A{n}": "x" for n in range(50_000)}).encode(),
        json.dumps(LEAST | {"a": "id" * MIB, "b": []}).encode(),
        json.dumps(LEAST | {"source": "//" + "a/" * MIB + " "}).encode(),
        json.dumps(LEAST | {"source": "a" * MIB + " "}).encode(),
        json.dumps(LEAST | {"datacontenttype": "a/" + "b" * MIB + " ?"}).encode(),
        json.dumps(LEAST | {"time": "2026-11-20T10:00:00." + "0" * MIB}).encode(),
    ],
    ids=range(18),
)
def test_hostile_events(body: bytes) -> None:
    refusal(lambda: read_structured(body), memory=40 * MIB + 20 * len(body))


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ('"a b"', "a b"),
        ('x "a \\"b\\"" y', 'x a "b" y'),
        ('"open', '"open'),
        ('"a" "open \\"', 'a "open \\"'),
        ('"a" "\\', 'a "\\'),
    ],
)
def test_quoted_header_values(sent: str, meant: str) -> None:
    assert ("ce-subject", meant) in binary(subject=sent).headers


def test_quotes_that_do_not_end_cost_little() -> None:
    value = '"\\' * 32_000
    began = perf_counter()
    assert ("ce-subject", value) in binary(subject=value).headers
    assert perf_counter() - began < 1


BODY = json.dumps(
    LEAST | {"time": "2026-11-20T12:00:00Z", "partitionkey": "k", "x": 5, "datacontenttype": "text/plain", "data": "é"}
).encode()


def test_cut_off_anywhere() -> None:
    for body in prefixes(BODY):
        with pytest.raises(Invalid):
            read_structured(body)


@settings(max_examples=100, deadline=None)
@given(mutations(st.just(BODY)))
def test_mutated_bytes(body: bytes) -> None:
    survives(lambda: read_structured(body))
    survives(lambda: read_batch(b"[" + body + b"," + BODY + b"]", most=9))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"ce-id", b"ce-time", b"ce-x", b"ce-\xff", b"content-type"]), st.binary())))
def test_any_headers(headers: Headers) -> None:
    survives(lambda: read_binary([(b"ce-specversion", b"1.0"), *headers], b""))


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=5),
    st.none() | st.binary(max_size=5),
    st.none() | TEXTS | st.sampled_from(["application/json", "text/plain", "text/plain; charset=x"]),
    st.lists(
        st.tuples(st.sampled_from(["ce-id", "ce-time", "ce-type", "ce-source", "ce-x", "x"]), VALUES | st.binary())
    ),
    st.none() | st.integers(),
)
def test_any_message_is_an_event(
    payload: bytes, key: bytes | None, content_type: str | None, headers: list[tuple[str, Any]], time: int | None
) -> None:
    record = Record(payload, key, "1", content_type, headers, time)
    event = read_structured(write_structured(message(record)))
    assert event.payload == payload
    written, body = write_binary(message(record))
    again = read_binary(written, body)
    assert (again.payload, again.id, again.time, again.key) == (payload, event.id, event.time, event.key)
