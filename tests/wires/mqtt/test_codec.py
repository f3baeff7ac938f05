"""Bytes to packets and back: every packet, whole and in pieces, and everything that is none."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from polywire.wires.mqtt.codec import PACKET_IDS, Decoder, encode, pubacks, publish_head
from polywire.wires.mqtt.packets import (
    Acks,
    Connack,
    Connect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    SubscriptionOptions,
)
from polywire.wires.mqtt.reasons import MqttError, Reason
from tests.wires.mqtt.samples import ALL, WRITTEN, Sample

LIMIT = 100_000
MALFORMED, PROTOCOL, TOO_LARGE = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR, Reason.PACKET_TOO_LARGE
CONNECT = {sample.level: sample.data for sample in WRITTEN if sample.name == "connect"}


def named(samples: Iterable[Sample]) -> list[Any]:
    return [pytest.param(sample, id=f"{sample.name}-{sample.level}") for sample in samples]


def decoder(level: int | None = None, limit: int = LIMIT) -> Decoder:
    return Decoder(maximum_packet_size=limit, level=level)


def reader(sample: Sample) -> Decoder:
    """Where the sample can be the first packet."""
    return decoder(None if sample.opens else sample.level)


def in_pieces(decoder: Decoder, data: bytes, size: int = 1) -> list[Packet]:
    packets: list[Packet] = []
    for at in range(0, len(data), size):
        packets += decoder.receive(data[at : at + size])
    return packets


def flat(packets: list[Packet]) -> list[Packet]:
    """Runs of PUBACKs one by one: how many come together depends on the reads."""
    one_by_one: list[Packet] = []
    for packet in packets:
        one_by_one += [Acks([packet_id]) for packet_id in packet.ids] if isinstance(packet, Acks) else [packet]
    return one_by_one


# --- every sample ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", named(ALL))
def test_a_packet_as_a_whole(sample: Sample) -> None:
    decoder = reader(sample)
    assert decoder.receive(sample.data) == [sample.packet]
    assert decoder.error is None
    assert decoder.level == sample.level
    assert not decoder._unread


@pytest.mark.parametrize("sample", named(ALL))
def test_a_packet_byte_by_byte(sample: Sample) -> None:
    decoder = reader(sample)
    assert in_pieces(decoder, sample.data) == flat([sample.packet])
    assert decoder.error is None
    assert not decoder._unread


@pytest.mark.parametrize("sample", named(ALL))
def test_every_prefix_waits_for_the_rest(sample: Sample) -> None:
    for cut in range(0, len(sample.data), 1 + len(sample.data) // 500):
        decoder = reader(sample)
        early = flat(decoder.receive(sample.data[:cut]))
        assert decoder.error is None
        assert len(early) < len(flat([sample.packet]))
        assert early + flat(decoder.receive(sample.data[cut:])) == flat([sample.packet])


@pytest.mark.parametrize("sample", named(ALL))
def test_what_follows_is_read_too(sample: Sample) -> None:
    decoder = reader(sample)
    packets = decoder.receive(sample.data + b"\xc0\0\x30\x05\0")
    assert packets == [sample.packet, Pingreq()]
    rest = b"\x01tx" if sample.level < 5 else b"\x01t\0"
    assert decoder.receive(rest + b"y\xc0\0") == [Publish(b"t", b"xy" if sample.level < 5 else b"y"), Pingreq()]
    assert decoder.error is None


@pytest.mark.parametrize("sample", named(sample for sample in ALL if not isinstance(sample.packet, Publish)))
def test_a_byte_too_many_in_a_packet(sample: Sample) -> None:
    """A PUBLISH has no end of its own. Nothing else may be followed by a byte that begins nothing there."""
    decoder = reader(sample)
    assert decoder.receive(bytes((sample.data[0], sample.data[1] + 1)) + sample.data[2:] + b"\x05") == []
    assert decoder.error is not None
    assert decoder.error.reason in (MALFORMED, PROTOCOL)


@pytest.mark.parametrize("sample", named(WRITTEN))
def test_a_packet_is_written(sample: Sample) -> None:
    assert encode(sample.packet, sample.level) == sample.data


@pytest.mark.parametrize("level", [3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_conversation_in_any_pieces(level: int, seed: int) -> None:
    rng = random.Random(seed)
    samples = [sample for sample in ALL if sample.level == level and not sample.opens]
    said = rng.choices(samples, k=200)
    data = CONNECT[level] + b"".join(sample.data for sample in said)
    packets: list[Packet] = []
    listener, at = decoder(), 0
    while at < len(data):
        size = rng.choice([1, 2, 3, 10, 100, 20_000])
        packets += listener.receive(data[at : at + size])
        at += size
    assert listener.error is None
    assert flat(packets) == flat([Connect(level, "c"), *(sample.packet for sample in said)])


# --- what is wrong ---------------------------------------------------------------------------------------------------

NOT_UTF8 = {
    "alone": b"\x80",
    "cut": b"\xe2\x82",
    "overlong": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "pair-of-surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond-unicode": b"\xf4\x90\x80\x80",
    "null": b"a\0b",
}


def string(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    assert len(body) < 0x80
    return bytes((first, len(body))) + body


def connect4(flags: int, rest: bytes = b"", client_id: bytes = string(b"c")) -> bytes:
    return packet(0x10, b"\0\x04MQTT\x04" + bytes((flags,)) + b"\0\0" + client_id + rest)


def connect5(flags: int, rest: bytes = b"", properties: bytes = b"\0") -> bytes:
    return packet(0x10, b"\0\x04MQTT\x05" + bytes((flags,)) + b"\0\0" + properties + b"\0\x01c" + rest)


Wrong = tuple[tuple[int | None, ...], bytes, int]
"""The levels at which it is wrong (None: as the first packet), the bytes, the reason."""

WRONG: dict[str, Wrong] = {
    # §2.1: the fixed header
    "type-0": ((3, 4, 5), b"\x00\0", MALFORMED),
    "type-15-is-of-5": ((3, 4), b"\xf0\0", MALFORMED),
    **{
        f"flags-{first:02x}": ((4, 5), bytes((first,)) + b"\x02\0\x01", MALFORMED)
        for first in (0x21, 0x42, 0x51, 0x60, 0x63, 0x6A, 0x74, 0x80, 0x8A, 0x91, 0xA0, 0xA3, 0xB2, 0xC1, 0xD8, 0xE1)
    },
    "flags-of-auth": ((5,), b"\xf1\0", MALFORMED),
    "flags-of-connect": ((None, 4, 5), b"\x11" + CONNECT[4][1:], MALFORMED),
    "flags-of-3.1": ((3,), b"\x80\x06\0\x01\0\x01t\0", MALFORMED),
    "length-of-five-bytes": ((None, 3, 4, 5), b"\x10\x80\x80\x80\x80\x01", MALFORMED),
    "publish-length-of-five-bytes": ((3, 4, 5), b"\x30\xff\xff\xff\xff\x01", MALFORMED),
    "length-not-shortest": ((5,), b"\xc0\x80\x00", MALFORMED),
    "publish-length-not-shortest": ((5,), b"\x30\x84\x80\x00\0\x01t\0", MALFORMED),
    "connect-length-not-shortest": ((None,), b"\x10\x8e\x00" + CONNECT[5][2:], MALFORMED),
    # §3.1
    "first-is-publish": ((None,), b"\x30\x04\0\x01tx", PROTOCOL),
    "first-is-http": ((None,), b"GET / HTTP/1.1\r\n", PROTOCOL),
    "first-is-tls": ((None,), b"\x16\x03\x01\x02\0\x01", MALFORMED),
    "connect-empty": ((None,), b"\x10\0", MALFORMED),
    "connect-cut-in-the-name": ((None,), b"\x10\x05\0\x04MQT", MALFORMED),
    "connect-cut-before-the-flags": ((None,), b"\x10\x07\0\x04MQTT\x04", MALFORMED),
    "connect-cut-in-the-keep-alive": ((None,), b"\x10\x09\0\x04MQTT\x04\x02\0", MALFORMED),
    "connect-cut-before-the-id": ((None,), b"\x10\x0a\0\x04MQTT\x04\x02\0\0", MALFORMED),
    "reserved-connect-flag": ((None,), connect4(0x03), MALFORMED),
    "reserved-connect-flag-5": ((None,), connect5(0x03), MALFORMED),
    "will-qos-3": ((None,), connect4(0x1E, string(b"w") + string(b"")), MALFORMED),
    "will-qos-3-of-3.1": ((None,), b"\x10\x14\0\x06MQIsdp\x03\x1e\0\0\0\x01c\0\x01w\0\0", MALFORMED),
    "will-qos-without-will": ((None,), connect4(0x0A), PROTOCOL),
    "will-retain-without-will": ((None,), connect5(0x22), PROTOCOL),
    "will-left-out": ((None,), connect4(0x06), MALFORMED),
    "will-payload-left-out": ((None,), connect4(0x06, string(b"w")), MALFORMED),
    "will-properties-left-out": ((None,), connect5(0x06, string(b"w") + string(b"x")), MALFORMED),
    "property-of-connect-in-the-will": (
        (None,),
        connect5(0x06, b"\x03\x21\0\x01" + string(b"w") + string(b"")),
        MALFORMED,
    ),
    "password-without-user": ((None,), connect4(0x42, string(b"p")), PROTOCOL),
    "user-left-out": ((None,), connect4(0x82), MALFORMED),
    "password-left-out": ((None,), connect4(0xC2, string(b"u")), MALFORMED),
    "user-without-flag": ((None,), connect4(0x02, string(b"u")), MALFORMED),
    "connect-properties-cut": ((None,), b"\x10\x0c\0\x04MQTT\x05\x02\0\0\x05\x11", MALFORMED),
    "connect-property-of-publish": ((None,), connect5(0x02, properties=b"\x03\x23\0\x01"), MALFORMED),
    "connect-property-twice": ((None,), connect5(0x02, properties=b"\x06\x21\0\x01\x21\0\x01"), PROTOCOL),
    "auth-data-without-method": ((None,), connect5(0x02, properties=b"\x03\x16\0\0"), PROTOCOL),
    # §3.2
    "connack-flags": ((4, 5), b"\x20\x03\x02\0\0", MALFORMED),
    "connack-code": ((3, 4), b"\x20\x02\0\x06", PROTOCOL),
    "connack-reason": ((5,), b"\x20\x03\0\x01\0", PROTOCOL),
    "connack-refused-and-resumed": ((4,), b"\x20\x02\x01\x05", PROTOCOL),
    "connack-without-properties": ((5,), b"\x20\x02\0\0", MALFORMED),
    # §3.3
    "qos-3": ((3, 4, 5), b"\x36\x05\0\x01t\0\x01", MALFORMED),
    "dup-at-qos-0": ((3, 4, 5), b"\x38\x04\0\x01tx", MALFORMED),
    "publish-id-0": ((3, 4), b"\x32\x05\0\x01t\0\0", PROTOCOL),
    "publish-id-0-of-5": ((5,), b"\x34\x06\0\x01t\0\0\0", PROTOCOL),
    "publish-empty": ((3, 4, 5), b"\x30\0", MALFORMED),
    "publish-of-one-byte": ((3, 4, 5), b"\x30\x01\0", MALFORMED),
    "publish-topic-cut": ((3, 4, 5), b"\x30\x04\0\x03ab", MALFORMED),
    "publish-topic-of-64-KiB": ((3, 4, 5), b"\x30\x04\xff\xffab", MALFORMED),
    "publish-without-id": ((3, 4, 5), b"\x32\x03\0\x01t", MALFORMED),
    "publish-id-cut": ((3, 4, 5), b"\x32\x04\0\x01t\0", MALFORMED),
    "publish-without-properties": ((5,), b"\x30\x03\0\x01t", MALFORMED),
    "publish-properties-cut": ((5,), b"\x30\x05\0\x01t\x02\x01", MALFORMED),
    "publish-long-properties-cut": ((5,), b"\x30\x06\0\x01t\x80\x01\x01", MALFORMED),
    "publish-property-length-cut": ((5,), b"\x30\x04\0\x01t\xff", MALFORMED),
    "publish-property-length-of-five-bytes": ((5,), b"\x30\x08\0\x01t\x80\x80\x80\x80\x01", MALFORMED),
    "publish-property-length-not-shortest": ((5,), b"\x30\x05\0\x01t\x80\x00", MALFORMED),
    # §3.4 to §3.7
    **{
        f"ack-{first:02x}-{name}": (levels, bytes((first,)) + rest, reason)
        for first in (0x40, 0x50, 0x62, 0x70)
        for name, levels, rest, reason in (
            ("empty", (3, 4, 5), b"\0", MALFORMED),
            ("of-one-byte", (3, 4, 5), b"\x01\0", MALFORMED),
            ("id-0", (3, 4, 5), b"\x02\0\0", PROTOCOL),
            ("id-0-and-reason", (5,), b"\x03\0\0\0", PROTOCOL),
            ("id-0-and-properties", (5,), b"\x04\0\0\0\0", PROTOCOL),
            ("reason-of-5", (3, 4), b"\x03\0\x01\0", MALFORMED),
            ("properties-of-5", (3, 4), b"\x04\0\x01\0\0", MALFORMED),
            ("unknown-reason", (5,), b"\x03\0\x01\x01", PROTOCOL),
            ("reason-of-another-packet", (5,), b"\x04\0\x01\x8e\0", PROTOCOL),
            ("properties-cut", (5,), b"\x04\0\x01\0\x01", MALFORMED),
            ("property-of-publish", (5,), b"\x06\0\x01\0\x02\x01\0", MALFORMED),
            ("bytes-too-many", (5,), b"\x05\0\x01\0\0\0", MALFORMED),
        )
    },
    # §3.8 to §3.11
    "subscribe-nothing": ((3, 4), b"\x82\x02\0\x01", PROTOCOL),
    "subscribe-nothing-of-5": ((5,), b"\x82\x03\0\x01\0", PROTOCOL),
    "subscribe-without-options": ((3, 4), b"\x82\x05\0\x01\0\x01t", MALFORMED),
    "subscribe-second-without-options": ((4,), b"\x82\x09\0\x01\0\x01t\0\0\x01t", MALFORMED),
    "subscribe-filter-cut": ((3, 4), b"\x82\x05\0\x01\0\x02t", MALFORMED),
    "subscribe-id-0": ((3, 4), b"\x82\x06\0\0\0\x01t\0", PROTOCOL),
    "subscribe-qos-3": ((3, 4), b"\x82\x06\0\x01\0\x01t\x03", PROTOCOL),
    "subscribe-qos-3-of-5": ((5,), b"\x82\x07\0\x01\0\0\x01t\x03", PROTOCOL),
    "subscribe-retain-handling-3": ((5,), b"\x82\x07\0\x01\0\0\x01t\x30", PROTOCOL),
    "subscribe-options-of-5": ((4,), b"\x82\x06\0\x01\0\x01t\x04", MALFORMED),
    "subscribe-reserved-options": ((5,), b"\x82\x07\0\x01\0\0\x01t\x40", MALFORMED),
    "subscribe-without-properties": ((5,), b"\x82\x02\0\x01", MALFORMED),
    "subscribe-identifier-0": ((5,), b"\x82\x09\0\x01\x02\x0b\0\0\x01t\0", PROTOCOL),
    "subscribe-identifier-twice": ((5,), b"\x82\x0b\0\x01\x04\x0b\x01\x0b\x01\0\x01t\0", PROTOCOL),
    "unsubscribe-nothing": ((3, 4), b"\xa2\x02\0\x01", PROTOCOL),
    "unsubscribe-nothing-of-5": ((5,), b"\xa2\x03\0\x01\0", PROTOCOL),
    "unsubscribe-filter-cut": ((3, 4), b"\xa2\x05\0\x01\0\x02t", MALFORMED),
    "unsubscribe-id-0": ((3, 4), b"\xa2\x05\0\0\0\x01t", PROTOCOL),
    "suback-nothing": ((3, 4), b"\x90\x02\0\x01", PROTOCOL),
    "suback-code-of-5": ((3, 4), b"\x90\x03\0\x01\x87", PROTOCOL),
    "suback-unknown-code": ((5,), b"\x90\x04\0\x01\0\x03", PROTOCOL),
    "suback-id-0": ((3, 4), b"\x90\x03\0\0\0", PROTOCOL),
    "unsuback-nothing": ((5,), b"\xb0\x03\0\x01\0", PROTOCOL),
    "unsuback-code-of-suback": ((5,), b"\xb0\x04\0\x01\0\x01", PROTOCOL),
    "unsuback-codes-of-5": ((3, 4), b"\xb0\x03\0\x01\0", MALFORMED),
    # §3.12 to §3.15
    "ping-of-one-byte": ((3, 4, 5), b"\xc0\x01\0", MALFORMED),
    "pingresp-of-one-byte": ((3, 4, 5), b"\xd0\x01\0", MALFORMED),
    "disconnect-reason-of-5": ((3, 4), b"\xe0\x01\0", MALFORMED),
    "disconnect-unknown-reason": ((5,), b"\xe0\x01\x01", PROTOCOL),
    "disconnect-property-of-connack": ((5,), b"\xe0\x05\0\x03\x13\0\x01", MALFORMED),
    "disconnect-bytes-too-many": ((5,), b"\xe0\x03\0\0\0", MALFORMED),
    "auth-of-one-byte": ((5,), b"\xf0\x01\0", MALFORMED),
    "auth-unknown-reason": ((5,), b"\xf0\x02\x80\0", PROTOCOL),
    "auth-without-method": ((5,), b"\xf0\x02\x18\0", PROTOCOL),
    # §1.5.4
    **{f"client-id-{how}": ((None,), connect4(2, client_id=string(raw)), MALFORMED) for how, raw in NOT_UTF8.items()},
    **{f"user-{how}": ((None,), connect4(0x82, string(raw)), MALFORMED) for how, raw in NOT_UTF8.items()},
    **{
        f"filter-{how}": ((3, 4), packet(0x82, b"\0\x01" + string(raw) + b"\0"), MALFORMED)
        for how, raw in NOT_UTF8.items()
    },
    **{
        f"left-filter-{how}": ((3, 4), packet(0xA2, b"\0\x01" + string(b"t") + string(raw)), MALFORMED)
        for how, raw in NOT_UTF8.items()
    },
    **{
        f"reason-string-{how}": ((5,), packet(0xE0, b"\0" + string(b"\x1f" + string(raw))[1:]), MALFORMED)
        for how, raw in NOT_UTF8.items()
    },
}
WRONG_CASES = [
    pytest.param(level, data, reason, id=f"{name}-{level or 'first'}")
    for name, (levels, data, reason) in WRONG.items()
    for level in levels
]


@pytest.mark.parametrize(("level", "data", "reason"), WRONG_CASES)
def test_what_is_wrong(level: int | None, data: bytes, reason: int) -> None:
    whole, pieces = decoder(level), decoder(level)
    assert whole.receive(data + bytes(100)) == []
    assert in_pieces(pieces, data + bytes(100)) == []
    for found in (whole.error, pieces.error):
        assert isinstance(found, MqttError)
        assert found.reason == reason, found.detail
    assert str(whole.error) == str(pieces.error)


@pytest.mark.parametrize(("level", "data", "reason"), [case for case in WRONG_CASES if case.values[0]])
def test_what_came_before_is_kept_and_what_comes_after_is_not_read(level: int, data: bytes, reason: int) -> None:
    decoder = Decoder(maximum_packet_size=LIMIT)
    assert decoder.receive(CONNECT[level] + b"\x40\x02\0\x07" + data) == [Connect(level, "c"), Acks([7])]
    assert decoder.error is not None
    assert decoder.error.reason == reason
    assert decoder.receive(b"\xc0\0") == []
    assert decoder.receive(bytes(LIMIT)) == []
    assert not decoder._unread
    assert decoder.level == level


def test_what_is_wrong_is_told_to_a_person() -> None:
    for level, data, _ in (case.values for case in WRONG_CASES):
        refused = decoder(level)
        refused.receive(data)
        assert refused.error is not None
        assert refused.error.detail.isascii()
        assert 10 < len(refused.error.detail) < 120


# --- the level -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "answered_in"),
    [
        (b"MQTT", 3, 4), (b"MQTT", 0, 4), (b"MQTT", 6, 5), (b"MQTT", 0x7F, 5), (b"MQTT", 0x86, 5), (b"MQTT", 0x83, 4),
        (b"MQIsdp", 4, 3), (b"MQIsdp", 5, 3), (b"MQIsdp", 0x84, 3),
        (b"mqtt", 4, None), (b"", 4, None), (b"MQTT\0", 4, None), (b"AMQP", 5, None), (b"\xff\xff\xff\xff", 5, None),
    ],
)  # fmt: skip
def test_an_unknown_level(name: bytes, version: int, answered_in: int | None) -> None:
    # [MQTT-3.1.2-1, MQTT-3.1.2-2]; the bytes behind the level are of another protocol, and not looked at.
    decoder = Decoder(maximum_packet_size=LIMIT)
    assert decoder.receive(packet(0x10, string(name) + bytes((version, 0xFF, 0xFF)))) == []
    assert decoder.error is not None
    assert decoder.error.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION
    assert decoder.level == answered_in
    if answered_in is not None:
        refusal = encode(Connack(decoder.error.reason), answered_in)
        assert refusal == {3: b"\x20\x02\0\x01", 4: b"\x20\x02\0\x01", 5: b"\x20\x03\0\x84\0"}[answered_in]


@pytest.mark.parametrize("level", [3, 4, 5])
def test_the_level_of_a_connect_that_is_wrong_behind_it(level: int) -> None:
    refused = decoder()
    refused.receive(CONNECT[level][:-1] + b"\xff")
    assert refused.error is not None
    assert refused.level == level


@pytest.mark.parametrize("data", [b"\x10\0", b"\x10\x06\0\x04MQTT", b"\x30\0", b"\x11\x0d" + CONNECT[4][2:]])
def test_no_level_where_connect_does_not_get_that_far(data: bytes) -> None:
    refused = decoder()
    refused.receive(data)
    assert refused.error is not None
    assert refused.level is None


def test_a_second_connect_does_not_change_the_level() -> None:
    # That it is none of the protocol's is the session's to say [MQTT-3.1.0-2].
    once = decoder()
    assert once.receive(CONNECT[4] + CONNECT[5]) == [Connect(4, "c"), Connect(5, "c")]
    assert once.level == 4


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [None, 3, 4, 5])
@pytest.mark.parametrize("length", [b"\xff\xff\xff\x7f", b"\x80\x80\x80\x01", b"\x9f\x8d\x06"])
def test_what_is_too_large_is_never_waited_for(level: int | None, length: bytes) -> None:
    first = b"\x10" if level is None else b"\x30"
    whole, pieces = decoder(level), decoder(level)
    assert whole.receive(first + length) == []
    assert in_pieces(pieces, first + length) == []
    for refused in (whole, pieces):
        assert refused.error is not None
        assert refused.error.reason == TOO_LARGE
        assert not refused._unread


def test_the_largest_packet() -> None:
    fits, exceeds = (encode(Publish(b"t", bytes(LIMIT - 7 + more)), 4) for more in (0, 1))
    assert len(fits) == LIMIT
    assert decoder(4).receive(fits) == [Publish(b"t", bytes(LIMIT - 7))]
    refused = decoder(4)
    assert refused.receive(fits + exceeds) == [Publish(b"t", bytes(LIMIT - 7))]
    assert refused.error is not None
    assert refused.error.reason == TOO_LARGE


@pytest.mark.parametrize("first", [0x00, 0x36, 0x38, 0x81, 0xC4, 0xF1])
def test_what_no_packet_begins_with_is_refused_by_its_first_byte(first: int) -> None:
    refused = decoder(4)
    refused.receive(bytes((first,)))
    assert refused.error is not None
    assert refused.error.reason == MALFORMED


def test_what_waits_is_no_longer_than_a_packet() -> None:
    waiting = decoder(4)
    beginning = encode(Publish(b"t", bytes(LIMIT - 7)), 4)[:-1]
    for size in (1_000, 1):
        assert in_pieces(waiting, beginning, size) == []
        assert len(waiting._unread) == LIMIT - 1
        assert sys.getsizeof(waiting._unread) < LIMIT * 1.2
        assert waiting.receive(b"\0") == [Publish(b"t", bytes(LIMIT - 7))]
        assert sys.getsizeof(waiting._unread) < 100


def calls(work: Callable[[], object]) -> int:
    """How many functions, ours and the interpreter's, were called meanwhile."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_packet_in_many_reads_is_looked_at_once() -> None:
    data = encode(Publish(b"t", bytes(90_000)), 4)
    waiting = decoder(4)
    assert in_pieces(waiting, data[:-1], 100) == []
    unread = waiting._unread
    assert calls(lambda: in_pieces(waiting, data, 100)) < 900 * 4 + 50
    assert waiting._unread is unread  # what has come is added to, not copied


@pytest.mark.parametrize(
    "tiny",
    [
        b"\x30\x02\0\0",
        b"\xc0\0",
        b"\xc0\0\x40\x02\0\x01",
        b"\x40\x02\0\x01\x30\x02\0\0",
        b"\x62\x02\0\x01\x40\x02\0\x01",
    ],
    ids=["publish", "ping", "ping-puback", "puback-publish", "pubrel-puback"],
)
def test_many_tiny_packets_cost_what_they_are(tiny: bytes) -> None:
    few, many = tiny * 500, tiny * 5_000
    assert calls(lambda: decoder(4).receive(many)) < 10.1 * calls(lambda: decoder(4).receive(few))
    assert len(flat(decoder(4).receive(many))) == 5_000 * (1 if len(tiny) in (2, 4) else 2)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_all_ids_acknowledged_at_once() -> None:
    ids = list(range(1, 65_536))
    assert decoder(4).receive(pubacks(ids)) == [Acks(ids)]
    assert flat(in_pieces(decoder(4), pubacks(ids[:3_000]), 7)) == [Acks([packet_id]) for packet_id in ids[:3_000]]
    assert pubacks(ids) == b"".join(encode(Puback(packet_id), 4) for packet_id in ids) == encode(Acks(ids), 5)
    assert pubacks([]) == b""
    assert [int.from_bytes(raw, "big") for raw in PACKET_IDS] == [0, *ids]


def test_a_run_ends_with_what_is_not_of_it() -> None:
    said = (
        b"\x40\x02\0\x01" * 3 + b"\x40\x04\0\x02\0\0" + b"\x40\x04\0\x03\x10\0" + b"\x40\x04\0\x04\0\0" + b"\x40\x02\0"
    )
    listener = decoder(5)
    assert listener.receive(said) == [Acks([1, 1, 1]), Acks([2]), Puback(3, 0x10), Acks([4])]
    assert listener.receive(b"\x05") == [Acks([5])]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (0x40, [Acks([1, 2])]), (0x50, [Pubrec(1), Pubrec(2)]),
        (0x62, [Pubrel(1), Pubrel(2)]), (0x70, [Pubcomp(1), Pubcomp(2)]),
    ],
)  # fmt: skip
def test_id_0_within_a_run(first: int, expected: list[Packet]) -> None:
    refused = decoder(4)
    assert refused.receive(b"".join(bytes((first, 2)) + PACKET_IDS[number] for number in (1, 2, 0, 3))) == expected
    assert refused.error is not None
    assert refused.error.reason == PROTOCOL


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 120, 121, 122, 16_376, 16_377, 16_378, 2_097_144, 2_097_145])
@pytest.mark.parametrize(
    ("qos", "retain", "dup"), [(0, False, False), (0, True, False), (1, False, True), (2, True, True)]
)
def test_the_head_of_a_publish(size: int, qos: int, retain: bool, dup: bool) -> None:
    packet_id = b"\0\x07" if qos else b""
    data = publish_head(b"a/b", qos, retain, dup, len(packet_id) + size) + packet_id + bytes(size)
    expected = Publish(b"a/b", bytes(size), qos, 7 if qos else 0, retain, dup)
    assert decoder(4, limit=3_000_000).receive(data) == [expected]
    assert data == encode(expected, 4)


def test_what_an_older_level_cannot_say_is_left_out() -> None:
    said = {0x1F: "why"}
    filters = [("t", SubscriptionOptions(1, True, True, 2))]
    assert encode(Puback(1, 0x87, said), 4) == b"\x40\x02\0\x01"
    assert encode(Connack(0x8A, False, said), 4) == b"\x20\x02\0\x05"
    assert encode(Connack(0, True), 3) == b"\x20\x02\0\0"
    assert encode(Publish(b"t", b"x", properties=b"\x01\x01"), 4) == b"\x30\x04\0\x01tx"
    assert encode(Subscribe(1, filters, said), 3) == b"\x82\x06\0\x01\0\x01t\x01"
