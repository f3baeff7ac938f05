"""Property blocks: which packet may carry what, how often, in which range. paho has a table of its own, and agrees."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from polywire.wires.mqtt import packets
from polywire.wires.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Property,
    Publish,
    Subscribe,
    Will,
)
from polywire.wires.mqtt.properties import NAMES, read, write
from polywire.wires.mqtt.reasons import MqttError, Reason

CARRIERS = [
    getattr(packets, name)
    for name in (
        "Connect", "Connack", "Publish", "Will", "Puback", "Pubrec", "Pubrel", "Pubcomp", "Subscribe", "Suback",
        "Unsubscribe", "Unsuback", "Disconnect", "Auth",
    )
]  # fmt: skip
P = Property

# One property each, as it is written.
WRITTEN: dict[int, tuple[bytes, Any]] = {
    P.PAYLOAD_FORMAT_INDICATOR: (b"\x01\x01", 1),
    P.MESSAGE_EXPIRY_INTERVAL: (b"\x02\xff\xff\xff\xff", 0xFFFFFFFF),
    P.CONTENT_TYPE: (b"\x03\0\x02\xc3\xbc", "ü"),
    P.RESPONSE_TOPIC: (b"\x08\0\x03a/b", "a/b"),
    P.CORRELATION_DATA: (b"\x09\0\x02\xff\0", b"\xff\0"),
    P.SUBSCRIPTION_IDENTIFIER: (b"\x0b\x80\x01", [128]),
    P.SESSION_EXPIRY_INTERVAL: (b"\x11\0\0\0\0", 0),
    P.ASSIGNED_CLIENT_IDENTIFIER: (b"\x12\0\x01c", "c"),
    P.SERVER_KEEP_ALIVE: (b"\x13\0\0", 0),
    P.AUTHENTICATION_METHOD: (b"\x15\0\x01m", "m"),
    P.AUTHENTICATION_DATA: (b"\x16\0\0", b""),
    P.REQUEST_PROBLEM_INFORMATION: (b"\x17\0", 0),
    P.WILL_DELAY_INTERVAL: (b"\x18\0\0\x01\0", 256),
    P.REQUEST_RESPONSE_INFORMATION: (b"\x19\x01", 1),
    P.RESPONSE_INFORMATION: (b"\x1a\0\0", ""),
    P.SERVER_REFERENCE: (b"\x1c\0\x01s", "s"),
    P.REASON_STRING: (b"\x1f\0\x01r", "r"),
    P.RECEIVE_MAXIMUM: (b"\x21\0\x01", 1),
    P.TOPIC_ALIAS_MAXIMUM: (b"\x22\0\0", 0),
    P.TOPIC_ALIAS: (b"\x23\xff\xff", 65_535),
    P.MAXIMUM_QOS: (b"\x24\x01", 1),
    P.RETAIN_AVAILABLE: (b"\x25\0", 0),
    P.USER_PROPERTY: (b"\x26\0\0\0\x03\xef\xbb\xbf", [("", "\ufeff")]),  # the mark stays [MQTT-1.5.4-3]
    P.MAXIMUM_PACKET_SIZE: (b"\x27\0\0\0\x01", 1),
    P.WILDCARD_SUBSCRIPTION_AVAILABLE: (b"\x28\x01", 1),
    P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: (b"\x29\x01", 1),
    P.SHARED_SUBSCRIPTION_AVAILABLE: (b"\x2a\0", 0),
}
MAY_REPEAT = {(P.USER_PROPERTY, packet) for packet in CARRIERS} | {(P.SUBSCRIPTION_IDENTIFIER, Publish)}


def refused(block: bytes, packet: type) -> int:
    with pytest.raises(MqttError) as error:
        read(block, packet)
    assert error.value.detail.isascii()
    return error.value.reason


def paho_type(packet: type) -> int:
    return int(PacketTypes.WILLMESSAGE if packet is Will else getattr(PacketTypes, packet.__name__.upper()))


def carried() -> list[Any]:
    """Every property with every packet, and whether the standard lets it stand there: as paho understood it."""
    table = PahoProperties(PacketTypes.CONNECT).properties
    return [
        pytest.param(
            identifier, packet, paho_type(packet) in table[identifier][1], id=f"{identifier:02x}-{packet.__name__}"
        )
        for identifier in WRITTEN
        for packet in CARRIERS
    ]


def test_the_names_are_those_of_the_standard() -> None:
    assert {name: identifier for identifier, name in NAMES.items()} == PahoProperties(PacketTypes.CONNECT).names
    assert set(WRITTEN) == {value for value in vars(Property).values() if isinstance(value, int)}


@pytest.mark.parametrize(("identifier", "packet", "allowed"), carried())
def test_which_packet_carries_what(identifier: int, packet: type, allowed: bool) -> None:
    block, value = WRITTEN[identifier]
    before, found = b"", {identifier: value}
    if identifier == P.AUTHENTICATION_DATA and allowed:
        before, found = WRITTEN[P.AUTHENTICATION_METHOD][0], {P.AUTHENTICATION_METHOD: "m", identifier: value}
    if allowed:
        assert read(before + block, packet) == found
        assert write(found) == bytes((len(before + block),)) + before + block
    else:
        assert refused(before + block, packet) == Reason.MALFORMED_PACKET  # §2.2.2.2


@pytest.mark.parametrize(("identifier", "packet", "allowed"), [case for case in carried() if case.values[2]])
def test_what_may_be_repeated(identifier: int, packet: type, allowed: bool) -> None:
    block, value = WRITTEN[identifier]
    user = WRITTEN[P.USER_PROPERTY][0]
    if (identifier, packet) in MAY_REPEAT:
        found = read(block + user + block, packet)
        assert found[identifier] == (value * 3 if identifier == P.USER_PROPERTY else value * 2)
    else:
        assert refused(block + user + block, packet) == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(("identifier", "packet", "allowed"), [case for case in carried() if case.values[2]])
def test_what_is_cut_short(identifier: int, packet: type, allowed: bool) -> None:
    block, _ = WRITTEN[identifier]
    for cut in range(1, len(block)):
        assert refused(block[:cut], packet) == Reason.MALFORMED_PACKET


@pytest.mark.parametrize("identifier", [0, 4, 10, 20, 27, 32, 43, 127, 128, 255])
def test_what_no_packet_carries(identifier: int) -> None:
    assert refused(bytes((identifier, 1, 0)), Publish) == Reason.MALFORMED_PACKET


@pytest.mark.parametrize(
    ("block", "packet", "reason"),
    [
        (b"\x01\x02", Publish, Reason.PROTOCOL_ERROR),
        (b"\x17\x02", Connect, Reason.PROTOCOL_ERROR),
        (b"\x19\xff", Connect, Reason.PROTOCOL_ERROR),
        (b"\x24\x02", Connack, Reason.PROTOCOL_ERROR),
        (b"\x25\x02", Connack, Reason.PROTOCOL_ERROR),
        (b"\x28\x02", Connack, Reason.PROTOCOL_ERROR),
        (b"\x29\x02", Connack, Reason.PROTOCOL_ERROR),
        (b"\x2a\x02", Connack, Reason.PROTOCOL_ERROR),
        (b"\x21\0\0", Connect, Reason.PROTOCOL_ERROR),
        (b"\x27\0\0\0\0", Connack, Reason.PROTOCOL_ERROR),
        (b"\x0b\0", Publish, Reason.PROTOCOL_ERROR),
        (b"\x0b\0", Subscribe, Reason.PROTOCOL_ERROR),
        (b"\x23\0\0", Publish, Reason.TOPIC_ALIAS_INVALID),
        (b"\x08\0\x03a/+", Publish, Reason.PROTOCOL_ERROR),
        (b"\x08\0\x01#", Will, Reason.PROTOCOL_ERROR),
        (b"\x16\0\x01x", Connect, Reason.PROTOCOL_ERROR),
        (b"\x16\0\x01x", Auth, Reason.PROTOCOL_ERROR),
        (b"\x0b\xff\xff\xff\xff\x01", Publish, Reason.MALFORMED_PACKET),
        (b"\x0b\x81\0", Publish, Reason.MALFORMED_PACKET),
        (b"\x1f\0\x01\xff", Disconnect, Reason.MALFORMED_PACKET),
        (b"\x1f\0\x03\xed\xa0\x80", Disconnect, Reason.MALFORMED_PACKET),
        (b"\x26\0\x01a\0\x01\0", Publish, Reason.MALFORMED_PACKET),
        (b"\x26\0\x01\0\0\x01a", Publish, Reason.MALFORMED_PACKET),
    ],
)  # fmt: skip
def test_values_out_of_range(block: bytes, packet: type, reason: int) -> None:
    assert refused(block, packet) == reason


@pytest.mark.parametrize("number", [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455])
def test_every_size_of_a_variable_byte_integer(number: int) -> None:
    written = write({P.SUBSCRIPTION_IDENTIFIER: [number]})
    assert read(written[1:], Publish) == {P.SUBSCRIPTION_IDENTIFIER: [number]}
    assert len(written) == 3 + (number > 127) + (number > 16_383) + (number > 2_097_151)


CANNOT_BE_WRITTEN: dict[str, Properties] = {
    "varint": {P.SUBSCRIPTION_IDENTIFIER: [268_435_456]},
    "negative-varint": {P.SUBSCRIPTION_IDENTIFIER: [-1]},
    "byte": {P.PAYLOAD_FORMAT_INDICATOR: 256},
    "two": {P.TOPIC_ALIAS: 65_536},
    "negative-two": {P.TOPIC_ALIAS: -1},
    "four": {P.MESSAGE_EXPIRY_INTERVAL: 1 << 32},
    "long-text": {P.CONTENT_TYPE: "a" * 65_536},
    "null": {P.CONTENT_TYPE: "a\0"},
    "surrogate": {P.CONTENT_TYPE: "\ud800"},
    "long-bytes": {P.CORRELATION_DATA: bytes(65_536)},
    "long-value": {P.USER_PROPERTY: [("a", "ü" * 32_768)]},
}


@pytest.mark.parametrize("found", CANNOT_BE_WRITTEN.values(), ids=CANNOT_BE_WRITTEN.keys())
def test_what_cannot_be_written(found: Properties) -> None:
    with pytest.raises(ValueError, match=r"."):
        write(found)


def test_a_block_is_as_long_as_it_says() -> None:
    assert write({}) == b"\0"
    found: Properties = {P.USER_PROPERTY: [("name", "value")] * 30}
    written = write(found)
    assert written[:2] == b"\xa4\x03"  # 420 bytes
    assert len(written) == 422
    assert read(written[2:], Publish) == found


# --- beside paho -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\ufeff"), max_size=20)
FOUND = st.fixed_dictionaries(
    {},
    optional={
        P.PAYLOAD_FORMAT_INDICATOR: st.integers(0, 1),
        P.MESSAGE_EXPIRY_INTERVAL: st.integers(0, 0xFFFFFFFF),
        P.CONTENT_TYPE: TEXT,
        P.RESPONSE_TOPIC: TEXT.filter(lambda text: not {"+", "#"} & set(text)),
        P.CORRELATION_DATA: st.binary(max_size=20),
        P.SUBSCRIPTION_IDENTIFIER: st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3),
        P.TOPIC_ALIAS: st.integers(1, 0xFFFF),
        P.USER_PROPERTY: st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    },
)


@given(FOUND)
def test_paho_reads_what_we_write(found: Properties) -> None:
    theirs = PahoProperties(PacketTypes.PUBLISH)
    theirs.unpack(write(found))
    names = {identifier: name.replace(" ", "") for identifier, name in NAMES.items()}
    assert {identifier: getattr(theirs, names[identifier]) for identifier in found} == found
    assert set(theirs.json()) == {names[identifier] for identifier in found}


@given(FOUND)
def test_we_read_what_paho_writes(found: Properties) -> None:
    theirs = PahoProperties(PacketTypes.PUBLISH)
    for identifier, value in found.items():
        setattr(theirs, NAMES[identifier].replace(" ", ""), value)
    written = theirs.pack()
    assert read(written[1 if written[0] < 0x80 else 2 :], Publish) == found
