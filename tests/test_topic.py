"""Publishing to a declared topic and following it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polywire import (
    Conflict,
    Cursor,
    Hub,
    Invalid,
    Message,
    Topic,
    Unavailable,
)
from polywire.core.streams import StaleCursor
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Reading,
    make,
    payloads,
    stored,
    until,
)


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
            async for _ in readings.follow(Cursor(9, 5)):
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
