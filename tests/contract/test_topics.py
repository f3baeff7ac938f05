"""What a declaration makes of every message: its type, its key, what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import websockets

from polywire import (
    Hub,
    Invalid,
    NotFound,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Reading,
    dead_letters,
    make,
    payloads,
    post,
    stored,
)


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
        kept, _ = await hub.core.latest_all(who, "readings")
        assert [message.record.payload for message in kept] == [
            b'{"sensor":"cellar","celsius":7.0}',
            b'{"sensor":"kitchen","celsius":3}',
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
        url = f"{t.http_url}/topics/readings?key=kitchen"
        async with aiohttp.request("POST", url, headers={"Polywire-Retain": "true"}) as answer:
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


class Coloured(msgspec.Struct, rename="camel"):
    """Its fields have other names in JSON; one has a default, one is a number."""

    shade_name: str = "grey"
    code: int = 0


@pytest.mark.parametrize("named", ["shade_name", "shadeName"])
async def test_a_renamed_field_with_a_default_is_a_key(named: str) -> None:
    hub = Hub()
    colours = hub.topic("colours", Coloured, key=named)
    async with serve(hub) as t:
        assert (await colours.publish(Coloured("red"))).key == b"red"
        assert (await post(t, "colours", {"code": 1}))[1]["key"] == "grey"
        status, receipt = await post(t, "colours", {"code": 2}, key="blue")
        assert (status, receipt["key"]) == (201, "blue")
        assert (await post(t, "colours", {"shadeName": "grey"}, key="blue"))[0] == 400
        assert (await stored(hub, "colours"))[-1].record.payload == b'{"shadeName":"blue","code":2}'


async def test_a_number_is_a_key() -> None:
    hub = Hub()
    colours = hub.topic("colours", Coloured, key="code")
    async with serve(hub) as t:
        assert (await colours.publish(Coloured(code=5))).key == b"5"
        assert (await post(t, "colours", {}, key="7"))[0] == 201
        assert (await payloads(hub, "colours"))[-1] == b'{"code":7}'
        status, problem = await post(t, "colours", {}, key="seven")
        assert (status, problem["errors"][0]["path"]) == (400, "$.code")


async def test_the_key_of_anything_that_has_the_field() -> None:
    hub = Hub()
    anything = hub.topic("anything", key="sensor")
    async with serve(hub):
        assert (await anything.publish({"sensor": "a", "x": 1})).key == b"a"
        assert (await anything.publish({"x": 1})).key is None
        assert (await anything.publish(b"\xff not JSON")).key is None
        assert (await anything.publish({"x": 1}, key="b")).key == b"b"
        with pytest.raises(Invalid, match="differ"):
            await anything.publish({"sensor": "a"}, key="b")


async def test_a_wire_that_says_text_of_everything_publishes_json() -> None:
    hub, _ = make()
    async with serve(hub) as t:
        async with websockets.connect(f"{t.ws_url}/readings") as socket:
            await socket.send('{"sensor": "a", "celsius": 1}')
            assert await socket.recv() == '{"sensor": "a", "celsius": 1}'
        (message,) = await stored(hub, "readings")
        assert message.record.content_type == "application/json"


async def test_bytes_are_taken_as_they_are() -> None:
    hub = Hub()
    pictures = hub.topic("pictures", bytes)
    async with serve(hub):
        await pictures.publish(b"\x89PNG")
        async for message in pictures.follow("earliest"):
            assert (message.value, message.content_type) == (b"\x89PNG", "application/octet-stream")
            break
