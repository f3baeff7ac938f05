"""Operations called over MQTT by other people's clients: request and response (MQTT 5 §4.10)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import gmqtt
import msgspec
import pytest
from gmqtt.mqtt.constants import MQTTv50
from paho.mqtt.packettypes import PacketTypes

from polywire.serving import ServeSettings
from tests.wires.mqtt.calling import Desk, Doors, desk, desk_of
from tests.wires.mqtt.paho_client import properties
from tests.wires.mqtt.raw_client import (
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    acknowledge,
    connect,
    ping,
    publish,
    string,
)
from tests.wires.served_hub import ServedHub, serving_hub

INVALID, NO_SUCH_NAME, QUOTA = 0x99, 0x90, 0x97


# --- calls and replies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_call(at: Desk, qos: int) -> None:
    caller = at.caller("ann")
    assert caller.own == "operations/replies/ann"
    reply = caller.call("add", {"a": 2, "b": 3}, qos)
    assert (reply.topic, reply.value, reply.content_type) == ("operations/replies/ann/r", 5, "application/json")
    assert (reply.error, reply.stream) == (None, None)


def test_many_calls_are_told_apart_by_their_correlation_data(at: Desk) -> None:
    caller = at.caller()
    for number in range(100):
        values = {"ResponseTopic": caller.replies, "CorrelationData": bytes([0, 255, number])}
        made = properties(PacketTypes.PUBLISH, **values)
        caller.client.client.publish("operations/add", json.dumps({"a": number, "b": 1}), 1, False, made)
    found = {reply.correlation: reply.value for reply in (caller.next() for _ in range(100))}
    assert found == {bytes([0, 255, number]): number + 1 for number in range(100)}


def test_a_call_without_correlation_data(at: Desk) -> None:
    caller = at.caller()
    assert caller.ask("add", {"a": 1, "b": 1}) == 0
    assert caller.next().correlation is None


def test_arguments(at: Desk) -> None:
    caller = at.caller()
    assert caller.call("greet").value == "hello you"
    assert caller.call("greet", b"").value == "hello you"
    assert caller.call("greet", {"times": 2}).value == "hello you hello you"
    assert caller.call("orders.place", {"number": 7, "customer": "ann"}).value == {"number": 7, "customer": "ann"}
    assert caller.call("note", {"text": "x"}).payload == b"null"
    assert at.doors.calls == ["x"]


def test_bytes_and_files(at: Desk) -> None:
    caller = at.caller()
    assert caller.call("size", b"\x00\x01\x02").value == 3
    assert caller.call("size", b"\x00\x01\x02", ContentType="image/png").value == 3
    assert caller.call("size", {"data": "AAEC"}, ContentType="application/json").value == 3
    reply = caller.call("raw")
    assert (reply.payload, reply.content_type) == (b"\x00\xff", "application/octet-stream")
    reply = caller.call("head", b"one two", ContentType="text/plain", UserProperty=[("filename", "note.txt")])
    assert (reply.payload, reply.content_type, reply.user) == (b"one ", "text/plain", {"filename": "head-note.txt"})


def test_what_an_operation_is_told_of_its_call(at: Desk) -> None:
    caller = at.caller("ann")
    user = [("colour", "red"), ("colour", "blue"), ("Idempotency-Key", "k1")]
    assert caller.call("who", UserProperty=user, MessageExpiryInterval=10).value == {
        "principal": "anonymous",
        "wire": "mqtt",
        "client": "ann",
        "headers": [["colour", "red"], ["colour", "blue"]],
        "remaining": pytest.approx(10, abs=2),
    }


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_replies_in_an_ordinary_topic(at: Desk, qos: int) -> None:
    """Whoever subscribes to it has them, by whatever protocol."""
    caller, watcher = at.caller(), at.paho(level=4)
    watcher.connect()
    watcher.subscribe("answers/#", qos=1)
    caller.client.subscribe("answers/#", qos=2)
    reply = caller.call("add", {"a": 1, "b": 2}, qos, ResponseTopic="answers/room/1")
    assert (reply.topic, reply.value) == ("answers/room/1", 3)
    assert watcher.next().payload == b"3"
    (message,) = at.served.get("/topics/answers").json()["messages"]
    assert (message["key"], message["data"], message["correlation_id"]) == ("room.1", 3, "0")


def test_an_idempotency_key(at: Desk) -> None:
    caller = at.caller()
    for _ in range(3):
        assert caller.call("add", {"a": 1, "b": 2}, UserProperty=[("idempotency-key", "one")]).value == 3
    assert at.doors.calls == ["add"]
    other = caller.call("add", {"a": 5, "b": 2}, UserProperty=[("idempotency-key", "one")])
    assert other.error == "conflict"


def test_figures(at: Desk) -> None:
    caller = at.caller()
    caller.call("add", {"a": 1, "b": 2})
    caller.call("add", {"a": 1})
    caller.call("broken")
    text = at.served.get("/metrics").text
    assert 'polywire_operation_calls_total{operation="add"} 1.0' in text
    assert 'polywire_operation_errors_total{operation="broken"} 1.0' in text
    assert 'polywire_wire_received_total{wire="mqtt"} 3.0' in text
    assert 'polywire_wire_errors_total{wire="mqtt"} 2.0' in text
    assert 'polywire_wire_delivered_total{wire="mqtt"} 3.0' in text


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_problems(at: Desk) -> None:
    caller = at.caller()
    reply = caller.call("orders.place", {"number": "seven", "customer": ""})
    assert (reply.error, reply.content_type) == ("invalid", "application/problem+json")
    assert [wrong["path"] for wrong in reply.value["errors"]] == ["$.number", "$.customer"]
    reply = caller.call("orders.place", {"number": 0, "customer": "ann"})
    assert (reply.error, reply.value["detail"], reply.value["hint"]) == (
        "not_found", "there is no order 0", "count from 1"
    )  # fmt: skip
    assert caller.call("orders.place", {"number": -1, "customer": "ann"}).error == "conflict"
    assert caller.call("nothing").error == "not_found"
    assert caller.call("add", b"\xff{").error == "invalid"
    assert caller.call("add", b"[1, 2]").error == "invalid"
    assert caller.call("add", b"[" * 100_000).error == "invalid"


@pytest.mark.parametrize("operation", ["broken", "liar"])
def test_a_fault_is_not_explained_to_the_caller(at: Desk, operation: str) -> None:
    reply = at.caller().call(operation)
    assert reply.error == "internal"
    assert b"business" not in reply.payload
    assert b"object" not in reply.payload


REFUSED = {
    "wrong arguments": ("add", {"a": "one"}, INVALID),
    "no JSON": ("add", b"{", INVALID),
    "no such operation": ("nothing", {}, NO_SUCH_NAME),
    "its own not found": ("orders.place", {"number": 0, "customer": "ann"}, NO_SUCH_NAME),
    "its own conflict": ("orders.place", {"number": -1, "customer": "ann"}, 0x83),
    "its fault": ("broken", None, 0x80),
    "a stream": ("count", {"to": 3}, INVALID),
    "all right": ("add", {"a": 1, "b": 2}, 0),
}


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("case", REFUSED)
def test_without_a_response_topic_the_reason_code_tells(at: Desk, case: str, qos: int) -> None:
    operation, arguments, reason = REFUSED[case]
    client = at.raw()  # paho answers a PUBREC that refuses as if it did not
    client.connect()
    payload = arguments if isinstance(arguments, bytes) else json.dumps(arguments or {}).encode()
    for _ in range(2):  # an id that was refused is free
        client.publish(f"operations/{operation}", payload, qos, 1)
        answer = client.expect(PUBACK if qos == 1 else PUBREC)
        assert (answer.id, answer.body[2] if len(answer.body) > 2 else 0) == (1, reason)
        if qos == 2 and not reason:
            assert client.send(acknowledge(PUBREL, 1)).expect(PUBCOMP).id == 1
        client.send(ping()).expect(PINGRESP)


def test_the_reason_string_names_all_wrong_fields(at: Desk) -> None:
    client = at.raw()
    client.connect()
    client.publish("operations/orders.place", b'{"number": "x", "customer": ""}', 2, 1)
    answer = client.expect(PUBREC)
    assert answer.body[2] == INVALID
    assert b"$.number" in answer.body
    assert b"$.customer" in answer.body


def test_an_expiry_is_a_deadline(at: Desk) -> None:
    caller = at.caller()
    assert caller.client.client.publish(
        "operations/wait", b"{}", 1, False,
        properties(PacketTypes.PUBLISH, ResponseTopic=caller.replies, MessageExpiryInterval=3),
    ).rc == 0  # fmt: skip
    at.doors.await_calls()
    at.served.call(at.served.served.clock.advance, "4s")
    assert caller.next().error == "deadline_exceeded"
    assert at.running == 0
    assert caller.call("wait", MessageExpiryInterval=0).error == "deadline_exceeded"


# --- acknowledgements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("qos", "answer"), [(1, PUBACK), (2, PUBREC)])
def test_acknowledged_when_the_reply_is_on_its_way(at: Desk, qos: int, answer: int) -> None:
    client = at.raw()
    client.connect("ann")
    client.subscribe(("operations/replies/ann/#", 1))
    client.publish("operations/wait", b"", qos, 7, properties=b"\x08" + string("operations/replies/ann/r"))
    at.doors.await_calls()
    client.send(ping())
    assert client.expect(PINGRESP)
    at.doors.open.set()
    assert client.receive().payload == b'"waited "'
    assert client.expect(answer).id == 7


def test_an_operation_that_runs_holds_up_nothing(at: Desk) -> None:
    caller = at.caller()
    caller.ask("wait", {"name": "first"}, 0)
    at.doors.await_calls()
    assert caller.call("add", {"a": 1, "b": 2}).value == 3
    caller.client.subscribe("t", qos=1)
    caller.client.publish("t", b"x")
    assert caller.client.next().payload == b"x"
    at.doors.open.set()
    assert caller.next().value == "waited first"


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_older_clients_call_and_hear_nothing(at: Desk, level: int, qos: int) -> None:
    client = at.paho(level=level)
    client.connect()
    client.publish("operations/note", b'{"text": "done"}', qos)
    at.doors.await_calls()
    assert at.doors.calls == ["done"]
    client.publish("operations/note", b'{"words": "done"}', qos)
    client.publish("operations/broken", b"", qos)
    client.publish("operations/count", b'{"to": 3}', qos)
    at.served.until(lambda: at.served.core.counters.wire("mqtt").errors == 3)
    assert client.client.is_connected()


def test_what_cannot_be_refused_is_kept_with_the_reason(at: Desk) -> None:
    """As a message that no topic takes."""
    client, caller = at.paho(level=4), at.caller()
    client.connect()
    client.publish("operations/add", b'{"a": "one", "b": "two"}', 1)
    caller.client.publish("operations/add", b'{"a": "three"}', 0)
    at.served.until(lambda: at.served.core.counters.wire("mqtt").errors == 2)
    at.served.run(at.served.core.log.published())
    first, second = at.dead_letters()
    assert (first[1]["polywire-topic"], second[1]["polywire-topic"]) == ("operations/add", "operations/add")
    assert "$.a" in first[1]["polywire-reason"]
    assert "$.b" in first[1]["polywire-reason"]
    assert first[0] == {"a": "one", "b": "two"}
    assert second[0] == {"a": "three"}


def test_mosquitto_pub_calls(at: Desk, require: Callable[[str], str]) -> None:
    """It leaves at once: the call goes on."""
    command = [require("mosquitto_pub"), "-p", str(at.port), "-t", "operations/wait", "-m", '{"name": "left"}']
    subprocess.run(command, check=True, timeout=10)
    at.doors.await_calls()
    assert at.doors.calls == ["left"]
    assert at.running == 1
    at.doors.open.set()
    at.served.until(lambda: at.running == 0)


# --- connections that end --------------------------------------------------------------------------------------------


def test_a_call_goes_on_and_its_reply_finds_the_session(at: Desk) -> None:
    lasting = {"clean": False, "connecting": {"SessionExpiryInterval": 100}}
    caller = at.caller("ann", **lasting)
    caller.client.client.publish(
        "operations/wait", b"", 0, False, properties(PacketTypes.PUBLISH, ResponseTopic=caller.replies)
    )
    at.doors.await_calls()
    caller.client.cut()
    again = at.paho("ann", **lasting)
    assert again.connect().session_present
    at.doors.open.set()
    assert again.next().payload == b'"waited "'


def test_exactly_once_across_connections(at: Desk) -> None:
    """A repeat of a request that still runs is that request; its PUBREC goes to whoever is there then."""
    first = at.raw()
    lasting = {"clean": False, "properties": b"\x11\x00\x00\x00\x64"}
    first.connect("ann", **lasting)
    first.publish("operations/wait", b'{"name": "once"}', 2, 9)
    at.doors.await_calls()
    first.reset()
    second = at.raw()
    assert second.connect("ann", **lasting).body[0] == 1
    second.publish("operations/wait", b'{"name": "once"}', 2, 9, dup=True)
    assert second.send(ping()).expect(PINGRESP)
    at.doors.open.set()
    answer = second.expect(PUBREC)
    assert (answer.id, answer.body[2:3]) == (9, b"")
    assert second.send(acknowledge(PUBREL, 9)).expect(PUBCOMP).id == 9
    assert at.doors.calls == ["once"]


def test_exactly_once_across_restarts(tmp_path: Path, doors: Doors) -> None:
    """What has its PUBREC is not called again."""
    lasting = {"clean": False, "properties": b"\x11\x00\x00\x00\x64"}
    for present in (0, 1):
        with serving_hub(desk(doors), tmp_path) as served:
            for found in desk_of(served, doors):
                client = found.raw()
                assert client.connect("ann", **lasting).body[0] == present
                client.publish("operations/note", b'{"text": "once"}', 2, 9, dup=bool(present))
                assert client.expect(PUBREC).body[2:] == b""
                if present:
                    assert client.send(acknowledge(PUBREL, 9)).expect(PUBCOMP).body[2:] == b""
                    client.publish("operations/note", b'{"text": "twice"}', 2, 9)
                    assert client.expect(PUBREC).body[2:] == b""
    assert doors.calls == ["once", "twice"]


def test_what_was_cut_off_at_once_is_called(at: Desk) -> None:
    for number in range(50):
        client = at.raw(4)
        client.send(connect(), publish("operations/note", b'{"text": "%d"}' % number), b"\xe0\x00")
        client.close()
    at.doors.await_calls(50)
    assert sorted(at.doors.calls, key=int) == [str(number) for number in range(50)]


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(tmp_path: Path, doors: Doors) -> Iterator[Desk]:
    settings = ServeSettings()
    settings = msgspec.structs.replace(settings, mqtt=settings.mqtt.replace(max_calls=3))
    with serving_hub(desk(doors), tmp_path, settings) as served:
        yield from desk_of(served, doors)


def test_so_many_calls_of_a_connection(narrow: Desk) -> None:
    caller, other = narrow.caller(), narrow.caller()
    for _ in range(3):
        caller.ask("wait", qos=0)
    narrow.doors.await_calls(3)
    assert caller.ask("wait") == QUOTA
    for _ in range(30):
        caller.ask("wait", qos=0)
    assert caller.ask("wait") == QUOTA
    assert other.call("add", {"a": 1, "b": 2}).value == 3
    assert narrow.running == 3
    narrow.doors.open.set()
    assert [caller.next().value for _ in range(3)] == ["waited "] * 3
    narrow.served.until(lambda: narrow.running == 0)
    assert caller.call("add", {"a": 1, "b": 2}).value == 3


def test_an_older_client_with_too_many_sends_them_again(narrow: Desk) -> None:
    client = narrow.raw(4)
    client.connect("old", clean=False)
    for number in range(1, 4):
        client.publish("operations/wait", b'{"name": "%d"}' % number, 1, number)
    narrow.doors.await_calls(3)
    client.publish("operations/note", b'{"text": "late"}', 1, 4)
    assert client.rest() == []  # no PUBACK: it is not done
    narrow.doors.open.set()
    narrow.served.until(lambda: narrow.running == 0)
    again = narrow.raw(4)
    again.connect("old", clean=False)
    again.publish("operations/note", b'{"text": "late"}', 1, 4, dup=True)
    assert again.expect(PUBACK).id == 4


def test_a_request_is_no_larger_than_a_message(tmp_path: Path, doors: Doors) -> None:
    hub = desk(doors)
    hub.limits = msgspec.structs.replace(hub.limits, message_size=1_000)
    with serving_hub(hub, tmp_path) as served:
        for found in desk_of(served, doors):
            assert found.caller().call("size", b"x" * 1_001).error == "too_large"


# --- strict hubs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path: Path, doors: Doors) -> Iterator[Desk]:
    hub = desk(doors, strict=True)
    hub.topic("answers", int)
    with serving_hub(hub, tmp_path) as served:
        yield from desk_of(served, doors)


def test_a_strict_hub(strict: Desk) -> None:
    caller = strict.caller()
    assert caller.call("add", {"a": 1, "b": 2}).value == 3
    strict.doors.calls.clear()
    assert caller.ask("add", {"a": 1, "b": 2}, ResponseTopic="undeclared/x") == NO_SUCH_NAME
    assert strict.doors.calls == []
    caller.client.subscribe("answers/#", qos=1)
    assert caller.call("add", {"a": 1, "b": 2}, ResponseTopic="answers/x").value == 3
    assert caller.ask("greet", ResponseTopic="answers/x") == INVALID  # the topic takes numbers


# --- the hub stops ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stopping(tmp_path: Path, doors: Doors) -> Iterator[Desk]:
    """The test stops it."""
    hub = desk(doors)
    hub.limits = msgspec.structs.replace(hub.limits, drain=1_000)
    served = ServedHub(hub, tmp_path)
    served.start()
    yield from desk_of(served, doors)


def test_what_ends_while_the_hub_stops_is_answered(stopping: Desk) -> None:
    caller = stopping.caller()
    caller.client.subscribe("answers", qos=1)
    for topic in (caller.replies, "answers"):
        caller.ask("wait", {"name": topic}, 0, ResponseTopic=topic)
    stopping.doors.await_calls(2)
    thread = threading.Thread(target=stopping.served.stop)
    thread.start()
    stopping.served.until(lambda: not stopping.served.core.ready)
    stopping.doors.open.set()
    assert {caller.next().topic for _ in range(2)} == {caller.replies, "answers"}
    thread.join(20)
    assert caller.client.disconnected() == (True, 0x8B)


def test_what_does_not_end_is_interrupted_and_its_caller_told(stopping: Desk) -> None:
    caller, old = stopping.caller(), stopping.raw(4)
    caller.ask("wait", qos=0)
    old.connect("old")
    old.publish("operations/wait", b"", 1, 1)
    stopping.doors.await_calls(2)
    stopping.served.stop()
    assert caller.next().error == "unavailable"
    assert old.rest() == []  # not acknowledged: it is sent again, once the hub is back


# --- other clients ---------------------------------------------------------------------------------------------------


async def test_aiomqtt(at: Desk) -> None:
    async with aiomqtt.Client("127.0.0.1", at.port, protocol=aiomqtt.ProtocolVersion.V5, identifier="aio") as client:
        await client.subscribe("operations/replies/aio/#")
        values = {"ResponseTopic": "operations/replies/aio/1", "CorrelationData": b"1"}
        await client.publish(
            "operations/add", '{"a": 1, "b": 2}', qos=1, properties=properties(PacketTypes.PUBLISH, **values)
        )
        async with asyncio.timeout(10):
            message = await anext(aiter(client.messages))
    assert message.payload == b"3"
    assert message.properties is not None
    assert message.properties.CorrelationData == b"1"  # type: ignore[attr-defined]


async def test_gmqtt(at: Desk) -> None:
    found: asyncio.Future[tuple[bytes, dict[str, Any]]] = asyncio.get_running_loop().create_future()
    client = gmqtt.Client("gm")

    async def on_message(_client: Any, _topic: str, payload: bytes, _qos: int, said: dict[str, Any]) -> int:
        found.set_result((payload, said))
        return 0

    client.on_message = on_message
    client.on_subscribe = lambda *_: client.publish(
        "operations/add", {"a": 1, "b": 2}, qos=1, response_topic="answers/gm", correlation_data=b"g"
    )
    async with asyncio.timeout(10):
        await client.connect("127.0.0.1", at.port, version=MQTTv50)
        client.subscribe("answers/gm", qos=1)
        payload, said = await found
        await client.disconnect()
    assert payload == b"3"
    assert said["correlation_data"] == [b"g"]


MQTT_JS = """
const mqtt = require("mqtt");
(async () => {
  const client = await mqtt.connectAsync(process.argv[1], {
    protocolVersion: 5, clientId: "js", properties: { requestResponseInformation: true },
  });
  const own = "operations/replies/js/1";
  await client.subscribeAsync(own);
  const replies = [];
  const done = new Promise((resolve) => client.on("message", (topic, payload, { properties }) => {
    replies.push([payload.toString(), properties.correlationData.toString(), properties.userProperties ?? null]);
    if (replies.length === 2) resolve();
  }));
  for (const [id, body] of [["1", { a: 1, b: 2 }], ["2", { a: "one" }]]) {
    const properties = { responseTopic: own, correlationData: Buffer.from(id) };
    await client.publishAsync("operations/add", JSON.stringify(body), { qos: 1, properties });
  }
  await done;
  await client.endAsync();
  console.log(JSON.stringify(replies));
})();
"""


@pytest.mark.needs_node
def test_mqtt_js(at: Desk, node_clients: Path) -> None:
    command = ["node", "-e", MQTT_JS, f"mqtt://127.0.0.1:{at.port}"]
    done = subprocess.run(command, cwd=node_clients, capture_output=True, text=True, timeout=40, check=True)
    (first, second) = json.loads(done.stdout)
    assert first == ["3", "1", None]
    assert second[1:] == ["2", {"polywire-error": "invalid"}]
