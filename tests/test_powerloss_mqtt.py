"""The power goes at a random moment while MQTT clients are busy: what they were told by then must be true for them.

The disk is that of `tests.powerloss`. At random operations of it an image is taken, together with the journal of all
clients so far. A hub comes up on each image, the same clients come back to it, as they were then, and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from polywire.engines.sqlite import SqliteSettings
from tests.crash.mqtt_journal import Entry
from tests.crash.mqtt_world import World
from tests.powerloss import PowerLossVFS
from tests.powerloss_mqtt import SETTINGS, losses, serving

LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
OPERATIONS = 1_600
"""Of the disk in a round."""
POINTS = 8


@pytest.fixture
def vfs() -> Iterator[PowerLossVFS]:
    vfs = PowerLossVFS(f"unplugged-{uuid.uuid4().hex}")
    yield vfs
    vfs.unregister()


async def run_until_cut(
    world: World, port: int, vfs: PowerLossVFS, images: Path, points: int, chance: random.Random
) -> list[tuple[Path, list[Entry]]]:
    """Images of the disk at random points, each with what is in the journal by then."""
    due = set(chance.sample(range(vfs.operations + 1, vfs.operations + OPERATIONS), points))
    last = max(due)
    taken: list[tuple[Path, int]] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_operation(kind: str, file: str) -> None:
        if vfs.operations in due:
            taken.append((images / str(len(taken)), len(world.journal)))
            vfs.image(taken[-1][0], chance)
        if vfs.operations == last:
            loop.call_soon_threadsafe(enough.set)

    vfs.on_operation = on_operation
    running = asyncio.create_task(world.run(port))
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    vfs.on_operation = None
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len(taken) == points
    return [(image, world.journal.entries[:told]) for image, told in taken]


async def cut_at_random(
    folder: Path, vfs: PowerLossVFS, settings: SqliteSettings, seed: int, points: int
) -> dict[int, list[str]]:
    """By point, what was wrong then."""
    chance = random.Random(seed)
    async with serving(folder / "data", chance, settings, vfs.name) as served:
        world = World(chance, strict=True)
        taken = await run_until_cut(world, served.mqtt_port, vfs, folder / "images", points, chance)
    found = {point: await losses(image, told, chance) for point, (image, told) in enumerate(taken)}
    return {point: wrong[:20] for point, wrong in found.items() if wrong}


@pytest.mark.parametrize("round_", range(3))
async def test_what_clients_were_told_stays_true(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    wrong = await cut_at_random(tmp_path, vfs, SETTINGS, seed, POINTS)
    assert not wrong, f"seed {seed}: {json.dumps(wrong, indent=1)}"
