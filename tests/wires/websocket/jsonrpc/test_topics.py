"""Publish, subscribe, consume over JSON-RPC, with a plain WebSocket client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from polywire import Hub
from polywire.core.limits import Limits
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import SubscriptionSettings
from tests.wires.websocket.jsonrpc.conftest import RpcHub, Serve


@dataclass
class Reading:
    sensor: str
    celsius: float


def greenhouse(**settings: Any) -> Hub:
    hub = Hub("greenhouse", strict=False, **settings)
    hub.topic("readings", Reading, key="sensor")
    return hub


async def stored(hub: RpcHub, topic: str) -> list[Any]:
    page = await hub.core.read(hub.system, topic, Earliest(), limit=10_000)
    return page.messages


# publish --------------------------------------------------------------------------------------------------------------


async def test_a_publish_is_answered_with_rests_receipt(serve: Serve) -> None:
    hub = await serve(greenhouse())
    async with hub.client() as client:
        receipt = await client.call("publish", topic="readings", data={"sensor": "kitchen", "celsius": 41.5})
    (message,) = await stored(hub, "readings")
    assert receipt.keys() == {"id", "position", "topic", "key", "time"}
    assert (receipt["position"], receipt["topic"], receipt["key"]) == ("1-0-0", "readings", "kitchen")
    assert (message.record.id, message.record.content_type) == (receipt["id"], "application/json")
    assert message.record.origin.wire == "websocket"


async def test_everything_a_message_can_say(serve: Serve) -> None:
    hub = await serve()
    said = {
        "data": "grün", "content_type": "text/plain; charset=utf-8", "key": "a.b", "id": "m-1", "priority": 7,
        "headers": {"one": "1", "many": ["a", 2, None, True, 1.5, {"base64": "/w=="}]}, "time": "2026-01-31T12:00:00Z",
        "expires_in": "1h", "reply_to": "answers", "correlation_id": "c-1", "retain": True,
    }  # fmt: skip
    async with hub.client() as client:
        await client.call("subscribe", topic="t")
        receipt = await client.call("publish", topic="t", **said)
        (shown,) = (await client.told("message"))["messages"]
    assert (receipt["id"], receipt["key"]) == ("m-1", "a.b")
    assert (await hub.core.latest(hub.system, "t", b"a.b")).record.payload == "grün".encode()
    expected = {**said, "producer_time": "2026-01-31T12:00:00.000Z", "retained": True}
    for name in ("time", "expires_in", "retain"):
        del expected[name]
    assert {name: shown[name] for name in expected} == expected
    (message,) = await stored(hub, "t")
    assert ("many", b"\xff") in message.record.headers


@pytest.mark.parametrize(
    ("said", "payload", "content_type"),
    [
        ({"data": {"a": 1}}, b'{"a": 1}', "application/json"),
        ({"data": None}, b"null", "application/json"),
        ({"data": "x"}, b'"x"', "application/json"),
        ({"data": "x", "content_type": "text/html"}, b"x", "text/html"),
        ({"data": "<a/>", "content_type": "application/xml"}, b"<a/>", "application/xml"),
        ({"data": [1], "content_type": "application/vnd.x+json"}, b"[1]", "application/vnd.x+json"),
        ({"data_base64": "/wA="}, b"\xff\x00", "application/octet-stream"),
        ({"data_base64": ""}, b"", "application/octet-stream"),
        ({"data_base64": "MQ==", "content_type": "application/json"}, b"1", "application/json"),
    ],
)
async def test_payloads(serve: Serve, said: dict[str, Any], payload: bytes, content_type: str) -> None:
    hub = await serve()
    async with hub.client() as client:
        await client.call("publish", topic="t", **said)
    (message,) = await stored(hub, "t")
    assert (message.record.payload, message.record.content_type) == (payload, content_type)


async def test_json_is_stored_as_it_was_spelled(serve: Serve) -> None:
    hub = await serve()
    data = '{ "big":12345678901234567890.50, "e":1E2,\t"u":"\\u00fc" }'
    async with hub.client() as client:
        await client.socket.send(
            f'{{"jsonrpc":"2.0","id":0,"method":"publish","params":{{"topic":"t", "data":{data} }}}}'
        )
        assert (await client.stray.get())["id"] == 0
    (message,) = await stored(hub, "t")
    assert message.record.payload == data.encode()


async def test_a_batch_is_all_or_nothing(serve: Serve) -> None:
    hub = await serve(greenhouse())
    good = {"data": {"sensor": "kitchen", "celsius": 1}}
    async with hub.client() as client:
        made = await client.call("publish", topic="readings", messages=[good, good])
        assert (made["count"], [one["position"] for one in made["receipts"]]) == (2, ["1-0-0", "1-0-1"])
        wrong = {"data": {"sensor": 5, "celsius": "hot"}}
        error = await client.error("publish", topic="readings", messages=[good, wrong, good, {"data": []}])
    assert error.code == -32602
    assert {path.rpartition(".")[0] for path in error.paths if "[1]" in path} == {"$.messages[1].data"}
    assert "$.messages[3]" in error.paths
    assert len(await stored(hub, "readings")) == 2


async def test_an_idempotency_key_publishes_once(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as client:
        first = await client.call("publish", topic="t", data=1, idempotency_key="k")
        again = await client.call("publish", topic="t", data=1, idempotency_key="k")
        assert again == {**first, "duplicate": True}
        error = await client.error("publish", topic="t", data=2, idempotency_key="k")
        assert (error.code, error.data["code"]) == (-32009, "conflict")
    assert len(await stored(hub, "t")) == 1


async def test_a_delayed_publish(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as client:
        await client.call("subscribe", topic="t")
        receipt = await client.call("publish", topic="t", data="later", delay="10m")
        assert receipt["position"] is None
        assert receipt["due"] == receipt["time"]
        hub.served.clock.advance("10m")
        assert await client.messages(1) == ["later"]


async def test_a_publish_without_an_id_is_stored_and_its_error_counted(serve: Serve) -> None:
    hub = await serve(greenhouse())
    async with hub.client() as client:
        await client.notify("publish", topic="readings", data={"sensor": "a", "celsius": 1})
        await client.notify("publish", topic="readings", data={})
        assert await client.call("publish", topic="readings", data={"sensor": "b", "celsius": 1})
        assert client.stray.empty()
    assert hub.core.counters.wire("websocket").errors == 1
    assert len(await stored(hub, "readings")) == 2


@pytest.mark.parametrize(
    ("params", "paths"),
    [
        ({}, ["$.topic"]),
        ([], ["$"]),
        ({"topic": "t"}, ["$.data"]),
        ({"topic": 1, "data": 1, "prio": 1, "priority": 300}, ["$.prio", "$.priority", "$.topic"]),
        ({"topic": "t", "data": 1, "data_base64": ""}, ["$.data_base64"]),
        ({"topic": "t", "data_base64": "@"}, ["$.data_base64"]),
        ({"topic": "t", "data_base64": "ew==", "content_type": "application/json"}, ["$.data_base64"]),
        ({"topic": "t", "data": {"a": 1}, "content_type": "text/plain"}, ["$.data"]),
        ({"topic": "t", "data": 1, "key": "a", "key_base64": "YQ=="}, ["$.key_base64"]),
        ({"topic": "t", "data": 1, "delay": "soon", "time": "noon"}, ["$.delay", "$.time"]),
        ({"topic": "t", "data": 1, "expires_in": -1}, ["$.expires_in"]),
        ({"topic": "t", "data": 1, "id": "a", "idempotency_key": "b"}, ["$.id"]),
        ({"topic": "t", "data": 1, "id": ""}, ["$.id"]),
        ({"topic": "t", "data": 1, "id": "a\n"}, ["$.id"]),
        ({"topic": "t", "data": 1, "content_type": "ü"}, ["$.content_type"]),
        ({"topic": "t", "data": 1, "headers": {"a": {"b": 1}, "c": 1 << 64}}, ["$.headers.a", "$.headers.c"]),
        ({"topic": "t", "data": 1, "headers": {"d": {"base64": "@"}, "e": [[]]}}, ["$.headers.d", "$.headers.e"]),
        ({"topic": "t", "messages": []}, ["$.messages"]),
        ({"topic": "t", "messages": [{"data": 1}], "key": "a", "data": 1}, ["$.data", "$.key"]),
        ({"topic": "t", "messages": [{}, {"data": 1, "delay": 5}, 7]}, ["$.messages[1].delay", "$.messages[2]"]),
        ({"topic": "t", "messages": [{}, {"data": 1, "time": "noon"}]}, ["$.messages[0].data", "$.messages[1].time"]),
    ],
)  # fmt: skip
async def test_wrong_parameters_are_all_named(serve: Serve, params: Any, paths: list[str]) -> None:
    hub = await serve()
    async with hub.client() as client:
        error = await client.error("publish", params)
        assert error.code == -32602
        assert sorted(error.paths) == paths
        assert await client.call("ping") == "pong"
    assert [info.name for info in hub.core.topics(hub.system) if info.name == "t" and info.count] == []


async def test_errors_carry_what_every_wire_says(serve: Serve) -> None:
    hub = await serve(Hub("strict", strict=True, limits=Limits(message_size=100)))
    async with hub.client() as client:
        error = await client.error("publish", topic="t", data=1)
        assert (error.code, error.data["code"], error.data["title"]) == (-32004, "not_found", "Not found")
    hub.core.catalog.strict = False
    async with hub.client() as client:
        assert (await client.error("publish", topic="t", data="x" * 200)).code == -32013
        assert (await client.error("publish", topic="_dead", data=1)).code == -32602


# subscribe ------------------------------------------------------------------------------------------------------------


async def test_a_stream_from_a_place(serve: Serve) -> None:
    hub = await serve()
    await hub.publish("t", 1, 2, 3)
    async with hub.client() as client:
        opened = await client.call("subscribe", topic="t", from_="earliest")
        assert opened == {"subscription": 1, "topic": "t", "cursor": "1-0--1"}
        told = await client.told("message")
        assert told["subscription"] == 1
        assert [message["data"] for message in told["messages"]] == [1, 2, 3]
        assert told["cursor"] == "1-0-2"
        middle = await client.call("subscribe", topic="t", from_="1-0-1")
        assert middle["cursor"] == "1-0-1"
        assert await client.messages(1) == [3]
        assert (await client.call("subscribe", topic="t"))["cursor"] == "1-0-2"
        await client.call("subscribe", topic="t", from_="2020-01-01T00:00:00Z")
        assert await client.messages(3) == [1, 2, 3]


async def test_messages_come_to_each_subscription_until_it_ends(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as client:
        for pattern in (None, "a.*", "b"):
            await client.call("subscribe", topic="t", **({} if pattern is None else {"key": pattern}))
        await hub.publish("t", 1, key="a.x")
        told = [await client.told("message") for _ in range(2)]
        assert sorted(one["subscription"] for one in told) == [1, 2]
        assert await client.call("unsubscribe", subscription=1) == {"unsubscribed": 1}
        await hub.publish("t", 2, key="b")
        assert (await client.told("message"))["subscription"] == 3
        error = await client.error("unsubscribe", subscription=1)
        assert (error.code, error.paths) == (-32004, ["$.subscription"])
        assert client.queue("message").empty()


async def test_credit_is_how_many_come(serve: Serve) -> None:
    hub = await serve()
    await hub.publish("t", *range(10))
    async with hub.client() as client:
        await client.call("subscribe", topic="t", from_="earliest", credit=3)
        assert await client.messages(3) == [0, 1, 2]
        assert await client.call("credit", subscription=1, credit=2) == {"credit": 2}
        assert await client.messages(2) == [3, 4]
        await hub.publish("t", 10)
        assert await client.call("ping") == "pong"
        assert client.queue("message").empty()
        await client.call("credit", subscription=1, credit=100)
        assert await client.messages(6) == [5, 6, 7, 8, 9, 10]
        await hub.publish("t", 11)
        assert await client.messages(1) == [11]
        await client.call("subscribe", topic="t")
        assert (await client.error("credit", subscription=2, credit=1)).code == -32009


async def test_credit_with_a_filter_and_what_is_appended_meanwhile(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as client:
        await client.call("subscribe", topic="t", key="a", credit=1)
        for n in range(20):
            await hub.publish("t", n, key="a" if n % 2 else "b")
        got = await client.messages(1)
        for _ in range(9):
            await client.call("credit", subscription=1, credit=1)
            got += await client.messages(1)
        assert got == list(range(1, 20, 2))


@pytest.mark.parametrize(("cursor", "reason"), [("9-0-0", "epoch"), ("1-0-500", "ahead")])
async def test_a_stale_cursor_is_told_and_the_stream_goes_on(serve: Serve, cursor: str, reason: str) -> None:
    hub = await serve()
    here = await hub.publish("t", 1)
    async with hub.client() as client:
        opened = await client.call("subscribe", topic="t", from_=cursor)
        told = await client.told("reset")
        assert told == {"subscription": 1, "reason": reason, "oldest": "1-0--1", "newest": here, "resumed": here}
        assert opened["cursor"] == here
        await hub.publish("t", 2)
        assert await client.messages(1) == [2]


async def test_a_reader_that_retention_passes_is_told(serve: Serve) -> None:
    hub = Hub("memory", strict=False)
    hub.topic("t", durability="memory", hard_limit=4_000)
    running = await serve(hub)
    async with running.client() as client:
        await client.call("subscribe", topic="t", credit=1)
        for n in range(200):
            await running.publish("t", n)
        assert await client.messages(1) == [0]
        await client.call("credit", subscription=1, credit=1_000)
        told = await client.told("reset")
        assert (told["subscription"], told["reason"]) == (1, "expired")
        rest: list[Any] = []
        while not rest or rest[-1]["data"] != 199:
            rest += (await client.told("message"))["messages"]
        assert [one["data"] for one in rest] == list(range(rest[0]["data"], 200))


async def test_a_deleted_topic_ends_its_subscriptions(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as client:
        await client.call("subscribe", topic="t")
        await client.call("subscribe", topic="other")
        await hub.core.delete_topic(hub.system, "t")
        told = await client.told("ended")
        assert (told["subscription"], told["error"]["code"]) == (1, -32004)
        assert (await client.error("unsubscribe", subscription=1)).code == -32004
        await hub.publish("other", 1)
        assert await client.messages(1) == [1]


async def test_many_messages_in_order_to_many(serve: Serve) -> None:
    hub = await serve()
    async with hub.client() as one, hub.client() as two, hub.client(compression="deflate") as three:
        for client in (one, two, three):
            await client.call("subscribe", topic="t")
        for n in range(0, 5_000, 500):
            await hub.publish("t", *[f"{m} " + "x" * (m % 50) for m in range(n, n + 500)])
        for client in (one, two, three):
            got = await client.messages(5_000)
            assert [int(text.split()[0]) for text in got] == list(range(5_000))


async def test_a_huge_batch_comes_in_notifications_of_bounded_size(serve: Serve) -> None:
    hub = await serve(jsonrpc={"notification_size": 64 << 10}, websocket={"out_buffer": 128 << 10})
    async with hub.client() as client:
        await client.call("subscribe", topic="t")
        await hub.publish("t", *["x" * 10_000] * 300)
        sizes = []
        while sum(sizes) < 300:
            sizes.append(len((await client.told("message"))["messages"]))
        assert sum(sizes) == 300
        assert max(sizes) <= 7


# queues ---------------------------------------------------------------------------------------------------------------


async def queue(hub: RpcHub, name: str = "q", topic: str = "t", **settings: Any) -> None:
    asked = SubscriptionSettings(name=name, sources=[Source(topic)], **settings)
    await hub.core.subscriptions.create(hub.system, asked, Earliest())


async def test_consume_and_acknowledge(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", 1, 2, 3)
    async with hub.client() as client:
        opened = await client.call("consume", queue="q")
        assert opened == {"subscription": 1, "queue": "q", "credit": 256}
        first, second, third = await client.deliveries(3)
        assert first.keys() == {"delivery", "attempt", "redelivered", "message"}
        assert (first["attempt"], first["redelivered"], first["message"]["data"]) == (1, False, 1)
        assert first["message"]["topic"] == "t"
        assert await client.call("ack", delivery=first["delivery"]) == {"settled": 1}
        both = [second["delivery"], third["delivery"]]
        assert await client.call("ack", deliveries=both) == {"settled": 2}
    assert hub.core.subscriptions.info(hub.system, "q").pending == 0


async def test_a_queue_is_made_where_its_topic_is_given(serve: Serve) -> None:
    hub = await serve()
    await hub.publish("t", 1)
    described = {"queue": "q", "topic": "t", "from": "earliest", "attempts": 2, "ordered": True, "ack_timeout": "1m"}
    async with hub.client() as client:
        assert (await client.error("consume", queue="q")).code == -32004
        await client.call("consume", described)
        (one,) = await client.deliveries(1)
        assert (await client.call("consume", described))["subscription"] == 2, "the same again joins"
        conflict = await client.error("consume", {**described, "attempts": 3})
        assert conflict.code == -32009
        await client.call("nack", delivery=one["delivery"])
        (again,) = await client.deliveries(1)
        assert (again["attempt"], again["redelivered"]) == (2, True)
        await client.call("nack", delivery=again["delivery"])
        await hub.until(lambda: hub.core.subscriptions.dead_count("q") == 1)
    settings = hub.core.subscriptions.info(hub.system, "q").settings
    assert (settings.attempts, settings.ordered, settings.ack_timeout) == (2, True, 60_000)


async def test_nack_later_and_reject(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", 1, 2)
    async with hub.client() as client:
        await client.call("consume", queue="q", credit=2)
        one, two = await client.deliveries(2)
        await client.call("nack", delivery=one["delivery"], after="1h")
        await client.call("reject", delivery=two["delivery"], reason="no good")
        assert hub.core.subscriptions.info(hub.system, "q").delayed == 1
        (dead,) = await hub.core.subscriptions.peek(hub.system, "q", kind="dead")
        assert "no good" in str(dead.message.record.headers)
        hub.served.clock.advance("1h")
        (again,) = await client.deliveries(1)
        assert (again["attempt"], again["message"]["data"]) == (2, 1)


async def test_credit_bounds_what_is_unsettled(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", *range(10))
    async with hub.client() as client:
        await client.call("consume", queue="q", credit=2)
        held = await client.deliveries(2)
        assert await client.call("ping") == "pong"
        assert client.queue("delivery").empty()
        await client.call("ack", delivery=held[0]["delivery"])
        (third,) = await client.deliveries(1)
        assert third["message"]["data"] == 2
        assert await client.call("credit", subscription=1, credit=3) == {"credit": 5}
        assert [one["message"]["data"] for one in await client.deliveries(3)] == [3, 4, 5]


async def test_unknown_deliveries_settle_nothing(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await queue(hub, "other")
    await hub.publish("t", 1)
    async with hub.client() as client, hub.client() as thief:
        await client.call("consume", queue="q")
        await thief.call("consume", queue="other")
        (mine,) = await client.deliveries(1)
        (theirs,) = await thief.deliveries(1)
        for unknown in ("", "1", "x.y", "1.5-a", "99." + "9" * 5_000, theirs["delivery"], "1." + mine["delivery"]):
            error = await client.error("ack", deliveries=[mine["delivery"], unknown])
            assert (error.code, len(error.data["unknown"])) == (-32004, 1)
        assert hub.core.subscriptions.info(hub.system, "q").unsettled == 1
        for params in ({}, {"delivery": "a", "deliveries": ["b"]}, {"deliveries": []}, {"delivery": 5}):
            assert (await client.error("ack", params)).code == -32602
        await client.call("ack", delivery=mine["delivery"])
        assert (await client.error("ack", delivery=mine["delivery"])).code == -32004


async def test_a_connection_that_ends_returns_what_it_had(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", *range(5))
    async with hub.client() as client, hub.client() as heir:
        await client.call("consume", queue="q", credit=5)
        held = await client.deliveries(5)
        await heir.call("consume", queue="q")
        await client.notify("ack", delivery=held[0]["delivery"])
        await client.call("ping")
        client.socket.transport.abort()
        inherited = await heir.deliveries(4)
        assert [one["message"]["data"] for one in inherited] == [1, 2, 3, 4]
        assert {(one["attempt"], one["redelivered"]) for one in inherited} == {(1, True)}, "that was no attempt"
    await hub.until(lambda: hub.connections == 0)


async def test_unsubscribing_returns_them_too(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", 1)
    async with hub.client() as client:
        await client.call("consume", queue="q")
        await client.deliveries(1)
        await client.call("unsubscribe", subscription=1)
        await client.call("consume", queue="q")
        (again,) = await client.deliveries(1)
        assert (again["delivery"].partition(".")[0], again["attempt"]) == ("2", 1)


async def test_a_deleted_queue_is_told(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    async with hub.client() as client:
        await client.call("consume", queue="q")
        await hub.core.subscriptions.delete(hub.system, "q")
        told = await client.told("ended")
        assert (told["subscription"], told["error"]["code"]) == (1, -32004)


async def test_acknowledged_without_an_answer(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    await hub.publish("t", *range(100))
    async with hub.client() as client:
        await client.call("consume", queue="q", credit=10)
        seen = 0
        while seen < 100:
            for delivery in (await client.told("delivery"))["deliveries"]:
                await client.notify("ack", delivery=delivery["delivery"])
                seen += 1
        assert await client.call("ping") == "pong"
    assert hub.core.subscriptions.info(hub.system, "q").pending == 0


async def test_consumers_compete(serve: Serve) -> None:
    hub = await serve()
    await queue(hub)
    async with hub.client() as one, hub.client() as two:
        for client in (one, two):
            await client.call("consume", queue="q", credit=5)
        await hub.publish("t", *range(10))
        found = [*await one.deliveries(5), *await two.deliveries(5)]
        assert sorted(delivery["message"]["data"] for delivery in found) == list(range(10))


# topics, ping, rights -------------------------------------------------------------------------------------------------


async def test_topics_a_page_at_a_time(serve: Serve) -> None:
    hub = await serve()
    for name in "abcde":
        await hub.publish(name, 1)
    async with hub.client() as client:
        first = await client.call("topics", limit=3)
        assert ([one["name"] for one in first["topics"]], first["next"]) == (["a", "b", "c"], "c")
        rest = await client.call("topics", after="c")
        assert ([one["name"] for one in rest["topics"]], rest["next"]) == (["d", "e"], None)
        assert first["topics"][0]["cursors"] == {"oldest": "1-0--1", "newest": "1-0-0"}


async def refused(hub: RpcHub, path: str = "", **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with hub.client(**options):
            pass
    return refusal.value.response.status_code


async def test_rights_are_asked_for_each_request(serve: Serve) -> None:
    hub = await serve()
    key = await hub.key("publish:t.#", "subscribe:t.a")
    assert await refused(hub) == 401
    assert await refused(hub, additional_headers={"X-API-Key": "wrong"}) == 401
    async with hub.client(additional_headers=key) as client:
        await client.call("publish", topic="t", data=1)
        assert (await client.error("publish", topic="u", data=1)).code == -32003
        assert (await client.error("subscribe", topic="t")).code == -32003
        await client.call("subscribe", topic="t", key="a")
        assert (await client.error("consume", queue="q", topic="t")).code == -32003
        assert [one["name"] for one in (await client.call("topics"))["topics"]] == ["t"]
        assert (await client.error("call", operation="add")).code == -32003
        assert (await client.error("add")).code == -32003, "who may not call does not hear what there is"


async def test_revocation_reaches_open_subscriptions(serve: Serve) -> None:
    hub = await serve()
    anybody = await hub.key("admin:#", name="admin")
    del anybody
    key = await hub.key("*:t.#", "manage:q", name="client")
    async with hub.client(additional_headers=key) as client:
        await client.call("consume", queue="q", topic="t")
        await client.call("subscribe", topic="t")
        await hub.core.access.revoke_key(hub.system, "client")
        await asyncio.wait_for(client.socket.wait_closed(), 10)
        assert client.socket.close_code == 1008
    assert hub.core.subscriptions.info(hub.system, "q").consumers == 0
    assert hub.core.metrics()["followers"] == 0


async def test_narrowed_rights_end_what_they_do_not_cover(serve: Serve) -> None:
    hub = await serve(Hub("open", strict=False, anonymous_allow=["subscribe:open.#"]))
    async with hub.client() as client:
        await client.call("subscribe", topic="open")
        await client.call("subscribe", topic="closed")
        await client.call("consume", queue="q", topic="closed")
        await hub.key("admin:#")
        ended = {(await client.told("ended"))["subscription"] for _ in range(2)}
        assert ended == {2, 3}
        await hub.publish("open", 1)
        assert await client.messages(1) == [1]
        assert (await client.error("publish", topic="open", data=1)).code == -32001


async def test_connections_of_a_key_are_bounded(serve: Serve) -> None:
    hub = await serve(max_connections_per_principal=2)
    key = await hub.key("subscribe:#")
    async with hub.client(additional_headers=key), hub.client(additional_headers=key) as two:
        assert await refused(hub, additional_headers=key) == 429
        await two.socket.close()
        await hub.until(lambda: hub.connections == 1)
        async with hub.client(additional_headers=key):
            pass
