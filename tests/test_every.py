"""What the application runs every so often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import pytest

from polywire import Depends, Hub, Invalid, Limits, Principal, Router
from polywire.testing import serve
from tests.application import until


async def opened() -> AsyncIterator[list[str]]:
    made = ["open"]
    yield made
    made.append("closed")


async def test_it_runs_with_what_it_asks_for(tmp_path: Path) -> None:
    hub = Hub("test")
    counts = hub.topic("counts", int)
    seen: list[object] = []
    dependencies: list[list[str]] = []

    @hub.every("1h")
    async def count(h: Hub, who: Principal, db: Annotated[list[str], Depends(opened)]) -> None:
        assert h is hub
        seen.append(who.name)
        dependencies.append(db)
        assert db == ["open"]
        await counts.publish(len(seen))

    @hub.every(1800, name="half an hour")
    def in_a_thread() -> None:
        assert threading.current_thread() is not threading.main_thread()
        counts.send(-1)

    async with serve(hub, data=str(tmp_path)) as t:
        for hours in range(1, 4):
            t.clock.advance("30m")
            await t.settled()
            t.clock.advance("30m")
            await t.settled()
            assert len(seen) == hours
        assert seen == ["hub"] * 3
        assert dependencies == [["open", "closed"]] * 3
        published = hub.core.topic_info(hub.core.access.system, "counts").count
        assert published == 3 + 6
        assert {schedule.name: schedule.runs for schedule in hub.core.schedules} == {"count": 3, "half an hour": 6}


async def test_a_restart_neither_skips_nor_repeats(tmp_path: Path) -> None:
    hub, ran = Hub("test"), []

    @hub.every("1h")
    async def tick() -> None:
        ran.append(1)

    async with serve(hub, data=str(tmp_path)) as t:
        t.clock.advance("59m")
        await t.settled()
        due = next(iter(hub.core.schedules)).due
    async with serve(hub, data=str(tmp_path)) as t:
        assert next(iter(hub.core.schedules)).due == due
        t.clock.advance(due - t.clock.now())
        await t.settled()
        assert len(ran) == 1
    async with serve(hub, data=str(tmp_path)) as t:
        t.clock.advance(due - t.clock.now())
        await t.settled()
        assert len(ran) == 1


async def test_of_a_router_under_its_prefix(tmp_path: Path) -> None:
    hub, billing, ran = Hub("test"), Router(prefix="billing."), []

    @billing.every("1h")
    def remind() -> None:
        ran.append(1)

    hub.include(billing)
    remind()
    async with serve(hub, data=str(tmp_path)) as t:
        assert [schedule.name for schedule in hub.core.schedules] == ["billing.remind"]
        t.clock.advance("1h")
        await t.settled()
    assert len(ran) == 2


async def test_it_runs_after_the_start_of_the_lifespan_and_ends_before_its_end(tmp_path: Path) -> None:
    order: list[str] = []
    go = asyncio.Event()

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        order.append("up")
        yield
        order.append("down")

    hub = Hub("test", lifespan=lifespan)

    @hub.every("1h")
    async def tick() -> None:
        order.append("begun")
        await go.wait()
        order.append("ended")

    async with serve(hub, data=str(tmp_path)) as t:
        t.clock.advance("1h")
        await until(lambda: "begun" in order)
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert order == ["up", "begun", "ended", "down"]


async def test_what_does_not_end_does_not_hold_up_the_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub, begun = Hub("test", limits=Limits(drain=400)), asyncio.Event()

    @hub.every("1h")
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serve(hub, data=str(tmp_path)) as t:
        t.clock.advance("1h")
        await begun.wait()
    assert "schedule endless did not end" in caplog.text


async def test_what_cannot_be_declared() -> None:
    hub = Hub("test")

    async def tick() -> None: ...
    async def asks(number: int) -> None: ...

    hub.every("1h")(tick)
    with pytest.raises(ValueError, match=r"test_every.py:\d+: a schedule named 'tick' is declared twice"):
        hub.every("2h")(tick)
    with pytest.raises(ValueError, match="all the time"):
        hub.every(0)
    with pytest.raises(Invalid, match="duration"):
        hub.every("often")
    hub.every("1h")(asks)
    with pytest.raises(TypeError, match=r"test_every.py:\d+: parameter 'number' of asks is claimed by nothing"):
        await hub.start()
