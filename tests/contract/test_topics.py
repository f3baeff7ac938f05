"""What a declaration makes of every message: its type, its key, what is kept of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import aiohttp
import attrs
import msgspec
import pytest
import websockets
from annotated_types import Ge
from pydantic import BaseModel, Field

from polywire import (
    Hub,
    Invalid,
    NotFound,
)
from polywire.contract.objects import object_type
from polywire.testing import Served, serve
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


# --- the same topic in every family ----------------------------------------------------------------------------------


@attrs.define
class AttrsReading:
    sensor: str
    celsius: Annotated[float, Ge(-273)]
    tags: list[str] = attrs.Factory(list)


@dataclass
class PlainReading:
    sensor: str
    celsius: Annotated[float, Ge(-273)]
    tags: list[str] = field(default_factory=list)


class StructReading(msgspec.Struct):
    sensor: str
    celsius: Annotated[float, Ge(-273)]
    tags: list[str] = []


class DictReading(TypedDict):
    sensor: str
    celsius: Annotated[float, Ge(-273)]
    tags: NotRequired[list[str]]


class ModelReading(BaseModel):
    place: str = Field(alias="sensor")
    celsius: Annotated[float, Ge(-273)]
    tags: list[str] = []


FAMILIES: dict[str, Any] = {
    "attrs": AttrsReading,
    "dataclass": PlainReading,
    "struct": StructReading,
    "typed_dict": DictReading,
    "pydantic": ModelReading,
    "parameters": object_type(
        "Reading",
        [
            ("sensor", str, inspect.Parameter.empty),
            ("celsius", Annotated[float, Ge(-273)], inspect.Parameter.empty),
            ("tags", list[str], []),
        ],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_topic_of_each_family(family: str) -> None:
    hub = Hub()
    hub.topic("readings", FAMILIES[family], key="sensor")
    async with serve(hub) as t:
        status, receipt = await post(t, "readings", {"sensor": "attic", "celsius": 1})
        assert (status, receipt["key"]) == (201, "attic")
        status, receipt = await post(t, "readings", {"celsius": 1}, key="cellar")
        assert (status, receipt["key"]) == (201, "cellar")
        status, problem = await post(t, "readings", {"celsius": -300, "tags": ["a", 1]})
        assert (status, problem["errors"]) == (
            400,
            [
                {"path": "$.sensor", "message": "required"},
                {"path": "$.celsius", "message": "must be >= -273"},
                {"path": "$.tags[1]", "message": "Expected `str`, got `int`"},
            ],
        )
        status, problem = await post(t, "readings", {"sensor": "attic", "celsius": 1}, key="cellar")
        assert (status, problem["errors"][0]["path"]) == (400, "$.sensor")
        status, problem = await post(t, "readings", {"celsius": "warm"}, key="cellar")
        assert (status, problem["errors"]) == (400, [{"path": "$.celsius", "message": "Expected `float`, got `str`"}])
        assert await payloads(hub, "readings") == [
            b'{"sensor": "attic", "celsius": 1}',
            b'{"sensor":"cellar","celsius":1}',
        ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_one_wrong_message_refuses_its_batch_and_is_named(family: str) -> None:
    hub = Hub()
    hub.topic("readings", FAMILIES[family])
    lines = [b'{"sensor":"a","celsius":1}', b'{"sensor":"a","celsius":"warm","tags":{}}', b'{"sensor":"b"}']
    async with serve(hub) as t:
        status, problem = await post_lines(t, "readings", lines)
        assert (status, problem["errors"]) == (
            400,
            [
                {"path": "$[1].celsius", "message": "Expected `float`, got `str`"},
                {"path": "$[1].tags", "message": "Expected `array`, got `object`"},
                {"path": "$[2].celsius", "message": "required"},
            ],
        )
        assert await payloads(hub, "readings") == []


@pytest.mark.parametrize("key", [None, "cellar"])
async def test_a_member_that_is_given_twice_refuses_the_message(key: str | None) -> None:
    hub, _ = make()
    async with serve(hub) as t:
        status, problem = await post_lines(t, "readings", [b'{"celsius":1,"celsius":2}'], key=key)
        assert status == 400
        assert {"path": "$.celsius", "message": "is given twice"} in problem["errors"]
        assert await payloads(hub, "readings") == []


async def post_lines(t: Served, topic: str, lines: list[bytes], key: str | None = None) -> tuple[int, dict[str, Any]]:
    async with aiohttp.request(
        "POST",
        f"{t.http_url}/topics/{topic}",
        params={"key": key} if key is not None else {},
        data=b"\n".join(lines),
        headers={"Content-Type": "application/x-ndjson"},
    ) as answer:
        return answer.status, await answer.json()
