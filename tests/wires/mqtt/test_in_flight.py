"""Packet ids of messages on their way, in both directions, and how they are stored."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.wires.mqtt.in_flight import MOST_IDS, Received, Sent, SessionState, Stage
from polywire.wires.mqtt.reasons import MqttError, Reason


def sent(state: SessionState) -> list[tuple[int, object, int, bool]]:
    return [(entry.id, entry.token, entry.qos, entry.released) for entry in state.sent.values()]


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_begin_with_1_and_follow_each_other() -> None:
    state = SessionState()
    assert list(state.take_ids("abc", 1)) == [1, 2, 3]
    assert list(state.take_ids("d", 2)) == [4]
    assert sent(state) == [(1, "a", 1, False), (2, "b", 1, False), (3, "c", 1, False), (4, "d", 2, False)]


def test_no_messages_take_no_ids() -> None:
    state = SessionState()
    assert list(state.take_ids([], 1)) == []
    assert list(state.take_ids("a", 1)) == [1]


def test_ids_go_round_and_are_never_0() -> None:
    """[MQTT-2.2.1-4]"""
    state = SessionState()
    seen: list[int] = []
    for _ in range(70):
        ids = state.take_ids(range(1_000), 1)
        seen += ids
        state.puback(ids)
    assert seen == [number % MOST_IDS + 1 for number in range(70_000)]


def test_ids_go_round_within_a_batch() -> None:
    state = SessionState()
    state.puback(state.take_ids(range(MOST_IDS - 1), 1))
    assert list(state.take_ids("abc", 1)) == [MOST_IDS, 1, 2]


def test_ids_in_use_are_passed_over() -> None:
    state = SessionState()
    state.take_ids("abcd", 1)
    state.puback([1, 3])
    state.take_ids(range(MOST_IDS - 5), 1)
    assert list(state.take_ids("xyz", 1)) == [MOST_IDS, 1, 3]


def test_all_ids_can_be_in_use_and_no_more() -> None:
    state = SessionState()
    assert list(state.take_ids(range(MOST_IDS), 1)) == list(range(1, MOST_IDS + 1))
    with pytest.raises(ValueError, match="0 that are free"):
        state.take_ids(["one more"], 1)
    state.puback([4_711])
    assert list(state.take_ids(["one more"], 1)) == [4_711]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40_000), max_size=6), st.integers(0, 1 << 32))
def test_an_id_means_one_message(counts: list[int], seed: int) -> None:
    state, choice = SessionState(), random.Random(seed)
    for count in counts:
        before = set(state.sent)
        ids = list(state.take_ids(range(min(count, MOST_IDS - len(before))), 1))
        assert len(set(ids)) == len(ids)
        assert before.isdisjoint(ids)
        assert not ids or (min(ids) >= 1 and max(ids) <= MOST_IDS)
        state.puback([packet_id for packet_id in state.sent if choice.random() < 0.7])


# --- to the client ---------------------------------------------------------------------------------------------------


def test_puback_ends_what_it_names_and_nothing_twice() -> None:
    """[MQTT-4.3.2-3]"""
    state = SessionState()
    state.take_ids("abc", 1)
    assert [entry.token for entry in state.puback([3, 1])] == ["c", "a"]
    assert state.puback([3, 1, 99]) == []
    assert [entry.token for entry in state.puback([2, 2])] == ["b"]
    assert not state.sent


def test_puback_beside_qos_2() -> None:
    state = SessionState()
    state.take_ids("ab", 1)
    state.take_ids("c", 2)
    assert [entry.token for entry in state.puback([2, 7])] == ["b"]
    with pytest.raises(MqttError) as error:
        state.puback([1, 3])
    assert error.value.reason == Reason.PROTOCOL_ERROR
    assert sent(state) == [(1, "a", 1, False), (3, "c", 2, False)]  # nothing of the run was taken
    state.pubrec(3, 0)
    with pytest.raises(MqttError):
        state.puback([3])
    state.release(3)
    state.pubcomp(3)
    assert [entry.token for entry in state.puback([1, 3])] == ["a"]
    assert state._exactly_once == 0  # PUBACK is as quick as before


def test_qos_2_in_its_stages() -> None:
    """[MQTT-4.3.3-3] to [MQTT-4.3.3-6]"""
    state = SessionState()
    state.take_ids("ab", 2)
    entry = state.pubrec(1, Reason.SUCCESS)
    assert entry == Sent(1, "a", 2, Reason.SUCCESS, Stage.RECORDED)
    assert state.pubrec(1, Reason.SUCCESS) is None  # once
    assert not state.release(2)  # its PUBREC has not come
    assert state.release(1)
    assert state.sent[1].stage == Stage.RELEASED
    assert list(state.take_ids("c", 1)) == [3]  # 1 is still in use
    assert state.pubcomp(1)
    assert not state.pubcomp(1)
    assert list(state.sent) == [2, 3]


def test_a_refused_message_is_over() -> None:
    """[MQTT-4.4.0-2]"""
    state = SessionState()
    state.take_ids("a", 2)
    entry = state.pubrec(1, Reason.QUOTA_EXCEEDED)
    assert entry is not None
    assert (entry.token, entry.reason, entry.released) == ("a", Reason.QUOTA_EXCEEDED, False)
    assert not state.sent
    state.take_ids("b", 1)
    assert [entry.token for entry in state.puback([2])] == ["b"]


def test_answers_of_the_wrong_kind() -> None:
    state = SessionState()
    state.take_ids("a", 1)
    state.take_ids("b", 2)
    for wrong in (lambda: state.pubrec(1, 0), lambda: state.pubcomp(1), lambda: state.pubcomp(2)):
        with pytest.raises(MqttError) as error:
            wrong()
        assert error.value.reason == Reason.PROTOCOL_ERROR
    state.pubrec(2, 0)
    with pytest.raises(MqttError):  # PUBREL was not sent
        state.pubcomp(2)


def test_what_is_sent_again_is_in_order() -> None:
    """PUBLISH by first sending, PUBREL by PUBREC [MQTT-4.6.0-1, MQTT-4.6.0-4]."""
    state = SessionState()
    state.take_ids("abcd", 2)
    state.take_ids("e", 1)
    state.pubrec(3, 0)
    state.pubrec(1, 0)
    state.reconnected()
    assert list(state.again) == [2, 4, 5]
    assert [entry.id for entry in state.sent.values() if entry.released] == [3, 1]
    assert state.outstanding == 2


def test_answers_to_an_earlier_connection_need_nothing_sent_again() -> None:
    state = SessionState()
    state.take_ids("ab", 1)
    state.take_ids("cd", 2)
    state.reconnected()
    state.puback([1])
    state.pubrec(3, 0)
    assert list(state.again) == [2, 4]
    assert state.outstanding == 1  # the PUBREL of 3


def test_messages_that_are_gone() -> None:
    """At QoS 2 the client may know the id: were it used again, the new message would be taken for the old."""
    state = SessionState()
    state.take_ids("a", 1)
    state.take_ids("bc", 2)
    state.pubrec(3, 0)
    state.reconnected()
    state.give_up([1, 2, 3, 99])
    assert sent(state) == [(3, "c", 2, True), (2, "b", 2, True)]
    assert not state.again
    assert state.release(2)
    assert state.pubcomp(2)


# --- stored ----------------------------------------------------------------------------------------------------------


def test_received_ids_are_stored_with_their_messages() -> None:
    state = SessionState()
    state.received = {7: Received.HANDED, 65_535: Received.HANDED, 3: Received.ACKNOWLEDGED}
    state.mark_stored([65_535, 3, 12])
    assert state.received == {7: Received.HANDED, 65_535: Received.STORED, 3: Received.ACKNOWLEDGED}
    again = SessionState()
    again.unpack_received(state.pack_received())
    assert again.received == {65_535: Received.ACKNOWLEDGED, 3: Received.ACKNOWLEDGED}


def test_sent_ids_are_stored_in_their_order() -> None:
    state = SessionState()
    state.take_ids([10, -20, 1 << 62], 2)
    state.take_ids([-(1 << 63)], 1)
    state.pubrec(1, 0)
    packed = state.pack_sent()
    assert len(packed) == 1 + 4 * 11
    again = SessionState()
    again.unpack_sent(packed)
    assert sent(again) == sent(state) == [
        (2, -20, 2, False), (3, 1 << 62, 2, False), (4, -(1 << 63), 1, False), (1, 10, 2, True)
    ]  # fmt: skip
    assert list(again.again) == []
    assert again.release(1)
    with pytest.raises(MqttError):
        again.puback([2])
    assert [entry.token for entry in again.puback([4])] == [-(1 << 63)]


def test_after_a_restart_no_id_means_another_message() -> None:
    state = SessionState()
    state.take_ids(range(5), 2)
    again = SessionState()
    again.unpack_sent(state.pack_sent())
    assert list(again.take_ids("xy", 1)) == [6, 7]


def test_nothing_is_stored_as_nothing() -> None:
    state = SessionState()
    assert (state.pack_received(), state.pack_sent()) == (b"", b"")
    state.take_ids([1], 1)
    state.received[1] = Received.ACKNOWLEDGED
    state.unpack_received(b"")
    state.unpack_sent(b"")
    assert (state.received, state.sent) == ({}, {})
    assert list(state.take_ids([1], 1)) == [1]


FULL = SessionState()
FULL.take_ids([1, 2], 2)
FULL.received = {1: Received.ACKNOWLEDGED, 2: Received.ACKNOWLEDGED}
PACKED_SENT, PACKED_RECEIVED = FULL.pack_sent(), FULL.pack_received()


@pytest.mark.parametrize(
    "packed",
    [
        b"\x01",  # a form that is never made
        b"\x02" + PACKED_SENT[1:],  # of a later version
        PACKED_SENT[:-1],
        PACKED_SENT + b"\0",
        PACKED_SENT.replace(b"\0\2", b"\0\1", 1),  # an id twice
        PACKED_SENT.replace(b"\0\2", b"\0\0", 1),
        PACKED_SENT.replace(b"\2\2", b"\2\4", 1),  # no such QoS
        PACKED_SENT.replace(b"\2\2", b"\2\0", 1),
    ],
    ids=["empty", "version", "short", "long", "twice", "id 0", "kind 4", "kind 0"],
)
def test_malformed_sent(packed: bytes) -> None:
    state = SessionState()
    state.take_ids("a", 1)
    with pytest.raises(ValueError, match="packet ids"):
        state.unpack_sent(packed)
    assert sent(state) == [(1, "a", 1, False)]


@pytest.mark.parametrize(
    "packed",
    [b"\x01", b"\x07" + PACKED_RECEIVED[1:], PACKED_RECEIVED[:-1], b"\x01\0\1\0\1", b"\x01\0\0"],
    ids=["empty", "version", "short", "twice", "id 0"],
)
def test_malformed_received(packed: bytes) -> None:
    with pytest.raises(ValueError, match="packet ids"):
        SessionState().unpack_received(packed)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_state_or_a_value_error(packed: bytes) -> None:
    state = SessionState()
    for unpack in (state.unpack_received, state.unpack_sent):
        try:
            unpack(packed)
        except ValueError:
            continue
    assert 0 not in state.sent
    assert 0 not in state.received
