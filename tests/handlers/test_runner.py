"""How handlers are run: in batches, side by side, in order, filtered, watched."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from polywire import (
    Delivery,
    Hub,
    Message,
    Reject,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Alert,
    Reading,
    dead_letters,
    make,
    payloads,
    stored,
    until,
)


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


async def test_a_handler_of_a_memory_topic() -> None:
    hub = Hub()
    chat = hub.topic("chat", str, durability="memory")
    loud = hub.topic("loud", str)
    quiet = hub.topic("quiet", str, durability="memory")

    @hub.subscribe(chat, publish=loud)
    async def shout(text: str) -> str:
        if not text:
            raise Reject("nothing to shout")
        return text.upper()

    @hub.subscribe(loud, publish=quiet)
    async def whisper(text: str) -> str:
        return text.lower()

    async with serve(hub) as t:
        await chat.publish_many(["Hello", "", "World"])
        await t.settled()
        assert await payloads(hub, "loud") == [b'"HELLO"', b'"WORLD"']
        assert await payloads(hub, "quiet") == [b'"hello"', b'"world"']
        assert len(await dead_letters(hub, "shout")) == 1
