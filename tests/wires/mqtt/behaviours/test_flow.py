"""Limits and agreements of a connection: windows, sizes, aliases, keep-alive, ids given by the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import (
    CONNACK,
    DISCONNECT,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    RawClient,
    acknowledge,
    connect,
    packet,
    ping,
    properties_of,
    publish,
    string,
    will,
)

RECEIVE_MAXIMUM, ALIAS_MAXIMUM, MAXIMUM_SIZE, KEEP_ALIVE, CLIENT_ID = 0x21, 0x22, 0x27, 0x13, 0x12


def agreed(client: RawClient, **options: object) -> dict[int, bytes]:
    """The properties of CONNACK."""
    return {kind: values[0] for kind, values in properties_of(client.connect(**options).body, 2)[0].items()}  # type: ignore[arg-type]


# --- Receive Maximum, §3.3.4 and §4.9 --------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_in_flight_than_the_client_receives(broker: Broker, topic: str, qos: int) -> None:
    # [MQTT-3.3.4-9]
    client = broker.raw(5)
    client.connect(properties=b"\x21\0\x03")
    client.subscribe((topic, qos))
    publisher = broker.connected()
    for number in range(10):
        publisher.publish(topic, b"%d" % number, qos)
    window = [client.receive() for _ in range(3)]
    assert [message.payload for message in window] == [b"0", b"1", b"2"]
    client.send(ping())
    client.expect(PINGRESP)  # and no fourth message before it
    if qos == 2 and broker.differs("Receive Maximum at QoS 2"):
        return
    for number in range(3, 10):
        _settle(client, window.pop(0).id, qos)
        window.append(client.receive())
        assert window[-1].payload == b"%d" % number


def _settle(client: RawClient, id: int, qos: int) -> None:
    if qos == 1:
        client.send(acknowledge(PUBACK, id))
        return
    client.send(acknowledge(PUBREC, id))
    assert client.expect(PUBREL).id == id
    client.send(acknowledge(PUBCOMP, id))


def test_qos_0_passes_a_full_window(broker: Broker, topic: str) -> None:
    # §4.9: the quota is for QoS 1 and 2
    client = broker.raw(5)
    client.connect(properties=b"\x21\0\x01")
    client.subscribe((f"{topic}/+", 1))
    publisher = broker.connected()
    publisher.publish(f"{topic}/a", b"1", 1)
    first = client.receive()
    publisher.publish(f"{topic}/a", b"2", 1)
    publisher.publish(f"{topic}/b", b"0", 0)
    assert client.receive().payload == b"0"
    client.send(acknowledge(PUBACK, first.id))
    assert client.receive().payload == b"2"


def test_more_in_flight_than_the_broker_receives_ends_the_connection(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(receive_maximum=5)
    client = broker.raw(5)
    assert agreed(client)[RECEIVE_MAXIMUM] == b"\0\x05"
    client.send(*(publish("t", b"x", 2, number, level=5) for number in range(1, 7)))
    if broker.differs("more in flight than agreed"):
        assert client.alive()
        return
    ends = [packet for packet in client.rest() if packet.kind == DISCONNECT]
    assert [packet.body[0] for packet in ends] == [0x93]


# --- Maximum Packet Size, §3.1.2.11.4, §3.2.2.3.6 -------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_too_large_for_the_client_is_not_sent(broker: Broker, topic: str, qos: int) -> None:
    # [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    client = broker.raw(5)
    client.connect(properties=b"\x27\0\0\0\x64")
    client.subscribe((topic, qos))
    publisher = broker.connected()
    for payload in (b"small", b"l" * 200, b"small again"):
        publisher.publish(topic, payload, qos)
    assert client.receive().payload == b"small"
    assert client.receive().payload == b"small again"


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_in_flight_and_is_too_large_by_now_is_not_sent(broker: Broker, topic: str, qos: int) -> None:
    # [MQTT-3.1.2-25]: as if it had been sent
    lasting = b"\x11\0\0\0\x64"
    client = broker.raw(5)
    client.connect(topic, clean=False, properties=lasting)
    client.subscribe((topic, qos))
    publisher = broker.connected()
    publisher.publish(topic, b"l" * 200, qos)
    client.receive()
    client.reset()
    again = broker.raw(5)
    again.connect(topic, clean=False, properties=lasting + b"\x27\0\0\0\x64")
    publisher.publish(topic, b"small", qos)
    packets = iter(again.packet, None)
    assert next(packet for packet in packets if packet.kind == PUBLISH).body.endswith(b"small")


def test_what_is_too_large_for_the_broker_ends_the_connection(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_packet_size=2000)
    client = broker.raw(5)
    assert agreed(client)[MAXIMUM_SIZE] == b"\0\0\x07\xd0"
    client.send(publish("t", b"x" * 1900, 1, 1, level=5))
    assert client.expect(PUBACK).id == 1
    client.send(publish("t", b"x" * 3000, level=5))
    assert [(packet.kind, packet.body[0]) for packet in client.rest()] == [(DISCONNECT, 0x95)]
    old = broker.raw(4)
    old.connect()
    old.send(publish("t", b"x" * 3000))
    assert old.rest() == []


# --- topic aliases, §3.3.2.3.4 --------------------------------------------------------------------------------------


def test_aliases_of_the_client(broker: Broker, topic: str) -> None:
    subscriber = broker.connected()
    subscriber.subscribe(f"{topic}/#", qos=1)
    client = broker.raw(5)
    assert agreed(client)[ALIAS_MAXIMUM] >= b"\0\x02"
    for name, payload, alias in (
        (f"{topic}/a", b"1", 1), ("", b"2", 1), (f"{topic}/b", b"3", 2), ("", b"4", 1), ("", b"5", 2),
        (f"{topic}/c", b"6", 1), ("", b"7", 1),
    ):  # fmt: skip
        client.publish(name, payload, properties=b"\x23\0" + bytes([alias]))
    found = [subscriber.next() for _ in range(7)]
    assert [message.payload for message in found] == [b"%d" % number for number in range(1, 8)]
    assert [message.topic[-1] for message in found] == list("aababcc")
    assert not any(hasattr(message.properties, "TopicAlias") for message in found)


def test_an_alias_beyond_the_maximum_or_never_given(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(topic_alias_maximum=5)
    for name, alias in (("t", 6), ("", 3), ("t", 0)):
        client = broker.raw(5)
        assert agreed(client)[ALIAS_MAXIMUM] == b"\0\x05"
        client.send(publish(name, b"x", level=5, properties=b"\x23\0" + bytes([alias])))
        [last] = client.rest()
        assert last.kind == DISCONNECT
        assert last.body[0] in (0x81, 0x82, 0x94)


def test_an_alias_is_the_connections_own(broker: Broker, topic: str) -> None:
    one, other = broker.raw(5), broker.raw(5)
    one.connect()
    other.connect()
    one.publish(topic, b"x", properties=b"\x23\0\x01")
    other.publish("", b"x", properties=b"\x23\0\x01")
    assert one.alive()
    assert [packet.kind for packet in other.rest()] == [DISCONNECT]


def test_aliases_of_the_broker(broker: Broker, topic: str) -> None:
    """It may use them only as far as the client allows, and each resolves to the name that was published to."""
    client, publisher = broker.raw(5), broker.connected()
    client.connect(properties=b"\x22\0\x02")
    client.subscribe((f"{topic}/+", 0))
    wanted = [f"{topic}/{name}" for name in "aabbccaabbcc"]
    for name in wanted:
        publisher.publish(name, b"x")
    names: dict[int, str] = {}
    found = []
    for _ in wanted:
        message = client.receive()
        alias = int.from_bytes(message.properties.get(0x23, [b""])[0], "big")
        assert alias <= 2
        found.append(message.topic or names[alias])
        if alias:
            names[alias] = found[-1]
    assert found == wanted


def test_no_alias_to_a_client_that_wants_none(broker: Broker, topic: str) -> None:
    # [MQTT-3.1.2-27]
    client, publisher = broker.raw(5), broker.connected()
    client.connect()
    client.subscribe((topic, 0))
    for _ in range(5):
        publisher.publish(topic, b"x")
    assert all(client.receive().properties == {} for _ in range(5))


# --- keep-alive and client ids --------------------------------------------------------------------------------------


def test_a_silent_client_is_cut_and_leaves_its_will(broker: Broker, topic: str) -> None:
    # [MQTT-3.1.2-22]: after one and a half times its keep-alive
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    silent = {level: broker.raw(level, patience=20) for level in (3, 4, 5)}
    for level, client in silent.items():
        last_will = will(f"{topic}/will", b"%d" % level, level=level)
        client.connect(f"{topic}-{level}", keep_alive=1, last_will=last_will)
    lively, patient = broker.raw(), broker.raw()
    lively.connect(f"{topic}-lively", keep_alive=1000)
    patient.connect(f"{topic}-patient", keep_alive=0)
    broker.hurry(3)
    ends = [packet.body[:1] for level in (3, 4, 5) for packet in silent[level].rest()]
    assert ends == ([] if broker.differs("a reason for every end") else [b"\x8d"])
    assert sorted(watcher.next().payload for _ in silent) == [b"3", b"4", b"5"]
    assert lively.alive()
    assert patient.alive()


def test_pings_keep_a_connection(broker: Broker, topic: str) -> None:
    client = broker.raw()
    client.connect(topic, keep_alive=1)
    for _ in range(3):
        broker.pass_time(0.6)
        assert client.alive()


def test_the_broker_may_ask_for_a_shorter_keep_alive(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_keepalive=30)
    for asked in (60, 0):
        assert agreed(broker.raw(5), keep_alive=asked)[KEEP_ALIVE] == b"\0\x1e"
    assert KEEP_ALIVE not in agreed(broker.raw(5), keep_alive=20)


def test_a_client_without_an_id_is_given_one(broker: Broker) -> None:
    # [MQTT-3.1.3-6], [MQTT-3.2.2-16]
    one, other = (agreed(broker.raw(5))[CLIENT_ID] for _ in range(2))
    assert one != other
    named = broker.raw(5)
    assert CLIENT_ID not in agreed(named, client_id="named")


def test_an_id_that_was_given_finds_its_session_again(broker: Broker) -> None:
    lasting = b"\x11\xff\xff\xff\xff"
    client = broker.raw(5)
    given = agreed(client, properties=lasting)[CLIENT_ID][2:].decode()
    client.close()
    assert broker.raw(5).connect(given, clean=False, properties=lasting).body[0] == 1


@pytest.mark.parametrize("name", ["x" * 200, "ü ß", "a/b#+", "$id", "0123456789-abcdefghijklmnopqrstuvwxyz"])
def test_client_ids_may_be_long_and_strange(broker: Broker, topic: str, name: str) -> None:
    assert broker.connected(topic + name).publish(topic, b"x") in (0, 0x10)


def test_an_old_client_without_an_id_needs_a_clean_session(broker: Broker) -> None:
    # [MQTT-3.1.3-8]
    assert broker.raw(4).connect("").body == b"\0\0"
    assert broker.raw(4).connect("", clean=False).body == b"\0\x02"


def test_everything_in_one_segment(broker: Broker, topic: str) -> None:
    """CONNECT, SUBSCRIBE, PUBLISH and PINGREQ at once, without waiting for CONNACK (MQTT 5 §3.1.4)."""
    client = broker.raw()
    subscribe = packet(0x82, b"\0\1" + string(topic) + b"\0")
    client.send(connect(topic) + subscribe + publish(topic, b"x") + ping())
    kinds = [client.packet().kind for _ in range(4)]  # type: ignore[union-attr]
    assert kinds[0] == CONNACK
    assert sorted(kinds[1:]) == [PUBLISH, SUBACK, PINGRESP]


def test_byte_by_byte(broker: Broker, topic: str) -> None:
    client = broker.raw()
    for byte in connect(topic) + publish(topic, b"x" * 200, 1, 7):
        client.send(bytes([byte]))
    client.expect(2)
    assert client.expect(PUBACK).id == 7
