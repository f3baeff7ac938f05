"""One connection's rules, clause by clause: bytes in, events and bytes out. No network, no clock.

Most is fed whole and byte by byte: nothing may depend on how the bytes are cut.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.wires.mqtt.codec import encode
from polywire.wires.mqtt.in_flight import SessionState
from polywire.wires.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
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
from polywire.wires.mqtt.reasons import Reason
from polywire.wires.mqtt.session import Broken, Disconnected, Eof, Rules
from tests.wires.mqtt.session_client import Client, MakeClient, broken, handed, reasons, settled
from tests.wires.mqtt.session_client import make_client as make_client  # noqa: PLC0414 - its fixture

LEVELS = [3, 4, 5]
SUBSCRIBE = Subscribe(9, [("a/#", SubscriptionOptions(1))])


# --- CONNECT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_connect_is_told_and_accepted(make: MakeClient, level: int) -> None:
    client = make(level)
    will = Will(b"gone", b"bye", qos=1)
    (connect,) = client.ask(keep_alive=30, will=will)
    assert isinstance(connect, Connect)
    assert (connect.level, connect.client_id, connect.keep_alive, connect.will) == (level, "client", 30, will)
    assert client.session.undecided
    assert client.session.level == level
    assert client.raw() == b""
    client.session.accept(SessionState(), Connack(session_present=True))
    (connack,) = client.heard()
    assert isinstance(connack, Connack)
    assert (connack.reason, connack.session_present) == (0, level > 3)
    assert not client.session.undecided
    assert not client.session.closed


def test_connack_says_what_the_session_asks_of_the_client() -> None:
    """What it does not say has its default (§3.2.2.3.3, §3.2.2.3.6, §3.2.2.3.8)."""
    told = Client().connect().properties
    assert told == {
        Property.MAXIMUM_PACKET_SIZE: 10_000,
        Property.RECEIVE_MAXIMUM: 10,
        Property.TOPIC_ALIAS_MAXIMUM: 5,
    }
    assert Client(rules=Rules(10_000, 65_535, 0, 5)).connect().properties == {Property.MAXIMUM_PACKET_SIZE: 10_000}
    assert Client(4).connect().properties == {}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "first", [Pingreq(), Publish(b"a", b""), Disconnect(), Connack()], ids=lambda one: type(one).__name__
)
def test_the_first_packet_is_connect(make: MakeClient, level: int, first: Packet) -> None:
    """[MQTT-3.1.0-1]. There is no level to answer in."""
    client = make(level)
    assert broken(client.send(first)) == Reason.PROTOCOL_ERROR
    assert client.session.closed
    assert client.raw() == b""


@pytest.mark.parametrize("level", LEVELS)
def test_connect_comes_once(make: MakeClient, level: int) -> None:
    """[MQTT-3.1.0-2]"""
    client = make(level)
    client.connect()
    events = client.send(Publish(b"a", b"1"), Connect(level, "again"), Publish(b"a", b"2"))
    assert [publish.payload for publish in handed(events)] == [b"1"]
    assert broken(events) == Reason.PROTOCOL_ERROR
    assert client.session.closed
    assert reasons(client.heard()) == ([(Disconnect, Reason.PROTOCOL_ERROR)] if level == 5 else [])


@pytest.mark.parametrize("level", LEVELS)
def test_what_comes_behind_connect_waits_until_it_is_accepted(make: MakeClient, level: int) -> None:
    """Tutorials send CONNECT, PUBLISH and DISCONNECT, close, and never read."""
    client = make(level)
    connect = Connect(level, "client")
    publishes = [Publish(b"a", b"0"), Publish(b"a", b"1", 1, 1), Publish(b"a", b"2", 2, 2)]
    events = client.send(connect, *publishes)
    client.session.receive_data(encode(Disconnect(), level))
    client.session.receive_eof()
    assert events + list(client.session.events()) == [connect]
    client.session.accept(SessionState(), Connack())
    events = list(client.session.events())
    assert [publish.payload for publish in handed(events)] == [b"0", b"1", b"2"]
    assert events[-1] == Disconnected(0, keeps_will=False)
    assert client.session.closed


def test_eof_behind_connect_comes_last(make: MakeClient) -> None:
    client = make()
    client.send(Connect(5, "client"), Publish(b"a", b""))
    client.session.receive_eof()
    assert not client.session.closed
    client.session.accept(SessionState(), Connack())
    events = list(client.session.events())
    assert len(handed(events)) == 1
    assert events[-1] == Eof()


def test_events_go_on_with_what_their_answers_let_in() -> None:
    client = Client()
    client.session.receive_data(encode(Connect(5, "client"), 5) + encode(Publish(b"a", b""), 5) + b"\xf0\x01")
    seen: list[type] = []
    for event in client.session.events():
        seen.append(type(event).__name__)
        if isinstance(event, Connect):
            client.session.accept(SessionState(), Connack())
    assert seen == ["Connect", "Publishes"]


def test_a_violation_behind_connect_waits_too(make: MakeClient) -> None:
    client = make()
    events = client.send(Connect(5, "client"), Publish(b"a", b""), b"\x00\x00")
    assert len(events) == 1
    client.session.accept(SessionState(), Connack())
    events = list(client.session.events())
    assert len(handed(events)) == 1
    assert broken(events) == Reason.MALFORMED_PACKET
    assert reasons(client.heard()) == [(Connack, 0), (Disconnect, Reason.MALFORMED_PACKET)]


@pytest.mark.parametrize("level", LEVELS)
def test_what_comes_behind_a_refused_connect_is_not_looked_at(make: MakeClient, level: int) -> None:
    """[MQTT-3.1.4-6], [MQTT-3.1.4-5] of 3.1.1"""
    client = make(level)
    client.send(Connect(level, "client"), Publish(b"a", b""), b"\x00\x00")
    client.session.refuse(Reason.NOT_AUTHORIZED, "no")
    assert reasons(client.heard()) == [(Connack, Reason.NOT_AUTHORIZED)]
    assert client.session.closed
    assert client.send(Publish(b"a", b"")) == []
    client.session.accept(SessionState(), Connack())  # decided before
    assert client.raw() == b""


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.UNSUPPORTED_PROTOCOL_VERSION, 1),
        (Reason.CLIENT_IDENTIFIER_NOT_VALID, 2),
        (Reason.SERVER_UNAVAILABLE, 3),
        (Reason.BAD_USER_NAME_OR_PASSWORD, 4),
        (Reason.NOT_AUTHORIZED, 5),
        (Reason.PACKET_TOO_LARGE, None),
        (Reason.BAD_AUTHENTICATION_METHOD, None),
    ],
)
@pytest.mark.parametrize("level", [3, 4])
def test_return_codes_of_old_levels(level: int, reason: int, code: int | None) -> None:
    """3.1.1 §3.2.2.3: where there is none, the connection is closed without CONNACK."""
    client = Client(level)
    client.ask()
    client.session.refuse(reason, "words that no client of this level can be told")
    assert client.raw() == (b"" if code is None else bytes((0x20, 2, 0, code)))
    assert client.session.closed


def test_a_refusal_says_why() -> None:
    client = Client()
    client.ask()
    client.session.refuse(Reason.NOT_AUTHORIZED, "who are you?")
    assert client.heard() == [Connack(Reason.NOT_AUTHORIZED, properties={Property.REASON_STRING: "who are you?"})]


@pytest.mark.parametrize(
    ("connect", "answer"),
    [
        (b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01x", Connack(Reason.UNSUPPORTED_PROTOCOL_VERSION)),
        (b"\x10\x0e\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01x", Connack(Reason.MALFORMED_PACKET)),
    ],
    ids=["a later version", "reserved flag"],
)
def test_a_connect_that_is_wrong_is_answered_at_level_5(make: MakeClient, connect: bytes, answer: Connack) -> None:
    """[MQTT-3.1.2-2], [MQTT-3.1.4-1]"""
    client = make()
    assert broken(client.send(connect)) == answer.reason
    (heard,) = client.heard()
    assert isinstance(heard, Connack)
    assert (heard.reason, heard.session_present) == (answer.reason, False)


def test_a_connect_of_an_unknown_version_at_level_4(make: MakeClient) -> None:
    """[MQTT-3.1.2-2] of 3.1.1: return code 1."""
    client = make(4)
    assert broken(client.send(b"\x10\x0d\x00\x04MQTT\x02\x02\x00\x3c\x00\x01x")) == Reason.UNSUPPORTED_PROTOCOL_VERSION
    assert client.raw() == b"\x20\x02\x00\x01"
    assert client.session.closed


def test_what_is_no_connect_at_all_gets_no_answer(make: MakeClient) -> None:
    client = make()
    assert broken(client.send(b"GET / HTTP/1.1\r\n\r\n")) == Reason.PROTOCOL_ERROR
    assert client.raw() == b""


def test_a_connection_that_says_nothing() -> None:
    client = Client()
    client.session.disconnect(Reason.KEEP_ALIVE_TIMEOUT, "no CONNECT")
    assert client.session.closed
    assert client.raw() == b""
    client = Client()
    client.session.receive_eof()
    assert list(client.session.events()) == [Eof()]


def test_no_authentication_method_is_known(make: MakeClient) -> None:
    """[MQTT-4.12.0-1]"""
    client = make()
    events = client.ask(properties={Property.AUTHENTICATION_METHOD: "SCRAM-SHA-1", Property.AUTHENTICATION_DATA: b"?"})
    assert broken(events) == Reason.BAD_AUTHENTICATION_METHOD
    assert len(events) == 1
    assert reasons(client.heard()) == [(Connack, Reason.BAD_AUTHENTICATION_METHOD)]
    assert client.session.closed


def test_nothing_to_accept() -> None:
    with pytest.raises(RuntimeError):
        Client().session.accept(SessionState(), Connack())


# --- what is legal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "packet",
    [Connack(), Suback(1, [0]), Unsuback(1, [0]), Pingresp()],
    ids=lambda packet: type(packet).__name__,
)
def test_what_only_servers_send(make: MakeClient, level: int, packet: Packet) -> None:
    client = make(level)
    client.connect()
    assert broken(client.send(packet)) == Reason.PROTOCOL_ERROR
    assert reasons(client.heard()) == ([(Disconnect, Reason.PROTOCOL_ERROR)] if level == 5 else [])
    assert client.session.closed


def test_auth_is_no_packet_for_those_without_a_method(make: MakeClient) -> None:
    """[MQTT-4.12.0-7]"""
    client = make()
    client.connect()
    assert broken(client.send(Auth())) == Reason.PROTOCOL_ERROR
    (disconnect,) = client.heard()
    assert isinstance(disconnect, Disconnect)
    assert "MQTT-4.12.0-7" in disconnect.properties[Property.REASON_STRING]


@pytest.mark.parametrize("level", LEVELS)
def test_pings_are_answered(make: MakeClient, level: int) -> None:
    """[MQTT-3.12.4-1]"""
    client = make(level)
    client.connect()
    assert client.send(Pingreq(), Pingreq(), Pingreq()) == []
    assert client.raw() == b"\xd0\0" * 3


@pytest.mark.parametrize("level", LEVELS)
def test_requests_are_handed_over_and_answered(make: MakeClient, level: int) -> None:
    client = make(level)
    client.connect()
    unsubscribe = Unsubscribe(10, ["a/#", "b"])
    assert client.send(SUBSCRIBE, unsubscribe)[0].id == 9
    client.session.suback(9, [1])
    client.session.unsuback(10, [0, Reason.NO_SUBSCRIPTION_EXISTED])
    heard = client.heard()
    assert heard == [Suback(9, [1]), Unsuback(10, [0, 0x11] if level == 5 else [])]


@pytest.mark.parametrize("level", LEVELS)
def test_a_refused_subscription(level: int) -> None:
    """[MQTT-3.9.3-2]"""
    client = Client(level)
    client.connect()
    client.session.suback(9, [1, Reason.NOT_AUTHORIZED, Reason.SERVER_BUSY], "not for you")
    (suback,) = client.heard()
    assert isinstance(suback, Suback)
    if level == 5:
        assert suback.reasons == [1, Reason.NOT_AUTHORIZED, Reason.UNSPECIFIED_ERROR]  # SUBACK has no 0x89
        assert suback.properties == {Property.REASON_STRING: "not for you"}
    else:
        assert suback.reasons == [1, 0x80, 0x80]


@pytest.mark.parametrize("level", LEVELS)
def test_packets_before_a_violation_count_and_those_after_it_do_not(make: MakeClient, level: int) -> None:
    """[MQTT-4.8.0-1] of 3.1.1, [MQTT-4.13.1-1]"""
    client = make(level)
    client.connect()
    events = client.send(Publish(b"a", b"1"), SUBSCRIBE, b"\x36\x00", Publish(b"a", b"2"))
    assert [publish.payload for publish in handed(events)] == [b"1"]
    assert isinstance(events[-2], Subscribe)
    assert broken(events) == Reason.MALFORMED_PACKET
    assert client.send(Pingreq()) == []
    assert reasons(client.heard()) == ([(Disconnect, Reason.MALFORMED_PACKET)] if level == 5 else [])


def test_a_packet_that_is_too_large(make: MakeClient) -> None:
    """[MQTT-3.2.2-15]"""
    client = make()
    client.connect()
    assert broken(client.send(b"\x30\xff\xff\xff\x7f")) == Reason.PACKET_TOO_LARGE
    assert reasons(client.heard()) == [(Disconnect, Reason.PACKET_TOO_LARGE)]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_disconnect_takes_back_the_will(make: MakeClient, level: int) -> None:
    """[MQTT-3.14.4-3], and [MQTT-3.14.4-1]: nothing after it counts."""
    client = make(level)
    client.connect()
    events = client.send(Publish(b"a", b"1"), Disconnect(), Publish(b"a", b"2"), b"\0\0")
    assert [publish.payload for publish in handed(events)] == [b"1"]
    assert events[-1] == Disconnected(0, keeps_will=False)
    assert client.session.closed
    assert client.raw() == b""
    client.session.receive_eof()
    assert list(client.session.events()) == []


@pytest.mark.parametrize("reason", [Reason.DISCONNECT_WITH_WILL, Reason.UNSPECIFIED_ERROR, Reason.MALFORMED_PACKET])
def test_any_other_reason_keeps_the_will(make: MakeClient, reason: int) -> None:
    client = make()
    client.connect()
    assert client.send(Disconnect(reason)) == [Disconnected(reason, keeps_will=True)]


@pytest.mark.parametrize(("before", "after"), [(60, 0), (60, 5), (60, None), (0, 0), (None, None), (None, 0)])
def test_disconnect_may_change_the_session_expiry(before: int | None, after: int | None) -> None:
    client = Client()
    client.connect(properties={} if before is None else {Property.SESSION_EXPIRY_INTERVAL: before})
    said = {} if after is None else {Property.SESSION_EXPIRY_INTERVAL: after}
    assert client.send(Disconnect(0, said)) == [Disconnected(0, keeps_will=False, session_expiry=after)]


@pytest.mark.parametrize("before", [{}, {Property.SESSION_EXPIRY_INTERVAL: 0}], ids=["absent", "0"])
def test_a_session_that_ends_with_its_connection_stays_so(make: MakeClient, before: dict[int, Any]) -> None:
    """§3.14.2.2.2: it is no valid DISCONNECT, so the will is kept."""
    client = make()
    client.connect(properties=before)
    assert broken(client.send(Disconnect(0, {Property.SESSION_EXPIRY_INTERVAL: 1}))) == Reason.PROTOCOL_ERROR
    assert reasons(client.heard()) == [(Disconnect, Reason.PROTOCOL_ERROR)]


@pytest.mark.parametrize("level", LEVELS)
def test_the_end_of_the_bytes(make: MakeClient, level: int) -> None:
    client = make(level)
    client.connect()
    client.send(encode(Publish(b"a", b"not whole"), level)[:-1])
    client.session.receive_eof()
    assert list(client.session.events()) == [Eof()]
    assert client.session.closed


@pytest.mark.parametrize("level", LEVELS)
def test_the_hub_disconnects(level: int) -> None:
    client = Client(level)
    client.connect()
    client.session.disconnect(Reason.SESSION_TAKEN_OVER, "the client connected again")
    heard = client.heard()
    if level == 5:
        assert heard == [Disconnect(Reason.SESSION_TAKEN_OVER, {Property.REASON_STRING: "the client connected again"})]
    else:
        assert heard == []
    client.session.disconnect(Reason.SERVER_SHUTTING_DOWN)
    client.session.send(b"late")
    client.session.suback(1, [0])
    assert client.raw() == b""  # [MQTT-3.14.4-1]
    assert client.session.closed
    assert list(client.session.events()) == []


def test_disconnect_before_connack_is_a_refusal() -> None:
    """[MQTT-3.14.0-1]"""
    client = Client()
    client.ask()
    client.session.disconnect(Reason.SERVER_SHUTTING_DOWN)
    assert client.heard() == [Connack(Reason.SERVER_UNAVAILABLE)]  # CONNACK has no 0x8B


# --- however the bytes are cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_every_cut_says_the_same(level: int) -> None:
    packets: list[Packet] = [
        Connect(level, "client"), Publish(b"a", b"0"), Publish(b"a", b"1", 1, 1), Publish(b"a", b"2", 2, 2),
        SUBSCRIBE, Puback(1), Puback(2), Pubrec(3), Pingreq(), Pubrel(9), Publish(b"b", b"3"), Disconnect(),
    ]  # fmt: skip
    data = b"".join(encode(packet, level) for packet in packets)

    def outcome(*pieces: bytes) -> tuple[list[Any], bytes]:
        client = Client(level)
        seen: list[Any] = []
        state = SessionState()
        state.take_ids("ab", 1)
        state.take_ids("c", 2)
        for piece in pieces:
            client.session.receive_data(piece)
            for event in client.session.events():
                if isinstance(event, Connect):
                    client.session.accept(state, Connack())
                seen += handed([event]) + settled([event]) or [event]
        return seen, client.raw()

    whole = outcome(data)
    assert len(whole[0]) == 11
    for at in range(1, len(data)):
        assert outcome(data[:at], data[at:]) == whole
    for first, second in itertools.islice(itertools.combinations(range(1, len(data)), 2), 0, None, 7):
        assert outcome(data[:first], data[first:second], data[second:]) == whole


# --- whatever is sent ------------------------------------------------------------------------------------------------

IDS = st.integers(1, 6)
ACKNOWLEDGEMENTS = [st.builds(kind, IDS) for kind in (Puback, Pubrec, Pubrel, Pubcomp)]
PUBLISHES = st.builds(Publish, st.sampled_from([b"", b"a"]), st.just(b"x"), st.sampled_from([1, 2]), IDS)
PACKETS = st.one_of(*ACKNOWLEDGEMENTS, PUBLISHES, st.builds(Pingreq), st.just(SUBSCRIBE), st.builds(Disconnect))


@settings(deadline=None)
@given(
    st.sampled_from(LEVELS),
    st.lists(PACKETS, max_size=30),
    st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=3))),
)
def test_whatever_is_sent_breaks_the_connection_at_most(
    level: int, packets: list[Packet], changes: list[tuple[int, bytes]]
) -> None:
    data = b"".join(encode(packet, level) for packet in packets)
    for at, change in changes:
        data = data[:at] + change + data[at + len(change) :]
    client = Client(level)
    client.connect()
    client.session.take_ids("ab", 1)
    client.session.take_ids("cd", 2)
    events = client.send(data)
    ended = [event for event in events if isinstance(event, (Broken, Disconnected))]
    assert len(ended) == client.session.closed
    assert ended == events[-len(ended) :] or not ended
    publishes = handed(events)
    assert len({publish.id for publish in publishes if publish.qos == 2}) == sum(one.qos == 2 for one in publishes)
    assert len({entry.token for entry in settled(events)}) == len(settled(events))
    client.session.acknowledge(publishes)
    heard = client.heard()  # it is MQTT
    assert len(heard) <= len(data) + 1
