"""What the broker tells of itself below ``$SYS``."""

from __future__ import annotations

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import PahoClient

VALUES = ("version", "uptime", "clients/connected", "messages/received", "messages/sent")


def values(client: PahoClient) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    while len(found) < len(VALUES):
        message = client.next()
        found[message.topic.removeprefix("$SYS/broker/")] = message.payload
    return found


def test_the_values(broker: Broker) -> None:
    client = broker.connected()
    client.subscribe(*(f"$SYS/broker/{name}" for name in VALUES))
    found = values(client)
    assert b"." in found["version"]
    assert int(found["clients/connected"]) >= 0
    assert int(found["messages/received"]) >= 0
    assert int(found["messages/sent"]) >= 0
    assert found["uptime"].split()[0].isdigit()


def test_who_is_connected_is_counted(broker: Broker) -> None:
    clients = [broker.connected() for _ in range(3)]
    clients[0].subscribe("$SYS/broker/clients/connected")
    broker.hurry(1)
    while int(clients[0].next().payload) < 3:
        pass  # what was kept from before they came


def test_they_go_on(broker: Broker, topic: str) -> None:
    client = broker.connected()
    client.subscribe("$SYS/broker/messages/received")
    first = int(client.next().payload)
    for _ in range(10):
        client.publish(topic, b"x", 0)
    seen = first
    while seen < first + 10:
        broker.hurry(10)
        seen = int(client.next().payload)


def test_sys_below_a_wildcard_of_its_own(broker: Broker) -> None:
    client = broker.connected()
    client.subscribe("$SYS/#")
    names = {client.next().topic for _ in range(5)}
    assert all(name.startswith("$SYS/broker/") for name in names)


def test_they_come_retained(broker: Broker) -> None:
    client = broker.connected()
    client.subscribe("$SYS/broker/version")
    assert client.next().retain is True
