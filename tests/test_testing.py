"""Testing an application with `polywire.testing`."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
import requests

from polywire import Hub, Limits
from polywire.testing import Served, fixture, serve
from tests.application import HOT, Reading, make, stored

shared = Hub("shared")
shared_readings = shared.topic("readings", Reading)
seen: list[Reading] = []


@shared.subscribe(shared_readings)
async def note(reading: Reading) -> None:
    seen.append(reading)


served = fixture(shared)


@pytest.mark.parametrize("time_", [1, 2])
async def test_the_fixture_serves_the_same_hub_afresh(served: Served, time_: int) -> None:
    seen.clear()
    assert await stored(shared, "readings") == []
    url = f"{served.http_url}/topics/readings"
    answer = await asyncio.to_thread(requests.post, url, json={"sensor": "a", "celsius": time_}, timeout=10)
    assert answer.status_code == 201
    await served.settled()
    assert seen == [Reading("a", time_)]


async def test_free_ports_and_a_folder_of_its_own() -> None:
    hub, readings = make(data="elsewhere")
    async with serve(hub) as t:
        folder, url = hub.settings.data, t.http_url
        await readings.publish(HOT)
        assert t.ws_url == url.replace("http://", "ws://")
        assert os.path.isdir(folder)  # noqa: ASYNC240, PTH112
        answer = await asyncio.to_thread(requests.get, f"{url}/ready", timeout=10)
        assert answer.status_code == 200
    assert not os.path.exists(folder)  # noqa: ASYNC240, PTH110
    assert hub.settings.data == "elsewhere"
    with pytest.raises(requests.ConnectionError):
        await asyncio.to_thread(requests.get, f"{url}/ready", timeout=10)


async def test_a_folder_that_is_kept(tmp_path: Path) -> None:
    hub, readings = make()
    async with serve(hub, data=str(tmp_path)):
        await readings.publish(HOT)
    async with serve(hub, data=str(tmp_path)):
        assert len(await stored(hub, "readings")) == 1


async def test_settled_waits_for_chains_of_handlers_and_for_replays(tmp_path: Path) -> None:
    hub = Hub()
    steps = [hub.topic(f"step{number}", int) for number in range(5)]
    for here, there in pairwise(steps):

        async def forward(value: int) -> int:
            await asyncio.sleep(0.001)
            return value + 1

        hub.subscribe(here, publish=there, name=f"forward {here.name}", start="earliest")(forward)
    async with serve(hub, data=str(tmp_path)) as t:
        await steps[0].publish_many(range(20))
        await t.settled()
        assert len(await stored(hub, "step4")) == 20
    replay = Hub()
    last = replay.topic("step4", int)
    found: list[int] = []

    @replay.subscribe(last, start="earliest")
    async def gather(value: int) -> None:
        found.append(value)

    async with serve(replay, data=str(tmp_path)) as t:
        await t.settled()
    assert found == [number + 4 for number in range(20)]


async def test_settled_says_what_is_left() -> None:
    hub, readings = make()
    go = asyncio.Event()

    @hub.subscribe(readings)
    async def stuck(reading: Reading) -> None:
        await go.wait()

    async with serve(hub) as t:
        await readings.publish(HOT)
        with pytest.raises(TimeoutError, match=r"not settled after 0.05 s: stuck \(1 pending\)"):
            await t.settled(0.05)
        go.set()
        await t.settled()


async def test_the_clock_moves_retention() -> None:
    hub = Hub(limits=Limits(maintenance_interval=1_000))
    readings = hub.topic("readings", Reading, retention="1h")
    async with serve(hub) as t:
        await readings.publish(HOT)
        t.clock.advance("2h")
        deadline = time.monotonic() + 10
        while await stored(hub, "readings"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
