"""Where replies to calls over MQTT go: response topics, and streams to them (MQTT 5 §4.10)."""

from __future__ import annotations

import pytest

from tests.wires.mqtt.calling import Desk
from tests.wires.mqtt.raw_client import DISCONNECT, PINGRESP, ping, string

INVALID, NO_SUBSCRIBERS, NOT_AUTHORIZED, NO_SUCH_NAME, NO_SUCH_FILTER = 0x99, 0x10, 0x87, 0x90, 0x8F


# --- response topics -------------------------------------------------------------------------------------------------


def test_nobody_reads_or_uses_the_replies_of_another(at: Desk) -> None:
    caller = at.caller("ann")
    at.caller("anna")
    for name in ("operations/replies/anna", "operations/replies/anna/r", "operations/replies", "operations/replies/"):
        assert caller.ask("add", {"a": 1, "b": 2}, ResponseTopic=name) == NO_SUCH_NAME, name
    for name in (
        "operations/replies/anna/#",
        "operations/replies/anna",
        "operations/replies/#",
        "operations/replies/+/r",
    ):
        assert caller.client.subscribe(name, qos=1) == [NOT_AUTHORIZED], name
    for name in (
        "operations/#",
        "operations/add",
        "operations/+/ann/r",
        "$share/g/operations/replies/ann/#",
        "operations",
    ):
        assert caller.client.subscribe(name, qos=1) == [0x8F], name
    assert at.doors.calls == []


def test_wildcards_do_not_mean_replies_to_others(at: Desk) -> None:
    spy, caller = at.caller("spy"), at.caller("ann")
    spy.client.subscribe("#", "+/replies/ann/r", "+/+/+/+", qos=1)
    assert caller.call("add", {"a": 1, "b": 2}).value == 3
    assert spy.client.payloads("t") == []


def test_no_operation_is_a_response_topic(at: Desk) -> None:
    caller = at.caller()
    for name in ("operations/add", "operations/nothing", "$SYS/broker/version", "operations"):
        assert caller.ask("note", {"text": "x"}, ResponseTopic=name) == NO_SUCH_NAME, name
    assert at.doors.calls == []


@pytest.mark.parametrize("name", ["answers/+", "answers/#", ""])
def test_a_response_topic_is_a_topic_name(at: Desk, name: str) -> None:
    # [MQTT-3.3.2-14]
    client = at.raw()
    client.connect()
    client.publish("operations/note", b'{"text": "x"}', 1, 1, properties=b"\x08" + string(name))
    (end,) = client.rest()
    assert (end.kind, end.body[0]) == (DISCONNECT, 0x82)
    assert at.doors.calls == []


def test_who_is_not_subscribed_is_told_so(at: Desk) -> None:
    caller = at.caller()
    caller.client.unsubscribe(f"{caller.own}/#")
    assert caller.ask("add", {"a": 1, "b": 2}) == NO_SUBSCRIBERS
    assert caller.ask("add", {"a": "one"}) == INVALID
    caller.client.subscribe(caller.own, qos=0)
    assert caller.call("add", {"a": 1, "b": 2}, ResponseTopic=caller.own).value == 3


def test_a_reply_is_no_larger_than_its_caller_takes(at: Desk) -> None:
    caller = at.caller(connecting={"MaximumPacketSize": 500})
    reply = caller.call("greet", {"times": 100})
    assert reply.error == "too_large"
    assert caller.call("greet").value == "hello you"


def test_an_id_that_is_no_topic_level(at: Desk) -> None:
    caller = at.caller("a/+b #ü")
    assert "+" not in caller.own
    assert caller.call("add", {"a": 1, "b": 2}).value == 3


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["", "answers/ann"])
def test_a_stream(at: Desk, topic: str) -> None:
    caller = at.caller()
    caller.client.subscribe("answers/#", qos=1)
    topic = topic or caller.replies
    assert caller.ask("count", {"to": 3}, ResponseTopic=topic, CorrelationData=b"s") == 0
    found = [caller.next() for _ in range(4)]
    assert [(reply.payload, reply.stream) for reply in found] == [
        (b"0", "item"), (b"1", "item"), (b"2", "item"), (b"", "end")
    ]  # fmt: skip
    assert {(reply.correlation, reply.topic) for reply in found} == {(b"s", topic)}


def test_a_stream_that_ends_with_an_error(at: Desk) -> None:
    caller = at.caller()
    assert caller.ask("count", {"to": 7}) == 0
    found = [caller.next() for _ in range(8)]
    assert [reply.stream for reply in found] == ["item"] * 7 + [None]
    assert found[-1].error == "not_found"


def test_a_stream_ends_with_its_subscription(at: Desk) -> None:
    caller = at.caller()
    assert caller.ask("ticks") == 0  # acknowledged with its first item
    assert caller.next().value == "tick"
    caller.client.unsubscribe(f"{caller.own}/#")
    at.doors.open.set()
    at.served.until(lambda: "ended" in at.doors.calls)
    at.served.until(lambda: at.running == 0)


@pytest.mark.parametrize("topic", ["", "answers/ann"])
def test_a_stream_ends_with_its_connection(at: Desk, topic: str) -> None:
    caller = at.caller()
    caller.client.subscribe("answers/#", qos=1)
    assert caller.ask("ticks", ResponseTopic=topic or caller.replies) == 0
    assert caller.next().value == "tick"
    at.doors.await_calls()
    caller.client.cut()
    at.served.until(lambda: at.running == 0)
    assert at.doors.calls[-1] == "ended"


def test_a_stream_is_no_faster_than_its_reader(at: Desk) -> None:
    client = at.raw()
    client.connect("ann")
    client.subscribe(("operations/replies/ann", 0))
    client.publish("operations/flood", b'{"size": 100000}', 0, properties=b"\x08" + string("operations/replies/ann"))
    other = at.raw()
    other.connect()
    counts = [0, 1]
    while len(set(counts[-20:])) > 1:  # until nothing more is made, however often the loop turns
        other.send(ping()).expect(PINGRESP)
        counts.append(len(at.doors.calls))
    seen = counts[-1]
    assert 0 < seen < 200
    for _ in range(seen + 50):
        assert len(client.receive().payload) == 100_002
    client.close()
    at.served.until(lambda: at.running == 0)
