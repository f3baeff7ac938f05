"""Typed topics over MQTT: what a payload must be, and how a client learns that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polywire import Hub
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import (
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    RawClient,
    acknowledge,
    ping,
    properties_of,
    publish,
)
from tests.wires.served_hub import ServedHub, serving_hub

INVALID, NOT_FOUND = 0x99, 0x90
GOOD = b'{"sensor": "kitchen", "celsius": 21.5}'
WRONG = b'{"sensor": 7, "celsius": "hot"}'


@dataclass
class Reading:
    sensor: str
    celsius: float


class Clients:
    def __init__(self, served: ServedHub) -> None:
        self.served = served
        self.opened: list[PahoClient | RawClient] = []

    def paho(self, level: int = 5) -> PahoClient:
        client = PahoClient("127.0.0.1", self.served.served.mqtt_port, level=level)
        self.opened.append(client)
        assert client.connect().reason == 0
        return client

    def raw(self, level: int = 5) -> RawClient:
        client = RawClient("127.0.0.1", self.served.served.mqtt_port, level)
        self.opened.append(client)
        client.connect()
        return client

    def messages(self, topic: str = "readings") -> list[dict[str, Any]]:
        self.served.run(self.served.core.log.published())
        found: list[dict[str, Any]] = self.served.get(f"/topics/{topic}").json()["messages"]
        return found

    def dead(self, count: int) -> list[dict[str, Any]]:
        """What no reason code could refuse, once there are so many."""
        catalog = self.served.core.catalog
        self.served.until(lambda: not count or ((topic := catalog.get("_dead")) and topic.head >= count))
        found = self.messages("_dead") if self.served.call(catalog.get, "_dead") else []
        assert len(found) == count
        return found


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Clients]:
    hub = Hub("typed", strict=False)
    hub.topic("readings", Reading)
    hub.topic("keyed", Reading, key="sensor")
    hub.topic("kept", Reading, key="sensor", latest=True)
    with serving_hub(hub, tmp_path) as served:
        clients = Clients(served)
        try:
            yield clients
        finally:
            for client in clients.opened:
                client.close()


# --- refused at level 5 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("qos", "answer"), [(1, PUBACK), (2, PUBREC)])
@pytest.mark.parametrize("payload", [WRONG, b"", b"{", b"\xff", b"[1]", b"null"], ids=repr)
def test_a_wrong_payload_is_refused(at: Clients, qos: int, answer: int, payload: bytes) -> None:
    client = at.raw()
    client.publish("readings/kitchen", payload, qos, 5)
    refused = client.expect(answer)
    assert (refused.id, refused.body[2]) == (5, INVALID)
    reason = properties_of(refused.body, 3)[0][0x1F][0][2:].decode()
    if payload == WRONG:
        assert "$.sensor" in reason
        assert "$.celsius" in reason
    assert "Reading" in reason or "JSON" in reason
    assert at.messages() == []
    assert at.dead(0) == []


def test_a_refused_id_is_free(at: Clients) -> None:
    # §4.3.3: PUBREC with 0x80 or more ends the exchange
    client = at.raw()
    client.publish("readings", WRONG, 2, 5)
    assert client.expect(PUBREC).body[2] == INVALID
    client.publish("readings", GOOD, 2, 5)
    assert client.expect(PUBREC).body[2:] == b""
    assert client.send(acknowledge(PUBREL, 5)).expect(PUBCOMP).body[2:] == b""
    client.publish("readings", WRONG, 1, 5)
    assert client.expect(PUBACK).body[2] == INVALID
    client.publish("readings", GOOD, 1, 5)
    assert client.expect(PUBACK).body[2:] == b""
    assert len(at.messages()) == 2


def test_paho_is_told(at: Clients) -> None:
    client = at.paho()
    assert client.publish("readings/kitchen", WRONG) == INVALID
    assert client.publish("readings/kitchen", GOOD) == 0


@pytest.mark.parametrize("level", [4, 5])
def test_what_is_good_beside_it_is_stored(at: Clients, level: int) -> None:
    """In one segment: to its sender they are single messages."""
    client = at.raw(level)
    many = [
        publish("readings/a", GOOD, 1, 1, level=level),
        publish("readings/b", WRONG, 1, 2, level=level),
        publish("readings/c", GOOD, 0, level=level),
        publish("readings/d", WRONG, 0, level=level),
        publish("readings/e", GOOD, 2, 3, level=level),
        publish("readings/f", WRONG, 2, 4, level=level),
        publish("other/g", WRONG, 1, 5, level=level),
        publish("readings/h", GOOD, 1, 6, level=level),
    ]
    client.send(*many, ping())
    answers = {}
    while len(answers) < 6:
        packet = client.packet()
        assert packet is not None
        if packet.kind != PINGRESP:
            answers[packet.id] = (packet.kind, packet.body[2] if len(packet.body) > 2 else 0)
    no = INVALID if level == 5 else 0
    assert answers == {1: (PUBACK, 0), 2: (PUBACK, no), 3: (PUBREC, 0), 4: (PUBREC, no), 5: (PUBACK, 0), 6: (PUBACK, 0)}
    assert [message["key"] for message in at.messages()] == ["a", "c", "e", "h"]
    assert [message["key"] for message in at.messages("other")] == ["g"]
    dead = at.dead(1 if level == 5 else 3)
    assert [one["headers"]["polywire-key"] for one in dead] == (["d"] if level == 5 else ["b", "d", "f"])


@pytest.mark.parametrize("level", [4, 5])
def test_what_stands_behind_a_violation_never_came(at: Clients, level: int) -> None:
    """MQTT 5 §4.13: the connection ends there."""
    client = at.raw(level)
    names = ("readings/a", "readings/#", "readings/b")
    client.send(*[publish(name, GOOD, 1, number, level=level) for number, name in enumerate(names, 1)])
    assert PUBACK not in [packet.kind for packet in client.rest() if packet.id != 1]
    assert [message["key"] for message in at.messages()] == ["a"]


# --- what cannot be refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_older_clients_are_not_refused(at: Clients, level: int, qos: int) -> None:
    """MQTT 3.1.1 §3.3.5.2: the message is acknowledged, and kept with the reason."""
    client = at.paho(level)
    client.publish("readings/kitchen/north", WRONG, qos)
    (dead,) = at.dead(1)
    assert dead["data"] == {"sensor": 7, "celsius": "hot"}
    assert dead["headers"]["polywire-topic"] == "readings"
    assert dead["headers"]["polywire-key"] == "kitchen.north"
    reason = dead["headers"]["polywire-reason"]
    assert "$.sensor" in reason
    assert "$.celsius" in reason
    assert client.client.is_connected()
    client.publish("readings/kitchen", GOOD, qos)
    at.served.until(lambda: at.served.core.counters.wire("mqtt").received == 2)
    assert [message["data"] for message in at.messages()] == [{"sensor": "kitchen", "celsius": 21.5}]


def test_nor_is_qos_0(at: Clients) -> None:
    client = at.paho(5)
    client.publish("readings", WRONG, 0)
    (dead,) = at.dead(1)
    assert "$.celsius" in dead["headers"]["polywire-reason"]


def test_a_will_is_kept_too(at: Clients) -> None:
    client = PahoClient("127.0.0.1", at.served.served.mqtt_port).will("readings/gone", WRONG, 1)
    at.opened.append(client)
    client.connect()
    client.cut()
    (dead,) = at.dead(1)
    assert (dead["headers"]["polywire-topic"], dead["headers"]["polywire-key"]) == ("readings", "gone")


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [4, 5])
def test_the_key_of_a_payload(at: Clients, level: int) -> None:
    """A field of the payload is the key of what is published without one; and the other way round."""
    client = at.paho(level)
    client.publish("keyed", GOOD)
    client.publish("keyed/cellar", b'{"celsius": 7}')
    client.publish("keyed/cellar/north", b'{"celsius": 8}')
    client.publish("keyed/kitchen", GOOD)
    found = [(message["key"], message["data"]["sensor"]) for message in at.messages("keyed")]
    assert found == [
        ("kitchen", "kitchen"), ("cellar", "cellar"), ("cellar.north", "cellar.north"), ("kitchen", "kitchen")
    ]  # fmt: skip


def test_a_key_that_differs(at: Clients) -> None:
    client = at.raw()
    client.publish("keyed/cellar", GOOD, 1, 1)
    refused = client.expect(PUBACK)
    assert refused.body[2] == INVALID
    assert b"'cellar'" in refused.body
    assert b"'kitchen'" in refused.body
    at.paho(4).publish("keyed/cellar", GOOD)
    (dead,) = at.dead(1)
    assert "differ" in dead["headers"]["polywire-reason"]
    assert at.messages("keyed") == []


def test_readers_see_the_key_that_was_found(at: Clients) -> None:
    reader, writer = at.paho(), at.paho(4)
    reader.subscribe("keyed/#", qos=1)
    writer.publish("keyed", GOOD)
    writer.publish("keyed/cellar", b'{"celsius": 7}')
    assert [(one.topic, one.payload) for one in (reader.next(), reader.next())] == [
        ("keyed/kitchen", GOOD), ("keyed/cellar", b'{"sensor":"cellar","celsius":7}')
    ]  # fmt: skip


@pytest.mark.parametrize("level", [4, 5])
def test_retained_messages_of_a_typed_topic(at: Clients, level: int) -> None:
    """An empty one deletes, though it is no reading."""
    client = at.paho(level)
    client.publish("readings/kitchen", GOOD, retain=True)
    client.publish("readings/cellar", WRONG, retain=True)
    client.publish("readings/kitchen", b"", retain=True)
    reader = at.paho()
    reader.subscribe("readings/#", qos=1)
    assert reader.payloads("fence") == []


def test_a_topic_that_keeps_the_latest(at: Clients) -> None:
    """It sets the flag itself."""
    client = at.paho(4)
    client.publish("kept/kitchen", GOOD)
    reader = at.paho()
    reader.subscribe("kept/#", qos=1)
    message = reader.next()
    assert (message.topic, message.payload, message.retain) == ("kept/kitchen", GOOD, True)


# --- strict hubs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [4, 5])
def test_a_strict_hub_takes_declared_topics_alone(tmp_path: Path, level: int) -> None:
    hub = Hub("strict", strict=True)
    hub.topic("readings", Reading)
    with serving_hub(hub, tmp_path) as served:
        clients = Clients(served)
        client = clients.paho(level)
        assert client.publish("readings/kitchen", GOOD) == 0
        assert client.publish("reading/kitchen", GOOD) == (NOT_FOUND if level == 5 else 0)
        assert client.subscribe("reading/#", "readings/#", qos=1) == [0x8F if level == 5 else 0x80, 1]
        assert client.client.is_connected()
        assert {topic["name"] for topic in served.get("/topics").json()["topics"]} == {"readings"}
        client.close()
