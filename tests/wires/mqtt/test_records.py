"""PUBLISH and wills → records, and what readers at level 5 are told of records."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.errors import Invalid
from polywire.core.message import Batch, Flag, Message, Origin, Record
from polywire.core.position import Position
from polywire.wires.mqtt import properties
from polywire.wires.mqtt.fields import Fields
from polywire.wires.mqtt.packets import Properties, Property, Publish, Will
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.records import (
    block_of,
    expiry_of,
    levels_of,
    payload_of,
    qos_of,
    record_of,
    record_of_will,
)

NOW = 1_795_176_000_000
ORIGIN = Origin("ann", "mqtt", "sensor-1")
P = Property


def block(*pairs: tuple[int, Any]) -> bytes:
    """Properties in this order, as they stand in a packet."""
    written = []
    for identifier, value in pairs:
        field = Fields(properties.write({identifier: [value] if identifier in (P.USER_PROPERTY, 0x0B) else value}), "")
        written.append(field.take(field.varint("size"), "block"))
    return b"".join(written)


def published(payload: bytes = b"21.5", qos: int = 1, *, retain: bool = False, said: bytes = b"") -> Record:
    publish = Publish(b"readings/kitchen", payload, qos, 1 if qos else 0, retain, properties=said)
    return record_of(publish, b"kitchen", ORIGIN, NOW)


def message(record: Record) -> Message:
    return Message("readings", record, 7, Position(1, 0, 0), NOW)


def told(record: Record) -> Properties:
    return properties.read(block_of(message(record)), Publish)


# --- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
def test_a_publish_without_properties(qos: int, retain: bool) -> None:
    record = published(b"\x00\xff", qos, retain=retain)
    assert (record.payload, record.key, record.origin) == (b"\x00\xff", b"kitchen", ORIGIN)
    assert bool(record.flags & Flag.VOLATILE) is (qos == 0)
    assert bool(record.flags & Flag.RETAINED) is retain
    assert (record.content_type, record.headers, record.expires) == (None, [], None)
    assert (record.id, record.time, record.reply_to, record.correlation_id) == ("", None, None, None)
    assert qos_of(record) == qos
    assert block_of(message(record)) == b""
    assert record.native is published(b"", qos).native, "shared by all"


def test_what_properties_say() -> None:
    said = block(
        (P.USER_PROPERTY, ("colour", "red")),
        (P.CONTENT_TYPE, "application/json"),
        (P.USER_PROPERTY, ("colour", "blue")),
        (P.RESPONSE_TOPIC, "answers/me.x"),
        (P.CORRELATION_DATA, b"\x00\xff"),
        (P.MESSAGE_EXPIRY_INTERVAL, 60),
        (P.PAYLOAD_FORMAT_INDICATOR, 1),
        (P.USER_PROPERTY, ("", "")),
    )
    record = published("grün".encode(), said=said)
    assert record.content_type == "application/json"
    assert record.headers == [("colour", "red"), ("colour", "blue"), ("", "")]
    assert (record.reply_to, record.correlation_id) == ("answers/me.x", b"\x00\xff")
    assert record.expires == NOW + 60_000
    assert record.payload == "grün".encode()


def test_what_goes_on_to_readers_is_unaltered() -> None:
    """[MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-20]."""
    first = block((P.USER_PROPERTY, ("a", "1")), (P.CONTENT_TYPE, ""), (P.USER_PROPERTY, ("\x23", "\x02")))
    last = block((P.PAYLOAD_FORMAT_INDICATOR, 0), (P.USER_PROPERTY, ("a", "1")), (P.CORRELATION_DATA, b"#\x00\x01"))
    hop = block((P.TOPIC_ALIAS, 5), (P.MESSAGE_EXPIRY_INTERVAL, 9))
    record = published(qos=2, said=first + hop + last)
    assert record.native == b"\x02" + first + last
    assert block_of(message(record)) == first + last
    assert record.content_type is None, "an empty one says nothing"


strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ANY = st.one_of(
    st.tuples(st.just(P.USER_PROPERTY), st.tuples(strings, strings)),
    st.tuples(st.just(P.CONTENT_TYPE), strings),
    st.tuples(st.just(P.RESPONSE_TOPIC), st.just("answers")),
    st.tuples(st.just(P.CORRELATION_DATA), st.binary(max_size=20)),
    st.tuples(st.just(P.PAYLOAD_FORMAT_INDICATOR), st.integers(0, 1)),
    st.tuples(st.just(P.MESSAGE_EXPIRY_INTERVAL), st.integers(0, 0xFFFF_FFFF)),
    st.tuples(st.just(P.TOPIC_ALIAS), st.integers(1, 65_535)),
)


@settings(deadline=None)
@given(st.lists(ANY, max_size=8, unique_by=lambda pair: pair if pair[0] == P.USER_PROPERTY else pair[0]))
def test_any_properties_keep_their_order(pairs: list[tuple[int, Any]]) -> None:
    record = published(said=block(*pairs))
    kept = [pair for pair in pairs if pair[0] not in (P.TOPIC_ALIAS, P.MESSAGE_EXPIRY_INTERVAL)]
    assert block_of(message(record)) == block(*kept)
    assert record.headers == [value for identifier, value in kept if identifier == P.USER_PROPERTY]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record, "it can be stored"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (block((P.SUBSCRIPTION_IDENTIFIER, 1)), Reason.PROTOCOL_ERROR),  # [MQTT-3.3.4-6]
        (block((P.RESPONSE_TOPIC, "a/+")), Reason.PROTOCOL_ERROR),  # [MQTT-3.3.2-14]
        (block((P.RESPONSE_TOPIC, "")), Reason.PROTOCOL_ERROR),
        (block((P.CONTENT_TYPE, "a"), (P.CONTENT_TYPE, "a")), Reason.PROTOCOL_ERROR),
        (b"\x03\x00", Reason.MALFORMED_PACKET),
        (b"\x03\x00\x01\xff", Reason.MALFORMED_PACKET),
        (b"\x13\x00\x01", Reason.MALFORMED_PACKET),  # Server Keep Alive
    ],
    ids=repr,
)
def test_properties_that_break_the_protocol(said: bytes, reason: int) -> None:
    for _ in range(2):  # a refusal is not remembered as anything else
        with pytest.raises(MqttError) as caught:
            published(said=said)
        assert caught.value.reason == reason


def test_text_that_is_none() -> None:
    """MQTT 5 §3.3.2.3.2: reason 0x99, which is what `Invalid` is told as."""
    said = block((P.PAYLOAD_FORMAT_INDICATOR, 1))
    with pytest.raises(Invalid, match="byte 2"):
        published(b"ab\xff", said=said)
    assert published(b"ab\xff", said=block((P.PAYLOAD_FORMAT_INDICATOR, 0))).payload == b"ab\xff"


def test_publishers_that_say_the_same_share_no_list() -> None:
    said = block((P.USER_PROPERTY, ("a", "1")))
    one, two = published(said=said), published(said=said)
    one.headers.append(("b", "2"))
    assert two.headers == [("a", "1")]
    assert published(said=said).headers == [("a", "1")]


def test_a_will() -> None:
    given = {
        P.WILL_DELAY_INTERVAL: 5,
        P.MESSAGE_EXPIRY_INTERVAL: 60,
        P.CONTENT_TYPE: "text/plain",
        P.USER_PROPERTY: [("a", "1"), ("a", "2")],
        P.RESPONSE_TOPIC: "answers",
        P.CORRELATION_DATA: b"c",
        P.PAYLOAD_FORMAT_INDICATOR: 1,
    }
    record = record_of_will(Will(b"gone/ann", b"bye", 2, True, given), b"ann", ORIGIN, NOW)
    assert (record.payload, record.key, record.content_type) == (b"bye", b"ann", "text/plain")
    assert record.expires == NOW + 60_000, "it begins to live when it is published"
    assert record.flags == Flag.RETAINED
    assert (record.reply_to, record.correlation_id) == ("answers", b"c")
    assert record.headers == [("a", "1"), ("a", "2")]
    assert qos_of(record) == 2
    del given[P.WILL_DELAY_INTERVAL], given[P.MESSAGE_EXPIRY_INTERVAL]
    assert told(record) == given


def test_a_will_without_properties() -> None:
    record = record_of_will(Will(b"gone", b"bye"), None, ORIGIN, NOW)
    assert (record.payload, record.key, record.flags, record.native) == (b"bye", None, Flag.VOLATILE, b"\x00")


def test_a_will_that_is_no_text() -> None:
    with pytest.raises(Invalid):
        record_of_will(Will(b"gone", b"\xff", properties={P.PAYLOAD_FORMAT_INDICATOR: 1}), None, ORIGIN, NOW)


# --- out -------------------------------------------------------------------------------------------------------------


def elsewhere(payload: bytes = b"x", **fields: Any) -> Record:
    return Record(payload, b"kitchen", "the-id", origin=Origin("ann", "rest", "1.2.3.4"), **fields)


def test_the_qos_of_messages() -> None:
    assert qos_of(elsewhere()) == 2
    assert qos_of(elsewhere(flags=Flag.VOLATILE)) == 0
    assert qos_of(elsewhere(native=b"\x01")) == 2, "it is another protocol's"
    assert qos_of(Record(b"x")) == 2
    assert qos_of(Record(b"x", origin=ORIGIN)) == 2, "the hub's own answer to a client"
    records = [published(qos=2), published(qos=0), published(), elsewhere()]
    batch = Batch(topic="readings", topic_id=1, epoch=1, seq=0, offset=0, appended=NOW, records=records)
    assert list(levels_of(batch)) == [2, 0, 1, 2]
    assert levels_of(batch) is levels_of(batch)


def test_a_message_of_another_protocol() -> None:
    record = elsewhere(
        content_type="application/json",
        reply_to="answers",
        correlation_id=b"\x00",
        headers=[("b", "x"), ("a", 1), ("a", 2.5), ("t", True), ("n", None), ("u", "é".encode()), ("r", b"\xff")],
        native=b"\x01\x03\x00\x01x",
    )
    assert told(record) == {
        P.CONTENT_TYPE: "application/json",
        P.RESPONSE_TOPIC: "answers",
        P.CORRELATION_DATA: b"\x00",
        P.USER_PROPERTY: [
            ("b", "x"), ("a", "1"), ("a", "2.5"), ("t", "true"), ("n", ""), ("u", "é"), ("r", "/w=="),
        ],
    }  # fmt: skip
    assert told(elsewhere()) == {}
    assert told(elsewhere(content_type="text/plain")) == {P.CONTENT_TYPE: "text/plain"}
    assert payload_of(message(record)) == b"x"


def test_what_mqtt_cannot_say_is_left_out() -> None:
    record = elsewhere(
        content_type="a\0b",
        reply_to="answers/+",
        correlation_id=b"x" * 70_000,
        headers=[("a", "x\0"), ("b\0", "x"), ("c", "x" * 70_000), ("d", "kept"), ("e", "\ud800")],
    )
    assert told(record) == {P.USER_PROPERTY: [("d", "kept")]}
    assert told(elsewhere(content_type="a\0b")) == {}


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        (60_000, 60),
        (59_999, 60),
        (59_001, 60),
        (59_000, 59),
        (1, 1),
        (0, 1),
        (-5_000, 1),
        (10**16, 0xFFFF_FFFF),
    ],
)
def test_what_is_left_of_a_life(left: int, seconds: int) -> None:
    """[MQTT-3.3.2-6]"""
    record = published()
    record.expires = NOW + left
    assert properties.read(expiry_of(record, NOW), Publish) == {P.MESSAGE_EXPIRY_INTERVAL: seconds}


def test_what_lives_for_ever() -> None:
    assert expiry_of(published(), NOW) == b""


def test_properties_of_strangers_do_not_fill_the_memory() -> None:
    def use(count: int, size: int) -> None:
        for number in range(count):
            published(said=block((P.USER_PROPERTY, (str(number), "x" * size))))

    tracemalloc.start()
    use(500, 100)
    before, _ = tracemalloc.get_traced_memory()
    use(10_000, 100)
    use(100, 60_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before < 2_000_000
    assert after < 10_000_000, "4,096 blocks of at most 256 bytes"
