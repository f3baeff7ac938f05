"""Shared subscriptions, MQTT 5 §4.8.2; mosquitto and the hub have them at every level."""

from __future__ import annotations

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.raw_client import DISCONNECT, PUBCOMP, PUBREC, PUBREL, acknowledge, subscribe


@pytest.mark.parametrize("level", [4, 5])
def test_each_message_goes_to_one_of_the_group(broker: Broker, topic: str, level: int) -> None:
    publisher = broker.connected(level=level)
    workers = [broker.connected(level=level) for _ in range(3)]
    for worker in workers:
        assert worker.subscribe(f"$share/group/{topic}/jobs/#", qos=1) == [1]
    sent = [b"%d" % number for number in range(60)]
    for payload in sent:
        publisher.publish(f"{topic}/jobs/a", payload)
    found = [worker.payloads(topic, publisher) for worker in workers]
    assert sorted(payload for share in found for payload in share) == sorted(sent)
    assert all(len(share) >= 10 for share in found), "the load is spread"
    assert all(share == sorted(share, key=int) for share in found), "each one's share is in order"


def test_groups_and_other_subscribers_do_not_share_with_each_other(broker: Broker, topic: str) -> None:
    publisher, one, other, alone = (broker.connected() for _ in range(4))
    one.subscribe(f"$share/one/{topic}/a", qos=1)
    other.subscribe(f"$share/other/{topic}/a", qos=1)
    alone.subscribe(f"{topic}/a", qos=1)
    publisher.publish(f"{topic}/a", b"x")
    for client in (one, other, alone):
        assert client.payloads(topic, publisher) == [b"x"]


def test_the_others_take_over_when_one_leaves(broker: Broker, topic: str) -> None:
    publisher, stays, goes, cut = (broker.connected() for _ in range(4))
    for worker in (stays, goes, cut):
        worker.subscribe(f"$share/group/{topic}/a", qos=1)
    assert goes.unsubscribe(f"$share/group/{topic}/a") == [0]
    cut.disconnect()
    sent = [b"%d" % number for number in range(20)]
    for payload in sent:
        publisher.publish(f"{topic}/a", payload)
    assert stays.payloads(topic, publisher) == sent
    assert goes.payloads(topic, publisher) == []


def test_what_a_member_did_not_acknowledge_goes_to_another(broker: Broker, topic: str) -> None:
    publisher = broker.connected()
    lazy = broker.connected(manual_ack=True)
    lazy.subscribe(f"$share/group/{topic}/a", qos=1)
    publisher.publish(f"{topic}/a", b"x")
    lazy.next()
    eager = broker.connected()
    eager.subscribe(f"$share/group/{topic}/a", qos=1)
    lazy.cut()
    if broker.differs("unacknowledged by a share"):
        assert eager.payloads(topic, publisher) == []
    else:
        assert eager.next().payload == b"x"


def test_the_lower_qos_holds_for_shares_too(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe(f"$share/group/{topic}/a", qos=0)
    client.publish(f"{topic}/a", b"x", 2)
    assert client.next().qos == 0


@pytest.mark.parametrize("name", ["$share/group", "$share//{}", "$share/gr+up/{}", "$share/#/{}", "$share/group/"])
def test_malformed_shares_are_refused(broker: Broker, topic: str, name: str) -> None:
    # [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    client = broker.raw(5)
    client.connect()
    client.send(subscribe(1, (name.format(topic), 1), level=5))
    answer = client.packet()
    refused = answer is None or answer.kind == DISCONNECT or answer.body[-1] >= 0x80
    assert refused or broker.differs("lenient checks")


def test_no_local_on_a_share_is_a_protocol_error(broker: Broker, topic: str) -> None:
    # [MQTT-3.8.3-4]
    client = broker.raw(5)
    client.connect()
    client.send(subscribe(1, (f"$share/group/{topic}", 0x05), level=5))
    if broker.differs("lenient checks"):
        assert client.alive()
        return
    assert [(packet.kind, packet.body[:1]) for packet in client.rest()] in ([(DISCONNECT, b"\x82")], [])


@pytest.mark.parametrize("level", [4, 5])
def test_what_was_begun_at_qos_2_is_completed_with_the_same_member(broker: Broker, topic: str, level: int) -> None:
    # [MQTT-4.8.2-4]
    name = f"$share/group/{topic}/a"
    expiry = b"\x11\xff\xff\xff\xff" if level == 5 else b""
    member = broker.raw(level)
    member.connect(f"{topic}-member", clean=False, properties=expiry)
    member.subscribe((name, 2))
    publisher = broker.connected(level=level)
    publisher.publish(f"{topic}/a", b"first", 2)
    first = member.receive()
    member.close()
    other = broker.connected(level=level)
    other.subscribe(name, qos=2)
    publisher.publish(f"{topic}/a", b"second", 2)
    assert other.payloads(topic, publisher) in ([b"second"], [])  # the other is offline: it may be kept for it
    member = broker.raw(level)
    member.connect(f"{topic}-member", clean=False, properties=expiry)
    again = member.receive()
    assert (again.payload, again.id, again.dup) == (b"first", first.id, True)
    member.send(acknowledge(PUBREC, again.id))
    while (answer := member.packet()) is not None and answer.kind != PUBREL:
        assert member.read(answer).payload == b"second"
    assert answer is not None
    assert answer.id == again.id
    member.send(acknowledge(PUBCOMP, again.id))


def test_what_was_begun_at_qos_2_ends_with_its_session(broker: Broker, topic: str) -> None:
    # [MQTT-4.8.2-5]
    name = f"$share/group/{topic}/a"
    member = broker.raw(5)
    member.connect(f"{topic}-member")
    member.subscribe((name, 2))
    publisher = broker.connected()
    publisher.publish(f"{topic}/a", b"first", 2)
    assert member.receive().payload == b"first"
    other = broker.connected()
    other.subscribe(name, qos=2)
    member.close()
    publisher.publish(f"{topic}/a", b"second", 2)
    publisher.publish(f"{topic}/a", b"third", 2)
    assert b"first" not in other.payloads(topic, publisher)
