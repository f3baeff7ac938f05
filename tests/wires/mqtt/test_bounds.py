"""Every bound of the wire, exceeded tenfold over real sockets: the protocol's own answer, memory that does not grow
with what was sent, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from polywire import Hub, Limits
from polywire.core.message import Flag, Record
from tests.bounds import KIB, MIB, grows_at_most
from tests.core.harness import FaultyEngine
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
    UNSUBACK,
    Packet,
    RawClient,
    acknowledge,
    connect,
    number,
    packet,
    ping,
    publish,
    string,
    subscribe,
    unsubscribe,
    user_property,
    will,
)
from tests.wires.mqtt.watched_hub import WatchedHub, watching

QUOTA_EXCEEDED, RECEIVE_MAXIMUM_EXCEEDED, ALIAS_INVALID, TOO_LARGE = 0x97, 0x93, 0x94, 0x95
LASTS = b"\x11\0\0\x0e\x10"  # Session Expiry Interval: an hour


def ends(client: RawClient) -> list[tuple[int, int]]:
    """The last packets: kind and reason."""
    return [(one.kind, one.body[one.kind == CONNACK]) for one in client.rest()]


def reason(answer: Packet) -> int:
    """Of PUBACK and its like; success is not written."""
    return answer.body[2] if len(answer.body) > 2 else 0


def sending(client: RawClient, packets: Sequence[bytes]) -> threading.Thread:
    """In a thread, as the hub may not take it."""

    def send() -> None:
        with contextlib.suppress(OSError):
            for one in packets:
                client.send(one)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


# --- packets ---------------------------------------------------------------------------------------------------------

CLAIMED = b"\xff\xff\xff\x7f"  # a remaining length of 256 MB


@pytest.mark.parametrize(
    "first", [0x30, 0x3B, 0x82, 0xA2, 0xE0], ids=["PUBLISH", "DUP", "SUBSCRIBE", "UNSUBSCRIBE", "DISCONNECT"]
)
def test_a_packet(tmp_path: Path, first: int) -> None:
    with watching(tmp_path, max_packet_size=10 * KIB) as hub, grows_at_most(8 * MIB):
        for _ in range(20):
            client = hub.connected()
            client.send(bytes([first]) + CLAIMED)
            assert ends(client) == [(DISCONNECT, TOO_LARGE)]
            client = hub.connected()
            client.send(bytes([first]) + CLAIMED + bytes(8 * MIB))
            assert ends(client) == [(DISCONNECT, TOO_LARGE)], "what it still sends takes nothing away from it"


def test_a_packet_that_drips(tmp_path: Path) -> None:
    """It is refused by its first bytes; one that is as large as may be is kept once."""
    with watching(tmp_path, max_packet_size=MIB) as hub:
        clients = [hub.connected() for _ in range(20)]
        with grows_at_most(28 * MIB):
            for client in clients:
                client.send(bytes([0x30]) + number(MIB - 10) + string("t") + b"\0" + bytes(MIB - 100))
            hub.until(lambda: all(len(one.protocol._decoder._unread) > MIB - 200 for one in hub.connections))
        slow = hub.connected()
        for byte in bytes([0x30]) + CLAIMED:
            slow.send(bytes([byte]))
        assert ends(slow) == [(DISCONNECT, TOO_LARGE)]


@pytest.mark.parametrize("size", [b"\xff\xff\xff\x7f", number(10 * MIB)], ids=["256 MB", "10 MiB"])
def test_a_connect(tmp_path: Path, size: bytes) -> None:
    """Who is not let in yet can hold less than who is."""
    with watching(tmp_path, max_request_size=4 * KIB) as hub, grows_at_most(8 * MIB):
        for _ in range(50):
            client = hub.raw()
            with contextlib.suppress(OSError):
                client.send(b"\x10" + size + string("MQTT") + b"\x05\x02\0\0" + bytes(100 * KIB))
            client.rest()


# --- connections -----------------------------------------------------------------------------------------------------


def test_connections(tmp_path: Path) -> None:
    with watching(tmp_path, max_connections=20) as hub:
        with grows_at_most(8 * MIB):
            clients = [hub.raw() for _ in range(20)]
            hub.until(lambda: hub.wire.open == 20)
            refused = [hub.raw() for _ in range(180)]
            assert all(client.rest() == [] for client in refused)
            assert sum(listener.refused for listener in hub.served.server._streams) == 180
        for client in clients:
            assert client.connect().body[1] == 0
        hub.close_clients()
        hub.until(lambda: hub.wire.open == 0)
        assert hub.connected().alive()


@pytest.mark.parametrize("level", [4, 5])
def test_connections_of_a_principal(tmp_path: Path, level: int) -> None:
    with watching(tmp_path, max_connections_per_principal=10) as hub:
        access = hub.core.access
        _, key = hub.run(access.create_key(access.system, "device", ["*:#"]))
        _, other = hub.run(access.create_key(access.system, "other", ["*:#"]))
        answers = Counter(hub.raw(level).connect(login=("device", key)).body[1] for _ in range(100))
        assert answers == {0: 10, (QUOTA_EXCEEDED if level == 5 else 3): 90}
        assert hub.raw(level).connect(login=("other", other)).body[1] == 0
        hub.close_clients()
        hub.until(lambda: hub.wire.open == 0)
        assert hub.raw(level).connect(login=("device", key)).body[1] == 0


def test_clients_that_never_say_connect(tmp_path: Path) -> None:
    """Some say nothing, some a byte now and then."""
    with watching(tmp_path, connect_timeout=10_000) as hub:
        with grows_at_most(24 * MIB):
            clients = [hub.raw() for _ in range(1_000)]
            hub.until(lambda: hub.wire.open == 1_000)
            dripping, rest = clients[:100], connect("c" * 100, 5)
            for byte in rest[:12]:
                hub.advance(1)
                for client in dripping:
                    with contextlib.suppress(OSError):
                        client.send(bytes([byte]))
            hub.until(lambda: hub.wire.open == 0)
        assert all(client.rest() == [] for client in clients)
        assert hub.wire.silent_closed == 1_000
        assert hub.connected().alive()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_sessions(tmp_path: Path) -> None:
    """Clients that leave nothing behind are let in still, and so are those that have a session."""
    with watching(tmp_path, max_sessions=20) as hub:
        with grows_at_most(8 * MIB):
            answers = Counter[int]()
            for each in range(200):
                client = hub.raw()
                answers[client.connect(f"c{each}", clean=False, properties=LASTS).body[1]] += 1
                client.close()
        assert answers == {0: 20, QUOTA_EXCEEDED: 180}
        last_will = will("t", b"gone", level=5)
        assert hub.raw().connect("d", last_will=last_will).body[1] == QUOTA_EXCEEDED  # it is stored, too
        assert hub.connected("e").alive()
        assert hub.connected("c7", clean=False, properties=LASTS).alive()
        hub.close_clients()
        hub.advance(2 * 3_600)
        hub.until(lambda: len(hub.wire.sessions) == 0)
        assert hub.connected("f", clean=False, properties=LASTS).alive()


def test_subscriptions(tmp_path: Path) -> None:
    with watching(tmp_path, max_subscriptions=50) as hub:
        for options in ({"clean": True}, {"clean": False, "properties": LASTS}):
            client = hub.connected("c", **options)
            with grows_at_most(8 * MIB):
                found = Counter[int]()
                for first in range(0, 500, 100):
                    filters = [(f"s/{each}", 1) for each in range(first, first + 100)]
                    found.update(client.subscribe(*filters).body[-100:])
            assert found == {1: 50, QUOTA_EXCEEDED: 450}
            assert hub.core.live.metrics()["live_patterns"] == 50
            client.subscribe(("s/7", 0))  # that one it has
            client.send(unsubscribe(2, "s/7", level=5))
            assert client.expect(UNSUBACK).body[3:] == b"\0"
            assert client.subscribe(("s/new", 1)).body[3:] == b"\1"
            client.close()


@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_client_has_unacknowledged(tmp_path: Path, qos: int) -> None:
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, engine=engine, receive_maximum=5) as hub:
        client, other = hub.connected(), hub.connected()
        engine.holding = True
        with grows_at_most(8 * MIB):
            packets = [publish("t", b"x" * 100 * KIB, qos, each + 1, level=5) for each in range(50)]
            client.send(*packets)
            assert ends(client) == [(DISCONNECT, RECEIVE_MAXIMUM_EXCEEDED)]
        assert other.alive()
        hub.call(engine.let_go)
        hub.until(lambda: hub.stored_in("t") == 5)


@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_client_of_3_1_1_has_unacknowledged(tmp_path: Path, qos: int) -> None:
    """There is no answer that says so: the hub stops reading."""
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, engine=engine, receive_maximum=5) as hub:
        client, other = hub.connected(level=4), hub.connected()
        engine.holding = True
        packets = [publish("t", b"x" * 100 * KIB, qos, each + 1) for each in range(200)]
        with grows_at_most(24 * MIB):  # what is sent are 20 MB, which stand here and, in part, in the kernel
            sender = sending(client, packets)
            hub.until(lambda: hub.connections[0]._paused_reading)
            assert other.alive()
            assert hub.core.log.uncommitted < 2 * MIB
        hub.call(engine.let_go)
        answers = [client.packet() for _ in packets]
        sender.join(10)
        assert [answer.id for answer in answers if answer] == list(range(1, 201))
        assert hub.stored_in("t") == 200


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("lasts", [False, True], ids=["clean", "session"])
def test_what_is_sent_to_a_client_unacknowledged(tmp_path: Path, qos: int, lasts: bool) -> None:
    with watching(tmp_path, in_flight=10) as hub:
        client = hub.connected("c", clean=not lasts, properties=LASTS if lasts else b"")
        client.subscribe(("t", qos))
        with grows_at_most(12 * MIB):
            for _ in range(10):
                hub.publish("t", *[b"x" * 1_000] * 100)
            window = [client.receive() for _ in range(10)]
            client.send(ping())
            client.expect(PINGRESP)  # and no eleventh before it
        assert len({one.id for one in window}) == 10
        for _ in range(990):
            settle(client, window.pop(0).id, qos)
            window.append(client.receive())
        client.send(ping())
        client.expect(PINGRESP)


def settle(client: RawClient, id: int, qos: int) -> None:
    if qos == 1:
        client.send(acknowledge(PUBACK, id))
        return
    client.send(acknowledge(PUBREC, id))
    assert client.expect(PUBREL).id == id
    client.send(acknowledge(PUBCOMP, id))


@pytest.mark.parametrize("shared", [False, True], ids=["session", "share"])
def test_what_is_queued_for_a_client_that_is_away(tmp_path: Path, shared: bool) -> None:
    """The newest are dropped, and counted; what it had unacknowledged counts as well."""
    with watching(tmp_path, Limits(tail_size=MIB), max_queued=20) as hub:
        client = hub.connected("c", clean=False, properties=LASTS)
        client.subscribe(("$share/g/t" if shared else "t", 1))
        client.close()
        hub.until(lambda: hub.wire.open == 0)
        with grows_at_most(12 * MIB):
            for first in range(0, 200, 10):
                hub.publish("t", *[b"%d" % each + b"x" * 100 * KIB for each in range(first, first + 10)])
        [queue] = hub.core.subscriptions.of_kind("share" if shared else "session")
        assert (queue.pending.count, queue.dropped) == (20, 180)
        client = hub.connected("c", clean=False, properties=LASTS)
        for each in range(20):  # out_buffer bytes of them unacknowledged
            message = client.receive()
            assert int(message.payload.rstrip(b"x")) == each
            client.send(acknowledge(PUBACK, message.id))


# --- clients that do not read ----------------------------------------------------------------------------------------


def deaf(hub: WatchedHub, count: int, *filters: tuple[str, int], **options: Any) -> list[RawClient]:
    """Clients that read what a test asks them to; the kernel keeps little for them."""
    clients = [hub.connected(f"deaf{each}", **options) for each in range(count)]
    give_room(hub, clients, 8 * KIB)
    for client in clients:
        if filters:
            client.subscribe(*filters)
    return clients


def give_room(hub: WatchedHub, clients: Sequence[RawClient], size: int) -> None:
    """In the kernel, on both sides, for what they have not read yet."""
    for connection in hub.connections:
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    for client in clients:
        client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


@pytest.mark.parametrize("lasts", [False, True], ids=["clean", "session"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_out_buffer_of_who_does_not_read(tmp_path: Path, qos: int, lasts: bool) -> None:
    options = {"clean": False, "properties": LASTS} if lasts else {}
    limits = Limits(tail_size=2 * MIB)
    with watching(tmp_path, limits, out_buffer=256 * KIB, encoded_size=MIB, slow_timeout=3_600_000) as hub:
        clients = deaf(hub, 10, ("t", qos), **options)
        reader = hub.connected("reader")
        reader.subscribe(("t", 0))
        with grows_at_most(24 * MIB):  # ten times 256 KiB and what is on its way; all of it were 250 MB
            for _ in range(250):
                hub.publish("t", *[b"x" * 10_000] * 10)
                assert all(len(reader.receive().payload) == 10_000 for _ in range(10)), "nobody else waits"
            assert all(one.waiting < 600 * KIB for one in hub.connections)
        give_room(hub, clients[:1], MIB)
        if qos:
            assert clients[0].receive().payload == b"x" * 10_000
        else:
            while not hub.wire.missed:  # it is counted when there is something to say again
                assert clients[0].receive().payload == b"x" * 10_000


def test_who_does_not_read_is_cut(tmp_path: Path) -> None:
    """One that reads slowly is not."""
    with watching(tmp_path, Limits(tail_size=2 * MIB), out_buffer=32 * KIB, slow_timeout=500) as hub:
        slow = deaf(hub, 11, ("t", 1)).pop()
        give_room(hub, [slow], 128 * KIB)
        hub.publish("t", *[b"x" * 10_000] * 1_000)
        deadline = time.monotonic() + 10
        read = 0
        while hub.wire.slow_closed < 10:
            assert time.monotonic() < deadline
            message = slow.receive()
            slow.send(acknowledge(PUBACK, message.id))
            read += 1
            time.sleep(0.01)
        assert hub.wire.open == 1
        assert [len(slow.receive().payload) for _ in range(20)] == [10_000] * 20


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PINGREQ": lambda _: ping(),
    "SUBSCRIBE": lambda each: subscribe(each, ("t", 0), level=5),
    "SUBSCRIBE with a queue": lambda each: subscribe(each, ("t", 1), level=5),
    "UNSUBSCRIBE": lambda each: unsubscribe(each, "t", level=5),
    "SUBSCRIBE and UNSUBSCRIBE": lambda each: subscribe(each, ("t", 1), level=5) + unsubscribe(each, "t", level=5),
    "PUBLISH at QoS 1": lambda each: publish("t", b"", 1, each, level=5),
    "PUBLISH at QoS 2": lambda each: publish("t", b"", 2, each, level=5),
    "PUBREL": lambda each: acknowledge(PUBREL, each),
    "PUBREC": lambda each: acknowledge(PUBREC, each),
}


@pytest.mark.long  # when it stops is a matter of what the kernel buffers
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_questions_whose_answers_are_not_read(tmp_path: Path, flood: Callable[[int], bytes]) -> None:
    """The hub stops reading them."""
    with watching(tmp_path, Limits(tail_size=2 * MIB), out_buffer=16 * KIB, receive_maximum=65_535) as hub:
        [client] = deaf(hub, 1, clean=False, properties=LASTS)
        other = hub.connected()
        data = b"".join(flood(each) for each in range(1, 2_000))
        with grows_at_most(24 * MIB):
            sender = sending(client, [data] * 1_000)
            hub.until(lambda: hub.connections[0]._paused_reading, 20)
            assert other.alive()
        client._socket.shutdown(socket.SHUT_RDWR)
        sender.join(10)


# --- while the log is congested --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", ["SUBSCRIBE", "SUBSCRIBE with a queue", "UNSUBSCRIBE", "PUBREL"])
def test_a_flood_of_questions_while_the_disk_stands_still(tmp_path: Path, flood: str) -> None:
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, Limits(uncommitted_size=MIB, tail_size=2 * MIB), engine=engine) as hub:
        client = hub.connected("flood", clean=False, properties=LASTS)
        other = hub.connected()
        engine.holding = True
        data = b"".join(FLOODS[flood](each) for each in range(1, 901))
        with grows_at_most(24 * MIB):
            sender = sending(client, [data] * 500)
            hub.until(lambda: hub.connections[0]._paused_reading)
            assert other.alive()
        client._socket.shutdown(socket.SHUT_RDWR)
        sender.join(10)
        hub.call(engine.let_go)


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_while_the_disk_stands_still(tmp_path: Path, qos: int) -> None:
    """So much is held back for each connection; then the hub stops reading from it. Nothing is lost."""
    engine = FaultyEngine(tmp_path)
    limits = Limits(uncommitted_size=MIB, tail_size=2 * MIB)
    with watching(tmp_path, limits, engine=engine, held_size=64 * KIB) as hub:
        clients = [hub.connected(level=4) for _ in range(10)]
        packets = [publish("t", b"x" * 10_000, qos, each + 1) for each in range(900)]
        engine.holding = True
        with grows_at_most(24 * MIB):  # all of it are 90 MB
            senders = [sending(client, packets) for client in clients]
            hub.until(lambda: all(one._paused_reading for one in hub.connections))
            assert hub.core.log.uncommitted < 4 * MIB
            assert all(one._held_size < 192 * KIB for one in hub.connections)
        hub.call(engine.let_go)
        for sender in senders:
            sender.join(20)
        assert all(client.alive() for client in clients)
        hub.until(lambda: hub.stored_in("t") == 9_000)


def test_what_else_a_client_says_while_the_disk_stands_still(tmp_path: Path) -> None:
    """Its pings are answered and its acknowledgements count, though what it publishes is held back."""
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, Limits(uncommitted_size=64 * KIB), engine=engine, in_flight=1) as hub:
        client = hub.connected("c", clean=False, properties=LASTS)
        client.subscribe(("in", 1))
        hub.publish("in", b"1", b"2")
        first = client.receive()
        engine.holding = True
        hub.call(hub.core.post, hub.core.access.system, "t", [Record(bytes(100 * KIB))])
        assert hub.core.congested
        client.publish("t", b"held", 1, 7)
        client.send(ping())
        client.expect(PINGRESP)
        client.send(acknowledge(PUBACK, first.id))
        assert client.receive().payload == b"2", "the window is open again"
        client.send(subscribe(8, ("other", 0), level=5), ping())
        client.expect(PINGRESP)
        hub.call(engine.let_go)
        assert [(answer.kind, answer.id) for answer in (client.packet(), client.packet()) if answer] == [
            (PUBACK, 7),
            (SUBACK, 8),
        ]


def test_a_congested_log_and_a_client_that_has_gone(tmp_path: Path) -> None:
    """What it published before is not lost with it, and its will comes behind."""
    engine = FaultyEngine(tmp_path)
    with watching(tmp_path, Limits(uncommitted_size=64 * KIB), engine=engine) as hub:
        clients = [hub.connected(last_will=will("t", b"%d will" % each, level=5)) for each in range(3)]
        engine.holding = True
        hub.call(hub.core.post, hub.core.access.system, "other", [Record(bytes(100 * KIB))])
        assert hub.core.congested
        for each, client in enumerate(clients):
            client.send(*[publish("t", b"%d %d" % (each, n) + bytes(10_000), level=5) for n in range(20)], ping())
            client.expect(PINGRESP)
        clients[0].send(packet(0xE0))  # DISCONNECT
        clients[0].close()
        clients[1].close()
        clients[2].reset()
        hub.until(lambda: [one._lost for one in hub.connections] == [True] * 3)
        hub.call(engine.let_go)
        hub.until(lambda: hub.stored_in("t") == 62)
        payloads = [payload.rstrip(b"\0") for payload in hub.payloads("t")]
        for each in range(3):
            wanted = [b"%d %d" % (each, n) for n in range(20)] + ([b"%d will" % each] if each else [])
            assert [one for one in payloads if one.startswith(b"%d" % each)] == wanted


# --- retained messages and $SYS --------------------------------------------------------------------------------------


def retain(hub: WatchedHub, count: int, size: int) -> None:
    async def publishing() -> None:
        for first in range(0, count, 1_000):
            records = [
                Record(b"%0*d" % (size, each), key=b"%d" % each, flags=Flag.RETAINED)
                for each in range(first, min(first + 1_000, count))
            ]
            await hub.core.publish(hub.core.access.system, "r", records)

    hub.run(publishing())


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    "count", [2_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])], ids=["some", "100,000"]
)
def test_retained_messages_for_who_does_not_read(tmp_path: Path, count: int, qos: int) -> None:
    limits = Limits(tail_size=MIB, batch_size=16 * MIB)
    with watching(tmp_path, limits, out_buffer=64 * KIB, encoded_size=MIB, slow_timeout=3_600_000) as hub:
        retain(hub, count, 4_000)
        hub.run(hub.core.log.published())
        with grows_at_most(24 * MIB):
            clients = deaf(hub, 10, ("r/#", qos))
            hub.until(lambda: all(one.full or one.protocol.room == 0 for one in hub.connections))
            assert all(one.waiting < 256 * KIB for one in hub.connections)
            reader = hub.connected()
            reader.subscribe(("r/7", 0))
            assert int(reader.receive().payload) == 7, "nobody else waits"
            everything = hub.connected()
            everything.subscribe(("r/#", 0))
            seen = {int(everything.receive().topic[2:]) for _ in range(count)}
        assert len(seen) == count
        assert clients[0].receive().retain


def test_retained_keys(tmp_path: Path) -> None:
    with watching(tmp_path, Limits(retained_keys=50, tail_size=MIB)) as hub:
        client, old = hub.connected(), hub.connected(level=4)
        answers = Counter[int]()
        with grows_at_most(8 * MIB):
            for each in range(500):
                client.publish(f"r/{each}", b"x" * 10_000, 1, each + 1, retain=True)
                answers[reason(client.expect(PUBACK))] += 1
        assert answers == {0: 50, QUOTA_EXCEEDED: 450}
        old.publish("r/7", b"of those there are", 1, 1, retain=True)
        assert old.expect(PUBACK).id == 1


def test_figures_for_who_does_not_read(tmp_path: Path) -> None:
    """They are dropped."""
    with watching(tmp_path, out_buffer=4 * KIB, sys_interval=1_000, slow_timeout=3_600_000) as hub:
        deaf(hub, 10, ("$SYS/#", 0), keep_alive=0)
        with grows_at_most(4 * MIB):
            while not hub.wire.missed:
                hub.advance(1)
            for _ in range(1_000):
                hub.advance(1)
        assert all(one.waiting < 8 * KIB for one in hub.connections)


# --- names, filters, aliases, properties -----------------------------------------------------------------------------


def test_topic_aliases(tmp_path: Path) -> None:
    with watching(tmp_path, topic_alias_maximum=10) as hub:
        for alias in (0, 11, 100, 65_535):
            client = hub.connected()
            client.publish("t", properties=b"\x23" + struct.pack("!H", alias))
            assert ends(client) == [(DISCONNECT, ALIAS_INVALID)]
        client = hub.connected()
        for alias in range(1, 11):
            client.publish(f"t{alias}", properties=b"\x23" + struct.pack("!H", alias))
        client.publish("", b"again", 1, 1, properties=b"\x23\0\x0a")
        client.expect(PUBACK)
        assert hub.payloads("t10") == [b"", b"again"]


def test_topic_aliases_of_the_longest_names(tmp_path: Path) -> None:
    with watching(tmp_path) as hub, grows_at_most(16 * MIB):
        for _ in range(20):  # all of it are 125 MB
            client = hub.connected()
            for alias in range(1, 101):
                client.publish("t/" + "x" * 65_000, properties=b"\x23" + struct.pack("!H", alias))
            assert ends(client) == [(DISCONNECT, QUOTA_EXCEEDED)]
        client = hub.connected()
        for alias in range(1_000):  # the same again and again is nothing more
            client.publish("t/" + "x" * 1_000, properties=b"\x23" + struct.pack("!H", alias % 100 + 1))
        assert client.alive()


LONGEST = 65_535
NAMES = {
    "longest": "t/" + "x" * (LONGEST - 2),
    "longest first level": "x" * LONGEST,
    "most levels": "t" + "/" * (LONGEST - 1),
    "most levels of all": "/" * LONGEST,
    "1,000 levels": "/".join(["t"] * 1_000),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_long_names(tmp_path: Path, name: str) -> None:
    """They are refused, in the words of the level, and nothing is kept of them."""
    with watching(tmp_path) as hub:
        client, old = hub.connected(), hub.connected(level=4)
        client.publish(name, b"x", 1, 1)
        client.expect(PUBACK)
        with grows_at_most(8 * MIB):
            for each in range(200):
                client.publish(
                    name + "y" * (each % 10) if len(name) < LONGEST else name[:-4] + f"{each:04}", b"x", 1, 1
                )
                answer = client.expect(PUBACK)
                assert reason(answer) in ((0,) if len(name) < 1_024 else (QUOTA_EXCEEDED, 0x90))
            old.publish(name, b"x", 1, 1)
            assert old.packet() in (None, Packet(PUBACK, 0, b"\0\1"))
        assert client.alive()


@pytest.mark.parametrize("wild", ["", "/#", "/+/+/#"], ids=["plain", "rest", "words"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_long_filters(tmp_path: Path, name: str, wild: str) -> None:
    with watching(tmp_path) as hub:
        client = hub.connected("c", clean=False, properties=LASTS)
        text = name[: LONGEST - len(wild) - 4] + wild
        with grows_at_most(12 * MIB):
            for qos in (0, 1):
                for each in range(50):
                    client.send(subscribe(1, (f"{each:04}"[: 4 - len(wild) % 2] + text, qos), level=5))
                    answer = client.expect(SUBACK)
                    assert answer.body[-1] in (qos, QUOTA_EXCEEDED, 0x8F)
            publisher = hub.connected()
            publisher.publish("t/t/t", b"x", 1, 1)
            publisher.expect(PUBACK)
        assert client.alive()


def test_a_filter_of_pluses_and_a_deep_name(tmp_path: Path) -> None:
    """A look-up takes as long as the name, whatever the filters."""
    with watching(tmp_path) as hub:
        client = hub.connected()
        filters = ["/".join("+a"[each >> bit & 1] for bit in range(9)) + "/#" for each in range(512)]
        client.subscribe(*[(each, 0) for each in filters])
        publisher = hub.connected()
        with grows_at_most(8 * MIB):
            for each in range(200):
                publisher.publish("/".join("a" * 9) + f"/{each}", b"x", 1, 1)
                publisher.expect(PUBACK)
        assert [client.receive().payload for _ in range(200)] == [b"x"] * 200
        assert client.alive()


@pytest.mark.parametrize("count", [1, 10_000], ids=["one of 64 KiB", "10,000"])
def test_user_properties(tmp_path: Path, count: int) -> None:
    with watching(tmp_path, Limits(headers_size=64 * KIB)) as hub:
        client, reader = hub.connected(), hub.connected()
        reader.subscribe(("t", 1))
        one = user_property("n" * 65_535, "v" * 65_535) if count == 1 else user_property("name", "value") * count
        small = user_property("n" * 1_000, "v" * 60_000) if count == 1 else user_property("name", "value") * 1_000
        client.publish("t", b"", 1, 1, properties=small)
        assert reason(client.expect(PUBACK)) == 0
        message = reader.receive()
        assert len(message.properties[0x26]) == (1 if count == 1 else 1_000)
        reader.send(acknowledge(PUBACK, message.id))
        with grows_at_most(8 * MIB):
            for _ in range(100):
                client.publish("t", b"", 1, 1, properties=one)
                assert reason(client.expect(PUBACK)) == QUOTA_EXCEEDED
        assert hub.stored_in("t") == 1
        refused = hub.raw()  # in CONNECT and SUBSCRIBE they are read and forgotten
        refused.send(connect("u", 5, properties=user_property("name", "value") * 5_000))
        assert refused.expect(CONNACK).body[1] == 0
        refused.subscribe(("t", 0), properties=user_property("name", "value") * 5_000)
        assert refused.alive()


# --- what clients make ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    "count", [20, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])], ids=["2,000", "100,000"]
)
def test_many_subscribers_of_what_is_their_own(tmp_path: Path, qos: int, count: int) -> None:
    """100 connections with so many filters each: a publish reaches the one it is for."""
    with watching(tmp_path) as hub:
        with grows_at_most(count * 100 * 4 * KIB + 16 * MIB):
            clients = [hub.connected(f"c{each}", properties=LASTS) for each in range(100)]
            for each, client in enumerate(clients):
                answer = client.subscribe(*[(f"cmd/{each}-{number}/#", qos) for number in range(count)])
                assert answer.body[-count:] == bytes([qos]) * count
        publisher = hub.connected()
        for each, client in enumerate(clients):
            publisher.publish(f"cmd/{each}-{count - 1}/do", b"%d" % each, 1, 1)
            publisher.expect(PUBACK)
            message = client.receive()
            assert message.payload == b"%d" % each
            if qos:
                client.send(acknowledge(PUBACK, message.id))
        assert hub.wire.counters.delivered == 100
        topic = hub.core.catalog.existing("cmd")
        assert len(topic.filtered.match(b"3-0.do")) == (1 if qos else 0)


def test_a_flood_of_sessions_and_wills(tmp_path: Path) -> None:
    """Connected, cut and connected again, each with a will that waits: one entry for each is kept."""
    with watching(tmp_path) as hub:
        later = b"\x18\0\0\0\x3c"  # Will Delay Interval: a minute
        last_will = will("wills", b"gone", level=5, properties=later)
        with grows_at_most(16 * MIB):
            for _ in range(50):
                clients = [
                    hub.connected(f"c{each}", clean=False, properties=LASTS, last_will=last_will) for each in range(20)
                ]
                for client in clients:
                    client.reset()
                hub.until(lambda: hub.wire.open == 0)
        assert len(hub.wire.sessions) == 20
        assert len(hub.wire.sessions._due) <= 2 * 20 + 64
        assert hub.stored_in("wills") == 0
        hub.advance(60)
        hub.until(lambda: hub.stored_in("wills") == 20)
        hub.advance(3_600)
        hub.until(lambda: len(hub.wire.sessions) == 0)


@pytest.mark.parametrize("lasts", [False, True], ids=["clean", "session"])
@pytest.mark.parametrize("filter", ["t/+", "$share/g/t/+"], ids=["own", "share"])
def test_a_flood_of_subscribing_and_unsubscribing(tmp_path: Path, filter: str, lasts: bool) -> None:
    """With publishes in between, so that each takes its place in the order of the log."""
    with watching(tmp_path) as hub:
        client = hub.connected("c", clean=not lasts, properties=LASTS if lasts else b"")
        pieces = b"".join(
            subscribe(1, (filter, 1), level=5) + publish("t/1", b"", level=5) + unsubscribe(2, filter, level=5)
            for _ in range(100)
        )
        with grows_at_most(12 * MIB):
            for _ in range(20):
                client.send(pieces, ping())
                while (answer := client.packet()) is not None and answer.kind != PINGRESP:
                    if answer.kind == PUBLISH and answer.flags & 6:
                        client.send(acknowledge(PUBACK, client.read(answer).id))
            hub.until(lambda: hub.stored_in("t") == 2_000)
        hub.advance(3)  # a checkpoint
        hub.until(lambda: sum(len(s.bindings) for s in hub.core.subscriptions) <= 2)
        assert hub.core.live.metrics()["live_patterns"] == 0


def test_shares(tmp_path: Path) -> None:
    with watching(tmp_path, Limits(subscriptions=20)) as hub:
        client = hub.connected()
        with grows_at_most(8 * MIB):
            found = Counter(client.subscribe(*[(f"$share/g{each}/t", 1) for each in range(200)]).body[-200:])
        assert found == {1: 20, QUOTA_EXCEEDED: 180}
        client.close()
        hub.until(lambda: not hub.core.subscriptions.of_kind("share"))
        assert hub.connected().subscribe(("$share/new/t", 1)).body[-1] == 1


def test_calls(tmp_path: Path) -> None:
    app = Hub("endless", strict=False)
    release = threading.Event()

    @app.operation
    async def wait() -> str:
        await asyncio.to_thread(release.wait)
        return "done"

    with watching(tmp_path, hub=app, max_calls=10) as hub:
        client = hub.connected("c")
        client.subscribe(("operations/replies/c/#", 0))
        asks = b"\x08" + string("operations/replies/c/1")
        with grows_at_most(8 * MIB):
            client.send(*[publish("operations/wait", b"{}", 1, n, level=5, properties=asks) for n in range(1, 101)])
            assert [reason(client.expect(PUBACK)) for _ in range(90)] == [QUOTA_EXCEEDED] * 90
        release.set()
        answers = Counter(answer.kind for answer in (client.packet() for _ in range(20)) if answer)
        assert answers == {PUBLISH: 10, PUBACK: 10}
