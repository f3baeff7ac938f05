"""Records → PUBLISH packets, read back by the hub's own decoder and by paho."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.clock import ManualClock
from polywire.core.message import Batch, Flag, Message, Origin, Record
from polywire.core.position import Position
from polywire.server.encodings import Encodings
from polywire.wires.mqtt import properties
from polywire.wires.mqtt.codec import PACKET_IDS, Decoder, encode
from polywire.wires.mqtt.encoding import LARGEST, Aliases, Encoded, Encoder, Form, Peer
from polywire.wires.mqtt.names import mqtt_name
from polywire.wires.mqtt.packets import Connack, Properties, Property, Publish, Pubrel
from polywire.wires.mqtt.records import record_of

OURS = Origin("ann", "mqtt", "sensor-1")
REST = Origin("ann", "rest", "1.2.3.4")
KIB, MIB = 1 << 10, 1 << 20


def encoder(clock: ManualClock | None = None, kept: int = MIB) -> Encoder:
    return Encoder(Encodings(kept), clock or ManualClock())


def batch_of(*records: Record, topic: str = "readings") -> Batch:
    batch = Batch(topic=topic, topic_id=1, epoch=1, seq=5, offset=5, appended=0, records=list(records))
    batch.size = sum(record.size() for record in records)
    return batch


def published(payload: bytes = b"21.5", qos: int = 1, *, key: bytes | None = b"k", **said: Any) -> Record:
    block = properties.write({getattr(Property, name): value for name, value in said.pop("properties", {}).items()})
    return record_of(Publish(b"", payload, qos, 1, properties=block[1:], **said), key, OURS, ManualClock().now())


def elsewhere(payload: bytes = b"x", key: bytes | None = b"k", **fields: Any) -> Record:
    return Record(payload, key, origin=REST, **fields)


def read(data: bytes, level: int) -> list[Publish]:
    decoder = Decoder(maximum_packet_size=LARGEST, level=level)
    packets = decoder.receive(data)
    assert decoder.error is None
    return packets  # type: ignore[return-value]


def told(packet: Publish) -> Properties:
    return properties.read(packet.properties, Publish)


# --- read back -------------------------------------------------------------------------------------------------------

keys = st.one_of(
    st.none(),
    st.sampled_from([b"", b"a.b", b"a/b", b".", b"a+b", b"#", b"\xff", b"nul\0", "grün.x".encode()]),
    st.binary(max_size=8),
)
payloads = st.one_of(st.binary(max_size=20), st.sampled_from([100, 127, 128, 4_080, 4_096, 16_384]).map(bytes))
blocks = st.sampled_from(
    [b"", b"\x01\x01", b"\x03\x00\x01x\x26\x00\x01a\x00\x01b", b"\x26" + 2 * (b"\0\x50" + b"y" * 80)]
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    key, payload = draw(keys), draw(payloads)
    flags = draw(st.sampled_from([0, Flag.RETAINED]))
    if draw(st.booleans()):
        block = draw(blocks)
        if block[:1] == b"\x01":
            payload = b"text"
        return record_of(Publish(b"", payload, draw(st.integers(0, 2)), 1, bool(flags), properties=block), key, OURS, 0)
    headers = draw(st.lists(st.tuples(st.text("ab", max_size=2), st.integers() | st.text("xy")), max_size=2))
    kind = draw(st.sampled_from([None, "text/plain"]))
    return elsewhere(payload, key, content_type=kind, headers=headers, flags=flags)


forms = st.builds(
    Form,
    st.sampled_from([3, 4, 5]),
    st.just(2),
    retain_as_published=st.booleans(),
    identifiers=st.sampled_from([(), (1,), (300, 268_435_455)]),
)


@settings(deadline=None)
@given(st.lists(records(), max_size=6), st.sampled_from(["readings", "a.b", "_other", "_dead"]), forms, st.data())
def test_what_is_encoded_is_decoded(said: list[Record], topic: str, form: Form, data: st.DataObject) -> None:
    encoding, batch = encoder(), batch_of(*said, topic=topic)
    first = data.draw(st.integers(0, len(said)))
    end = data.draw(st.integers(first, len(said)))
    at_most_once = encoding.qos0(batch, first, end, form)
    check(at_most_once.data, batch, range(first, end), form, 0)
    assert at_most_once.packets == len(read(at_most_once.data, form.level))
    indexes = data.draw(st.lists(st.sampled_from(range(len(said))), unique=True)) if said else []
    for qos in (0, 1, 2):
        selected = encoding.select(batch, indexes, form, qos)
        ids = range(7, 7 + len(selected)) if qos else ()
        check(selected.write(ids), batch, indexes, form, qos)
        for index in indexes:
            packet = encoding.message(batch.message(index), form, qos)
            if packet is not None:
                written = packet.whole(PACKET_IDS[7] if qos else b"")
                check(written, batch, [index], form, qos)
                assert packet.size == len(written)


def check(data: bytes, batch: Batch, indexes: Sequence[int], form: Form, qos: int) -> None:
    """What a reader sees of these records, in this form."""
    sayable = [index for index in indexes if mqtt_name(batch.topic, batch.records[index].key) is not None]
    packets = read(data, form.level)
    assert len(packets) == len(sayable)
    assert [packet.id for packet in packets] == (list(range(7, 7 + len(packets))) if qos else [0] * len(packets))
    for packet, index in zip(packets, sayable, strict=True):
        record = batch.records[index]
        assert packet.topic == mqtt_name(batch.topic, record.key)
        assert (packet.payload, packet.qos, packet.dup) == (record.payload, qos, False)
        assert packet.retain is (form.shape.retain and bool(record.flags & Flag.RETAINED))
        if form.level == 5:
            check_properties(told(packet), record, form)


def check_properties(said: Properties, record: Record, form: Form) -> None:
    identifiers = said.pop(Property.SUBSCRIPTION_IDENTIFIER, [])
    assert form.shape.identifiers == properties.write({Property.SUBSCRIPTION_IDENTIFIER: identifiers})[1:]
    if record.origin == OURS:
        assert record.native is not None
        assert said == properties.read(record.native[1:], Publish)
    else:
        assert said.get(Property.CONTENT_TYPE) == record.content_type
        assert said.get(Property.USER_PROPERTY, []) == [(name, str(value)) for name, value in record.headers]


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("size", [100, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_remaining_lengths(level: int, size: int) -> None:
    """Each number of bytes that a length can have (§1.5.5), with records around its edge."""
    encoding, form = encoder(kept=64 * MIB), Form(level, 1)
    for payload in range(size - 12, size + 1):
        batch = batch_of(published(bytes(payload)))
        assert [len(one.payload) for one in read(encoding.qos0(batch, 0, 1, form).data, level)] == [payload]
        assert [len(one.payload) for one in read(encoding.select(batch, [0], form, 1).write([9]), level)] == [payload]


# --- paho ------------------------------------------------------------------------------------------------------------


def paho_reads(data: bytes, level: int) -> list[paho.MQTTMessage]:
    """What paho makes of the bytes behind a CONNACK."""
    heard: list[paho.MQTTMessage] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1_000)  # CONNECT
                peer.sendall(encode(Connack(), level) + data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1_000):
                    pass

        server = threading.Thread(target=serve)
        server.start()
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            "reader",
            protocol=paho.MQTTProtocolVersion(level),
            reconnect_on_failure=False,
        )
        client.on_message = lambda _client, _userdata, message: heard.append(message)
        client.connect("127.0.0.1", listener.getsockname()[1])
        client.loop_forever()
        server.join()
    return heard


@pytest.mark.parametrize("level", [4, 5])
def test_paho_reads_the_same(level: int) -> None:
    said = {"CONTENT_TYPE": "application/json", "USER_PROPERTY": [("a", "1"), ("a", "2")], "CORRELATION_DATA": b"\xff"}
    batch = batch_of(
        published(b"plain"),
        published(b'{"a":1}', key=b"a/b.c", properties=said, retain=True),
        published(bytes(20_000), key=None),
        elsewhere(b"rest", "grün".encode(), content_type="text/plain", headers=[("h", 5)], reply_to="answers"),
    )
    encoding = encoder()
    form = Form(level, 2, retain_as_published=True, identifiers=(7, 700))
    data = encoding.qos0(batch, 0, 4, form).data
    data += encoding.select(batch, range(4), form, 1).write([1, 2, 3, 4])
    data += encoding.select(batch, [3, 0], form, 2).write([5, 6]) + encode(Pubrel(5), level) + encode(Pubrel(6), level)
    heard = paho_reads(data, level)
    assert [(one.qos, one.topic) for one in heard] == [
        *((qos, name) for qos in (0, 1) for name in ("readings/k", "readings/a.b/c", "readings", "readings/grün")),
        (2, "readings/grün"), (2, "readings/k"),
    ]  # fmt: skip
    assert [one.payload for one in heard[:4]] == [record.payload for record in batch.records]
    assert [one.retain for one in heard[:4]] == [False, True, False, False]
    if level == 5:
        seen = heard[1].properties
        assert seen is not None
        assert seen.ContentType == "application/json"
        assert seen.UserProperty == [("a", "1"), ("a", "2")]
        assert seen.CorrelationData == b"\xff"
        assert seen.SubscriptionIdentifier == [7, 700]
        other = heard[3].properties
        assert other is not None
        assert (other.ContentType, other.ResponseTopic, other.UserProperty) == ("text/plain", "answers", [("h", "5")])


# --- what is left out ------------------------------------------------------------------------------------------------


def test_what_mqtt_cannot_say_is_left_out() -> None:
    encoding, form = encoder(), Form(4, 1)
    batch = batch_of(published(b"1"), published(b"2", key=b"\xff"), published(b"3"), published(b"4", key=b"a+"))
    encoded = encoding.qos0(batch, 0, 4, form)
    assert ([one.payload for one in read(encoded.data, 4)], encoded.packets) == ([b"1", b"3"], 2)
    selected = encoding.select(batch, range(4), form, 1)
    assert list(selected.indexes) == [0, 2]
    assert [one.id for one in read(selected.write([8, 9]), 4)] == [8, 9]
    assert encoding.message(batch.message(1), form, 1) is None
    assert encoding.qos0(batch, 1, 2, form) == Encoded(b"", 0)


@pytest.mark.parametrize("level", [4, 5])
def test_what_a_reader_does_not_take_is_left_out(level: int) -> None:
    """[MQTT-3.1.2-24]"""
    encoding, form = encoder(), Form(level, 1)
    batch = batch_of(*[published(bytes(size)) for size in (10, 200, 50)])
    sizes = [len(encoding.select(batch, [index], form, 1).write([1])) for index in range(3)]
    for maximum in range(sizes[0] - 1, sizes[1] + 1):
        peer = Peer(maximum)
        selected = encoding.select(batch, range(3), form, 1, peer)
        assert list(selected.indexes) == [index for index in range(3) if sizes[index] <= maximum]
        encoded = encoding.qos0(batch, 0, 3, form, peer)
        assert [len(one.payload) for one in read(encoded.data, level)] == [
            size for size, packet in zip((10, 200, 50), sizes, strict=True) if packet - 2 <= maximum
        ]
        assert encoded.packets == len(read(encoded.data, level))
    assert len(encoding.select(batch, range(3), form, 1)) == 3


def test_what_has_expired_is_left_out() -> None:
    clock = ManualClock()
    encoding, form = encoder(clock), Form(5, 1)
    mortal = published(b"mortal")
    mortal.expires = clock.now() + 10_500
    batch = batch_of(published(b"a"), mortal, published(b"b"))

    def lives() -> list[int | None]:
        selected = encoding.select(batch, range(3), form, 1)
        at_least_once = read(selected.write(range(1, 1 + len(selected))), 5)
        at_most_once = read(encoding.qos0(batch, 0, 3, form).data, 5)
        assert [one.payload for one in at_least_once] == [one.payload for one in at_most_once]
        left = [told(one).get(Property.MESSAGE_EXPIRY_INTERVAL) for one in at_least_once]
        assert left == [told(one).get(Property.MESSAGE_EXPIRY_INTERVAL) for one in at_most_once]
        return left

    assert lives() == [None, 11, None]
    clock.advance(8_000)
    assert lives() == [None, 3, None]
    clock.advance(2_501)
    assert lives() == [None, None]
    assert encoding.message(batch.message(1), form, 1) is None
    again = encoding.message(batch.message(1), form, 2, dup=True)
    assert again is not None, "it was sent before, and is not taken back [MQTT-4.3.3-7]"
    [packet] = read(again.whole(PACKET_IDS[9]), 5)
    assert (packet.dup, told(packet)) == (True, {Property.MESSAGE_EXPIRY_INTERVAL: 1})


# --- readers ---------------------------------------------------------------------------------------------------------


def test_readers_that_are_told_the_same_share_it() -> None:
    encoding, batch = encoder(), batch_of(*[published(b"%d" % number) for number in range(40)])
    one, two = Form(5, 0, identifiers=(7,)), Form(5, 2, identifiers=(7,))
    assert encoding.qos0(batch, 0, 40, one) is encoding.qos0(batch, 0, 40, two)
    assert encoding.qos0(batch, 0, 20, one) is encoding.qos0(batch, 0, 20, two)
    assert encoding.qos0(batch, 0, 40, Form(3, 0)) is encoding.qos0(batch, 0, 40, Form(4, 1))
    assert encoding.qos0(batch, 0, 40, one).data != encoding.qos0(batch, 0, 40, Form(5, 0)).data
    kept = len(batch.encoded)
    for number in range(39):
        encoding.qos0(batch, number, number + 1, one)
    assert len(batch.encoded) == kept + 1, "not each little piece"


def test_what_is_kept_is_bounded() -> None:
    encoding, form = encoder(kept=200 * KIB), Form(5, 1)
    batches = [batch_of(*[published(bytes(1_000)) for _ in range(4)]) for _ in range(300)]
    tracemalloc.start()
    for batch in batches:
        encoding.qos0(batch, 0, 4, form)
        encoding.select(batch, range(4), form, 1).write([1, 2, 3, 4])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000
    assert not batches[0].encoded
    assert batches[-1].encoded
    assert read(encoding.qos0(batches[0], 0, 4, form).data, 5)[3].payload == bytes(1_000)


def test_names_that_are_remembered_are_bounded() -> None:
    encoding, form = encoder(kept=0), Form(4, 0)
    tracemalloc.start()
    for number in range(20_000):
        record = elsewhere(b"", b"%d" % number + b"x" * (60_000 if number % 100 == 0 else 80))
        encoding.qos0(batch_of(record, topic=f"t{number % 7}"), 0, 1, form)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 25_000_000, "16,384 names of 128 bytes, here and in `names`"


@pytest.mark.parametrize("level", [4, 5])
def test_a_message_of_its_own(level: int) -> None:
    """Retained [MQTT-3.3.1-8], sent again [MQTT-3.3.1-1], or under a name that is no address."""
    encoding, form = encoder(), Form(level, 2)
    record = published(b"x", retain=True, properties={"CONTENT_TYPE": "text/plain"} if level == 5 else {})
    message = Message("readings", record, 1, Position(1, 0, 0), 0)
    seen = []
    for qos, options in ((0, {}), (1, {"retain": True}), (2, {"dup": True}), (1, {"retain": True, "dup": True})):
        packet = encoding.message(message, form, qos, **options)
        assert packet is not None
        [one] = read(packet.whole(PACKET_IDS[300] if qos else b""), level)
        assert (one.topic, one.payload) == (b"readings/k", b"x")
        assert level == 4 or told(one) == {Property.CONTENT_TYPE: "text/plain"}
        seen.append((one.qos, one.id, one.retain, one.dup))
    assert seen == [
        (0, 0, False, False), (1, 300, True, False), (2, 300, False, True), (1, 300, True, True),
    ]  # fmt: skip
    named = encoding.named(b"$SYS/broker/version", message, form, 0, retain=True)
    assert named is not None
    [one] = read(named.whole(), level)
    assert (one.topic, one.retain, one.payload) == (b"$SYS/broker/version", True, b"x")


# --- topic aliases ---------------------------------------------------------------------------------------------------


class Resolver:
    """The other end of an alias (§3.3.2.3.4)."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.names: dict[int, bytes] = {}

    def name(self, packet: Publish) -> bytes:
        alias = told(packet).get(Property.TOPIC_ALIAS)
        if alias is None:
            assert packet.topic
            return packet.topic
        assert 1 <= alias <= self.maximum
        if packet.topic:
            self.names[alias] = packet.topic
        return self.names[alias]


@settings(deadline=None)
@given(st.lists(records(), max_size=8), st.integers(1, 4), st.sampled_from([(), (5,)]), st.integers(20, 400))
def test_aliases_lead_to_the_same_names(
    said: list[Record], aliases: int, identifiers: tuple[int, ...], maximum: int
) -> None:
    encoding, batch = encoder(), batch_of(*said)
    form, plain = Form(5, 2, identifiers=identifiers), Peer(maximum)
    peer, resolver = Peer(maximum, aliases), Resolver(aliases)
    for qos in (0, 1, 0, 2):
        selected = encoding.select(batch, range(len(said)), form, qos, peer)
        packets = read(selected.write(range(1, 1 + len(selected)) if qos else ()), 5)
        expected = encoding.select(batch, selected.indexes, form, qos, plain)
        straight = read(expected.write(range(1, 1 + len(selected)) if qos else ()), 5)
        for one, other in zip(packets, straight, strict=True):
            assert resolver.name(one) == other.topic
            assert (one.payload, one.qos, one.id, one.retain) == (other.payload, other.qos, other.id, other.retain)
            properties_of = told(one)
            properties_of.pop(Property.TOPIC_ALIAS, None)
            assert properties_of == told(other)
            assert len(encode(one, 5)) <= maximum
    encoded = encoding.qos0(batch, 0, len(said), form, peer)
    assert len([resolver.name(one) for one in read(encoded.data, 5)]) == encoded.packets


def test_aliases_save_bytes_and_end_at_their_maximum() -> None:
    encoding, form, peer = encoder(), Form(5, 0), Peer(LARGEST, 2)
    batch = batch_of(*[published(key=key) for key in (b"long.name.1", b"long.name.2", b"long.name.3")])
    first = encoding.qos0(batch, 0, 3, form, peer).data
    second = encoding.qos0(batch, 0, 3, form, peer).data
    assert [one.topic for one in read(first, 5)] == [b"readings/long/name/%d" % number for number in (1, 2, 3)]
    assert [one.topic for one in read(second, 5)] == [b"", b"", b"readings/long/name/3"]
    assert len(second) < len(first)
    older = encoding.qos0(batch, 0, 3, Form(4, 0), peer).data
    assert all(one.topic for one in read(older, 4)), "level 4 has none"


def test_many_aliases() -> None:
    aliases = Aliases(65_535)
    assert aliases.of(b"a") == (b"a", b"\x23\x00\x01")
    assert [aliases.of(b"%d" % number)[1] for number in range(65_534)][-1] == b"\x23\xff\xff"
    assert aliases.of(b"one more") == (b"one more", b"")
    assert aliases.of(b"a") == (b"", b"\x23\x00\x01")
