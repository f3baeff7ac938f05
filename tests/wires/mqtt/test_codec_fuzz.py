"""Hostile bytes: conversations with bytes changed, lost and put in, whole and in pieces. Longer with ``-m long``."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polywire.wires.mqtt.codec import Decoder, encode
from polywire.wires.mqtt.packets import (
    Acks,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from polywire.wires.mqtt.properties import read, write
from polywire.wires.mqtt.reasons import MqttError, Reason
from tests.wires.mqtt.samples import ALL

LIMIT = 20_000
REASONS = {
    Reason.MALFORMED_PACKET,
    Reason.PROTOCOL_ERROR,
    Reason.UNSUPPORTED_PROTOCOL_VERSION,
    Reason.PACKET_TOO_LARGE,
    Reason.TOPIC_ALIAS_INVALID,
}
LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
QUICK = settings(max_examples=150, deadline=None)
LONG = settings(max_examples=LONG_ROUNDS * 200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
LONG_PACKETS = settings(LONG, max_examples=LONG_ROUNDS * 20)

# --- what is said ----------------------------------------------------------------------------------------------------

CONNECTS = [sample for sample in ALL if sample.opens]
OTHERS = {level: [s for s in ALL if s.level == level and len(s.data) < 300] for level in (3, 4, 5)}
INTERESTING = [
    bytes((byte,)) for byte in (*range(6), 0x7F, 0x80, 0x81, 0xC0, 0xFF, *(sample.data[0] for sample in ALL[::5]))
]


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes taken away in one place, and others put there."""
    at, lost = draw(st.integers(0, min(len(data) - 1, 150))), draw(st.integers(0, 3))
    put = draw(st.binary(max_size=3) | st.sampled_from(INTERESTING))
    return data[:at] + put + data[at + lost :]


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A CONNECT, seldom changed, as then nothing more is read; and packets of its level, often changed."""
    connect = draw(st.sampled_from(CONNECTS))
    said = [sample.data for sample in draw(st.lists(st.sampled_from(OTHERS[connect.level]), max_size=6))]
    opening = draw(changed(connect.data)) if draw(st.integers(0, 7)) == 0 else connect.data
    return opening + b"".join(draw(changed(data)) if draw(st.booleans()) else data for data in said)


SIZES = st.lists(st.sampled_from([1, 2, 3, 5, 8, 30, 200]), min_size=1, max_size=8)

# --- what is heard ---------------------------------------------------------------------------------------------------

Heard = tuple[list[Packet], str, int | None]


def hear(data: bytes, sizes: list[int], level: int | None = None) -> Heard:
    """In reads of these sizes, over and over."""
    decoder = Decoder(maximum_packet_size=LIMIT, level=level)
    packets: list[Packet] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        packets += decoder.receive(data[at : at + size])
        at, turn = at + size, turn + 1
        assert len(decoder._unread) < LIMIT
        assert sys.getsizeof(decoder._unread) < LIMIT * 1.2
    if decoder.error is None:
        return normal(packets), "", decoder.level
    assert isinstance(decoder.error, MqttError)
    assert decoder.error.reason in REASONS
    assert not decoder._unread
    assert decoder.receive(data) == []
    return normal(packets), f"{decoder.error.reason:02X} {decoder.error}", decoder.level


def normal(packets: list[Packet]) -> list[Packet]:
    """One PUBACK each: how many come together depends on the reads, and success may be written out."""
    found: list[Packet] = []
    for packet in packets:
        if isinstance(packet, Acks):
            found += [Puback(packet_id) for packet_id in packet.ids]
        else:
            found.append(packet)
    return found


def check(data: bytes, sizes: list[int], level: int | None = None) -> None:
    """The same however it is cut; what was heard can be said, and is heard again as it was."""
    packets, error, known = whole = hear(data, [len(data) or 1], level)
    assert hear(data, sizes, level) == whole
    for packet in packets:
        spoken = packet.level if isinstance(packet, Connect) else known
        assert spoken is not None
        assert hear(encode(packet, spoken), sizes, spoken) == ([packet], "", spoken)
        if isinstance(packet, Publish):
            check_block(packet.properties)
    assert packets or error or len(data) < LIMIT


def check_block(block: bytes) -> None:
    found = read_block(block)
    if isinstance(found, dict):
        written = write(found)
        assert read_block(written[1 if written[0] < 0x80 else 2 :]) == found
    else:
        assert found in REASONS


def read_block(block: bytes) -> Properties | int:
    try:
        return read(block, Publish)
    except MqttError as error:
        return error.reason


@QUICK
@given(conversations(), SIZES)
def test_changed_conversations(data: bytes, sizes: list[int]) -> None:
    check(data, sizes)


@pytest.mark.long
@LONG
@given(conversations(), SIZES)
def test_many_changed_conversations(data: bytes, sizes: list[int]) -> None:
    check(data, sizes)


@QUICK
@given(st.binary(max_size=60), SIZES, st.sampled_from([None, 3, 4, 5]))
@example(b"\x30\x03\0\x01t\x01\0", [1], 5)  # what follows has no part in the answer
def test_any_bytes(data: bytes, sizes: list[int], level: int | None) -> None:
    check(data, sizes, level)


@pytest.mark.long
@LONG
@given(st.binary(max_size=200), SIZES, st.sampled_from([None, 3, 4, 5]))
def test_many_bytes(data: bytes, sizes: list[int], level: int | None) -> None:
    check(data, sizes, level)


@pytest.mark.long
@LONG
@given(st.binary(max_size=200))
def test_many_property_blocks(block: bytes) -> None:
    check_block(block)


# --- packets that are right ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30)
BYTES = st.binary(max_size=30)
IDS = st.integers(1, 0xFFFF)
USER = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
SAID = st.fixed_dictionaries({}, optional={Property.REASON_STRING: TEXT, Property.USER_PROPERTY: USER})
ONLY_USER = st.fixed_dictionaries({}, optional={Property.USER_PROPERTY: USER})


def packets(level: int) -> st.SearchStrategy[Any]:
    """Any packet of this level, but PUBACKs that a run takes in."""
    five = level == 5
    said = SAID if five else st.just({})
    user = ONLY_USER if five else st.just({})
    numbers = st.integers(1, 0xFFFF)
    will = st.builds(Will, BYTES, BYTES, st.integers(0, 2), st.booleans(), user)
    username = st.none() | TEXT
    options = st.integers(0, 2).map(SubscriptionOptions)
    if five:
        options = st.builds(SubscriptionOptions, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2))
    opening = st.fixed_dictionaries({}, optional={Property.RECEIVE_MAXIMUM: numbers, Property.USER_PROPERTY: USER})
    identified = st.fixed_dictionaries(
        {}, optional={Property.SUBSCRIPTION_IDENTIFIER: st.lists(numbers, min_size=1, max_size=1)}
    )
    connect = st.builds(
        Connect,
        st.just(level),
        TEXT,
        st.booleans(),
        st.integers(0, 0xFFFF),
        username if five else TEXT,
        st.none() | BYTES,
        st.none() | will,
        opening if five else st.just({}),
        st.booleans(),
    )
    refusals = [0x80, 0x8A, 0x9F] if five else [0x84, 0x85, 0x88, 0x86, 0x87]
    block = st.builds(lambda found: write(found)[1:], ONLY_USER.filter(lambda found: len(write(found)) < 0x80))
    kinds = [
        connect,
        st.builds(Connack, st.just(0), st.just(False) if level == 3 else st.booleans(), said),
        st.builds(Connack, st.sampled_from(refusals), st.just(False), said),
        st.builds(
            Publish, BYTES, BYTES, st.just(0), st.just(0), st.booleans(), properties=block if five else st.just(b"")
        ),
        st.builds(
            Publish, BYTES, BYTES, st.integers(1, 2), IDS, st.booleans(), st.booleans(), block if five else st.just(b"")
        ),
        st.builds(
            Subscribe, IDS, st.lists(st.tuples(TEXT, options), min_size=1, max_size=4), identified if five else said
        ),
        st.builds(Suback, IDS, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=4), said),
        st.builds(Unsubscribe, IDS, st.lists(TEXT, min_size=1, max_size=4), user),
        st.builds(Unsuback, IDS, st.lists(st.sampled_from([0, 0x11, 0x87]), min_size=1) if five else st.just([]), said),
    ]
    kinds += [st.builds(ack, IDS, st.just(0), said) for ack in (Puback, Pubrec, Pubrel, Pubcomp)]
    if five:
        kinds += [st.builds(ack, IDS, st.sampled_from([0x10, 0x80, 0x97]), said) for ack in (Puback, Pubrec)]
        kinds += [st.builds(ack, IDS, st.just(0x92), said) for ack in (Pubrel, Pubcomp)]
        kinds += [st.builds(Disconnect, st.sampled_from([0, 4, 0x81, 0xA2]), said), st.builds(Auth, st.just(0), said)]
    return st.one_of(kinds)


CASES = st.sampled_from([3, 4, 5]).flatmap(
    lambda level: st.tuples(st.just(level), st.lists(packets(level), max_size=6))
)


@settings(QUICK, max_examples=60)
@given(CASES, SIZES)
def test_what_is_said_is_heard(case: tuple[int, list[Packet]], sizes: list[int]) -> None:
    level, said = case
    assert hear(b"".join(encode(packet, level) for packet in said), sizes, level) == (said, "", level)


@pytest.mark.long
@LONG_PACKETS
@given(CASES, SIZES)
def test_much_that_is_said_is_heard(case: tuple[int, list[Packet]], sizes: list[int]) -> None:
    level, said = case
    assert hear(b"".join(encode(packet, level) for packet in said), sizes, level) == (said, "", level)
