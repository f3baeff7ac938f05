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


async def kill_rounds(folder: Path, rounds: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    data = folder / "data"
    world = World(chance, paho=True)
    for round_ in range(rounds):
        hub = await spawn(data)
        if round_ % 2:
            await asyncio.sleep(chance.uniform(0, STARTING))
            await hub.kill()
            check_store(data, f"seed {seed}, round {round_}")
            hub = await spawn(data)
        await hub.wait_ready()
        await kill_under_load(hub, world, chance)
        check_store(data, f"seed {seed}, round {round_}")
    hub = await spawn(data)
    await hub.wait_ready()
    wrong = await world.recover(hub.mqtt_port)
    await world.rest(hub.mqtt_port)
    wrong += world.faults(await names(hub.url, "w"), await names(hub.url, "wills"))
    await hub.terminate()
    assert not wrong, f"seed {seed}: {len(wrong)} faults: {json.dumps(wrong[:20], indent=1)}"
    acked = [len(one.memory.acked) for one in world.devices.values() if one.role.publishes and one.name != "end"]
    assert min(acked) > 4 * rounds, acked


async def spawn(data: Path) -> HubProcess:
    return await HubProcess.spawn(data, None, MQTT_MAX_QUEUED="1000000")


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
                assert answer.status == 200, page
            if not page["messages"]:
                return found
            found += [message["data"] for message in page["messages"]]
            start = page["next"]
