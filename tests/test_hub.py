"""The public API: topics and handlers of an application, on a served hub."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import pytest

import polywire
from polywire import (
    Again,
    Conflict,
    Delivery,
    Depends,
    Hub,
    Invalid,
    Limits,
    Message,
    NotFound,
    Principal,
    Receipt,
    Reject,
    Retry,
    Topic,
    Unavailable,
)
from polywire.core.message import Message as StoredMessage
from polywire.core.streams import Earliest, StaleCursor
from polywire.testing import Served, serve


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    sensor: str
    text: str


@dataclass
class Numbered:
    number: int
    text: str = ""


HOT = Reading("kitchen", 41.5)
COLD = Reading("cellar", 7.0)


def make(**settings: Any) -> tuple[Hub, Topic[Reading]]:
    hub = Hub("test", **settings)
    return hub, hub.topic("readings", Reading, key="sensor")


async def stored(hub: Hub, topic: str) -> list[StoredMessage]:
    page = await hub.core.read(hub.core.access.system, topic, Earliest(), limit=1_000)
    return page.messages


async def payloads(hub: Hub, topic: str) -> list[bytes]:
    return [message.record.payload for message in await stored(hub, topic)]


async def dead_letters(hub: Hub, name: str) -> list[dict[str, Any]]:
    """The headers of each."""
    peeked = await hub.core.subscriptions.peek(hub.core.access.system, name, kind="dead")
    return [dict(one.message.record.headers) for one in peeked]


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.002)


async def post(t: Served, topic: str, value: Any, **query: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession(t.http_url) as session:
        async with session.post(f"/topics/{topic}", json=value, params=query) as answer:
            return answer.status, await answer.json()


# --- publish ---------------------------------------------------------------------------------------------------------


async def test_publish_and_follow() -> None:
    hub, readings = make()
    async with serve(hub):
        receipt = await readings.publish(HOT, headers={"site": "north"})
        await readings.publish(COLD)
        seen: list[Message[Reading]] = []
        async for message in readings.follow("earliest"):
            seen.append(message)
            if len(seen) == 2:
                break
        first = seen[0]
        assert first.value == HOT
        assert (first.key, first.topic, first.id) == ("kitchen", "readings", receipt.id)
        assert (first.position, first.headers) == (receipt.position, [("site", "north")])
        assert abs(first.time - datetime.now(UTC)) < timedelta(minutes=1)
        assert seen[1].value == COLD


async def test_follow_what_comes() -> None:
    hub, readings = make()
    async with serve(hub):
        await readings.publish(COLD)

        async def watch() -> Reading:
            async for message in readings.follow(key="kitchen"):
                return message.value
            raise AssertionError("it ended")

        watching = asyncio.create_task(watch())
        await until(lambda: hub.core.topic_info(hub.core.access.system, "readings").followers)
        await readings.publish_many([COLD, HOT])
        assert await watching == HOT


async def test_follow_more_than_it_holds_in_memory() -> None:
    hub, readings = make()
    async with serve(hub):
        count = 0
        for first in range(0, 5_000, 1_000):
            await readings.publish_many([Reading("s", number) for number in range(first, first + 1_000)])
        async for message in readings.follow("earliest"):
            assert message.value.celsius == count
            count += 1
            if count == 5_000:
                break


async def test_follow_from_a_cursor_and_from_a_time() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        await readings.publish(COLD)
        async for message in readings.follow("earliest"):
            cursor = message.cursor
            break
        t.clock.advance("1h")
        await readings.publish(HOT)
        between = datetime.now(UTC) + timedelta(minutes=30)
        for start in (cursor, str(cursor), between):
            async for message in readings.follow(start):
                assert message.value == HOT
                break
        with pytest.raises(StaleCursor):
            async for _ in readings.follow("9-5"):
                pass
        with pytest.raises(Invalid, match="not a place to start from"):
            async for _ in readings.follow("nowhere"):
                pass


async def test_follow_ends_with_the_hub() -> None:
    hub, readings = make()
    async with serve(hub):
        following = asyncio.create_task(_all(readings))
        await until(lambda: hub.core.topic_info(hub.core.access.system, "readings").followers)
        await readings.publish(HOT)
    assert await following == [HOT]


async def _all(topic: Topic[Any]) -> list[Any]:
    return [message.value async for message in topic.follow()]


async def test_publish_many_is_all_or_nothing() -> None:
    hub, readings = make()
    async with serve(hub):
        wrong: Any = {"sensor": "a", "celsius": "warm"}
        with pytest.raises(Invalid) as caught:
            await readings.publish_many([HOT, wrong])
        assert [field.path for field in caught.value.fields] == ["$[1].celsius"]
        assert await payloads(hub, "readings") == []
        receipts = await readings.publish_many([HOT, COLD])
        assert [receipt.key for receipt in receipts] == [b"kitchen", b"cellar"]
        assert await readings.publish_many([]) == []


async def test_an_id_is_published_once() -> None:
    hub, readings = make()
    async with serve(hub):
        first = await readings.publish(HOT, id="one")
        second = await readings.publish(HOT, id="one")
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.position == first.position
        with pytest.raises(Conflict):
            await readings.publish(COLD, id="one")
        assert len(await stored(hub, "readings")) == 1


async def test_a_delay() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        receipt = await readings.publish(HOT, delay="10m")
        assert receipt.position is None
        t.clock.advance("9m")
        await t.settled()
        assert await stored(hub, "readings") == []
        t.clock.advance("2m")
        await _until_stored(hub, "readings", 1)


async def _until_stored(hub: Hub, topic: str, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(await stored(hub, topic)) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def test_send_from_a_thread() -> None:
    hub, readings = make()
    async with serve(hub):
        receipt = await asyncio.to_thread(readings.send, HOT, headers={"a": "b"})
        assert receipt.position is not None
        assert await payloads(hub, "readings") == [b'{"sensor":"kitchen","celsius":41.5}']
        with pytest.raises(RuntimeError, match="await publish"):
            readings.send(HOT)
        with pytest.raises(Invalid):
            await asyncio.to_thread(readings.send, HOT, key="elsewhere")
    with pytest.raises(RuntimeError, match="start the hub first"):
        await asyncio.to_thread(readings.send, HOT)


async def test_publish_before_the_start() -> None:
    _, readings = make()
    with pytest.raises(Unavailable, match="has not started"):
        await readings.publish(HOT)


# --- keys, types -----------------------------------------------------------------------------------------------------


async def test_the_field_is_the_key() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        assert (await readings.publish(HOT)).key == b"kitchen"
        status, receipt = await post(t, "readings", {"sensor": "attic", "celsius": 1})
        assert (status, receipt["key"]) == (201, "attic")


async def test_the_key_fills_a_missing_field() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        status, _ = await post(t, "readings", {"celsius": 1}, key="attic")
        assert status == 201
        async for message in readings.follow("earliest"):
            assert message.value == Reading("attic", 1)
            break


async def test_key_and_field_that_differ() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        with pytest.raises(Invalid, match="differ"):
            await readings.publish(HOT, key="attic")
        assert (await readings.publish(HOT, key="kitchen")).key == b"kitchen"
        status, problem = await post(t, "readings", {"sensor": "a", "celsius": 1}, key="b")
        assert status == 400
        assert problem["errors"][0]["path"] == "$.sensor"


async def test_wrong_values_are_refused() -> None:
    hub, readings = make()
    async with serve(hub) as t:
        wrong: Any = {"sensor": "a"}
        with pytest.raises(Invalid, match="celsius"):
            await readings.publish(wrong)
        unwritable: Any = object()
        with pytest.raises(Invalid, match="cannot be written"):
            await readings.publish(unwritable)
        status, problem = await post(t, "readings", {"sensor": "a", "celsius": "warm"})
        assert (status, problem["errors"][0]["path"]) == (400, "$.celsius")
        assert await stored(hub, "readings") == []


async def test_latest_keeps_the_last_of_each_key() -> None:
    hub = Hub()
    readings = hub.topic("readings", Reading, key="sensor", latest=True)
    async with serve(hub):
        await readings.publish_many([HOT, COLD, Reading("kitchen", 3)])
        who = hub.core.access.system
        kept = await hub.core.latest_all(who, "readings")
        assert [message.record.payload for message in kept] == [
            b'{"sensor":"cellar","celsius":7.0}',
            b'{"sensor":"kitchen","celsius":3.0}',
        ]


async def test_the_removal_of_a_retained_message_is_no_reading() -> None:
    hub = Hub()
    readings = hub.topic("readings", Reading, key="sensor", latest=True)
    seen: list[Any] = []

    @hub.subscribe(readings)
    async def typed(reading: Reading) -> None:
        seen.append(reading)

    @hub.subscribe(readings)
    async def optional(reading: Reading | None) -> None:
        seen.append(reading)

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        async with aiohttp.ClientSession(t.http_url) as session:
            async with session.post("/topics/readings?key=kitchen", headers={"Polywire-Retain": "true"}) as answer:
                assert answer.status == 201, await answer.text()
        await t.settled()
        assert seen == [HOT, HOT, None]
        assert await dead_letters(hub, "typed") == []
        with pytest.raises(NotFound):
            await hub.core.latest(hub.core.access.system, "readings", b"kitchen")


async def test_a_memory_topic_is_empty_after_a_restart(tmp_path: Path) -> None:
    hub = Hub()
    chat = hub.topic("chat", str, durability="memory")
    async with serve(hub, data=str(tmp_path)):
        first = await chat.publish("hello")
        assert await payloads(hub, "chat") == [b'"hello"']
    async with serve(hub, data=str(tmp_path)):
        assert await stored(hub, "chat") == []
        second = await chat.publish("again")
        assert first.position is not None
        assert second.position is not None
        assert second.position.epoch > first.position.epoch


async def test_a_strict_hub_knows_its_topics_only() -> None:
    hub, _ = make()
    async with serve(hub) as t:
        status, problem = await post(t, "reading", {})
        assert status == 404
        assert "readings" in problem["hint"]
    open_hub, _ = make(strict=False)
    async with serve(open_hub) as t:
        assert (await post(t, "reading", {}))[0] == 201


# --- what handlers are given -----------------------------------------------------------------------------------------


async def test_everything_that_is_injected() -> None:
    hub, readings = make()
    seen: list[tuple[Any, ...]] = []

    @hub.subscribe(readings)
    async def handle(
        reading: Reading, delivery: Delivery, message: Message[Reading], plain: Message, who: Principal, of: Hub
    ) -> None:
        seen.append((reading, message.value, plain.value))
        assert (delivery.attempt, delivery.redelivered) == (1, False)
        assert delivery.message.position == message.position
        assert who.name == "hub"
        assert of is hub

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
    assert seen == [(HOT, HOT, HOT)]


async def test_a_message_of_an_untyped_topic() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    seen: list[Any] = []

    @hub.subscribe(anything)
    async def handle(message: Message[Reading]) -> None:
        seen.append(message.value)

    @hub.subscribe(anything)
    async def unread(message: Message) -> None:
        seen.append(message.payload)

    async with serve(hub) as t:
        await anything.publish({"sensor": "a", "celsius": 1})
        await t.settled()
        await anything.publish("no reading")
        await t.settled()
        assert Reading("a", 1.0) in seen
        assert seen.count(b'"no reading"') == 1
        (dead,) = await dead_letters(hub, "handle")
        assert dead["polywire-reason"].startswith("cannot be decoded")


async def test_a_handler_may_take_nothing() -> None:
    hub, readings = make()
    seen: list[int] = []

    @hub.subscribe(readings)
    async def handle() -> None:
        seen.append(1)

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
    assert seen == [1]


Log = list[str]
opened: Log = []


def note(text: str) -> str:
    opened.append(text)
    return text


def plain(delivery: Delivery) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return note(f"plain {delivery.message.record.key!r}")


async def in_loop() -> str:
    return note("async")


def generator(inner: Annotated[str, Depends(plain)]) -> Iterator[str]:
    try:
        yield note(f"generator of {inner}")
    except ValueError:
        note("generator saw the error")
        raise
    finally:
        note("generator closed")


async def async_generator(inner: Annotated[str, Depends(plain)]) -> AsyncIterator[str]:
    try:
        yield note(f"async generator of {inner}")
    finally:
        note("async generator closed")


async def test_dependencies() -> None:
    hub, readings = make()
    opened.clear()

    @hub.subscribe(readings, retry=Retry(attempts=1))
    async def handle(
        reading: Reading,
        a: Annotated[str, Depends(plain)],
        b: Annotated[str, Depends(in_loop)],
        c: Annotated[str, Depends(generator)],
        d: Annotated[str, Depends(async_generator)],
    ) -> None:
        note(f"{a}, {b}")
        if reading == COLD:
            raise ValueError("too cold")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert opened == [
            "plain b'kitchen'",
            "async",
            "generator of plain b'kitchen'",
            "async generator of plain b'kitchen'",
            "plain b'kitchen', async",
            "async generator closed",
            "generator closed",
        ]
        opened.clear()
        await readings.publish(COLD)
        await t.settled()
        assert opened[-3:] == ["async generator closed", "generator saw the error", "generator closed"]


class Opaque:
    """No message can be one."""


def positional(reading: Reading, /) -> None: ...


def two_payloads(reading: Reading, other: int) -> None: ...


def unclaimed_dependency(missing: int) -> int:
    return missing


def with_unclaimed(reading: Reading, x: Annotated[int, Depends(unclaimed_dependency)]) -> None: ...


def opaque(value: Opaque) -> None: ...


def opaque_message(message: Message[list[Opaque]]) -> None: ...


def unknown_name(reading: Undefined) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "named", "parameter"),
    [
        (two_payloads, two_payloads, "other"),
        (with_unclaimed, unclaimed_dependency, "missing"),
        (opaque, opaque, "value"),
        (opaque_message, opaque_message, "message"),
        (positional, positional, "reading"),
        (unknown_name, unknown_name, "Undefined"),
    ],
)
async def test_what_cannot_be_called_fails_at_start_up(
    function: Callable[..., Any], named: Callable[..., Any], parameter: str
) -> None:
    hub, readings = make()
    hub.subscribe(readings)(function)
    with pytest.raises(TypeError) as caught:
        async with serve(hub):
            pass
    line = named.__code__.co_firstlineno
    assert f"{Path(__file__).name}:{line}: " in str(caught.value)
    assert parameter in str(caught.value)


async def test_batches_take_lists() -> None:
    for function in (one_by_one, one_delivery):
        hub, readings = make()
        hub.subscribe(readings, batch=5)(function)
        with pytest.raises(TypeError, match="must be a list"):
            await hub.start()


def one_by_one(reading: Reading) -> None: ...


def one_delivery(readings: list[Reading], delivery: Delivery) -> None: ...


# --- outcomes --------------------------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread() -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)
    threads: list[str] = []

    @hub.subscribe(readings)
    def handle(reading: Reading) -> None:
        threads.append(threading.current_thread().name)
        alerts.send(Alert(reading.sensor, "sent from a thread"))

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert len(await stored(hub, "alerts")) == 1
    assert threads[0].startswith("test-handler")


async def test_a_result_is_published_with_the_acknowledgement() -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert, key="sensor")

    @hub.subscribe(readings, publish=alerts)
    async def watch(reading: Reading) -> Alert | list[Alert] | None:
        if reading.celsius < 0:
            return [Alert("a", "1"), Alert("b", "2")]
        return Alert(reading.sensor, "hot") if reading.celsius > 40 else None

    async with serve(hub) as t:
        commits = hub.core.log.commits
        await readings.publish(HOT)
        await t.settled()
        assert hub.core.log.commits - commits == 2  # the reading; the alert with the acknowledgement
        assert await payloads(hub, "alerts") == [b'{"sensor":"kitchen","text":"hot"}']
        await readings.publish(COLD)
        await readings.publish(Reading("x", -1))
        await t.settled()
        assert [m.record.key for m in await stored(hub, "alerts")] == [b"kitchen", b"a", b"b"]
        info = hub.core.subscriptions.info(hub.core.access.system, "watch")
        assert (info.pending, info.acked) == (0, 3)


async def test_a_list_may_be_one_result() -> None:
    hub, readings = make()
    lists = hub.topic("lists", list[int])

    @hub.subscribe(readings, publish=lists)
    async def numbers(reading: Reading) -> list[int]:
        return [1, 2]

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert await payloads(hub, "lists") == [b"[1,2]"]


async def test_a_result_of_the_wrong_type_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)

    async def watch(reading: Reading) -> Any:
        return {"sensor": 5}

    hub.subscribe(readings, publish=alerts, retry=Retry(attempts=1))(watch)
    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert await stored(hub, "alerts") == []
        (dead,) = await dead_letters(hub, "watch")
        assert dead["polywire-reason"] == "gave up after 1 attempts"
    assert "handler watch failed" in caplog.text


async def test_reject() -> None:
    hub, readings = make()

    @hub.subscribe(readings)
    async def handle(reading: Reading) -> None:
        raise Reject("out of range")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        (dead,) = await dead_letters(hub, "handle")
        assert dead["polywire-reason"] == "out of range"
        assert dead["polywire-topic"] == "readings"
        assert dead["polywire-attempts"] == 1


async def test_again() -> None:
    hub, readings = make()
    attempts: list[int] = []

    @hub.subscribe(readings)
    async def handle(reading: Reading, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            raise Again(after="30s")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert attempts == [1]
        t.clock.advance("29s")
        await t.settled()
        assert attempts == [1]
        t.clock.advance("2s")
        await t.settled()
        t.clock.advance("31s")
        await t.settled()
        assert attempts == [1, 2, 3]
        assert await dead_letters(hub, "handle") == []


async def test_a_failure_is_tried_again_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    hub, readings = make()
    attempts: list[int] = []

    @hub.subscribe(readings, retry=Retry(attempts=3, first="10s", factor=3, jitter=0))
    async def handle(reading: Reading, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise ValueError("broken")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        for pause, expected in (("9s", 1), ("1100ms", 2), ("29s", 2), ("2s", 3)):
            t.clock.advance(pause)
            await t.settled()
            assert len(attempts) == expected, pause
        (dead,) = await dead_letters(hub, "handle")
        assert (dead["polywire-reason"], dead["polywire-attempts"]) == ("gave up after 3 attempts", 3)
    assert attempts == [1, 2, 3]
    assert "ValueError: broken" in caplog.text


async def test_what_cannot_be_decoded_is_a_dead_letter_at_once() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    seen: list[Reading] = []

    @hub.subscribe(anything)
    async def handle(reading: Reading) -> None:
        seen.append(reading)

    async with serve(hub) as t:
        await anything.publish({"sensor": "a", "celsius": "warm"})
        await anything.publish(b"\xff\x00")
        await anything.publish({"sensor": "a", "celsius": 1})
        await t.settled()
        dead = await dead_letters(hub, "handle")
        assert [letter["polywire-attempts"] for letter in dead] == [1, 1]
        assert "$.celsius" in dead[0]["polywire-reason"]
    assert seen == [Reading("a", 1)]


async def test_manual_acknowledgement() -> None:
    hub, readings = make()
    held: list[Delivery] = []

    @hub.subscribe(readings, ack="manual")
    async def handle(reading: Reading, delivery: Delivery) -> None:
        held.append(delivery)

    async with serve(hub) as t:
        await readings.publish_many([HOT, COLD])
        await until(lambda: len(held) == 2)
        with pytest.raises(TimeoutError, match=r"handle \(2 pending\)"):
            await t.settled(0.05)
        assert held[0].ack()
        assert held[1].reject("not wanted")
        await t.settled()
        assert len(await dead_letters(hub, "handle")) == 1


async def test_batches() -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)
    sizes: list[int] = []

    @hub.subscribe(readings, batch=10, publish=alerts)
    async def handle(batch: list[Reading], deliveries: list[Delivery], messages: list[Message[Reading]]) -> list[Alert]:
        sizes.append(len(batch))
        assert [message.value for message in messages] == batch
        assert len(deliveries) == len(batch)
        return [Alert(reading.sensor, "seen") for reading in batch]

    async with serve(hub) as t:
        await readings.publish_many([Reading("s", number) for number in range(25)])
        await t.settled()
        assert sizes == [10, 10, 5]
        assert len(await stored(hub, "alerts")) == 25


async def test_a_bad_message_does_not_spoil_its_batch() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    seen: list[int] = []

    @hub.subscribe(anything, batch=10)
    async def handle(batch: list[int]) -> None:
        seen.extend(batch)

    async with serve(hub) as t:
        await anything.publish_many([1, "two", 3])
        await t.settled()
        assert len(await dead_letters(hub, "handle")) == 1
    assert seen == [1, 3]


async def test_concurrency() -> None:
    hub, readings = make()
    running, most = 0, 0
    go = asyncio.Event()

    @hub.subscribe(readings, concurrency=3)
    async def handle(reading: Reading) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    async with serve(hub) as t:
        await readings.publish_many([Reading("s", number) for number in range(10)])
        await until(lambda: running == 3)
        go.set()
        await t.settled()
    assert most == 3


async def test_ordered_one_at_a_time_per_key() -> None:
    hub, readings = make()
    busy: set[str] = set()
    order: list[Reading] = []
    together = 0

    @hub.subscribe(readings, concurrency=5, ordered=True)
    async def handle(reading: Reading) -> None:
        nonlocal together
        assert reading.sensor not in busy
        busy.add(reading.sensor)
        together = max(together, len(busy))
        await asyncio.sleep(0.001)
        busy.remove(reading.sensor)
        order.append(reading)

    async with serve(hub) as t:
        await readings.publish_many([Reading(f"s{number % 3}", number) for number in range(30)])
        await t.settled()
        assert await dead_letters(hub, "handle") == []
    for sensor in ("s0", "s1", "s2"):
        numbers = [reading.celsius for reading in order if reading.sensor == sensor]
        assert numbers == sorted(numbers)
        assert len(numbers) == 10
    assert together == 3


async def test_filters() -> None:
    hub, readings = make()
    by_key: list[Reading] = []
    by_header: list[Reading] = []
    by_pattern: list[str] = []

    @hub.subscribe(readings, key="kit*")
    async def literal(reading: Reading) -> None:
        raise AssertionError("a wildcard is a whole level")

    @hub.subscribe(readings, key="kitchen")
    async def keyed(reading: Reading) -> None:
        by_key.append(reading)

    @hub.subscribe(readings, headers={"site": "north"})
    async def headed(reading: Reading) -> None:
        by_header.append(reading)

    @hub.subscribe("r*", "alerts")
    async def patterned(message: Message) -> None:
        by_pattern.append(message.topic)

    alerts = hub.topic("alerts", Alert)
    async with serve(hub) as t:
        await readings.publish(HOT)
        await readings.publish(COLD, headers={"site": "north"})
        await alerts.publish(Alert("a", "b"))
        await t.settled()
    assert (by_key, by_header) == ([HOT], [COLD])
    assert "alerts" in by_pattern


async def test_start(tmp_path: Path) -> None:
    hub, readings = make()
    async with serve(hub, data=str(tmp_path)):
        await readings.publish_many([HOT, COLD])
    later, readings = make()
    early: list[Reading] = []
    late: list[Reading] = []

    @later.subscribe(readings, start="earliest")
    async def from_the_start(reading: Reading) -> None:
        early.append(reading)

    @later.subscribe(readings)
    async def from_now(reading: Reading) -> None:
        late.append(reading)

    async with serve(later, data=str(tmp_path)) as t:
        await t.settled()
        assert (early, late) == ([HOT, COLD], [])
        await readings.publish(HOT)
        await t.settled()
    assert (early, late) == ([HOT, COLD, HOT], [HOT])


async def test_middleware_around_every_delivery() -> None:
    hub, readings = make()
    order: list[str] = []

    @hub.middleware
    async def outer(delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
        order.append(f"outer {delivery.message.record.key!r}")
        result = await call_next()
        order.append("outer after")
        return result

    @hub.middleware
    async def inner(delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
        order.append("inner")
        if delivery.message.record.key == b"cellar":
            raise Reject("by middleware")
        return await call_next()

    alerts = hub.topic("alerts", Alert)

    @hub.subscribe(readings, publish=alerts)
    async def handle(reading: Reading) -> Alert:
        order.append("handle")
        return Alert("a", "b")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert order == ["outer b'kitchen'", "inner", "handle", "outer after"]
        assert len(await stored(hub, "alerts")) == 1
        await readings.publish(COLD)
        await t.settled()
        assert len(await dead_letters(hub, "handle")) == 1


async def test_a_handler_that_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # each hub says so once
        caplog.clear()
        hub, readings = make()

        @hub.subscribe(readings)
        async def sluggish(reading: Reading) -> None:
            time.sleep(0.12)  # noqa: ASYNC251 - that is the point

        async with serve(hub) as t:
            await readings.publish_many([HOT, HOT])
            await t.settled()
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len([text for text in warnings if "sluggish held the event loop" in text]) == 1


async def test_decorated_functions_stay_as_they_are() -> None:
    hub, readings = make()

    async def watch(reading: Reading) -> Alert | None:
        """Watch."""
        return None

    before = inspect.signature(watch)
    decorated = hub.subscribe(readings)(watch)
    assert decorated is watch
    assert inspect.signature(decorated) == before
    assert await decorated(HOT) is None


# --- life ------------------------------------------------------------------------------------------------------------


async def test_lifespan_around_the_handlers(tmp_path: Path) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        order.append("up")
        await hub.topic_named("readings").publish(HOT)
        yield
        await hub.topic_named("readings").publish(COLD)
        order.append("down")

    hub, readings = make(lifespan=lifespan)

    @hub.subscribe(readings)
    async def handle(reading: Reading) -> None:
        order.append(f"handled {reading.sensor}")

    async with serve(hub, data=str(tmp_path)) as t:
        await readings.publish(HOT)
        await t.settled()
    assert order == ["up", "handled kitchen", "down"]
    plain_hub, _ = make()
    async with serve(plain_hub, data=str(tmp_path)):
        assert len(await stored(plain_hub, "readings")) == 3


async def test_a_lifespan_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    hub, _ = make(lifespan=lifespan, data=tmp_path)
    with pytest.raises(OSError, match="no database"):
        await hub.start()
    other, _ = make(data=tmp_path)
    async with other:
        pass


async def test_a_running_handler_may_end_and_publish_when_the_hub_stops(tmp_path: Path) -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)
    begun, go = asyncio.Event(), asyncio.Event()

    @hub.subscribe(readings)
    async def handle(reading: Reading) -> None:
        begun.set()
        await go.wait()
        await alerts.publish(Alert("a", "still here"))

    async with serve(hub, data=str(tmp_path)):
        await readings.publish(HOT)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.05, go.set)
    again, _ = make()
    again.topic("alerts", Alert)
    async with serve(again, data=str(tmp_path)):
        assert len(await stored(again, "alerts")) == 1
        assert again.core.subscriptions.info(again.core.access.system, "handle").pending == 0


async def test_a_handler_that_does_not_end_is_cancelled_and_gets_its_message_again(tmp_path: Path) -> None:
    hub, readings = make(limits=Limits(drain=50))
    begun: list[Reading] = []

    @hub.subscribe(readings)
    async def handle(reading: Reading, delivery: Delivery) -> None:
        begun.append(reading)
        assert delivery.attempt == 1
        if len(begun) == 1:
            await asyncio.Event().wait()

    async with serve(hub, data=str(tmp_path)):
        await readings.publish(HOT)
        await until(lambda: begun)
    async with serve(hub, data=str(tmp_path)) as t:
        await t.settled()
    assert begun == [HOT, HOT]


async def test_two_hubs_in_one_process_do_not_meet() -> None:
    hubs = [make(), make()]
    seen: list[list[Reading]] = [[], []]
    for (hub, readings), mine in zip(hubs, seen, strict=True):

        @hub.subscribe(readings)
        async def handle(reading: Reading, mine: Annotated[list[Reading], Depends(lambda mine=mine: mine)]) -> None:
            mine.append(reading)

    async with serve(hubs[0][0]) as first, serve(hubs[1][0]) as second:
        assert first.http_url != second.http_url
        await hubs[0][1].publish(HOT)
        await hubs[1][1].publish(COLD)
        await first.settled()
        await second.settled()
    assert seen == [[HOT], [COLD]]


async def test_a_data_folder_has_one_hub(tmp_path: Path) -> None:
    first, _ = make(data=tmp_path)
    second, _ = make(data=tmp_path)
    async with first:
        with pytest.raises(Unavailable, match=str(tmp_path)):
            await second.start()
        with pytest.raises(RuntimeError, match="has started already"):
            await first.start()


# --- declarations ----------------------------------------------------------------------------------------------------


def test_declared_twice() -> None:
    hub, readings = make()
    with pytest.raises(ValueError, match="topic 'readings' is declared twice"):
        hub.topic("readings", Reading)

    def handle(reading: Reading) -> None: ...

    hub.subscribe(readings)(handle)
    line = handle.__code__.co_firstlineno
    with pytest.raises(ValueError, match=rf"test_hub\.py:{line}: a subscription named 'handle' is declared twice"):
        hub.subscribe(readings)(handle)
    hub.subscribe(readings, name="other")(handle)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda hub: hub.topic("t", Opaque), "Opaque cannot be a message type"),
        (lambda hub: hub.topic("t", dict[str, Opaque]), "Opaque is neither"),
        (lambda hub: hub.topic("t", complex), "complex cannot be a message type"),
        (lambda hub: hub.topic("t", Reading, key="colour"), "'colour' is not a field of Reading (sensor, celsius)"),
        (lambda hub: hub.topic("t", int, key="colour"), "'colour' is not a field of int"),
        (lambda hub: hub.topic("t", bytes, key="colour"), "'colour' is not a field of bytes"),
        (lambda hub: hub.subscribe(len), "is there a pair of parentheses missing?"),
    ],
)
def test_bad_types(declare: Callable[[Hub], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        declaring = declare(Hub())
        declaring(lambda: None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "declare",
    [
        lambda hub: hub.topic("t", retention="soon"),
        lambda hub: hub.topic("t", retention=0),
        lambda hub: hub.topic("t", hard_limit=-1),
        lambda hub: hub.subscribe("t", start="yesterday"),
    ],
)
def test_bad_values(declare: Callable[[Hub], Any]) -> None:
    with pytest.raises(Invalid):
        declare(Hub())


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"concurrency": 0}, {"ack": "never"}, {"ack": "manual", "batch": 2}],
)
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|ack"):
        Hub().subscribe("t", **options)(lambda: None)
    with pytest.raises(ValueError, match="at least one topic"):
        Hub().subscribe()


async def test_a_reserved_topic_name() -> None:
    hub = Hub()
    hub.topic("amq.mine")
    with pytest.raises(Invalid, match="reserved"):
        async with serve(hub):
            pass


async def test_declaring_after_the_start() -> None:
    hub, readings = make()
    async with serve(hub):
        with pytest.raises(RuntimeError, match="has started"):
            hub.topic("late")
        with pytest.raises(RuntimeError, match="has started"):
            hub.subscribe(readings)(lambda reading: None)


async def test_a_changed_subscription_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Between two runs the sources, the retry policy and the handler itself may change; what was pending stays."""
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)

    @hub.subscribe(readings, name="work", retry=Retry(attempts=2, first="1h"))
    async def first(reading: Reading) -> None:
        raise ValueError("not yet")

    async with serve(hub, data=str(tmp_path)) as t:
        await readings.publish(HOT)
        await t.settled()
    changed, readings = make()
    alerts = changed.topic("alerts", Alert)
    seen: list[Any] = []

    @changed.subscribe(alerts, name="work", retry=Retry(attempts=7))
    async def second(message: Message, delivery: Delivery) -> None:
        seen.append((message.topic, delivery.attempt))

    async with serve(changed, data=str(tmp_path)) as t:
        await readings.publish(COLD)
        await alerts.publish(Alert("a", "b"))
        t.clock.advance("2h")
        await t.settled()
        info = changed.core.subscriptions.info(changed.core.access.system, "work")
        assert (info.settings.attempts, [source.topic for source in info.sources]) == (7, ["alerts"])
    assert sorted(seen) == [("alerts", 1), ("readings", 2)]
    without, _ = make()
    caplog.clear()
    async with serve(without, data=str(tmp_path)):
        assert "subscription work has no handler any more" in caplog.text


async def test_another_durability_needs_another_topic(tmp_path: Path) -> None:
    hub = Hub()
    hub.topic("t")
    async with serve(hub, data=str(tmp_path)):
        pass
    other = Hub()
    other.topic("t", durability="memory")
    with pytest.raises(Conflict, match="declared memory"):
        async with serve(other, data=str(tmp_path)):
            pass


def test_settings() -> None:
    hub = Hub(data="here", strict=True)
    hub.configure(data=None, strict=False)
    assert (hub.settings.data, hub.settings.strict) == ("here", False)
    with pytest.raises(TypeError):
        hub.configure(colour="red")
    assert polywire.__all__ == sorted(polywire.__all__, key=lambda name: (name.startswith("_"), name))


def test_receipts_are_public() -> None:
    assert Receipt is polywire.Receipt
