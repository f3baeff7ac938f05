"""The life of a hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests

from polywire import (
    Delivery,
    Hub,
    Limits,
    Unavailable,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Alert,
    Reading,
    make,
    stored,
    until,
)
from tests.processes import run_hub


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
    (hub, readings), (other, others) = make(), make()
    seen: list[tuple[str, Reading]] = []

    @hub.subscribe(readings)
    async def handle(reading: Reading) -> None:
        seen.append(("first", reading))

    @other.subscribe(others, name="handle")
    async def handle_other(reading: Reading) -> None:
        seen.append(("second", reading))

    async with serve(hub) as first, serve(other) as second:
        assert first.http_url != second.http_url
        await readings.publish(HOT)
        await first.settled()
        await others.publish(COLD)
        await second.settled()
    assert seen == [("first", HOT), ("second", COLD)]


async def test_a_data_folder_has_one_hub(tmp_path: Path) -> None:
    first, _ = make(data=tmp_path)
    second, _ = make(data=tmp_path)
    async with first:
        with pytest.raises(Unavailable, match=str(tmp_path)):
            await second.start()
        with pytest.raises(RuntimeError, match="has started already"):
            await first.start()


BLOCKING = """
import time
from polywire import Hub, Limits
hub = Hub("blocking", limits=Limits(drain=200))
jobs = hub.topic("jobs", int)

@hub.subscribe(jobs)
def block(job: int) -> None:
    time.sleep(3600)
"""


def test_a_function_that_blocks_does_not_keep_the_process(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(BLOCKING)
    with run_hub(str(app), data=tmp_path / "data") as running:
        answer = requests.post(f"{running.http}/topics/jobs", json=1, timeout=10)
        assert answer.status_code == 201
        url = f"{running.http}/subscriptions/block"
        running.wait_for(lambda: requests.get(url, timeout=10).json()["unsettled"])
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
