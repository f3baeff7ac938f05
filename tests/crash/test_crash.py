"""``kill -9`` at random moments, also during start-up: what clients were told is true after each restart."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from polywire.core.core import Core
from polywire.core.streams import Earliest, Start
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, verify
from tests.crash.load import Load
from tests.crash.process import HubProcess
from tests.crash.record import Found, Name, Stored, Told, faults

SHORT_ROUNDS = 5
LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
ROUNDS_PER_LOG = 10
LONGEST = 0.8  # seconds under load before the kill
STARTING = 0.9  # seconds in which a kill during start-up falls


async def test_kill(tmp_path: Path) -> None:
    await kill_rounds(tmp_path, SHORT_ROUNDS)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_kill_many_times(tmp_path: Path) -> None:
    # A log of its own for some rounds each: all of it is looked at after every kill.
    for first in range(0, LONG_ROUNDS, ROUNDS_PER_LOG):
        await kill_rounds(tmp_path / f"log{first}", min(ROUNDS_PER_LOG, LONG_ROUNDS - first))
        shutil.rmtree(tmp_path / f"log{first}")


async def kill_rounds(folder: Path, rounds: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    data = folder / "data"
    told = Told()
    load = Load(told, chance)
    for round_ in range(rounds):
        where = f"seed {seed}, round {round_}"
        hub = await HubProcess.spawn(data)
        if round_ % 2:
            await asyncio.sleep(chance.uniform(0, STARTING))
            await hub.kill()
            check_store(data, where)
            hub = await HubProcess.spawn(data)
        await hub.wait_ready()
        if round_ == 0:
            await subscribe(hub.url)
        await kill_under_load(hub, load, chance)
        check_store(data, where)
        wrong = faults(told, await look_into(data, folder / f"copy{round_}"))
        assert not wrong, f"{where}: {len(wrong)} faults: {wrong[:10]}"
    hub = await HubProcess.spawn(data)
    await hub.wait_ready()
    wrong = faults(told, await look_from_outside(hub.url, told))
    await hub.terminate()
    assert not wrong, f"seed {seed}, at the end: {len(wrong)} faults: {wrong[:10]}"
    assert len(told.positions) > 10 * rounds
    assert len(told.echoed) > 10 * rounds
    assert len(told.settled) > 10 * rounds


async def subscribe(url: str) -> None:
    body = {"sources": [{"topic": "readings"}], "start": "earliest"}
    async with aiohttp.ClientSession(url) as session, session.put("/subscriptions/pulled", json=body) as answer:
        assert answer.status == 201, await answer.text()


async def kill_under_load(hub: HubProcess, load: Load, chance: random.Random) -> None:
    running = asyncio.create_task(load.run(hub.url))
    busy = asyncio.create_task(load.busy.wait())
    await asyncio.wait([running, busy], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([running], timeout=chance.uniform(0, LONGEST))
    await hub.kill()
    busy.cancel()
    await asyncio.wait_for(running, 30)


def check_store(data: Path, where: str) -> None:
    if any(data.glob("*.db")):
        report = verify(str(data))
        assert report["ok"], f"{where}: {report['errors']}"


async def look_into(data: Path, copy: Path) -> Found:
    """What a core without handlers finds in a copy of the killed hub's folder, before anything else happens to it."""
    shutil.copytree(data, copy)
    core = Core(SqliteEngine(str(copy), settings=SqliteSettings(synchronous="OFF", reserve_size=0)))
    await core.start()
    try:
        readings = [Stored(position, _name(d), d["filler"]) for position, d in await _all(core, "readings")]
        results = [_name(data) for _, data in await _all(core, "results")]
        return Found(readings, results, await _pending(core, "copy"), await _pending(core, "pulled"))
    finally:
        await core.stop()
        shutil.rmtree(copy)


async def _all(core: Core, topic: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    start: Start = Earliest()
    while (page := await core.read(core.access.system, topic, start, limit=5_000)).messages:
        found += [(str(m.position), json.loads(m.record.payload)) for m in page.messages]
        start = page.next
    return found


async def _pending(core: Core, name: str) -> set[str]:
    pending: set[str] = set()
    after = 0
    subscriptions, who = core.subscriptions, core.access.system
    while peeked := await subscriptions.peek(who, name, limit=1_000, after=after):
        pending |= {str(one.message.position) for one in peeked}
        after = peeked[-1].seq
    return pending


def _name(data: dict[str, Any]) -> Name:
    return data["publisher"], data["number"]


async def look_from_outside(url: str, told: Told) -> Found:
    """What any client finds once the hub has caught up: all results are there, and the consumer gets the rest."""
    async with aiohttp.ClientSession(url) as session:
        await _caught_up(session)
        readings = [
            Stored(m["position"], _name(m["data"]), m["data"]["filler"]) for m in await _pages(session, "readings")
        ]
        results = [_name(m["data"]) for m in await _pages(session, "results")]
        unpulled: set[str] = set()
        pull = {"max": 200, "lease": "60s"}
        while True:
            async with session.post("/subscriptions/pulled/pull", json=pull) as answer:
                deliveries = (await answer.json())["deliveries"]
            if not deliveries:
                return Found(readings, results, set(), unpulled)
            unpulled |= {delivery["message"]["position"] for delivery in deliveries}


async def _caught_up(session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + 30
    while True:
        async with session.get("/subscriptions/copy") as answer:
            info = await answer.json()
        if not info["pending"]:
            return
        assert time.monotonic() < deadline, info
        await asyncio.sleep(0.05)


async def _pages(session: aiohttp.ClientSession, topic: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    start = "earliest"
    while True:
        async with session.get(f"/topics/{topic}", params={"from": start, "limit": "1000"}) as answer:
            page = await answer.json()
            assert answer.status == 200, page
        if not page["messages"]:
            return found
        found += page["messages"]
        start = page["next"]
