"""``kill -9`` under the load of MQTT clients, at random moments, also during start-up."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.crash.mqtt_stage import BROKEN
from tests.crash.mqtt_world import World
from tests.crash.process import HubProcess
from tests.crash.test_crash import check_store

SHORT_ROUNDS = 3
LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
ROUNDS_PER_LOG = 10
LONGEST = 0.8  # seconds under load before the kill
STARTING = 0.9  # seconds in which a kill during start-up falls


async def test_kill_mqtt(tmp_path: Path) -> None:
    await kill_rounds(tmp_path, SHORT_ROUNDS)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_kill_mqtt_many_times(tmp_path: Path) -> None:
    for first in range(0, LONG_ROUNDS, ROUNDS_PER_LOG):
        await kill_rounds(tmp_path / f"log{first}", min(ROUNDS_PER_LOG, LONG_ROUNDS - first))
        shutil.rmtree(tmp_path / f"log{first}")


@pytest.mark.parametrize(
    ("broken", "seen_as"),
    [
        pytest.param("acknowledges_too_early", "is not in the log", marks=pytest.mark.long),
        ("stores_ids_after_their_messages", "2 times"),
        pytest.param("releases_too_early", "2 times", marks=pytest.mark.long),
        pytest.param("publishes_wills_apart", "Life(", marks=pytest.mark.long),
    ],
)
async def test_a_broken_wire_is_seen(tmp_path: Path, broken: str, seen_as: str) -> None:
    """When the kill comes is chance: within a few lives."""
    for attempt in range(10):
        wrong = await after_kills(tmp_path / str(attempt), 1, random.Random(attempt), broken)
        if any(seen_as in one for one in wrong):
            return
    pytest.fail("the broken wire was not seen")


async def kill_rounds(folder: Path, rounds: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    wrong = await after_kills(folder, rounds, random.Random(seed))
    assert not wrong, f"seed {seed}: {len(wrong)} faults: {json.dumps(wrong[:20], indent=1)}"


async def after_kills(folder: Path, rounds: int, chance: random.Random, broken: str | None = None) -> list[str]:
    """What is wrong then. ``broken``: the promise that the hub breaks (`mqtt_breaks`)."""
    data = folder / "data"
    world = World(chance, paho=True, patience=20 if broken is None else 1)
    for round_ in range(rounds):
        hub = await spawn(data, broken)
        if round_ % 2:
            await asyncio.sleep(chance.uniform(0, STARTING))
            await hub.kill()
            check_store(data, f"round {round_}")
            hub = await spawn(data, broken)
        await hub.wait_ready()
        await kill_under_load(hub, world, chance)
        check_store(data, f"round {round_}")
    hub = await spawn(data)
    await hub.wait_ready()
    wrong = await world.recover(hub.mqtt_port)
    await world.rest(hub.mqtt_port)
    wrong += world.faults(await names(hub.url, "w"), await names(hub.url, "wills"))
    await hub.terminate()
    if broken is None:
        acked = [len(one.memory.acked) for one in world.devices.values() if one.role.publishes and one.name != "end"]
        assert sum(acked) > 20 * rounds, acked
    return wrong


async def spawn(data: Path, broken: str | None = None) -> HubProcess:
    app = None if broken is None else BROKEN
    return await HubProcess.spawn(data, app, MQTT_MAX_QUEUED="1000000", TEST_BREAKS=broken or "")


async def kill_under_load(hub: HubProcess, world: World, chance: random.Random) -> None:
    running = asyncio.create_task(world.run(hub.mqtt_port))
    busy = asyncio.create_task(world.is_busy())
    await asyncio.wait([running, busy], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([running], timeout=chance.uniform(0, LONGEST))
    await hub.kill()
    busy.cancel()
    await asyncio.wait_for(running, 30)


async def names(url: str, topic: str) -> list[str]:
    """The payloads of a topic, in order."""
    found: list[str] = []
    start = "earliest"
    async with aiohttp.ClientSession(url) as session:
        while True:
            async with session.get(f"/topics/{topic}", params={"from": start, "limit": "1000"}) as answer:
                page = await answer.json()
            if answer.status == 404:  # nothing was published there
                return found
            assert answer.status == 200, page
            if not page["messages"]:
                return found
            found += [message["data"] for message in page["messages"]]
            start = page["next"]
