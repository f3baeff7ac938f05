"""Clients that say what they have to say and close, without reading an answer: all of it is taken.

Where something is unread when a client closes, its kernel resets the connection (RFC 2525 §2.17). What has come is
still there to be read then; what the client's kernel had not sent yet is gone, whatever the hub does. So the clients
here wait until all is sent, where they send more than one segment.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from tests.wires.mqtt.raw_client import PUBLISH, connect, packet, publish, subscribe
from tests.wires.mqtt.watched_hub import WatchedHub, watching

DISCONNECT = packet(0xE0)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what is not sent yet, as Linux has it")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[WatchedHub]:
    with watching(tmp_path) as hub:
        yield hub


class Hasty:
    """A client that never reads. ``waits``: until its CONNACK is there, unread, before it sends more."""

    def __init__(self, hub: WatchedHub, level: int, *, waits: bool) -> None:
        self._level = level
        self._waits = waits
        self.socket = socket.create_connection(("127.0.0.1", hub.served.mqtt_port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self) -> None:
        self.send(connect("", self._level))
        if self._waits:
            self.socket.recv(1, socket.MSG_PEEK)

    def send(self, data: bytes) -> None:
        """Until the hub's kernel has it."""
        self.socket.sendall(data)
        while struct.unpack("i", fcntl.ioctl(self.socket, 0x5411, bytes(4)))[0]:  # SIOCOUTQ
            pass

    def close(self) -> None:
        self.socket.close()


def packets(topic: str, level: int, qos: int, count: int) -> list[bytes]:
    return [publish(topic, b"%d" % n, qos, n + 1 if qos else 0, level=level) for n in range(count)]


def in_one_segment(hub: WatchedHub, topic: str, level: int, qos: int, count: int) -> None:
    client = Hasty(hub, level, waits=False)
    client.send(connect("", level) + b"".join(packets(topic, level, qos, count)) + DISCONNECT)
    client.close()


def in_many_segments(hub: WatchedHub, topic: str, level: int, qos: int, count: int, *, waits: bool = False) -> None:
    client = Hasty(hub, level, waits=waits)
    client.connect()
    for one in [*packets(topic, level, qos, count), DISCONNECT]:
        client.send(one)
    client.close()


def behind_connack(hub: WatchedHub, topic: str, level: int, qos: int, count: int) -> None:
    in_many_segments(hub, topic, level, qos, count, waits=True)


def without_disconnect(hub: WatchedHub, topic: str, level: int, qos: int, count: int) -> None:
    client = Hasty(hub, level, waits=True)
    client.connect()
    for one in packets(topic, level, qos, count):
        client.send(one)
    client.close()


def while_it_is_told_things(hub: WatchedHub, topic: str, level: int, qos: int, count: int) -> None:
    client = Hasty(hub, level, waits=True)
    client.connect()
    client.send(subscribe(1, (topic, qos), level=level))
    for one in packets(topic, level, qos, count):
        client.send(one)
    client.close()


def by_paho(hub: WatchedHub, topic: str, level: int, qos: int, count: int) -> None:
    """As tutorials write it. More than one message could still wait in its kernel when it closes."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTProtocolVersion(level))
    client.connect("127.0.0.1", hub.served.mqtt_port)
    client.publish(topic, b"1", qos)
    client.disconnect()


WAYS: list[Callable[[WatchedHub, str, int, int, int], None]] = [
    in_one_segment, in_many_segments, behind_connack, without_disconnect, while_it_is_told_things, by_paho,
]  # fmt: skip
CASES = [pytest.param(way, id=way.__name__) for way in WAYS]


@contextmanager
def load(hub: WatchedHub) -> Iterator[None]:
    """Others keep the hub busy, so that it reads late what has come."""
    stop = threading.Event()
    data = b"".join(publish("others", b"x" * 100) for _ in range(500))
    clients = [hub.connected(level=4) for _ in range(3)]

    def send(number: int) -> None:
        while not stop.wait(0.01):
            clients[number].send(data)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("way", CASES)
def test_all_of_it_is_taken(hub: WatchedHub, way: Callable[..., None], level: int) -> None:
    sent = [0, 0, 0]
    for qos in range(3):
        for count in (1, 1, 1, 50):
            way(hub, f"t{qos}", level, qos, count)
            sent[qos] += 1 if way is by_paho else count
    hub.until(lambda: [hub.stored_in(f"t{qos}") for qos in range(3)] == sent)


@pytest.mark.long
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("way", CASES)
@pytest.mark.timeout(600)
def test_a_thousand_of_a_thousand(hub: WatchedHub, way: Callable[..., None], qos: int, busy: bool) -> None:
    if busy:
        with load(hub):
            for number in range(1_000):
                way(hub, "t", 4 + number % 2, qos, 1)
    else:
        for number in range(1_000):
            way(hub, "t", 4 + number % 2, qos, 1)
    hub.until(lambda: hub.stored_in("t") == 1_000, 30)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_came_before_a_write_that_fails(hub: WatchedHub, qos: int) -> None:
    """The hub writes first, to a client that is gone: then its transport ends, and all is still to be read."""
    client = Hasty(hub, 5, waits=True)
    client.connect()
    hub.until(lambda: len(hub.connections) == 1)

    def leave_and_tell() -> None:  # in one turn of the loop: nothing is read in between
        client.send(b"".join(packets("t", 5, qos, 300)) + DISCONNECT)
        client.close()
        connection = hub.connections[0]
        connection.write(packet(PUBLISH << 4, b"\0\1t\0"))
        connection._flush()

    hub.call(leave_and_tell)
    hub.until(lambda: hub.stored_in("t") == 300)
    hub.until(lambda: hub.wire.open == 0)
