"""What a client does at a bad moment: too much at once, too early, twice, or when an administrator or the disk does
something, too."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polywire import Hub
from polywire.core.errors import Unavailable
from polywire.serving import ServeSettings
from polywire.wires.mqtt import MqttSettings
from tests.core.harness import FaultyEngine
from tests.wires.mqtt.raw_client import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    RawClient,
    acknowledge,
    connect,
    packet,
    ping,
    publish,
    subscribe,
    unsubscribe,
    will,
)
from tests.wires.served_hub import ServedHub, serving_hub

LASTING = b"\x11\xff\xff\xff\xff"
SMALL = MqttSettings(out_buffer=64 << 10)


class Served:
    """A hub and its clients."""

    def __init__(self, hub: ServedHub) -> None:
        self.hub = hub
        self._clients: list[RawClient] = []

    def client(self, client_id: str, level: int = 4, **options: Any) -> RawClient:
        client = self.raw(level)
        client.connect(client_id, **options)
        return client

    def lasting(self, client_id: str, level: int = 4) -> RawClient:
        return self.client(client_id, level, clean=False, properties=LASTING if level == 5 else b"")

    def raw(self, level: int = 4, *, patience: float = 10) -> RawClient:
        client = RawClient("127.0.0.1", self.hub.served.mqtt_port, level, patience=patience)
        self._clients.append(client)
        return client

    def gone(self, client: RawClient) -> None:
        """Wait until the hub knows that the client is gone."""
        wire = self.wire
        before = wire.open
        client.reset()
        self.hub.until(lambda: wire.open < before)

    @property
    def wire(self) -> Any:
        assert self.hub.served.server.mqtt is not None
        return self.hub.served.server.mqtt

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def settings() -> MqttSettings:
    return MqttSettings()


@pytest.fixture
def served(tmp_path: Path, settings: MqttSettings) -> Iterator[Served]:
    with serving_hub(Hub("review"), tmp_path, ServeSettings(mqtt=settings)) as hub:
        found = Served(hub)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def engine(served: Served, monkeypatch: pytest.MonkeyPatch) -> FaultyEngine:
    """Stands between the hub and its engine."""
    faulty = FaultyEngine.__new__(FaultyEngine)
    faulty.inner = served.hub.core.log.engine  # type: ignore[assignment] - the embedded one
    faulty.fault, faulty.holding, faulty.held, faulty.refused, faulty._crashed = None, False, [], 0, False
    monkeypatch.setattr(served.hub.core.log, "engine", faulty)
    return faulty


# --- too much at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL], ids=["small buffer"])
def test_a_reader_goes_on_when_the_transport_took_all_at_once(served: Served) -> None:
    """Nobody says so: the transport asks to pause when it could not write, and only then says that it can again."""
    reader = served.client("reader")
    reader.subscribe(("t/#", 0))
    writer = served.client("writer")
    packets = [publish(f"t/{number % 5}", b"x" * 3_000) for number in range(400)]
    sending = threading.Thread(target=lambda: writer.send(*packets))
    sending.start()
    for _ in packets:
        reader.receive()
    sending.join()


@pytest.mark.parametrize("settings", [SMALL], ids=["small buffer"])
def test_retained_messages_go_on_when_the_transport_took_all_at_once(served: Served) -> None:
    writer = served.client("writer")
    for number in range(40):
        writer.publish(f"t/{number}", b"x" * 40_000, qos=1, id=number + 1, retain=True)
        writer.expect(PUBACK)
    reader = served.client("reader")
    reader.subscribe(("t/#", 0))
    assert len({reader.receive().topic for _ in range(40)}) == 40


def test_state_is_written_once_however_often_it_changes_in_a_turn(served: Served, engine: FaultyEngine) -> None:
    """A SUBSCRIBE of 12 bytes stores the whole session, a will of 64 KiB among it."""
    client = served.raw(5)
    client.connect("w", clean=False, properties=LASTING, last_will=will("t/w", b"w" * 65_000, level=5))
    served.hub.run(served.hub.core.log.published())
    engine.holding = True
    count = 2_000
    client.send(*[subscribe(number + 1, ("t/a", 0), level=5) for number in range(count)])
    served.hub.until(lambda: engine.held)
    log = served.hub.core.log
    served.hub.until(lambda: len(log._open.told) + len(engine.held[0][0].told) >= count)  # type: ignore[attr-defined]
    assert len(log._open.state) + len(log._open.late) <= 4
    assert sum(change.kind == "wire" for change in engine.held[0][0].state) == 1
    served.hub.call(engine.let_go)
    for _ in range(count):
        client.expect(SUBACK)


def test_answers_that_wait_for_connack_are_bounded(served: Served, engine: FaultyEngine) -> None:
    """While CONNACK waits for the disk nothing is read: the answers would wait in memory."""
    engine.holding = True
    client = served.raw()
    client.send(connect("w", clean=False))
    served.hub.until(lambda: engine.held)
    client._socket.settimeout(1)
    with pytest.raises(TimeoutError):
        client.send(ping() * (1 << 24))
    [connection] = served.wire._open
    assert sum(map(len, connection.protocol._out)) < 1 << 20
    served.hub.call(engine.let_go)


# --- too early, twice, or behind an error ----------------------------------------------------------------------------


def test_what_stands_behind_a_refusal_may_be_sent_again(served: Served) -> None:
    """It was read and never looked at, so it must count when the client says it again."""
    client = served.lasting("c")
    wrong = subscribe(1, ("a/#/b", 0))
    client.send(publish("t/a", b"1", 2, 1), wrong, publish("t/a", b"2", 2, 2))
    client.rest()
    served.hub.run(served.hub.core.log.published())
    watcher = served.client("watcher")
    watcher.subscribe(("t/#", 0))
    client = served.lasting("c")
    client.send(publish("t/a", b"2", 2, 2, dup=True))
    assert client.expect(PUBREC).id == 2
    assert watcher.receive().payload == b"2"


@pytest.mark.parametrize("qos", [1, 2])
def test_an_answer_to_what_was_not_sent_again_yet_counts(served: Served, qos: int) -> None:
    client = served.lasting("c")
    client.subscribe(("t", 2))
    writer = served.client("writer")
    writer.publish("t", b"1", qos, 1).expect(PUBACK if qos == 1 else PUBREC)
    number = client.receive().id
    served.gone(client)
    client = served.raw()
    client.send(connect("c", clean=False), acknowledge(PUBACK if qos == 1 else PUBREC, number))
    client.expect(CONNACK)
    if qos == 2:
        assert client.expect(PUBREL).id == number
        client.send(acknowledge(PUBCOMP, number))
    writer.publish("t", b"2", 1, 2).expect(PUBACK)
    assert client.receive().payload == b"2"


def test_a_message_begun_before_unsubscribe_is_completed(served: Served) -> None:
    """[MQTT-3.10.4-3]"""
    client = served.lasting("c")
    client.subscribe(("t", 1))
    served.client("writer").publish("t", b"1", 1, 1).expect(PUBACK)
    first = client.receive()
    client.send(unsubscribe(2, "t"))
    client.expect(UNSUBACK)
    served.gone(client)
    again = served.lasting("c").receive()
    assert (again.payload, again.id, again.dup) == (b"1", first.id, True)


def test_a_subscription_that_takes_the_place_of_another_loses_nothing(served: Served) -> None:
    """[MQTT-3.8.4-4]: what was queued at QoS 1 comes, now at QoS 0; and nothing comes twice."""
    client = served.lasting("c", 5)
    client.subscribe(("t/#", 1))
    served.gone(client)
    writer = served.client("writer")
    for number in range(3):
        writer.publish("t/a", b"%d" % number, 1, number + 1).expect(PUBACK)
    client = served.raw(5)
    client.send(
        connect("c", 5, clean=False, properties=LASTING + b"\x21\x00\x01"),  # Receive Maximum 1
        subscribe(1, ("t/#", 0), level=5),
    )
    found = [client.packet() for _ in range(5)]
    writer.publish("t/a", b"3", 1, 4).expect(PUBACK)
    found.append(client.packet())
    payloads = [client.read(one).payload for one in found if one is not None and one.kind == PUBLISH]
    assert payloads == [b"0", b"1", b"2", b"3"]


def test_a_retained_message_that_is_sent_again_names_its_subscription(served: Served) -> None:
    """[MQTT-3.3.4-3]"""
    served.client("writer").publish("t", b"1", 1, 1, retain=True).expect(PUBACK)
    client = served.lasting("c", 5)
    client.subscribe(("t", 1), properties=b"\x0b\x07")
    first = client.receive()
    served.gone(client)
    again = served.lasting("c", 5).receive()
    assert (again.id, again.dup, again.retain) == (first.id, True, True)
    assert again.properties.get(0x0B) == first.properties[0x0B] == [b"\x07"]


def test_retained_messages_are_not_sent_to_who_published_them(served: Served) -> None:
    """[MQTT-3.8.3-3]"""
    client = served.client("c", 5)
    client.publish("t/a", b"own", 1, 1, retain=True).expect(PUBACK)
    served.client("other").publish("t/b", b"another's", 1, 1, retain=True).expect(PUBACK)
    client.subscribe(("t/#", 0x04))  # No Local
    assert client.receive().topic == "t/b"


@pytest.mark.parametrize("level", [3, 4, 5])
def test_nothing_is_left_of_a_connection_that_broke_the_protocol(
    served: Served, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the violation stands right behind CONNECT."""
    kept: list[weakref.ref[Any]] = []
    arrived = served.wire.arrived

    def keep(connection: Any) -> None:
        kept.append(weakref.ref(connection))
        arrived(connection)

    monkeypatch.setattr(served.wire, "arrived", keep)
    early = publish("t", b"1", 2, 1, level=level) + acknowledge(PUBREL, 1)
    for wrong in (early, connect("c", level), subscribe(1, ("#/a", 0), level=level), b"\x00", packet(0xF2)):
        client = served.raw(level)
        client.send(connect("c", level) + wrong)
        client.rest()
        client.close()
        served.hub.until(lambda: not served.wire.open)
    monkeypatch.undo()
    served.client("next").publish("t", b"1", 1, 1).expect(
        PUBACK
    )  # the log holds the last transaction until there is one
    served.hub.call(gc.collect)
    assert len(kept) == 5
    assert [found() for found in kept if found() is not None] == []


# --- answers that do not fit -----------------------------------------------------------------------------------------


def test_a_suback_that_the_client_does_not_take_ends_the_connection(served: Served) -> None:
    """Also where it waited for a commit; and nothing follows DISCONNECT [MQTT-3.14.4-1, MQTT-3.14.4-2]."""
    client = served.raw(5)
    client.connect("c", clean=False, properties=LASTING + b"\x27\x00\x00\x00\x28")  # Maximum Packet Size 40
    client.send(subscribe(1, *[(f"t/{number}", 0) for number in range(60)], level=5))
    assert [one.kind for one in client.rest()] == [DISCONNECT]


# --- shared subscriptions --------------------------------------------------------------------------------------------


def test_a_star_in_a_shared_filter_is_a_star(served: Served) -> None:
    reader, writer = served.client("reader"), served.client("writer")
    reader.subscribe(("$share/g/t/*", 0), id=1)
    for key in ("a", "*"):
        writer.publish(f"t/{key}", b"", 1, 1).expect(PUBACK)
    assert reader.receive().topic == "t/*"


def test_packet_ids_of_a_session_that_does_not_last_are_not_stored(served: Served) -> None:
    reader, writer = served.client("reader"), served.client("writer")
    reader.subscribe(("$share/g/t", 2))
    writer.publish("t", b"1", 2, 1).expect(PUBREC)
    number = reader.receive().id
    reader.send(acknowledge(PUBREC, number)).expect(PUBREL)
    served.gone(reader)
    served.hub.run(served.hub.core.log.published())
    assert [key for key, _ in served.hub.core._engine.load("wire") if key.startswith("mqtt_sent")] == []


# --- administrators, and starts --------------------------------------------------------------------------------------


def test_a_session_whose_queue_was_deleted_is_a_new_one(served: Served) -> None:
    client = served.lasting("c")
    client.subscribe(("t", 1))
    served.gone(client)
    core = served.hub.core
    served.hub.run(core.subscriptions.delete(core.access.system, "c", kind="session"))
    client = served.raw()
    assert client.connect("c", clean=False).body[0] == 0, "Session Present"
    client.subscribe(("t", 1))
    client.publish("t", b"1", 1, 1)
    assert {client.expect(kind).kind for kind in _either(client)} == {PUBACK, PUBLISH}


def _either(client: RawClient) -> Iterator[int]:
    """PUBACK and PUBLISH, in the order in which they come."""
    seen: list[int] = []
    original: Callable[[], Any] = client.packet
    for _ in range(2):
        found = original()
        assert found is not None
        seen.append(found.kind)
        client._buffer = packet(found.kind << 4 | found.flags, found.body) + client._buffer
        yield found.kind


@pytest.mark.parametrize("text", ["$SYS/broker/uptime", "operations/replies/c/#"])
def test_a_session_subscribed_to_what_is_in_no_topic_outlives_a_restart(tmp_path: Path, text: str) -> None:
    for present in (0, 1):
        with serving_hub(Hub("review"), tmp_path) as hub:
            served = Served(hub)
            client = served.raw()
            assert client.connect("c", clean=False).body[0] == present, "Session Present"
            if not present:
                client.subscribe((text, 1))
            served.close()


def test_who_may_not_publish_writes_no_dead_letters(tmp_path: Path) -> None:
    with serving_hub(Hub("review"), tmp_path) as hub:
        core = hub.core
        _, secret = hub.run(core.access.create_key(core.access.system, "poor", ["publish:mine.#"]))
        served = Served(hub)
        client = served.raw(5)
        client.connect("c", login=("poor", secret))
        wrong_text = b"\x01\x01"  # it says that it is UTF-8
        client.publish("others/a", b"\xff", properties=wrong_text)
        client.publish("operations/add", b"\xff", properties=wrong_text)
        client.publish("mine/a", b"\xff", properties=wrong_text)
        assert client.alive()
        hub.run(core.log.published())
        dead = hub.call(core.catalog.get, "_dead")
        assert dead is not None
        assert dead.head == 1, "one dead letter, of the topic that it may publish to"
        served.close()


# --- the disk --------------------------------------------------------------------------------------------------------


def fail(engine: FaultyEngine) -> None:
    """The commit that is held, and no other."""
    [(commit, done)], engine.held, engine.holding = engine.held, [], False
    done(commit, Unavailable("the disk is full"))


def test_ids_whose_commit_failed_are_not_stored_though_their_connection_is_gone(
    served: Served, engine: FaultyEngine
) -> None:
    """A later transaction, begun before that was known, must not say that they were received."""
    client = served.lasting("c", 5)
    served.hub.run(served.hub.core.log.published())
    engine.holding = True
    client.publish("t", b"1", 2, 1)
    served.hub.until(lambda: engine.held)
    client.publish("t", b"2", 2, 2)
    served.hub.until(lambda: served.hub.core.log._open.appends)
    served.gone(client)
    served.hub.call(fail, engine)
    served.hub.run(served.hub.core.log.published())
    stored = dict(served.hub.core._engine.load("wire"))
    assert stored.get("mqtt_received c", b"")[1:] in (b"", b"\x00\x02")


def test_the_will_of_a_client_that_was_not_accepted_is_not_published(served: Served, engine: FaultyEngine) -> None:
    watcher = served.client("watcher")
    watcher.subscribe(("t", 0))
    engine.holding = True
    client = served.raw()
    client.send(connect("c", clean=False, last_will=will("t", b"gone")))
    served.hub.until(lambda: engine.held)
    served.hub.call(fail, engine)
    client.rest()
    served.client("other").publish("t", b"fence", 1, 1).expect(PUBACK)
    assert watcher.receive().payload == b"fence"


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_connect_that_comes_byte_by_byte_has_no_more_time(served: Served) -> None:
    client = served.raw(patience=3)
    for byte in connect("c")[:3]:
        client.send(bytes((byte,)))
        served.hub.until(lambda: served.wire.open == 1)
        served.hub.call(served.hub.served.clock.advance, 4_000)
    assert client.rest() == []


def test_a_client_that_is_not_read_is_not_silent(served: Served, engine: FaultyEngine) -> None:
    """While the disk keeps its CONNACK waiting it is the hub that does not hear."""
    engine.holding = True
    client = served.raw()
    client.send(connect("c", clean=False, keep_alive=1))
    served.hub.until(lambda: engine.held)
    served.hub.call(served.hub.served.clock.advance, 60_000)
    served.hub.call(engine.let_go)
    client.expect(CONNACK)
    assert client.alive()


# --- retained messages -----------------------------------------------------------------------------------------------


def test_retained_messages_come_while_more_is_published_than_is_remembered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polywire.core.retained._REMEMBERED", 8)
    writer = served.client("writer")
    for number in range(1, 301):
        writer.publish(f"t/{number}", b"x" * 4_000, 1, number, retain=True)
    for _ in range(300):
        writer.expect(PUBACK)
    ended = threading.Event()

    def write_on() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            writer.send(*[publish(f"u/{(number * 20 + k) % 2_000}", b"y", retain=True) for k in range(20)])

    writing = threading.Thread(target=write_on)
    writing.start()
    try:
        reader = served.client("reader")
        reader.subscribe(("t/#", 0))
        assert len({reader.receive().topic for _ in range(300)}) == 300
    finally:
        ended.set()
        writing.join()


@pytest.mark.parametrize("name", ["$share/group/t", "t"])
def test_what_a_client_has_unacknowledged_is_bounded_in_bytes(served: Served, name: str) -> None:
    """200 messages of 100 kB wait; of them it has 1 MiB, not the 20 MB that its credit in messages would allow."""
    client = served.lasting("slow")
    client.subscribe((name, 1))
    publisher = served.client("publisher")
    for number in range(200):
        publisher.publish("t", b"%100000d" % number, 1, number + 1)
    assert sorted(publisher.expect(PUBACK).id for _ in range(200)) == list(range(1, 201))
    kind = "share" if name.startswith("$") else "session"
    queue = served.hub.core.subscriptions.find("group/t" if kind == "share" else "slow", kind)
    assert queue is not None
    [consumer] = queue.consumers
    served.hub.until(lambda: consumer.room == 0)
    assert consumer.unsettled_size <= (1 << 20) + 100_000
    for number in range(200):
        message = client.receive()
        assert int(message.payload) == number
        client.send(acknowledge(PUBACK, message.id))
    served.hub.until(lambda: queue.pending.count == 0)
