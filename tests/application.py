"""A small application, and what tests of the public API ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from polywire import (
    Hub,
    Topic,
)
from polywire.core.message import Message as StoredMessage
from polywire.core.streams import Earliest
from polywire.testing import Served


class Opaque:
    """No message can be one."""


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    sensor: str
    text: str


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
    async with (
        aiohttp.ClientSession(t.http_url) as session,
        session.post(f"/topics/{topic}", json=value, params=query) as answer,
    ):
        return answer.status, await answer.json()
