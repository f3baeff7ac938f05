"""CloudEvents over MQTT with paho, in both modes; in and out, and from and to other protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websocket

from polywire import Hub
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.served_hub import ServedHub, serving_hub

INVALID = 0x99
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "1234",
    "source": "/greenhouse/3",
    "type": "com.example.reading",
    "time": "2026-11-20T12:00:00.5Z",
    "subject": "kitchen",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
DATA = {"sensor": "kitchen", "celsius": 21.5}
PAYLOAD = json.dumps(DATA).encode()
BINARY: dict[str, Any] = {"ContentType": "application/json", "UserProperty": list(ATTRIBUTES.items())}
EVENT = {**ATTRIBUTES, "datacontenttype": "application/json", "data": DATA}


@dataclass
class Reading:
    sensor: str
    celsius: float


class Clients:
    def __init__(self, served: ServedHub) -> None:
        self.served = served
        self.opened: list[PahoClient] = []

    def paho(self, *filters: str, level: int = 5) -> PahoClient:
        client = PahoClient("127.0.0.1", self.served.served.mqtt_port, level=level)
        self.opened.append(client)
        assert client.connect().reason == 0
        if filters:
            client.subscribe(*filters, qos=1)
        return client

    def event(self, topic: str) -> dict[str, Any]:
        """The topic's only message, as REST shows it as an event."""
        answer = self.served.get(f"/topics/{topic}", headers={"Accept": BATCH})
        (event,) = answer.json()
        return dict(event)

    def messages(self, topic: str) -> list[dict[str, Any]]:
        self.served.run(self.served.core.log.published())
        found: list[dict[str, Any]] = self.served.get(f"/topics/{topic}").json()["messages"]
        return found


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Clients]:
    hub = Hub("events", strict=False)
    hub.topic("readings", Reading, key="sensor")
    hub.topic("once", dedup=True)
    with serving_hub(hub, tmp_path) as served:
        clients = Clients(served)
        try:
            yield clients
        finally:
            for client in clients.opened:
                client.close()


def user_properties(message: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in message.properties.UserProperty]


# --- from MQTT -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_binary_mode(at: Clients, qos: int) -> None:
    reader, writer = at.paho("t/#"), at.paho()
    assert writer.publish("t/kitchen", PAYLOAD, qos, **BINARY) == 0
    message = reader.next()
    assert (message.payload, message.properties.ContentType) == (PAYLOAD, "application/json")
    assert user_properties(message) == list(ATTRIBUTES.items())
    assert at.event("t") == {**EVENT, "partitionkey": "kitchen"}


@pytest.mark.parametrize("content_type", [STRUCTURED, f"{STRUCTURED}; charset=utf-8"])
def test_structured_mode(at: Clients, content_type: str) -> None:
    reader, old, writer = at.paho("t/#"), at.paho("t/#", level=4), at.paho()
    payload = json.dumps(EVENT, indent=2).encode()
    assert writer.publish("t/kitchen", payload, ContentType=content_type) == 0
    message = reader.next()
    assert (message.payload, message.properties.ContentType) == (payload, content_type)
    assert old.next().payload == payload
    assert at.event("t") == {**EVENT, "partitionkey": "kitchen"}
    (stored,) = at.messages("t")
    assert (stored["data"], stored["content_type"], stored["id"]) == (DATA, "application/json", "1234")


def test_binary_data(at: Clients) -> None:
    reader, writer = at.paho("t"), at.paho()
    writer.publish("t", b"\0\xff", UserProperty=list(ATTRIBUTES.items()), ContentType="image/png")
    assert reader.next().payload == b"\0\xff"
    assert at.event("t")["data_base64"] == "AP8="


def test_a_reader_of_event_frames(at: Clients) -> None:
    """A WebSocket with the subprotocol ``cloudevents.json``."""
    url = at.served.served.ws_url
    socket = websocket.create_connection(f"{url}/ws/t?from=earliest", subprotocols=["cloudevents.json"], timeout=10)
    try:
        at.paho().publish("t/kitchen", PAYLOAD, **BINARY)
        assert json.loads(socket.recv()) == {**EVENT, "partitionkey": "kitchen"}
    finally:
        socket.close()


def test_what_was_retained_is_an_event_too(at: Clients) -> None:
    at.paho().publish("t/kitchen", PAYLOAD, retain=True, **BINARY)
    message = at.paho("t/#").next()
    assert message.retain
    assert user_properties(message) == list(ATTRIBUTES.items())
    assert message.payload == PAYLOAD


def test_a_will_is_an_event(at: Clients) -> None:
    reader = at.paho("t/#")
    dying = PahoClient("127.0.0.1", at.served.served.mqtt_port).will("t/gone", PAYLOAD, 1, **BINARY)
    at.opened.append(dying)
    dying.connect()
    dying.cut()
    assert user_properties(reader.next()) == list(ATTRIBUTES.items())
    assert at.event("t") == {**EVENT, "partitionkey": "gone"}


def test_with_mqtt_3_an_event_is_a_payload(at: Clients) -> None:
    payload = json.dumps(EVENT).encode()
    reader = at.paho("t")
    at.paho(level=4).publish("t", payload)
    assert reader.next().payload == payload
    (stored,) = at.messages("t")
    assert stored["data"] == EVENT
    assert at.event("t")["type"] == "polywire.message"


WRONG: dict[str, tuple[list[tuple[str, str]], str]] = {
    "no uri": ([*ATTRIBUTES.items(), ("dataschema", "no uri")], "property.dataschema"),
    "no time": ([(n, "yesterday" if n == "time" else v) for n, v in ATTRIBUTES.items()], "property.time"),
    "no id": ([(n, "" if n == "id" else v) for n, v in ATTRIBUTES.items()], "property.id"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_event_is_refused(at: Clients, case: str) -> None:
    user, path = WRONG[case]
    client = at.paho()
    assert client.publish("t", PAYLOAD, UserProperty=user) == INVALID
    assert client.publish("t", b'{"specversion": "1.0"}', ContentType=STRUCTURED) == INVALID
    assert client.publish("t", b"{", ContentType=STRUCTURED) == INVALID
    client.publish("t", PAYLOAD, 0, UserProperty=user)
    at.served.until(lambda: at.served.core.counters.wire("mqtt").errors == 4)
    (dead,) = at.messages("_dead")  # at QoS 0 nobody can be told
    assert path in dead["headers"]["polywire-reason"]
    assert dead["data"] == DATA


def test_a_typed_topic_takes_the_data(at: Clients) -> None:
    client = at.paho()
    assert client.publish("readings", json.dumps(EVENT).encode(), ContentType=STRUCTURED) == 0
    assert client.publish("readings/kitchen", PAYLOAD, **BINARY) == 0
    assert client.publish("readings", b'{"sensor": 1}', **BINARY) == INVALID
    wrong = json.dumps({**EVENT, "data": {"sensor": 1}}).encode()
    assert client.publish("readings", wrong, ContentType=STRUCTURED) == INVALID
    assert [(one["key"], one["data"]) for one in at.messages("readings")] == [("kitchen", DATA)] * 2


def test_the_same_event_twice(at: Clients) -> None:
    """On a topic that asks for it, source and id say which event it is."""
    client, reader = at.paho(), at.paho("once/#", "many/#")
    structured = json.dumps(EVENT).encode()
    for topic in ("once", "many"):
        assert client.publish(f"{topic}/a", PAYLOAD, **BINARY) == 0
        assert client.publish(f"{topic}/a", PAYLOAD, 2, **BINARY) == 0
        assert client.publish(f"{topic}/b", structured, ContentType=STRUCTURED) in (0, 0x83)
    assert [one["key"] for one in at.messages("once")] == ["a"]
    assert [one["key"] for one in at.messages("many")] == ["a", "a", "b"]
    assert user_properties(reader.next()) == list(ATTRIBUTES.items())
    assert client.publish("once/a", b"{}", **BINARY) == 0x83  # another event by the same name


# --- to MQTT ---------------------------------------------------------------------------------------------------------


def http_headers() -> dict[str, str]:
    return {"Content-Type": "application/json", **{f"ce-{name}": value for name, value in ATTRIBUTES.items()}}


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
def test_from_rest(at: Clients, mode: str) -> None:
    reader, old = at.paho("t/#"), at.paho("t/#", level=4)
    keyed = {**EVENT, "partitionkey": "kitchen"}
    if mode == "binary":
        answer = at.served.post("/topics/t", data=PAYLOAD, headers={**http_headers(), "ce-partitionkey": "kitchen"})
    elif mode == "structured":
        answer = at.served.post("/topics/t", data=json.dumps(keyed), headers={"Content-Type": STRUCTURED})
    else:
        answer = at.served.post("/topics/t", data=json.dumps([keyed]), headers={"Content-Type": BATCH})
    assert answer.status_code == 201, answer.text
    message = reader.next()
    assert message.topic == "t/kitchen"
    assert json.loads(message.payload) == DATA
    assert message.properties.ContentType == "application/json"
    assert dict(user_properties(message)) == {**ATTRIBUTES, "partitionkey": "kitchen"}
    assert json.loads(old.next().payload) == DATA


def test_from_event_frames(at: Clients) -> None:
    reader = at.paho("t/#")
    socket = websocket.create_connection(
        f"{at.served.served.ws_url}/ws/t", subprotocols=["cloudevents.json"], timeout=10
    )
    try:
        socket.send(json.dumps(EVENT))
        message = reader.next()
    finally:
        socket.close()
    assert dict(user_properties(message)) == ATTRIBUTES


def test_a_message_that_was_no_event_is_none(at: Clients) -> None:
    reader = at.paho("t/#")
    at.served.post("/topics/t", json=DATA, headers={"Polywire-Header-colour": "red"})
    assert user_properties(reader.next()) == [("colour", "red")]


def test_there_and_back(at: Clients) -> None:
    """What a client reads it may publish again: it is the same event."""
    first, second = at.paho("a/#"), at.paho("b/#")
    at.served.post("/topics/a", data=PAYLOAD, headers=http_headers())
    message = first.next()
    said = {"ContentType": message.properties.ContentType, "UserProperty": user_properties(message)}
    first.publish("b", message.payload, **said)
    assert user_properties(second.next()) == user_properties(message)
    (of_a, of_b) = at.event("a"), at.event("b")
    assert of_a == of_b
