"""Names and filters, MQTT 5 §4.7."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wires.mqtt.brokers import Broker
from tests.wires.mqtt.paho_client import PahoClient

NAMES = {
    "space": "{}/a b",
    "only spaces": "{}/ / ",
    "umlauts": "{}/größe/ß",
    "Japanese": "{}/温度",
    "emoji": "{}/🌡",
    "empty level": "{}//b",
    "two empty levels": "{}///b",
    "trailing": "{}/a/",
    "leading": "/{}/a",
    "leading and empty": "//{}",
    "asterisk": "{}/*",
    "asterisk within": "{}/a*b",
    "dots": "{}/a.b/c.d",
    "dot and empty": "{}/./..",
    "dotted first level": "{}.a.b/c",
    "colons": "{}:a/b:c",
    "percent": "{}/100%/%2F",
    "quotes": "{}/'\"`\\",
    "JSON": '{}/{{"a":[1]}}',
    "dollar within": "{}/$SYS/$share",
    "question mark": "{}?a=b&c=d",
    "underscore": "_{}/a",
    "private name": "_dead/{}",
    "name of AMQP": "amq.topic/{}",
    "name of the hub": "polywire.x/{}",
    "default": "default/{}",
    "asterisk alone first": "*/{}",
    "space first": " {}/a",
    "Greek first": "θ{}/a",
    "300 characters first": "{}" + "x" * 300,
    "600 characters": "{}/" + "y" * 600,
    "150 levels": "{}" + "/z" * 150,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("level", [4, 5])
def test_every_legal_name_works(broker: Broker, topic: str, name: str, level: int) -> None:
    client = broker.connected(level=level)
    name = name.format(topic)
    assert client.subscribe(name, qos=1) == [1]
    client.publish(name, b"x")
    message = client.next()
    assert (message.topic, message.payload) == (name, b"x")


MATCHES: dict[str, tuple[list[str], list[str]]] = {
    "{}/#": (["{}", "{}/", "{}/a", "{}/a/b", "{}//"], ["{}x", "{}.a"]),
    "{}/+": (["{}/", "{}/a"], ["{}", "{}/a/b", "{}/a/"]),
    "{}/a/+/b": (["{}/a/x/b", "{}/a//b"], ["{}/a/b", "{}/a/x/y/b", "{}/a/x"]),
    "{}/+/+": (["{}/a/b", "{}//"], ["{}/a", "{}/a/b/c"]),
    "{}/+/#": (["{}/a", "{}/a/b", "{}/"], ["{}"]),
    "{}/a/#": (["{}/a", "{}/a/", "{}/a/b"], ["{}/ab", "{}"]),
    "+/{}/b": (["{}/{}/b", "/{}/b"], ["{}/b", "{}/{}", "{}/{}/b/c"]),
    "/{}/+": (["/{}/a", "/{}/"], ["{}/a", "/{}", "//{}/a"]),
    "{}/trailing/": (["{}/trailing/"], ["{}/trailing", "{}/trailing/a"]),
    "{}": (["{}"], ["{}/", "/{}", "{}/a"]),
    "{}/a.b": (["{}/a.b"], ["{}/a/b", "{}/axb"]),
    "{}/*": (["{}/*"], ["{}/a", "{}/"]),
    "{}/a*b/+": (["{}/a*b/c"], ["{}/ab/c", "{}/axb/c"]),
    "{}/A": (["{}/A"], ["{}/a"]),
}


@pytest.mark.parametrize("wanted", MATCHES)
def test_a_filter_takes_what_it_matches_and_no_more(broker: Broker, topic: str, wanted: str) -> None:
    subscriber, publisher = broker.connected(), broker.connected()
    subscriber.subscribe(wanted.replace("{}", topic), qos=1)
    taken, left = ([name.replace("{}", topic) for name in names] for names in MATCHES[wanted])
    for name in (*left, *taken):
        publisher.publish(name, name)
    # Names of different first levels may come in another order.
    assert sorted(subscriber.next().topic for _ in taken) == sorted(taken)
    assert subscriber.payloads(topic, publisher) == []


def arrived(client: PahoClient) -> set[str]:
    """Until the fence, on a broker that nobody else uses."""
    return {message.topic for message in client.until_fence("fence")}


def test_a_wildcard_at_the_first_level_takes_all_but_dollar_names(start_broker: Callable[..., Broker]) -> None:
    # [MQTT-4.7.2-1]
    broker = start_broker()
    everything, publisher = broker.connected(), broker.connected()
    everything.subscribe("#", qos=1)
    watcher = broker.connected()
    watcher.subscribe("$SYS/broker/uptime")
    watcher.next()
    names = {"a", "a/b", "/", "/a", "a/", "ü/b", "_x", "a b", "*"}
    for name in names:
        publisher.publish(name, b"x")
    broker.hurry(2)
    watcher.next()
    assert {everything.next().topic for _ in names} == names
    assert everything.payloads("fence", publisher) == []


def test_a_plus_at_the_first_level(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    one, two = broker.connected(), broker.connected()
    one.subscribe("+", qos=1)
    two.subscribe("+/+", qos=1)
    for name in ("a", "a/b", "/a", "a/b/c", "/"):
        one.publish(name, b"x")
    assert one.next().topic == "a"
    assert {two.next().topic for _ in range(3)} == {"a/b", "/a", "/"}
    assert one.payloads("deep/er/fence") == []


def test_names_longer_than_a_key(broker: Broker, topic: str) -> None:
    client = broker.connected()
    name = topic + "/" + "n" * 3000
    client.subscribe(f"{topic}/#", qos=1)
    if broker.differs("long names"):
        assert client.publish(name, b"x") == 0
        assert client.next().topic == name
    else:
        assert client.publish(name, b"x") == 0x97
        assert client.payloads(topic) == []


def test_dollar_names_other_than_sys(broker: Broker, topic: str) -> None:
    client = broker.connected()
    if broker.differs("dollar names"):
        assert client.subscribe(f"$x/{topic}", qos=1) == [1]
        client.publish(f"$x/{topic}", b"x")
        assert client.next().topic == f"$x/{topic}"
    else:
        assert client.subscribe(f"$x/{topic}", qos=1) == [0x8F]
        assert client.publish(f"$x/{topic}", b"x") == 0x90
